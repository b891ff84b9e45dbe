# SPDX-License-Identifier: Apache-2.0
"""Which files of weights are looked at: those that transformers would read."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from hf_tripletclip.layouts.weights import check_weights, find_weights

FILES = ("model.safetensors", "model.fp16.safetensors", "pytorch_model.bin", "pytorch_model.fp16.bin", "named.bin")


@pytest.mark.parametrize(
    ("kwargs", "named", "expected"),
    [
        ({}, None, "model.safetensors"),
        ({"use_safetensors": None}, None, "model.safetensors"),
        ({"use_safetensors": True}, None, "model.safetensors"),
        ({"use_safetensors": False}, None, "pytorch_model.bin"),
        ({"variant": "fp16"}, None, "model.fp16.safetensors"),
        ({"variant": "fp16", "use_safetensors": False}, None, "pytorch_model.fp16.bin"),
        ({"variant": "bf16"}, None, None),
        ({}, "named.bin", "named.bin"),
        ({"variant": "fp16", "use_safetensors": True}, "named.bin", "named.bin"),
    ],
)
def test_the_file_that_is_read(tmp_path, kwargs, named, expected):
    for name in FILES:
        (tmp_path / name).touch()
    assert [path.name for path in find_weights(tmp_path, kwargs, named)] == ([expected] if expected else [])
    (tmp_path / "model.safetensors").unlink()
    if expected == "model.safetensors":
        left = [] if kwargs.get("use_safetensors") else ["pytorch_model.bin"]
        assert [path.name for path in find_weights(tmp_path, kwargs, named)] == left


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_kinds_of_numbers(tmp_path, dtype):
    path = tmp_path / "w.safetensors"
    save_file({"a.weight": torch.ones(2, 3, dtype=dtype), "a.num_batches_tracked": torch.tensor(1)}, path)
    check_weights([path])
    torch.save({"a.weight": torch.ones(2, 3, dtype=dtype), "step": 7}, tmp_path / "w.bin")
    check_weights([path, tmp_path / "w.bin"])
    save_file({"a.weight": torch.ones(2, dtype=dtype), "b.weight": torch.tensor([True])}, path)
    with pytest.raises(ValueError, match=r"w\.safetensors: 'b\.weight' has the type bool, weights are of"):
        check_weights([path])

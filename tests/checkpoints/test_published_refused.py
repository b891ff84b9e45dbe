# SPDX-License-Identifier: Apache-2.0
"""The published layout: what does not fit is refused by name, and nothing that lies in it is run."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path

import pytest
import torch
from transformers import CLIPConfig

from hf_tripletclip import TripletCLIPModel
from tests.checkpoints import FOLDERS, FOUR_FILES, change_tensors

WEIGHT = "model.text_model.encoder.layers.1.mlp.fc1.weight"


def change_config(folder: Path, encoder: str, **fields) -> None:
    path = folder / encoder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def remove(tensors):
    del tensors[WEIGHT]


def remove_projection(tensors):
    del tensors["model.text_projection.weight"]


def add(tensors):
    tensors["model.text_model.extra"] = torch.zeros(1)


def drop_prefix(tensors):
    tensors["text_projection.weight"] = tensors.pop("model.text_projection.weight")


def misshape(tensors):
    tensors[WEIGHT] = torch.zeros(5, 5)


def transpose(tensors):
    tensors[WEIGHT] = tensors[WEIGHT].t().contiguous()


def make_integer(tensors):
    tensors[WEIGHT] = tensors[WEIGHT].to(torch.int64)


def make_float8(tensors):
    tensors[WEIGHT] = tensors[WEIGHT].to(torch.float8_e4m3fn)


def make_nan(tensors):
    tensors[WEIGHT][3, 3] = math.nan


def make_infinite(tensors):
    tensors[WEIGHT][0, 0] = -math.inf


@pytest.mark.parametrize(
    ("change", "tensor", "reason"),
    [
        (remove, WEIGHT, "lacks"),
        (remove_projection, "model.text_projection.weight", "lacks"),
        (add, "model.text_model.extra", "no part"),
        (drop_prefix, "'text_projection.weight'", "no part"),
        (misshape, WEIGHT, r"(5, 5)"),
        (transpose, WEIGHT, "(32, 64), the config says (64, 32)"),
        (make_integer, WEIGHT, "int64"),
        (make_float8, WEIGHT, "float8"),
        (make_nan, WEIGHT, "not finite"),
        (make_infinite, WEIGHT, "not finite"),
    ],
)
def test_a_wrong_tensor_is_refused_by_name(published, change, tensor, reason):
    change_tensors(published, change)
    with pytest.raises(ValueError, match=r"text-encoder/model\.safetensors") as error:
        TripletCLIPModel.from_pretrained(published)
    assert tensor in str(error.value)
    assert reason in str(error.value)
    assert str(published) in str(error.value)


@pytest.mark.parametrize("size", [0, 4, 100, -1])
def test_a_truncated_file_is_refused(published, size):
    path = published / "vision-encoder" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"vision-encoder/model\.safetensors.*not a readable"):
        TripletCLIPModel.from_pretrained(published)


@pytest.mark.parametrize("encoder", FOLDERS)
@pytest.mark.parametrize("content", ["", "{", "[]", "\udcff"], ids=ascii)
def test_an_invalid_config_is_refused(published, encoder, content):
    (published / encoder / "config.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=rf"{encoder}/config\.json"):
        TripletCLIPModel.from_pretrained(published)


def test_encoders_that_do_not_fit_each_other_are_refused(published):
    change_config(published, "vision-encoder", projection_dim=32)
    with pytest.raises(ValueError, match=r"projection_dim.*24 in text-encoder and 32 in vision-encoder"):
        TripletCLIPModel.from_pretrained(published)


@pytest.mark.parametrize("value", ["many", 2.5, None])
def test_a_field_of_the_wrong_type_is_refused(published, value):
    change_config(published, "text-encoder", num_hidden_layers=value)
    with pytest.raises(ValueError, match=r"text-encoder/config\.json.*num_hidden_layers"):
        TripletCLIPModel.from_pretrained(published)


@pytest.mark.parametrize("name", sorted(FOUR_FILES - {"text-encoder/config.json"}))
def test_a_missing_file_is_named(published, name):
    (published / name).unlink()
    with pytest.raises(OSError, match=name):
        TripletCLIPModel.from_pretrained(published)


def test_a_config_of_another_class_is_refused(published):
    with pytest.raises(ValueError, match="TripletCLIPConfig"):
        TripletCLIPModel.from_pretrained(published, config=CLIPConfig())


# ---- Nothing is run ----


class Bomb:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize(
    "kwargs",
    [
        {"trust_remote_code": True},
        {"use_safetensors": False},
        {"weights_only": False},
        {"trust_remote_code": True, "use_safetensors": False, "weights_only": False, "code_revision": "main"},
    ],
    ids=str,
)
@pytest.mark.parametrize("with_safetensors", [True, False])
def test_no_code_is_run_and_nothing_unpickled(published, kwargs, with_safetensors):
    for place in (published, *(published / name for name in FOLDERS)):
        for name in ("pytorch_model.bin", "model.pt"):
            (place / name).write_bytes(pickle.dumps(Bomb(published / "ran")))
    if with_safetensors:
        TripletCLIPModel.from_pretrained(published, **kwargs)
    else:
        (published / "text-encoder" / "model.safetensors").unlink()
        with pytest.raises(OSError, match=r"text-encoder/model\.safetensors"):
            TripletCLIPModel.from_pretrained(published, **kwargs)
    assert not (published / "ran").exists()


def test_the_bomb_and_the_code_would_go_off(published):
    pickle.loads(pickle.dumps(Bomb(published / "ran")))
    assert (published / "ran").exists()
    (published / "ran").unlink()
    with pytest.raises(RuntimeError, match="code was run"):
        exec((published / "text-encoder" / "utils.py").read_text())
    assert (published / "ran").exists()

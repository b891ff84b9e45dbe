# SPDX-License-Identifier: Apache-2.0
"""The files of docs/zoo.md, small: with the nesting, prefix, precisions and training state that their code writes."""

from __future__ import annotations

import argparse
import math
import os
import shlex
import traceback
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPModel

from hf_tripletclip.checkpoints import convert
from tests.layouts.test_openclip import assert_same_outputs, random_state, some_inputs

VOCABULARY, RANK = 99, 4
# What `--precision bf16` makes of an OpenCLIP model (its `convert_weights_to_lp`): linear layers, convolutions,
# attention and projections in bfloat16, the rest in float32.
LOW = ("conv1.weight", "attn.in_proj_weight", "attn.in_proj_bias", "proj", "text_projection")
LOW_LAYERS = ("out_proj", "c_fc", "c_proj")


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return random_state(VOCABULARY)


def training_state(state, epochs: int = 5) -> tuple[dict, dict]:
    """Of an optimizer and a loss scaler, the learning rate as OpenCLIP's cosine schedule computes it: numpy's."""
    weight = torch.nn.Parameter(state["ln_final.weight"].clone())
    optimizer = torch.optim.AdamW([weight], lr=1e-6)
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    for group in optimizer.param_groups:
        group["lr"] = 0.5 * (1 + np.cos(np.pi * epochs / (epochs + 1))) * 1e-6
    assert type(optimizer.state_dict()["param_groups"][0]["lr"]) is np.float64
    return optimizer.state_dict(), torch.amp.GradScaler("cpu").state_dict()


def openclip_training(state, *, distributed: bool) -> dict:
    """What OpenCLIP's `training.main`, of which four of the five are forks, saves."""
    optimizer, scaler = training_state(state)
    prefix = "module." if distributed else ""
    weights = {f"{prefix}{name}": value for name, value in state.items()}
    return {"epoch": 5, "name": "tuned", "state_dict": weights, "optimizer": optimizer, "scaler": scaler}


def in_bf16(state) -> dict[str, torch.Tensor]:
    def low(name: str) -> bool:
        return name.endswith(LOW) or name.rpartition(".")[0].endswith(LOW_LAYERS)

    return {name: value.bfloat16() if low(name) else value for name, value in state.items()}


def tripletclip_training(state) -> dict:
    """What TripletCLIP's OpenCLIP code saves."""
    mixed = in_bf16(state)
    assert {value.dtype for value in mixed.values()} == {torch.bfloat16, torch.float32}
    return {"model_state_dict": mixed, "optimizer_state_dict": training_state(state)[0], "epoch": 5}


def written_by_numpy_1(path: Path) -> None:
    """Rename what numpy 2 calls `numpy._core`, as the files of 2022 to 2024 have it."""
    with zipfile.ZipFile(path) as archive:
        members = [(member, archive.read(member)) for member in archive.infolist()]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for member, content in members:
            archive.writestr(member.filename, content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))


FILES = {
    "NegCLIP": ("negclip.pth", "quick_gelu", lambda state: openclip_training(state, distributed=False)),
    "CE-CLIP": ("epoch_5.pt", "quick_gelu", lambda state: openclip_training(state, distributed=True)),
    "FSC-CLIP": (
        "coco_fsc-clip-ViT-B-32.pt",
        "quick_gelu",
        lambda state: openclip_training(state, distributed=False),
    ),
    "FSC-CLIP of DataComp": (
        "dcxl_fsc-clip-ViT-B-32.pt",
        "gelu",
        lambda state: openclip_training(state, distributed=False),
    ),
    "DeGLA": ("epoch_5.pt", "quick_gelu", lambda state: openclip_training(state, distributed=True)),
    "TripletCLIP": ("epoch-5.ckpt", "quick_gelu", tripletclip_training),
}


@pytest.mark.parametrize("numpy_1", [True, False], ids=["numpy 1", "numpy 2"])
@pytest.mark.parametrize("file", FILES)
def test_converted(state, tmp_path, file, numpy_1):
    name, hidden_act, content = FILES[file]
    torch.save(content(state), tmp_path / name)
    if numpy_1:
        written_by_numpy_1(tmp_path / name)
        assert b"numpy._core" not in (tmp_path / name).read_bytes()
    target = convert(tmp_path / name, tmp_path / "clip", hidden_act=hidden_act, with_processor=False)
    model, info = CLIPModel.from_pretrained(target, output_loading_info=True)
    assert not any(info.values())
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}
    expected = {key: value.float() for key, value in in_bf16(state).items()} if file == "TripletCLIP" else state
    assert_same_outputs(model, expected, some_inputs(VOCABULARY), hidden_act == "quick_gelu")


# ---- LoRA inside the state dict: FSC-CLIP's `-lora` files ----


def with_lora(state) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """A state dict with LoRA matrices where that code puts them, and the weights that its forward pass uses."""
    generator = torch.Generator().manual_seed(3)
    patched, effective = dict(state), dict(state)
    for name, weight in state.items():
        if name.endswith("attn.in_proj_weight"):
            prefix, side = f"{name}_", 1
        elif name.endswith(("c_fc.weight", "c_proj.weight", "attn.out_proj.weight")):
            prefix, side = name.removesuffix("weight"), 1
        elif name == "visual.conv1.weight":
            prefix, side = name.removesuffix("weight"), weight.shape[-1]
        else:
            continue
        inner = weight.shape[1] * side
        down = 0.1 * torch.randn(RANK * side, inner, generator=generator)
        up = 0.1 * torch.randn(weight.shape[0] * side, RANK * side, generator=generator)
        patched |= {f"{prefix}lora_A": down, f"{prefix}lora_B": up}
        effective[name] = weight + torch.einsum("or,ri->oi", up, down).reshape(weight.shape) / RANK
    return patched, effective


@pytest.mark.parametrize("distributed", [False, True])
def test_lora_is_folded_in(state, tmp_path, distributed):
    patched, effective = with_lora(state)
    assert sum("lora_" in name for name in patched) == 2 * (2 * 2 * 4 + 1)  # towers, layers, matrices; the patches
    torch.save(openclip_training(patched, distributed=distributed), tmp_path / "coco_fsc-clip-lora-ViT-B-32.pt")
    target = convert(
        tmp_path / "coco_fsc-clip-lora-ViT-B-32.pt", tmp_path / "clip", hidden_act="quick_gelu", with_processor=False
    )
    model = CLIPModel.from_pretrained(target)
    assert_same_outputs(model, effective, some_inputs(VOCABULARY), quick=True)
    change = (model.visual_projection.weight.T - state["visual.proj"]).abs().max()
    assert change == 0  # what has no matrices stays


BLOCK = "transformer.resblocks.0.mlp.c_fc"


def matrices(weight: str, up: tuple[int, ...], down: tuple[int, ...]) -> dict[str, torch.Tensor]:
    return {f"{weight}.lora_B": torch.ones(up), f"{weight}.lora_A": torch.ones(down)}


LORA_REFUSED = {
    "half": ({f"{BLOCK}.lora_A": torch.ones(4, 128)}, f"lora_B of {BLOCK}.weight is missing"),
    "shape": (
        matrices(BLOCK, (3, 4), (4, 128)),
        r"lora_B \(3, 4\) and lora_A \(4, 128\) do not make .*c_fc.weight \(512, 128\)",
    ),
    # As many numbers as the weight has, in another order.
    "transposed": (
        matrices(BLOCK, (128, 4), (4, 512)),
        r"\(128, 4\) and lora_A \(4, 512\) do not make .*c_fc.weight \(512, 128\)",
    ),
    # loralib adds `(B A).T` to an embedding.
    "embedding": (
        matrices("token_embedding", (128, 4), (4, VOCABULARY)),
        rf"\(128, 4\) and lora_A \(4, {VOCABULARY}\) do not make token_embedding.weight \({VOCABULARY}, 128\)",
    ),
    "ranks": (matrices(BLOCK, (512, 2), (4, 128)), r"lora_B \(512, 2\) and lora_A \(4, 128\) do not make"),
    "rank of 0": (matrices(BLOCK, (512, 0), (0, 128)), r"lora_B \(512, 0\) and lora_A \(0, 128\) do not make"),
    "three axes": (matrices(BLOCK, (512, 4), (4, 8, 16)), r"lora_A \(4, 8, 16\) do not make"),
    "a number": (matrices(BLOCK, (), ()), r"lora_B \(\) and lora_A \(\) do not make"),
    "of a vector": (
        {"ln_final.weight_lora_B": torch.ones(128, 1), "ln_final.weight_lora_A": torch.ones(1, 1)},
        r"do not make ln_final.weight \(128,\)",
    ),
    "convolution as a linear layer": (
        matrices("visual.conv1", (128, 4), (4, 3 * 14 * 14)),
        r"do not make visual.conv1.weight \(128, 3, ",
    ),
    "no weight": (
        matrices("mlp.c_gate", (512, 4), (4, 128)),
        "LoRA matrices of mlp.c_gate.weight without mlp.c_gate.weight itself",
    ),
}


@pytest.mark.parametrize("case", LORA_REFUSED)
def test_lora_that_does_not_fit(state, tmp_path, case):
    change, message = LORA_REFUSED[case]
    torch.save({"state_dict": state | change}, tmp_path / "tuned.pt")
    with pytest.raises(ValueError, match=message):
        convert(tmp_path / "tuned.pt", tmp_path / "clip", hidden_act="gelu", with_processor=False)
    assert not (tmp_path / "clip").exists()


def test_lora_alone_is_an_update_of_another_checkpoint(state, tmp_path):
    patched, _ = with_lora(state)
    only = {name: value for name, value in patched.items() if "lora_" in name}
    torch.save({"state_dict": only}, tmp_path / "tuned.pt")
    with pytest.raises(ValueError, match="an update of another checkpoint"):
        convert(tmp_path / "tuned.pt", tmp_path / "clip", hidden_act="gelu", with_processor=False)


# ---- What numbers must not open the door to ----


class Call:
    def __reduce__(self):
        return (math.sqrt, (4.0,))


@pytest.mark.parametrize(
    "content",
    [np.ones(3), np.array([Call()], dtype=object), {"lr": Call()}],
    ids=["array", "objects", "call"],
)
def test_only_numbers_of_numpy_are_read(state, tmp_path, content):
    torch.save({"state_dict": state, "optimizer": content}, tmp_path / "tuned.pt")
    with pytest.raises(ValueError, match="reading that would run code"):
        convert(tmp_path / "tuned.pt", tmp_path / "clip", hidden_act="gelu", with_processor=False)


class Shell:
    def __reduce__(self):
        return (os.system, (f"touch {shlex.quote(os.getcwd())}/ran",))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("content", "name"),
    [(Shell(), f"{os.system.__module__}.system"), (argparse.Namespace(lr=1e-5), "argparse.Namespace")],
    ids=["os.system", "Namespace"],
)
def test_a_refusal_names_what_was_found(state, tmp_path, monkeypatch, content, name, zipped):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": state, "args": content}, "tuned.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=f"it holds {name}, which is no tensor") as refused:
        convert("tuned.pt", "clip", hidden_act="gelu", with_processor=False)
    said = "".join(traceback.format_exception(refused.value))  # what a user sees, causes too
    for advice in ("weights_only", "add_safe_globals", "\x1b"):
        assert advice not in said
    assert [path.name for path in tmp_path.iterdir()] == ["tuned.pt"]

# SPDX-License-Identifier: Apache-2.0
"""OpenCLIP checkpoints in and out: equal outputs both ways, all the shapes that files come in, and refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor, CLIPModel

from hf_tripletclip import TripletCLIPModel
from hf_tripletclip.checkpoints import convert
from hf_tripletclip.checkpoints.openclip import CONFIG_FILE, WEIGHTS_FILES
from tests.checkpoints import small_processor
from tests.checkpoints.openclip_reference import encode_image, encode_text

WIDTH, LAYERS, HEADS, DIMENSION, PATCH, SIZE, LENGTH = 128, 2, 2, 24, 8, 16, 12


def random_state(vocabulary: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """A state dict of OpenCLIP's shape; heads of 64, as its own."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return 0.2 * torch.randn(*shape, generator=generator)

    state = {
        "logit_scale": torch.tensor(2.5),
        "positional_embedding": random(LENGTH, WIDTH),
        "text_projection": random(WIDTH, DIMENSION),
        "token_embedding.weight": random(vocabulary, WIDTH),
        "ln_final.weight": 1 + random(WIDTH),
        "ln_final.bias": random(WIDTH),
        "visual.class_embedding": random(WIDTH),
        "visual.conv1.weight": random(WIDTH, 3, PATCH, PATCH),
        "visual.positional_embedding": random((SIZE // PATCH) ** 2 + 1, WIDTH),
        "visual.proj": random(WIDTH, DIMENSION),
    }
    for norm in ("visual.ln_pre", "visual.ln_post"):
        state |= {f"{norm}.weight": 1 + random(WIDTH), f"{norm}.bias": random(WIDTH)}
    for tower in ("transformer", "visual.transformer"):
        for layer in range(LAYERS):
            block = f"{tower}.resblocks.{layer}"
            for norm in ("ln_1", "ln_2"):
                state |= {f"{block}.{norm}.weight": 1 + random(WIDTH), f"{block}.{norm}.bias": random(WIDTH)}
            state |= {
                f"{block}.attn.in_proj_weight": random(3 * WIDTH, WIDTH),
                f"{block}.attn.in_proj_bias": random(3 * WIDTH),
                f"{block}.attn.out_proj.weight": random(WIDTH, WIDTH),
                f"{block}.attn.out_proj.bias": random(WIDTH),
                f"{block}.mlp.c_fc.weight": random(4 * WIDTH, WIDTH),
                f"{block}.mlp.c_fc.bias": random(4 * WIDTH),
                f"{block}.mlp.c_proj.weight": random(WIDTH, 4 * WIDTH),
                f"{block}.mlp.c_proj.bias": random(WIDTH),
            }
    return state


@pytest.fixture(scope="module")
def processor(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("processor")
    small_processor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def vocabulary() -> int:
    return len(small_processor().tokenizer)


@pytest.fixture(scope="module")
def state(vocabulary) -> dict[str, torch.Tensor]:
    return random_state(vocabulary)


def some_inputs(vocabulary: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(9)
    ids = torch.randint(0, vocabulary - 2, (4, LENGTH), generator=generator)
    for row, end in enumerate((5, LENGTH, 8, 6)):
        ids[row, end - 1] = vocabulary - 1
        ids[row, end:] = 0  # OpenCLIP's padding
    return {"ids": ids, "pixels": torch.randn(4, 3, SIZE, SIZE, generator=generator)}


@pytest.fixture
def inputs(vocabulary) -> dict[str, torch.Tensor]:
    return some_inputs(vocabulary)


def assert_same_outputs(model, state, inputs, quick):
    with torch.no_grad():
        image = model.get_image_features(pixel_values=inputs["pixels"]).pooler_output
        text = model.get_text_features(input_ids=inputs["ids"]).pooler_output
    torch.testing.assert_close(image, encode_image(state, inputs["pixels"], HEADS, quick), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(text, encode_text(state, inputs["ids"], HEADS, quick), rtol=1e-5, atol=1e-5)
    assert model.logit_scale.item() == pytest.approx(2.5)


@pytest.mark.parametrize("hidden_act", ["gelu", "quick_gelu"])
def test_outputs_are_openclips(state, inputs, processor, tmp_path, hidden_act):
    save_file(state, tmp_path / "tuned.safetensors")
    target = convert(tmp_path / "tuned.safetensors", tmp_path / "clip", hidden_act=hidden_act, processor=processor)
    model, info = CLIPModel.from_pretrained(target, output_loading_info=True)
    assert not any(info.values())
    assert_same_outputs(model, state, inputs, hidden_act == "quick_gelu")
    assert type(AutoProcessor.from_pretrained(target)).__name__ == "CLIPProcessor"


@pytest.mark.parametrize("hidden_act", ["gelu", "quick_gelu"])
def test_there_and_back(state, inputs, processor, tmp_path, hidden_act):
    save_file(state, tmp_path / "tuned.safetensors")
    clip = convert(tmp_path / "tuned.safetensors", tmp_path / "clip", hidden_act=hidden_act, processor=processor)
    openclip = convert(clip, tmp_path / "openclip", to="openclip")
    written = load_file(openclip / WEIGHTS_FILES[0])
    assert written.keys() == state.keys()
    assert all(torch.equal(written[name], state[name]) for name in state)
    config = json.loads((openclip / CONFIG_FILE).read_text())
    assert config["model_cfg"].get("quick_gelu", False) is (hidden_act == "quick_gelu")
    assert config["model_cfg"]["vision_cfg"] == {
        "image_size": SIZE, "patch_size": PATCH, "width": WIDTH, "layers": LAYERS, "head_width": 64, "mlp_ratio": 4.0
    }  # fmt: skip
    again = convert(openclip, tmp_path / "again")  # its config says the activation, the tokenizer lies beside it
    assert_same_outputs(TripletCLIPModel.from_pretrained(again), state, inputs, hidden_act == "quick_gelu")
    vocabularies = [AutoProcessor.from_pretrained(folder).tokenizer.get_vocab() for folder in (again, processor)]
    assert vocabularies[0] == vocabularies[1]


def lightning(state):
    return {"state_dict": {f"model.{name}": value for name, value in state.items()}, "epoch": 3}


SHAPES = {
    "module prefix": lambda state: {"state_dict": {f"module.{name}": value for name, value in state.items()}},
    "lightning": lightning,
    "a scale of one element": lambda state: state | {"logit_scale": state["logit_scale"][None]},
    "text tower apart": lambda state: {
        name if name.startswith("visual.") or name == "logit_scale" else f"text.{name}": value
        for name, value in state.items()
    },
    "buffers": lambda state: state | {"attn_mask": torch.zeros(LENGTH, LENGTH)},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_shapes_that_files_come_in(state, inputs, tmp_path, shape):
    torch.save(SHAPES[shape](state), tmp_path / "tuned.pt")
    target = convert(tmp_path / "tuned.pt", tmp_path / "clip", hidden_act="gelu", with_processor=False)
    model = CLIPModel.from_pretrained(target)
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}
    assert_same_outputs(model, state, inputs, quick=False)


class Code:
    def __reduce__(self):
        return (Path.touch, (Path("ran"),))


def without(name):
    return lambda state: {key: value for key, value in state.items() if key != name}


def changed(name, value):
    return lambda state: state | {name: value}


REFUSED = {
    "no activation": (lambda state: state, None, "does not say its activation"),
    "code": (lambda state: {"state_dict": state, "args": Code()}, "gelu", "reading that would run code"),
    "a tensor too few": (
        without("ln_final.bias"),
        "gelu",
        "1 tensors are missing, such as text_model.final_layer_norm.bias",
    ),
    "a tensor too many": (changed("lora_A", torch.zeros(2)), "gelu", "1 tensors are unknown, such as lora_A"),
    "another shape": (
        changed("visual.ln_pre.bias", torch.zeros(3)),
        "gelu",
        r"pre_layrnorm.bias is \(3,\), \(128,\) is expected",
    ),
    "not finite": (
        changed("ln_final.bias", torch.full((WIDTH,), torch.nan)),
        "gelu",
        "final_layer_norm.bias is not finite",
    ),
    "a ResNet": (lambda state: {"visual.layer1.0.conv1.weight": torch.zeros(1)}, "gelu", "is a ResNet"),
    "integers": (
        changed("ln_final.bias", torch.zeros(WIDTH, dtype=torch.int64)),
        "gelu",
        "holds torch.int64, no weights",
    ),
    "no tensors": (lambda state: {"epoch": 3}, "gelu", "holds no state dict of tensors: it has epoch"),
    "a list": (lambda state: [1, 2], "gelu", "holds no state dict of tensors"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(state, tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    content, hidden_act, message = REFUSED[case]
    torch.save(content(state), tmp_path / "tuned.pt")
    with pytest.raises(ValueError, match=message):
        convert(tmp_path / "tuned.pt", tmp_path / "clip", hidden_act=hidden_act, with_processor=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tuned.pt"]  # nothing half-written, no code run


def test_files_that_are_none(tmp_path):
    (tmp_path / "cut.pt").write_bytes(b"PK\x03\x04 cut short")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00")
    (tmp_path / "notes.txt").write_text("hello")
    for name, message in (
        ("cut.pt", "no checkpoint that torch can read"),
        ("cut.safetensors", "no safetensors file"),
        ("notes.txt", "is no .safetensors, .pt"),
    ):
        with pytest.raises(ValueError, match=message):
            convert(tmp_path / name, tmp_path / "clip", hidden_act="gelu")
    with pytest.raises(FileNotFoundError, match=r"missing\.pt does not exist"):
        convert(tmp_path / "missing.pt", tmp_path / "clip", hidden_act="gelu")


def test_settings_that_contradict(state, processor, tmp_path):
    save_file(state, tmp_path / "tuned.safetensors")
    clip = convert(tmp_path / "tuned.safetensors", tmp_path / "clip", hidden_act="gelu", processor=processor)
    openclip = convert(clip, tmp_path / "openclip", to="openclip")
    with pytest.raises(ValueError, match="says gelu and `hidden_act` is quick_gelu"):
        convert(openclip, tmp_path / "other", hidden_act="quick_gelu")
    with pytest.raises(ValueError, match="is no OpenCLIP checkpoint"):
        convert(clip, tmp_path / "other", hidden_act="gelu")
    with pytest.raises(ValueError, match="`to` is 'timm'"):
        convert(clip, tmp_path / "other", to="timm")
    (openclip / CONFIG_FILE).write_text("{")
    with pytest.raises(ValueError, match="describes no OpenCLIP model"):
        convert(openclip, tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("hidden_act", ["gelu", "quick_gelu"])
def test_openclip_itself_agrees(state, inputs, processor, tmp_path, hidden_act):
    open_clip = pytest.importorskip("open_clip")
    save_file(state, tmp_path / "tuned.safetensors")
    clip = convert(tmp_path / "tuned.safetensors", tmp_path / "clip", hidden_act=hidden_act, processor=processor)
    openclip = convert(clip, tmp_path / "openclip", to="openclip")
    theirs = open_clip.create_model(f"local-dir:{openclip}").eval()
    ours = CLIPModel.from_pretrained(clip)
    with torch.no_grad():
        image = ours.get_image_features(pixel_values=inputs["pixels"]).pooler_output
        text = ours.get_text_features(input_ids=inputs["ids"]).pooler_output
        torch.testing.assert_close(theirs.encode_image(inputs["pixels"]), image, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(theirs.encode_text(inputs["ids"]), text, rtol=1e-5, atol=1e-5)
        tokens = open_clip.get_tokenizer(f"local-dir:{openclip}")(["a red cat", "a blue dog"])
        torch.testing.assert_close(
            theirs.encode_text(tokens), ours.get_text_features(input_ids=tokens).pooler_output, rtol=1e-5, atol=1e-5
        )

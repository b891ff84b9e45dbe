# SPDX-License-Identifier: Apache-2.0
"""OpenCLIP checkpoints in and out: equal outputs both ways, all the shapes that files come in, and refusals."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor, CLIPModel

from hf_tripletclip import TripletCLIPConfig, TripletCLIPModel
from hf_tripletclip.checkpoints import convert
from hf_tripletclip.layouts.files import OPENCLIP_CONFIG, OPENCLIP_WEIGHTS
from hf_tripletclip.layouts.openclip import (
    PROBE,
    OpenClipCheckpoint,
    _tokenizer,
    is_clips_tokenizer,
)
from hf_tripletclip.layouts.openclip_config import preprocess_cfg_of
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
    written = load_file(openclip / OPENCLIP_WEIGHTS[0])
    assert written.keys() == state.keys()
    assert all(torch.equal(written[name], state[name]) for name in state)
    config = json.loads((openclip / OPENCLIP_CONFIG).read_text())
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
    (openclip / OPENCLIP_CONFIG).write_text("{")
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


# ---- Settings ----


@pytest.fixture
def openclip(state, processor, tmp_path) -> Path:
    save_file(state, tmp_path / "tuned.safetensors")
    clip = convert(tmp_path / "tuned.safetensors", tmp_path / "clip", hidden_act="gelu", processor=processor)
    return convert(clip, tmp_path / "openclip", to="openclip")


def set_fields(folder: Path, **fields) -> None:
    content = json.loads((folder / OPENCLIP_CONFIG).read_text())
    for field, value in fields.items():
        *parts, last = field.split("__")
        place = content
        for part in parts:
            place = place[part]
        place[last] = value
    (folder / OPENCLIP_CONFIG).write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("text_cfg__no_causal_mask", True),
        ("text_cfg__pool_type", "last"),
        ("text_cfg__pool_type", "eos"),
        ("text_cfg__embed_cls", True),
        ("text_cfg__proj_type", "none"),
        ("text_cfg__proj_bias", True),
        ("text_cfg__hf_model_name", "xlm-roberta-base"),
        ("text_cfg__text_arch", "modern"),
        ("text_cfg__qk_norm", True),
        ("text_cfg__act_kwargs", {"approximate": "other"}),
        ("text_cfg__norm_kwargs", {"elementwise_affine": False}),
        ("text_cfg__norm_kwargs", {"eps": "small"}),
        ("text_cfg__heads", 3),
        ("text_cfg__heads", True),
        ("text_cfg__width", [[1]]),
        ("text_cfg__context_length", 77),
        ("text_cfg__something_new", 1),
        ("vision_cfg__timm_model_name", "vit_base_patch16_siglip_224"),
        ("vision_cfg__pool_type", "avg"),
        ("vision_cfg__attentional_pool", "parallel"),
        ("vision_cfg__no_ln_pre", True),
        ("vision_cfg__ls_init_value", 0.1),
        ("vision_cfg__image_size", 32),
        ("vision_cfg__image_size", [16, 32]),
        ("vision_cfg__image_size", [[16]]),
        ("vision_cfg__layers", [3, 4, 6, 3]),
        ("vision_cfg__head_width", 0),
        ("vision_cfg", [1]),
        ("embed_dim", 512),
        ("quick_gelu", "yes"),
        ("init_logit_bias", -10),
        ("multimodal_cfg", {"width": 512}),
    ],
)
def test_settings_that_a_clip_does_not_compute_are_refused_by_name(openclip, tmp_path, field, value):
    set_fields(openclip, **{f"model_cfg__{field}": value})
    named = "text_cfg.eos_id" if value == "eos" else field.replace("__", ".")
    with pytest.raises(ValueError, match=f"`{named}") as error:
        convert(openclip, tmp_path / "other", with_processor=False)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "other").exists()


def test_settings_that_a_clip_computes(openclip, tmp_path, vocabulary):
    set_fields(
        openclip,
        model_cfg__text_cfg__act_kwargs={"approximate": "tanh"},
        model_cfg__text_cfg__norm_kwargs={"eps": 1e-3},
        model_cfg__text_cfg__pool_type="eos",
        model_cfg__text_cfg__eos_id=vocabulary - 1,
        model_cfg__text_cfg__final_ln_after_pool=True,
        model_cfg__text_cfg__ls_init_value=None,
        model_cfg__vision_cfg__act_kwargs={"approximate": "none"},
        model_cfg__vision_cfg__norm_kwargs={"eps": 1e-6},
        model_cfg__vision_cfg__patch_dropout=0.5,
        model_cfg__vision_cfg__image_size=SIZE + 1,  # the patches are the same
        preprocess_cfg__mean=0.5,
        preprocess_cfg__std=[0.1, 0.2, 0.3],
        preprocess_cfg__interpolation="bilinear",
        preprocess_cfg__resize_mode="squash",
    )
    clip = convert(openclip, tmp_path / "computed")
    config = CLIPModel.from_pretrained(clip).config
    assert (config.text_config.hidden_act, config.vision_config.hidden_act) == ("gelu_pytorch_tanh", "gelu")
    assert (config.text_config.layer_norm_eps, config.vision_config.layer_norm_eps) == (1e-3, 1e-6)
    assert (config.text_config.eos_token_id, config.vision_config.image_size) == (vocabulary - 1, SIZE + 1)
    images = AutoProcessor.from_pretrained(clip).image_processor
    assert (list(images.image_mean), list(images.image_std)) == ([0.5] * 3, [0.1, 0.2, 0.3])
    assert (int(images.resample), images.do_center_crop) == (2, False)
    wide = images(images=[Image.new("RGB", (40, 10), "red")], return_tensors="pt")["pixel_values"]
    assert wide.shape == (1, 3, SIZE + 1, SIZE + 1)
    again = json.loads((convert(clip, tmp_path / "again", to="openclip") / OPENCLIP_CONFIG).read_text())
    assert again["model_cfg"]["text_cfg"]["act_kwargs"] == {"approximate": "tanh"}
    assert again["model_cfg"]["text_cfg"]["norm_kwargs"] == {"eps": 1e-3}
    assert again["model_cfg"]["vision_cfg"]["norm_kwargs"] == {"eps": 1e-6}
    assert again["preprocess_cfg"] == {
        "size": SIZE + 1,
        "mean": [0.5] * 3,
        "std": [0.1, 0.2, 0.3],
        "interpolation": "bilinear",
        "resize_mode": "squash",
    }


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("interpolation", "nearest", "`preprocess_cfg.interpolation: 'nearest'`"),
        ("interpolation", 3, "interpolation"),
        ("resize_mode", "longest", "resize_mode"),
        ("mean", "half", "`preprocess_cfg.mean: 'half'`: a number is needed"),
        ("mean", [0.5, 0.5], "mean"),
        ("std", [0.0, 1.0, 1.0], "std"),
        ("mode", "L", "mode"),
    ],
)
def test_preparations_that_cannot_be_made_are_refused_by_name(openclip, tmp_path, field, value, message):
    set_fields(openclip, **{f"preprocess_cfg__{field}": value})
    with pytest.raises(ValueError, match=message) as error:
        convert(openclip, tmp_path / "other")
    assert "--processor" in str(error.value)
    assert convert(openclip, tmp_path / "other", with_processor=False)


def test_random_interpolation_is_bicubic_as_in_openclips_evaluation(openclip, tmp_path):
    set_fields(openclip, preprocess_cfg__interpolation="random")
    assert AutoProcessor.from_pretrained(convert(openclip, tmp_path / "a")).image_processor.resample == 3


def test_tokenizers_that_openclip_would_not_take(openclip, tmp_path):
    for fields, message in (
        ({"tokenizer_kwargs": {"clean": "canonicalize"}}, "tokenizer_kwargs"),
        ({"tokenizer_mode": "clips"}, "tokenizer_mode"),
    ):
        before = (openclip / OPENCLIP_CONFIG).read_text()
        set_fields(openclip, **{f"model_cfg__text_cfg__{name}": value for name, value in fields.items()})
        with pytest.raises(ValueError, match=message):
            convert(openclip, tmp_path / "other")
        (openclip / OPENCLIP_CONFIG).write_text(before)
    content = json.loads((openclip / "tokenizer.json").read_text())
    content["model"]["end_of_word_suffix"] = None
    (openclip / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"tokenizer\.json is no tokenizer of CLIP's kind"):
        convert(openclip, tmp_path / "other")


def test_a_tokenizer_that_is_not_clips_beside_a_model_of_clips_vocabulary():
    tokenizer = small_processor().tokenizer
    text = TripletCLIPConfig().text_config  # CLIP's vocabulary
    with TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        with pytest.raises(ValueError, match="is not CLIP's, and OpenCLIP would take CLIP's"):
            _tokenizer(OpenClipCheckpoint(Path("w.pt"), {"text_cfg": {}}, {}, Path(folder)), text)
        named = {"text_cfg": {"hf_tokenizer_name": "someone/else"}}
        with pytest.raises(ValueError, match="does not fit it"):
            _tokenizer(OpenClipCheckpoint(Path("w.pt"), named, {}, Path(folder)), text)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"do_resize": False}, "does not resize"),
        ({"resample": 0}, "its filter is 0"),
        ({"size": {"shortest_edge": 20}}, "it resizes to"),
        ({"do_center_crop": False}, "it resizes to"),
        ({"rescale_factor": 1.0}, "does not scale pixels"),
    ],
)
def test_a_processor_that_openclip_has_no_settings_for(fields, message):
    images = copy.deepcopy(small_processor().image_processor)
    for name, value in fields.items():
        setattr(images, name, value)
    with pytest.raises(ValueError, match=message):
        preprocess_cfg_of(images, 16)


def test_clips_tokenizer_is_known_by_what_it_makes_of_a_caption():
    class Stub:
        def __init__(self, size: int, ids: list[int]) -> None:
            self.size, self.ids = size, ids

        def __len__(self) -> int:
            return self.size

        def __call__(self, text: str) -> dict[str, list[int]]:
            return {"input_ids": self.ids if text == PROBE[0] else []}

    ids = PROBE[1]
    assert is_clips_tokenizer(Stub(49_408, ids))
    assert not is_clips_tokenizer(Stub(49_409, ids))
    assert not is_clips_tokenizer(Stub(49_408, ids[:-1]))

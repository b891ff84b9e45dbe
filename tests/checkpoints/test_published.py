# SPDX-License-Identifier: Apache-2.0
"""The layout of the published checkpoints: exact, strict, and without running anything that lies in it."""

from __future__ import annotations

import json
import logging
import math
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel

from hf_tripletclip import TripletCLIPConfig, TripletCLIPModel
from hf_tripletclip.checkpoints import PUBLISHED_CHECKPOINTS
from tests.checkpoints import FOLDERS, FOUR_FILES, failing, small_fields, small_processor, write_published
from tests.loopback_hub import LoopbackHub, run_python

REPO = "TripletCLIP/CC3M_TripletCLIP_ViTB12"


@pytest.fixture
def folder(tmp_path) -> Path:
    write_published(tmp_path / "published")
    return tmp_path / "published"


def inputs() -> dict[str, torch.Tensor]:
    captions = ["a black dog", "a white cat and a black dog", "cat"]
    tokens = small_processor().tokenizer(captions, return_tensors="pt", padding=True)
    return {**tokens, "pixel_values": torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))}


def change_tensors(folder: Path, change) -> None:
    """Rewrite the text encoder's file after `change(tensors)`."""
    path = folder / "text-encoder" / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def change_config(folder: Path, encoder: str, **fields) -> None:
    path = folder / encoder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


# ---- The weights ----


@torch.no_grad()
def test_outputs_are_those_of_the_encoders(tmp_path):
    text_encoder, vision_encoder = write_published(tmp_path / "published")
    model = TripletCLIPModel.from_pretrained(tmp_path / "published", logit_scale=1.0)
    assert not model.training
    batch = inputs()
    pixels = batch.pop("pixel_values")
    assert torch.equal(model.get_text_features(**batch).pooler_output, text_encoder(**batch).text_embeds)
    assert torch.equal(model.get_image_features(pixels).pooler_output, vision_encoder(pixels).image_embeds)


def test_every_tensor_lands(folder):
    model = TripletCLIPModel.from_pretrained(folder)
    loaded = model.state_dict()
    for name in FOLDERS:
        for key, value in load_file(folder / name / "model.safetensors").items():
            assert torch.equal(loaded.pop(key.removeprefix("model.")), value), key
    assert list(loaded) == ["logit_scale"]
    assert list(model.state_dict()) == list(CLIPModel(CLIPConfig.from_dict(model.config.to_dict())).state_dict())


def test_logit_scale_is_clips_bound_with_a_warning(folder, caplog):
    with caplog.at_level(logging.WARNING):
        model = TripletCLIPModel.from_pretrained(str(folder))
    assert model.logit_scale.item() == pytest.approx(math.log(100))
    assert isinstance(model.logit_scale, torch.nn.Parameter)
    (record,) = caplog.records
    assert "logit_scale" in record.message
    assert str(folder) in record.message


@pytest.mark.parametrize("value", [2.5, 0.0, 3])
def test_logit_scale_of_the_caller_needs_no_warning(folder, caplog, value):
    with caplog.at_level(logging.WARNING):
        model = TripletCLIPModel.from_pretrained(folder, logit_scale=value)
    assert model.logit_scale.item() == value
    assert model.logit_scale.dtype == torch.float32
    assert not caplog.records


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_logit_scale_must_be_finite(folder, value):
    with pytest.raises(ValueError, match="`logit_scale` must be finite"):
        TripletCLIPModel.from_pretrained(folder, logit_scale=value)


def test_config_is_a_clip_config_with_the_sizes(folder):
    config = TripletCLIPModel.from_pretrained(folder, logit_scale=1.0).config
    text, vision = small_fields()
    assert type(config) is TripletCLIPConfig
    assert {name: getattr(config.text_config, name) for name in text} == text
    assert {name: getattr(config.vision_config, name) for name in vision} == vision
    assert config.projection_dim == 24
    saved = config.to_dict()
    assert saved["model_type"] == "clip"
    for tower in (saved, saved["text_config"], saved["vision_config"]):
        assert not {"auto_map", "model_name", "lora", "frozen", "pretrained"} & tower.keys()


def test_position_ids_of_old_files_are_ignored(folder):
    def add(tensors):
        tensors["model.text_model.embeddings.position_ids"] = torch.arange(32)[None]

    change_tensors(folder, add)
    assert "text_model.embeddings.position_ids" not in TripletCLIPModel.from_pretrained(folder).state_dict()


# ---- Refusals ----

WEIGHT = "model.text_model.encoder.layers.1.mlp.fc1.weight"


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
def test_a_wrong_tensor_is_refused_by_name(folder, change, tensor, reason):
    change_tensors(folder, change)
    with pytest.raises(ValueError, match=r"text-encoder/model\.safetensors") as error:
        TripletCLIPModel.from_pretrained(folder)
    assert tensor in str(error.value)
    assert reason in str(error.value)
    assert str(folder) in str(error.value)


@pytest.mark.parametrize("size", [0, 4, 100, -1])
def test_a_truncated_file_is_refused(folder, size):
    path = folder / "vision-encoder" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"vision-encoder/model\.safetensors.*not a readable"):
        TripletCLIPModel.from_pretrained(folder)


@pytest.mark.parametrize("encoder", FOLDERS)
@pytest.mark.parametrize("content", ["", "{", "[]", "\udcff"])
def test_an_invalid_config_is_refused(folder, encoder, content):
    (folder / encoder / "config.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=rf"{encoder}/config\.json"):
        TripletCLIPModel.from_pretrained(folder)


def test_encoders_that_do_not_fit_each_other_are_refused(folder):
    change_config(folder, "vision-encoder", projection_dim=32)
    with pytest.raises(ValueError, match=r"projection_dim.*24 in text-encoder and 32 in vision-encoder"):
        TripletCLIPModel.from_pretrained(folder)


@pytest.mark.parametrize("value", ["many", 2.5, None])
def test_a_field_of_the_wrong_type_is_refused(folder, value):
    change_config(folder, "text-encoder", num_hidden_layers=value)
    with pytest.raises(ValueError, match=r"text-encoder/config\.json.*num_hidden_layers"):
        TripletCLIPModel.from_pretrained(folder)


@pytest.mark.parametrize("name", sorted(FOUR_FILES - {"text-encoder/config.json"}))
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(OSError, match=name):
        TripletCLIPModel.from_pretrained(folder)


def test_a_config_of_another_class_is_refused(folder):
    with pytest.raises(ValueError, match="TripletCLIPConfig"):
        TripletCLIPModel.from_pretrained(folder, config=CLIPConfig())


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
def test_no_code_is_run_and_nothing_unpickled(folder, kwargs, with_safetensors):
    for place in (folder, *(folder / name for name in FOLDERS)):
        for name in ("pytorch_model.bin", "model.pt"):
            (place / name).write_bytes(pickle.dumps(Bomb(folder / "ran")))
    if with_safetensors:
        TripletCLIPModel.from_pretrained(folder, **kwargs)
    else:
        (folder / "text-encoder" / "model.safetensors").unlink()
        with pytest.raises(OSError, match=r"text-encoder/model\.safetensors"):
            TripletCLIPModel.from_pretrained(folder, **kwargs)
    assert not (folder / "ran").exists()


def test_the_bomb_and_the_code_would_go_off(folder):
    pickle.loads(pickle.dumps(Bomb(folder / "ran")))
    assert (folder / "ran").exists()
    (folder / "ran").unlink()
    with pytest.raises(RuntimeError, match="code was run"):
        exec((folder / "text-encoder" / "utils.py").read_text())
    assert (folder / "ran").exists()


# ---- The arguments of from_pretrained ----


@pytest.mark.parametrize("dtype", [torch.bfloat16, "float16"])
def test_dtype(folder, dtype):
    model = TripletCLIPModel.from_pretrained(folder, dtype=dtype, logit_scale=1.0)
    expected = getattr(torch, str(dtype).removeprefix("torch."))
    assert {parameter.dtype for parameter in model.parameters()} == {expected}
    assert model.dtype == expected


def test_dtype_auto_is_that_of_the_files(folder):
    assert TripletCLIPModel.from_pretrained(folder, dtype="auto", logit_scale=1.0).dtype == torch.float32


@pytest.mark.parametrize("device_map", ["cpu", {"": "cpu"}, "auto"])
def test_device_map(folder, device_map):
    model = TripletCLIPModel.from_pretrained(folder, device_map=device_map, logit_scale=1.0)
    plain = TripletCLIPModel.from_pretrained(folder, logit_scale=1.0)
    with torch.no_grad():
        assert torch.equal(model(**inputs()).logits_per_image, plain(**inputs()).logits_per_image)


def test_attention_objective_and_loading_info(folder):
    model, info = TripletCLIPModel.from_pretrained(
        folder,
        attn_implementation="eager",
        objective="negclip",
        objective_kwargs={"chunk_size": 8},
        logit_scale_max=50.0,
        output_loading_info=True,
        logit_scale=1.0,
    )
    assert model.config._attn_implementation == "eager"
    assert (model.objective.name, model.config.objective_kwargs) == ("negclip", {"chunk_size": 8})
    assert model.config.logit_scale_max == 50.0
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]


def test_a_config_of_the_caller(folder):
    config = TripletCLIPModel.from_pretrained(folder).config
    config.objective = "clip"
    assert TripletCLIPModel.from_pretrained(folder, config=config).objective.name == "clip"


def test_a_subfolder(tmp_path):
    write_published(tmp_path / "runs" / "best")
    model = TripletCLIPModel.from_pretrained(tmp_path, subfolder="runs/best", logit_scale=1.0)
    assert model.config.projection_dim == 24


def test_a_root_config_wins(folder):
    model = TripletCLIPModel.from_pretrained(folder, logit_scale=1.0)
    with torch.no_grad():
        model.text_projection.weight.fill_(0.5)
    model.save_pretrained(folder)
    again = TripletCLIPModel.from_pretrained(folder)
    assert torch.equal(again.text_projection.weight, model.text_projection.weight)
    assert again.logit_scale.item() == 1.0


def test_a_directory_of_neither_layout_fails_as_in_transformers(tmp_path):
    with pytest.raises(OSError, match=str(tmp_path)):
        TripletCLIPModel.from_pretrained(tmp_path)


def test_nine_names():
    assert len(set(PUBLISHED_CHECKPOINTS)) == 9
    assert REPO in PUBLISHED_CHECKPOINTS


# ---- Saved, it is an ordinary CLIP ----


def test_saved_it_opens_in_plain_transformers(folder, tmp_path):
    model = TripletCLIPModel.from_pretrained(folder, logit_scale=2.0)
    model.save_pretrained(tmp_path / "saved")
    small_processor().save_pretrained(tmp_path / "saved")
    torch.save({"inputs": inputs(), "logits": model(**inputs()).logits_per_image}, tmp_path / "expected.pt")
    code = f"""
import sys, torch
from PIL import Image
from transformers import AutoModel, CLIPModel, pipeline
saved = {str(tmp_path / "saved")!r}
expected = torch.load({str(tmp_path / "expected.pt")!r})
for cls in (AutoModel, CLIPModel):
    model, info = cls.from_pretrained(saved, output_loading_info=True)
    assert type(model) is CLIPModel and not any(info.values()), info
    assert torch.equal(model(**expected["inputs"]).logits_per_image, expected["logits"])
classify = pipeline("zero-shot-image-classification", model=saved)
result = classify(Image.new("RGB", (20, 30), "red"), candidate_labels=["black dog", "white cat"])
assert {{answer["label"] for answer in result}} == {{"black dog", "white cat"}}, result
assert "hf_tripletclip" not in sys.modules
"""
    run_python(code, None, tmp_path / "home")


def test_full_size(tmp_path, caplog):
    text_encoder, vision_encoder = write_published(tmp_path / "published", {}, {})
    sizes = [(tmp_path / "published" / name / "model.safetensors").stat().st_size / 1e6 for name in FOLDERS]
    assert sizes == [pytest.approx(253.7, rel=0.01), pytest.approx(351.4, rel=0.01)]
    model = TripletCLIPModel.from_pretrained(tmp_path / "published")
    ids = torch.tensor([[49406, 320, 1929, 49407]])
    pixels = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        assert torch.equal(model.get_text_features(ids).pooler_output, text_encoder(ids).text_embeds)
        assert torch.equal(model.get_image_features(pixels).pooler_output, vision_encoder(pixels).image_embeds)
    shutil.rmtree(tmp_path / "published")  # 600 MB that pytest would keep


# ---- Through the Hub ----


def load(*calls: str) -> str:
    """Code that prints one number of the model for each call's arguments, or the error's type and message."""
    return f"""
from hf_tripletclip import TripletCLIPModel
for kwargs in [{", ".join(f"dict({call})" for call in calls or [""])}]:
    try:
        model = TripletCLIPModel.from_pretrained({REPO!r}, logit_scale=1.0, **kwargs)
        print(model.text_projection.weight.double().sum().item())
    except Exception as error:
        print(type(error).__name__, str(error).splitlines()[0])
"""


def number(folder: Path) -> str:
    weight = load_file(folder / "text-encoder" / "model.safetensors")["model.text_projection.weight"]
    return f"{weight.double().sum().item()}\n"


UNKNOWN = f"OSError {REPO} is not a local folder and is not a valid model identifier listed on"


def test_only_the_four_files_are_downloaded_once(hub, folder, tmp_path):
    hub.add("model", REPO, folder)
    home = tmp_path / "home"
    assert run_python(load(), hub, home).stdout == number(folder)
    files = {f"{REPO}/resolve/main/{name}" for name in FOUR_FILES}
    assert sorted(hub.downloads()) == sorted(files)
    assert {path[1:] for path in hub.requests("HEAD")} == files | {f"{REPO}/resolve/main/config.json"}
    assert {method for method, _ in hub.log} == {"GET", "HEAD"}

    hub.log.clear()
    assert run_python(load(), hub, home).stdout == number(folder)
    assert not hub.downloads()

    hub.log.clear()
    assert run_python(load(), hub, home, HF_HUB_OFFLINE="1").stdout == number(folder)
    assert not hub.log


@pytest.mark.parametrize("name", ["config.json", "text-encoder/config.json"])
def test_an_error_of_the_hub_does_not_lead_to_another_layout(hub, folder, tmp_path, name):
    TripletCLIPModel.from_pretrained(folder, logit_scale=1.0).save_pretrained(tmp_path / "clip")
    files = {"config.json": (tmp_path / "clip" / "config.json").read_bytes()} if name == "config.json" else {}
    hub.add("model", REPO, files | {path: (folder / path).read_bytes() for path in FOUR_FILES})
    with failing(hub, f"/{REPO}/resolve/main/{name}"):
        out = run_python(load(), hub, tmp_path / "home").stdout
    assert out.startswith(f"OSError We couldn't connect to '{hub.endpoint}' to load the files")
    assert not hub.downloads()


def test_an_error_of_the_hub_leaves_a_warm_cache_usable(hub, folder, tmp_path):
    hub.add("model", REPO, folder)
    run_python(load(), hub, tmp_path / "home")
    with failing(hub, f"/{REPO}/resolve/main/config.json"):
        assert run_python(load(), hub, tmp_path / "home").stdout == number(folder)


def test_a_cold_cache_offline_gives_one_clear_error(hub, folder, tmp_path):
    hub.add("model", REPO, folder)
    out = run_python(load(), hub, tmp_path / "home", HF_HUB_OFFLINE="1").stdout
    assert out.startswith(f"OSError We couldn't connect to '{hub.endpoint}' to load the files")
    assert not hub.log


@pytest.mark.slow
def test_an_unreachable_hub_gives_the_same_error(tmp_path):  # after the client's retries
    out = run_python(load(), None, tmp_path / "home").stdout
    assert out.startswith("OSError We couldn't connect to 'http://127.0.0.1:9' to load the files")


def test_revisions(hub, folder, tmp_path):
    first = number(folder)
    commit = hub.add("model", REPO, folder)
    change_tensors(folder, lambda tensors: tensors["model.text_projection.weight"].fill_(0.0))
    hub.add("model", REPO, folder, revision="v2")
    calls = "revision='v2'", "", f"revision='{commit}'", "revision='v3'"
    out = run_python(load(*calls), hub, tmp_path / "home").stdout.splitlines(keepends=True)
    assert out[:3] == ["0.0\n", first, first]
    assert out[3].startswith("OSError v3 is not a valid git identifier")


def test_a_token(folder, tmp_path):
    with LoopbackHub(token="hf_secret") as hub:
        hub.add("model", REPO, folder)
        out = run_python(load("", "token='hf_wrong'"), hub, tmp_path / "home", HF_TOKEN=None).stdout.splitlines()
        assert out[0].startswith(UNKNOWN)
        assert out[1].startswith("OSError")
        assert not hub.downloads()
        assert run_python(load("token='hf_secret'"), hub, tmp_path / "a", HF_TOKEN=None).stdout == number(folder)
        assert run_python(load(), hub, tmp_path / "b").stdout == number(folder)


def test_a_repository_that_does_not_exist(hub, tmp_path):
    assert run_python(load(), hub, tmp_path / "home").stdout.startswith(UNKNOWN)


def test_pushed_it_opens_in_plain_transformers(hub, folder, tmp_path):
    hub.add("model", REPO, folder)
    run_python(load() + "model.push_to_hub('someone/converted')", hub, tmp_path / "home")
    assert {"config.json", "model.safetensors"} <= hub.files("model", "someone/converted").keys()
    code = """
import sys
from transformers import AutoModel
print(AutoModel.from_pretrained("someone/converted").text_projection.weight.double().sum().item())
assert "hf_tripletclip" not in sys.modules
"""
    assert run_python(code, hub, tmp_path / "other home").stdout == number(folder)

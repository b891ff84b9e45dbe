# SPDX-License-Identifier: Apache-2.0
"""The published layout in a local directory: every weight, as an ordinary CLIP."""

from __future__ import annotations

import json
import logging
import math
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import CLIPConfig, CLIPModel

from hf_tripletclip import TripletCLIPConfig, TripletCLIPModel
from tests.checkpoints import FOLDERS, change_tensors, small_fields, small_processor, write_published
from tests.loopback_hub import run_python


def inputs() -> dict[str, torch.Tensor]:
    captions = ["a black dog", "a white cat and a black dog", "cat"]
    tokens = small_processor().tokenizer(captions, return_tensors="pt", padding=True)
    return {**tokens, "pixel_values": torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))}


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


def test_every_tensor_lands(published):
    model = TripletCLIPModel.from_pretrained(published)
    loaded = model.state_dict()
    for name in FOLDERS:
        for key, value in load_file(published / name / "model.safetensors").items():
            assert torch.equal(loaded.pop(key.removeprefix("model.")), value), key
    assert list(loaded) == ["logit_scale"]
    assert list(model.state_dict()) == list(CLIPModel(CLIPConfig.from_dict(model.config.to_dict())).state_dict())


def test_logit_scale_is_clips_bound_with_a_warning(published, caplog):
    with caplog.at_level(logging.WARNING):
        model = TripletCLIPModel.from_pretrained(str(published))
    assert model.logit_scale.item() == pytest.approx(math.log(100))
    assert isinstance(model.logit_scale, torch.nn.Parameter)
    (record,) = caplog.records
    assert "logit_scale" in record.message
    assert str(published) in record.message


@pytest.mark.parametrize("value", [2.5, 0.0, 3])
def test_logit_scale_of_the_caller_needs_no_warning(published, caplog, value):
    with caplog.at_level(logging.WARNING):
        model = TripletCLIPModel.from_pretrained(published, logit_scale=value)
    assert model.logit_scale.item() == value
    assert model.logit_scale.dtype == torch.float32
    assert not caplog.records


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_logit_scale_must_be_finite(published, value):
    with pytest.raises(ValueError, match="`logit_scale` must be finite"):
        TripletCLIPModel.from_pretrained(published, logit_scale=value)


def test_config_is_a_clip_config_with_the_sizes(published):
    config = TripletCLIPModel.from_pretrained(published, logit_scale=1.0).config
    text, vision = small_fields()
    assert type(config) is TripletCLIPConfig
    assert {name: getattr(config.text_config, name) for name in text} == text
    assert {name: getattr(config.vision_config, name) for name in vision} == vision
    assert config.projection_dim == 24
    saved = config.to_dict()
    assert saved["model_type"] == "clip"
    for tower in (saved, saved["text_config"], saved["vision_config"]):
        assert not {"auto_map", "model_name", "lora", "frozen", "pretrained"} & tower.keys()


def test_position_ids_of_old_files_are_ignored(published):
    def add(tensors):
        tensors["model.text_model.embeddings.position_ids"] = torch.arange(32)[None]

    change_tensors(published, add)
    assert "text_model.embeddings.position_ids" not in TripletCLIPModel.from_pretrained(published).state_dict()


# ---- The arguments of from_pretrained ----


@pytest.mark.parametrize("dtype", [torch.bfloat16, "float16"])
def test_dtype(published, dtype):
    model = TripletCLIPModel.from_pretrained(published, dtype=dtype, logit_scale=1.0)
    expected = getattr(torch, str(dtype).removeprefix("torch."))
    assert {parameter.dtype for parameter in model.parameters()} == {expected}
    assert model.dtype == expected


def test_dtype_auto_is_that_of_the_files(published):
    assert TripletCLIPModel.from_pretrained(published, dtype="auto", logit_scale=1.0).dtype == torch.float32


@pytest.mark.parametrize("device_map", ["cpu", {"": "cpu"}, "auto"])
def test_device_map(published, device_map):
    model = TripletCLIPModel.from_pretrained(published, device_map=device_map, logit_scale=1.0)
    plain = TripletCLIPModel.from_pretrained(published, logit_scale=1.0)
    with torch.no_grad():
        assert torch.equal(model(**inputs()).logits_per_image, plain(**inputs()).logits_per_image)


def test_attention_objective_and_loading_info(published):
    model, info = TripletCLIPModel.from_pretrained(
        published,
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


@pytest.mark.parametrize("with_info", [False, True])
def test_the_model_says_where_it_comes_from(published, tmp_path, with_info):
    loaded = TripletCLIPModel.from_pretrained(published, logit_scale=1.0, output_loading_info=with_info)
    model = loaded[0] if with_info else loaded
    assert model.name_or_path == model.config.name_or_path == str(published)
    get_peft_model(model, LoraConfig(target_modules=["q_proj"])).save_pretrained(tmp_path / "lora")
    saved = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    assert saved["base_model_name_or_path"] == str(published)


def test_a_config_of_the_caller(published):
    config = TripletCLIPModel.from_pretrained(published).config
    config.objective = "clip"
    assert TripletCLIPModel.from_pretrained(published, config=config).objective.name == "clip"


def test_a_subfolder(tmp_path):
    write_published(tmp_path / "runs" / "best")
    model = TripletCLIPModel.from_pretrained(tmp_path, subfolder="runs/best", logit_scale=1.0)
    assert model.config.projection_dim == 24


def test_a_root_config_wins(published):
    model = TripletCLIPModel.from_pretrained(published, logit_scale=1.0)
    with torch.no_grad():
        model.text_projection.weight.fill_(0.5)
    model.save_pretrained(published)
    again = TripletCLIPModel.from_pretrained(published)
    assert torch.equal(again.text_projection.weight, model.text_projection.weight)
    assert again.logit_scale.item() == 1.0


def test_a_directory_of_neither_layout_fails_as_in_transformers(tmp_path):
    with pytest.raises(OSError, match=str(tmp_path)):
        TripletCLIPModel.from_pretrained(tmp_path)


# ---- Saved, it is an ordinary CLIP ----


def test_saved_it_opens_in_plain_transformers(published, tmp_path):
    model = TripletCLIPModel.from_pretrained(published, logit_scale=2.0)
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


def test_full_size(tmp_path):
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

# SPDX-License-Identifier: Apache-2.0
"""Pictures from real diffusers pipelines of random weights."""

from __future__ import annotations

import io
import logging
import shutil

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image

from hf_tripletclip.generation.images.diffusers import DiffusersImages
from hf_tripletclip.generation.registry import get_stage
from hf_tripletclip.generation.stage import row_seed
from tests.generation.images.tiny_pipelines import CAPTIONS, save_sdxl_turbo, save_stable_diffusion

ROWS = {"id": [f"row-{number}" for number in range(4)], "neg_caption": CAPTIONS}


@pytest.fixture(scope="module")
def turbo(tmp_path_factory) -> str:
    return save_sdxl_turbo(tmp_path_factory.mktemp("sdxl"))


@pytest.fixture(scope="module")
def diffusion(tmp_path_factory) -> str:
    return save_stable_diffusion(tmp_path_factory.mktemp("diffusion"))


def make(model: str, **settings) -> DiffusersImages:
    return DiffusersImages(**{"model": model, "height": 32, "width": 32, "format": "png", **settings})


def pixels(value: dict) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(value["bytes"]))).astype(int)


def rows(*numbers: int) -> dict[str, list]:
    return {name: [values[number] for number in numbers] for name, values in ROWS.items()}


@pytest.mark.parametrize("kind", ["turbo", "diffusion"])
@pytest.mark.parametrize("settings", [{}, {"num_inference_steps": 3, "guidance_scale": 2.0, "negative_prompt": "bad"}])
def test_a_picture_for_every_row(kind, settings, request):
    stage = make(request.getfixturevalue(kind), **settings)
    made = stage(ROWS)
    assert made.keys() == {*stage.produces, "error"}
    assert made["error"] == [None] * 4
    assert made["seed"] == [row_seed(0, row, "image") for row in ROWS["id"]]
    pictures = [pixels(value) for value in made["neg_image"]]
    assert {picture.shape for picture in pictures} == {(32, 32, 3)}
    assert all(picture.std() > 5 for picture in pictures)
    assert len({value["bytes"] for value in made["neg_image"]}) == 4


@pytest.mark.parametrize("kind", ["turbo", "diffusion"])
def test_a_rerun_draws_the_same_bytes(kind, request):
    model = request.getfixturevalue(kind)
    first, again = make(model, num_inference_steps=2), make(model, num_inference_steps=2)
    made = first(ROWS)
    torch.manual_seed(123)  # nothing hangs on torch's own generator
    assert again(ROWS) == made
    assert first(ROWS) == made  # nor on what was drawn before


@pytest.mark.parametrize("kind", ["turbo", "diffusion"])
def test_a_row_is_the_same_in_any_batch(kind, request):
    stage = make(request.getfixturevalue(kind), num_inference_steps=2)
    whole = [pixels(value) for value in stage(ROWS)["neg_image"]]
    for numbers in ([2], [3, 0], [1, 2, 3]):
        part = stage(rows(*numbers))
        for number, value in zip(numbers, part["neg_image"], strict=True):
            assert np.abs(pixels(value) - whole[number]).max() <= 1
            assert (pixels(value) != whole[number]).mean() < 0.01


def test_caption_seed_and_id_matter(turbo):
    (first,) = make(turbo)(rows(0))["neg_image"]
    (other_caption,) = make(turbo)({**rows(0), "neg_caption": ["two cats on a mat"]})["neg_image"]
    (other_seed,) = make(turbo, seed=1)(rows(0))["neg_image"]
    (other_id,) = make(turbo)({**rows(0), "id": ["another"]})["neg_image"]
    assert len({value["bytes"] for value in (first, other_caption, other_seed, other_id)}) == 4


def test_the_picture_is_the_pipelines_own(diffusion):
    """What the stage stores is what the pipeline draws from the seed that the row states."""
    from diffusers import StableDiffusionPipeline

    made = make(diffusion, num_inference_steps=2, guidance_scale=3.0, negative_prompt="bad")(rows(1))
    pipeline = StableDiffusionPipeline.from_pretrained(diffusion, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline(
        "a white dog",
        negative_prompt="bad",
        num_inference_steps=2,
        guidance_scale=3.0,
        height=32,
        width=32,
        generator=torch.Generator().manual_seed(made["seed"][0]),
    ).images[0]
    assert np.abs(np.asarray(image).astype(int) - pixels(made["neg_image"][0])).max() <= 1


def test_stored_size_format_and_kwargs(turbo):
    stage = make(turbo, image_size=16, format="webp", quality=80, pipeline_kwargs={"guidance_rescale": 0.5})
    image = Image.open(io.BytesIO(stage(rows(0))["neg_image"][0]["bytes"]))
    assert (image.format, image.size) == ("WEBP", (16, 16))
    assert stage.settings()["pipeline_kwargs"] == {"guidance_rescale": 0.5}


def test_broken_captions_are_errors_of_their_rows(turbo):
    batch = {**rows(0, 1, 2), "neg_caption": ["a black dog", None, "  "]}
    made = make(turbo)(batch)
    assert made["error"] == [None, "missing caption in neg_caption", "empty caption in neg_caption"]
    assert made["neg_image"][0] is not None
    assert made["neg_image"][1:] == made["seed"][1:] == [None, None]
    assert make(turbo)({"id": [], "neg_caption": []}) == {"neg_image": [], "seed": [], "error": []}


def test_blank_pictures_are_drawn_again_and_then_are_errors(tmp_path):
    stage = make(save_stable_diffusion(tmp_path, blank=True), max_attempts=2)
    stage.setup()
    seeds: list[int] = []
    draw = stage._draw
    stage._draw = lambda captions, given: (seeds.extend(given), draw(captions, given))[1]  # listens, no more
    made = stage(rows(0, 1))
    assert made["error"] == ["blank image: it is black in each of 2 attempts"] * 2
    assert made["neg_image"] == made["seed"] == [None, None]
    assert len(set(seeds)) == 4


def test_a_picture_that_is_blank_once_is_drawn_from_another_seed(turbo, monkeypatch):
    """A safety checker that objects to the first picture of one row."""
    stage = make(turbo)
    stage.setup()
    draw, calls = stage._draw, []

    def check(captions, seeds):
        images = list(draw(captions, seeds))
        if not calls:
            images[1] = Image.new("RGB", images[1].size)
        calls.append(list(captions))
        return images

    monkeypatch.setattr(stage, "_draw", check)
    made = stage(ROWS)
    assert calls == [CAPTIONS, [CAPTIONS[1]]]
    assert made["error"] == [None] * 4
    second = row_seed(0, "row-1", "image, attempt 2")
    assert made["seed"] == [row_seed(0, row, "image") if row != "row-1" else second for row in ROWS["id"]]
    assert len({value["bytes"] for value in made["neg_image"]}) == 4


def test_a_real_safety_checker_that_objects(tmp_path, diffusion):
    from diffusers import StableDiffusionPipeline
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPConfig, CLIPImageProcessor

    tower = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config=tower, vision_config={**tower, "image_size": 30, "patch_size": 15}, projection_dim=64
    )
    checker = StableDiffusionSafetyChecker(config)
    checker.concept_embeds_weights.data.fill_(-1.0)  # every picture is like every concept
    checker.special_care_embeds_weights.data.fill_(-1.0)
    extractor = CLIPImageProcessor(size={"shortest_edge": 30}, crop_size={"height": 30, "width": 30})
    StableDiffusionPipeline.from_pretrained(
        diffusion, safety_checker=checker, feature_extractor=extractor, requires_safety_checker=True
    ).save_pretrained(tmp_path)
    made = make(str(tmp_path), max_attempts=1)(rows(0, 1))
    assert made["error"] == ["blank image: it is black"] * 2


def test_as_a_map_of_a_dataset(turbo):
    dataset = Dataset.from_dict(ROWS)
    stage = get_stage("images", "diffusers", {"model": turbo, "height": 32, "width": 32, "batch_size": 2})
    mapped = dataset.map(stage, batched=True, batch_size=stage.batch_size).cast_column(
        "neg_image", stage.produces["neg_image"]
    )
    assert mapped[3]["neg_image"].size == (32, 32)
    assert mapped.features["seed"] == stage.produces["seed"]


def test_it_is_quiet_and_leaves_settings_as_they_were(turbo, capfd, caplog):
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    libraries = (diffusers_logging, transformers_logging)
    before = [(library.get_verbosity(), library.is_progress_bar_enabled()) for library in libraries]
    long_caption = "a black dog and a white cat " * 30
    with caplog.at_level(logging.WARNING):
        make(turbo)({"id": ["a"], "neg_caption": [long_caption]})
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
    assert [(library.get_verbosity(), library.is_progress_bar_enabled()) for library in libraries] == before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dtype": "int8"}, "`dtype` is 'int8'"),
        ({"format": "gif"}, "`format` is 'gif'"),
        ({"quality": 0}, "`quality` is 0"),
        ({"image_size": 1}, "`image_size` is 1"),
        ({"num_inference_steps": 0}, "`num_inference_steps` is 0"),
        ({"max_attempts": 0}, "`max_attempts` is 0"),
        ({"height": 33}, "`height` is 33; give a multiple of 8"),
        ({"pipeline_kwargs": {"prompt": "a", "generator": None}}, "`pipeline_kwargs` has generator, prompt"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        make("unused", **settings)


def test_what_a_pipeline_does_not_take(turbo):
    with pytest.raises(ValueError, match=r"StableDiffusionXLPipeline of .* takes no true_cfg_scale; it takes prompt"):
        make(turbo, pipeline_kwargs={"true_cfg_scale": 2}).setup()
    with pytest.raises(ValueError, match="`device` is 'quantum'"):
        make(turbo, device="quantum").setup()


def test_models_that_cannot_be_loaded(tmp_path, turbo):
    with pytest.raises(OSError, match="cannot be loaded as a text-to-image pipeline"):
        make(str(tmp_path)).setup()
    pickled = tmp_path / "pickled"
    shutil.copytree(turbo, pickled)
    unet = pickled / "unet"
    torch.save({}, unet / "diffusion_pytorch_model.bin")
    (unet / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises((OSError, ValueError), match="cannot be loaded as a text-to-image pipeline"):
        make(str(pickled)).setup()


def test_settings_that_change_nothing_are_not_in_the_fingerprint():
    assert make("a").fingerprint() == make("a", device="cpu").fingerprint() != make("b").fingerprint()
    assert make("a").label == "diffusers:a"


def test_special_tokens_in_captions_are_text(turbo):
    stage = make(turbo)
    stage.setup()
    for tokenizer in (stage._pipeline.tokenizer, stage._pipeline.tokenizer_2):
        ids = tokenizer("a dog <|endoftext|> chases a cat")["input_ids"]
        assert ids.count(tokenizer.eos_token_id) == 1

# SPDX-License-Identifier: Apache-2.0
"""CLIP scores of tiny models, against cosines computed by hand."""

from __future__ import annotations

import io
import json
import logging

import pytest
import torch
from datasets import Dataset
from datasets import Image as ImageFeature
from PIL import Image
from transformers import (
    AutoProcessor,
    BertConfig,
    BertModel,
    CLIPModel,
    SiglipModel,
)

from hf_tripletclip.data import build_processor
from hf_tripletclip.generation.checks.clip import PAIRS, ClipScores
from tests.checkpoints import small_processor, write_published
from tests.families import LENGTH, write_family
from tests.tiny import tiny_config

CAPTIONS = ["a red cat", "a blue cat", "a red dog", "a blue dog"]


def png(*colour: int) -> dict:
    buffer = io.BytesIO()
    image = Image.radial_gradient("L").resize((20, 16)).convert("RGB")
    Image.blend(image, Image.new("RGB", image.size, colour), 0.5).save(buffer, format="PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def make_rows() -> dict[str, list]:
    return {
        "id": list("abcd"),
        "image": [png(60 * number, 100, 0) for number in range(4)],
        "caption": CAPTIONS,
        "neg_image": [png(60 * number, 100, 255) for number in range(4)],
        "neg_caption": CAPTIONS[::-1],
    }


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("clip")
    processor = build_processor(CAPTIONS, image_size=16, model_max_length=16)
    config = tiny_config()
    config.text_config.vocab_size = len(processor.tokenizer)
    config.text_config.eos_token_id = processor.tokenizer.eos_token_id
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def siglip(tmp_path_factory) -> str:
    return str(write_family("siglip", tmp_path_factory.mktemp("siglip"), CAPTIONS))


def by_hand(model, processor, rows: dict[str, list], **padding) -> dict[str, list[float]]:
    """Each row through the model alone."""
    scores: dict[str, list[float]] = {name: [] for name in PAIRS}
    for row in range(len(rows["id"])):
        sides = {}
        for name in ("image", "neg_image", "caption", "neg_caption"):
            with torch.no_grad():
                if name.endswith("image"):
                    image = Image.open(io.BytesIO(rows[name][row]["bytes"])).convert("RGB")
                    features = model.get_image_features(**processor(images=image, return_tensors="pt"))
                else:
                    text = processor(text=[rows[name][row]], return_tensors="pt", **padding)
                    features = model.get_text_features(**text)
            sides[name] = features.pooler_output[0]
        for name, (one, other) in PAIRS.items():
            scores[name].append(torch.cosine_similarity(sides[one], sides[other], dim=0).item())
    return scores


def test_scores_are_the_cosines(clip):
    rows = make_rows()
    made = ClipScores(model=clip)(rows)
    expected = by_hand(CLIPModel.from_pretrained(clip).eval(), AutoProcessor.from_pretrained(clip), rows)
    assert made.pop("error") == [None] * 4
    assert made.keys() == ClipScores().produces.keys() == expected.keys()
    for name, values in expected.items():
        assert made[name] == pytest.approx(values, abs=1e-5), name
        assert len({round(value, 4) for value in values}) > 1, name
    clip_score, cross = made["clip_score"], made["cross_clip_score"]
    assert all(abs(one - other) > 1e-4 for one, other in zip(clip_score, cross, strict=True))


def test_siglip_with_captions_padded_as_it_was_trained(siglip):
    rows = make_rows()
    made = ClipScores(model=siglip)(rows)
    model, processor = SiglipModel.from_pretrained(siglip).eval(), AutoProcessor.from_pretrained(siglip)
    processor.tokenizer.model_input_names = ["input_ids"]  # as that of the published checkpoints: no mask of padding
    expected = by_hand(model, processor, rows, padding="max_length", max_length=LENGTH)
    for name, values in expected.items():
        assert made[name] == pytest.approx(values, abs=1e-5), name


def test_the_published_layout(tmp_path, caplog):
    text, vision = write_published(tmp_path)
    small_processor().save_pretrained(tmp_path)
    rows = make_rows()
    with caplog.at_level(logging.WARNING):
        made = ClipScores(model=str(tmp_path))(rows)
    assert not caplog.records
    image = Image.open(io.BytesIO(rows["image"][2]["bytes"]))
    with torch.no_grad():
        inputs = small_processor()(text=[CAPTIONS[2]], images=image, return_tensors="pt")
        one = vision(pixel_values=inputs["pixel_values"]).image_embeds
        other = text(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).text_embeds
    assert made["clip_score"][2] == pytest.approx(torch.cosine_similarity(one, other).item(), abs=1e-5)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_the_batch_size_changes_nothing(clip, batch_size):
    rows, whole = make_rows(), ClipScores(model=clip)(make_rows())
    stage = ClipScores(model=clip, batch_size=batch_size)
    made = stage(rows)
    for name in PAIRS:
        assert made[name] == pytest.approx(whole[name], abs=1e-6)
    assert stage(rows) == made


def test_each_image_and_caption_is_encoded_once(clip):
    rows = make_rows()
    rows["image"] = [rows["image"][0], dict(rows["image"][0]), rows["image"][2], rows["image"][0]]
    rows["neg_image"][3] = rows["image"][2]
    stage = ClipScores(model=clip)
    stage.setup()
    seen = {"pixel_values": 0, "input_ids": 0}

    def count(module, args, kwargs):
        for name in seen:
            seen[name] += len(kwargs[name]) if kwargs.get(name) is not None else 0

    stage._model.vision_model.register_forward_pre_hook(count, with_kwargs=True)
    stage._model.text_model.register_forward_pre_hook(count, with_kwargs=True)
    made = stage(rows)
    assert seen == {"pixel_values": 5, "input_ids": 4}
    alone = ClipScores(model=clip)({name: values[3:] for name, values in rows.items()})
    for name in PAIRS:
        assert made[name][3] == pytest.approx(alone[name][0], abs=1e-6)


def test_a_dataset_of_captions_only(clip):
    rows = make_rows()
    whole = ClipScores(model=clip)(rows)
    captions = ClipScores(model=clip)({name: rows[name] for name in ("id", "caption", "neg_caption")})
    assert captions["error"] == [None] * 4
    assert captions["caption_similarity"] == pytest.approx(whole["caption_similarity"], abs=1e-6)
    assert all(captions[name] == [None] * 4 for name in PAIRS if name != "caption_similarity")
    no_neg_image = ClipScores(model=clip)({name: rows[name] for name in rows if name != "neg_image"})
    computed = {name for name in PAIRS if no_neg_image[name] != [None] * 4}
    assert computed == {"clip_score", "cross_clip_score", "caption_similarity"}
    images = ClipScores(model=clip)({name: rows[name] for name in ("id", "image", "neg_image")})
    assert {name for name in PAIRS if images[name] != [None] * 4} == {"image_similarity"}


def test_broken_rows_are_errors_and_change_no_other(clip):
    rows, whole = make_rows(), ClipScores(model=clip)(make_rows())
    rows["image"][0] = {"bytes": rows["image"][0]["bytes"][:60], "path": None}
    rows["neg_image"][1] = None
    rows["neg_caption"][3] = " "
    made = ClipScores(model=clip)(rows)
    assert made["error"][0].startswith("unreadable image in image: ")
    assert made["error"][1:] == ["missing image in neg_image", None, "empty caption in neg_caption"]
    for name in PAIRS:
        assert [made[name][row] for row in (0, 1, 3)] == [None] * 3
        assert made[name][2] == pytest.approx(whole[name][2], abs=1e-6)
    all_broken = ClipScores(model=clip)({**make_rows(), "caption": [None] * 4})
    assert all_broken["error"] == ["missing caption in caption"] * 4
    assert all_broken["clip_score"] == [None] * 4


def test_long_captions_are_cut_quietly(clip, capfd):
    rows = {**make_rows(), "caption": ["a red cat and a blue dog " * 20] * 4}
    made = ClipScores(model=clip)(rows)
    assert made["error"] == [None] * 4
    assert capfd.readouterr() == ("", "")


def test_scores_that_are_no_numbers_are_errors(clip):
    stage = ClipScores(model=clip)
    stage.setup()
    stage._model.text_projection.weight.data.fill_(float("nan"))
    made = stage(make_rows())
    assert all(error.startswith("score is not finite: ") for error in made["error"])
    assert made["image_similarity"] == [None] * 4


def test_as_a_map_of_a_dataset(clip):
    dataset = Dataset.from_dict(make_rows())
    for name in ("image", "neg_image"):
        dataset = dataset.cast_column(name, ImageFeature(decode=False))
    stage = ClipScores(model=clip, batch_size=2)
    mapped = dataset.map(stage, batched=True, batch_size=2)
    assert mapped["image_similarity"][:] == pytest.approx(stage(make_rows())["image_similarity"], abs=1e-6)


def test_models_that_do_not_fit(tmp_path, clip):
    with pytest.raises(OSError, match="nothing-here cannot be loaded as a CLIP-like model: "):
        ClipScores(model=str(tmp_path / "nothing-here")).setup()
    bert = tmp_path / "bert"
    BertModel(
        BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=9)
    ).save_pretrained(bert)
    with pytest.raises(ValueError, match="is a BertModel, which does not embed images"):
        ClipScores(model=str(bert)).setup()
    model = CLIPModel.from_pretrained(clip)
    state = {name: value for name, value in model.state_dict().items() if name != "visual_projection.weight"}
    lacking = tmp_path / "lacking"
    model.save_pretrained(lacking, state_dict=state)
    assert json.loads((lacking / "config.json").read_text())["model_type"] == "clip"
    with pytest.raises(ValueError, match=r"lacks weights, .*: visual_projection\.weight"):
        ClipScores(model=str(lacking)).setup()
    with pytest.raises(ValueError, match="`dtype` is 'half'"):
        ClipScores(dtype="half")
    with pytest.raises(ValueError, match="`batch_size` is 0"):
        ClipScores(batch_size=0)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_special_tokens_in_captions_are_text(kind, request):
    rows = make_rows()
    rows["caption"] = ["<|endoftext|> cat"] * 4
    rows["neg_caption"] = ["<|endoftext|> dog"] * 4
    made = ClipScores(model=request.getfixturevalue(kind))(rows)
    assert made["error"] == [None] * 4
    assert max(made["caption_similarity"]) < 0.9999

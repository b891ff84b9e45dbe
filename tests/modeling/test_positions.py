# SPDX-License-Identifier: Apache-2.0
"""Longer captions by interpolated position embeddings."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModel, AutoProcessor

from hf_tripletclip import AutoTripletModel, load_processor
from hf_tripletclip.checkpoints import convert
from hf_tripletclip.checkpoints.load import tokenize
from hf_tripletclip.modeling.positions import stretch_positions, stretched
from tests.families import CAPTIONS, LENGTH, write_family


def long_clip(old: torch.Tensor, kept: int = 20) -> torch.Tensor:
    """As Long-CLIP's code fills a table four times as long, position by position."""
    before = len(old)
    new = torch.zeros(4 * before - 3 * kept, old.shape[1])
    new[:kept] = old[:kept]
    for i in range(before - 1 - kept):
        for quarter in range(4):
            new[kept + 4 * i + quarter] = (4 - quarter) / 4 * old[kept + i] + quarter / 4 * old[kept + i + 1]
    for quarter in range(4):
        new[len(new) - 4 + quarter] = old[-1] + quarter / 4 * (old[-1] - old[-2])
    return new


def test_from_77_to_248_is_long_clips():
    old = torch.randn(77, 6, generator=torch.Generator().manual_seed(0))
    found = stretched(old, 248)
    assert found.shape == (248, 6)
    torch.testing.assert_close(found, long_clip(old), rtol=1e-5, atol=1e-6)
    assert torch.equal(found[:20], old[:20])
    assert stretched(old.bfloat16(), 100).dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["clip", "siglip", "metaclip_2", "chinese_clip", "dual_encoder"])
def test_a_stretched_model_is_an_ordinary_one(tmp_path, name):
    source = write_family(name, tmp_path / "source")
    target = convert(source, tmp_path / "target", max_text_length=40)
    model, plain = AutoTripletModel.from_pretrained(target).eval(), AutoModel.from_pretrained(target).eval()
    processor = load_processor(target)
    assert model.max_text_length == model.config.text_config.max_position_embeddings == 40
    assert (
        processor.tokenizer.model_max_length == AutoProcessor.from_pretrained(target).tokenizer.model_max_length == 40
    )
    long = " ".join([CAPTIONS[0]] * 4)
    ids = tokenize(model, processor, [long])
    assert ids["input_ids"].shape[1] > LENGTH
    with torch.no_grad():
        expected = plain.get_text_features(**ids).pooler_output
        assert torch.equal(model.get_text_features(**ids).pooler_output, expected)
        before = AutoModel.from_pretrained(source).eval()
        if name == "clip":  # the first 20 positions are as before, and it does not look to the right
            short = tokenize(model, processor, CAPTIONS[:1])
            assert torch.equal(
                model.get_text_features(**short).pooler_output, before.get_text_features(**short).pooler_output
            )


@pytest.mark.parametrize("name", ["clip", "siglip", "metaclip_2", "chinese_clip", "dual_encoder"])
def test_long_captions_in_place(tmp_path, name):
    """Without saving and loading: a BERT also has a table of token types, as long as that of positions."""
    source = write_family(name, tmp_path / "source")
    model, processor = AutoTripletModel.from_pretrained(source).eval(), load_processor(source)
    stretch_positions(model, 40)
    processor.tokenizer.model_max_length = 40
    ids = tokenize(model, processor, [" ".join([CAPTIONS[0]] * 4)])
    assert ids["input_ids"].shape[1] > LENGTH
    model.save_pretrained(tmp_path / "target")
    with torch.no_grad():
        found = model.get_text_features(input_ids=ids["input_ids"]).pooler_output
        again = AutoTripletModel.from_pretrained(tmp_path / "target").eval()
        assert torch.equal(again.get_text_features(input_ids=ids["input_ids"]).pooler_output, found)


def test_what_cannot_be_stretched(tmp_path):
    model = AutoTripletModel.from_pretrained(write_family("clip", tmp_path / "clip"))
    with pytest.raises(
        ValueError,
        match="`max_text_length` is 10, but the text tower takes 24 tokens: positions are stretched, never cut",
    ):
        stretch_positions(model, 10)
    stretch_positions(model, LENGTH)
    with pytest.raises(ValueError, match="needs more than 24 positions to interpolate; there are 24"):
        stretch_positions(model, 40, kept=24)
    roberta = AutoTripletModel.from_pretrained(write_family("altclip", tmp_path / "altclip"))
    with pytest.raises(ValueError, match="positions of AltCLIPTextModel are not those of a CLIP"):
        stretch_positions(roberta, 40)

# SPDX-License-Identifier: Apache-2.0
"""Rows with several negatives, paraphrases or dense captions."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from PIL import Image

from hf_tripletclip import TripletCLIPConfig, TripletCLIPModel
from hf_tripletclip.data import TripletCollator
from hf_tripletclip.data.collator import TensorCollator
from tests.data.rows import make_row


def test_several_negative_captions(collator):
    several = [["a red dog", "a blue dog"], [], ["", "a green cat", None]]
    rows = [make_row(index, neg_caption=captions) for index, captions in enumerate(several)]
    collator = dataclasses.replace(collator, columns=("image", "caption", "neg_caption"))
    batch = collator(rows)
    assert batch["negative_mask"].tolist() == [[True, True], [False, False], [True, False]]
    assert len(batch["input_ids"]) == 3
    decode = collator.processor.tokenizer.batch_decode
    assert decode(batch["negative_input_ids"], skip_special_tokens=True) == ["a red dog", "a blue dog", "a green cat"]
    assert collator.broken_rows.counts(skipped=False) == {"empty caption in neg_caption": 1}
    assert collator.broken_rows.counts(skipped=True) == {}


def test_a_batch_without_any_negative_caption(collator):
    collator = dataclasses.replace(collator, columns=("image", "caption", "neg_caption"))
    batch = collator([make_row(0, neg_caption=[]), make_row(1, neg_caption=[])])
    assert batch["negative_mask"].shape == (2, 0)
    assert batch["negative_input_ids"].shape == (0, batch["input_ids"].shape[1])


def test_several_captions_for_one_image_are_refused(collator):
    rows = [make_row(0, neg_caption=["a dog"]), make_row(1, neg_caption=["a dog", "a cat"])]
    with pytest.raises(ValueError, match=r"row row-1 has 2 negative captions but 1 negative image: .*`negclip`"):
        collator(rows)
    assert len(collator(rows[:1])["negative_input_ids"]) == 1
    batch = dataclasses.replace(collator, first_negative=True)([*rows, make_row(2, neg_caption=[])])
    assert batch["negative_input_ids"].shape[0] == 2
    assert "negative_mask" not in batch
    assert collator.broken_rows.counts() == {"missing caption in neg_caption": 1}


def test_negclip_learns_from_several_negative_captions(collator):
    rows = [make_row(index, neg_caption=["a red dog", "a blue fish"][: index + 1]) for index in range(2)]
    rows.append(make_row(2, neg_caption=[]))
    collator = dataclasses.replace(collator, columns=("image", "caption", "neg_caption"))
    batch = collator(rows)
    mask = batch.pop("negative_mask")
    assert int(mask.sum()) == len(batch["negative_input_ids"]) == 3
    tokenizer = collator.processor.tokenizer
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**tower, "vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id, "projection_dim": 8}
    vision = {**tower, "image_size": 32, "patch_size": 16, "projection_dim": 8}
    torch.manual_seed(0)
    model = TripletCLIPModel(TripletCLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
    model.set_objective("negclip")
    output = model(**batch, return_loss=True)
    # The same by hand: every image against all captions there are.
    scale, texts = model.logit_scale.exp(), torch.cat([output.text_embeds, output.negative_text_embeds])
    targets = torch.arange(3)
    cross_entropy = torch.nn.functional.cross_entropy
    expected = cross_entropy(scale * output.image_embeds @ texts.T, targets)
    expected = (expected + cross_entropy(scale * output.text_embeds @ output.image_embeds.T, targets)) / 2
    torch.testing.assert_close(output.loss, expected)
    model.set_objective("tripletclip")
    with pytest.raises(ValueError, match=r"'tripletclip' needs negative_image"):
        model(**batch, return_loss=True)


@pytest.mark.parametrize("first_negative", [False, True])
@pytest.mark.parametrize(
    "captions",
    [["", "a red dog"], [None, "a red dog"], ["a blue dog", "a red dog"]],
    ids=["empty", "missing", "whole"],
)
def test_a_negative_caption_stays_with_its_image(processor, captions, first_negative):
    table = [
        {
            "image": Image.new("RGB", (8, 8), "green"),
            "caption": "a green cat",
            "neg_image": [Image.new("RGB", (8, 8), "blue"), Image.new("RGB", (8, 8), "red")],
            "neg_caption": captions,
        },
        {
            "image": Image.new("RGB", (8, 8), "green"),
            "caption": "a green cat",
            "neg_image": [Image.new("RGB", (8, 8), "red"), None],
            "neg_caption": ["a red dog", None],
        },
    ]
    collator = TripletCollator(processor, first_negative=first_negative)
    batch = collator(table)
    whole = captions[0] == "a blue dog"
    assert (
        len(batch["negative_input_ids"]) == len(batch["negative_pixel_values"]) == 2 + (whole and not first_negative)
    )
    same = [torch.equal(batch[name][0], batch[name][-1]) for name in ("negative_input_ids", "negative_pixel_values")]
    assert same == [not whole, not whole]
    assert sum(collator.broken_rows.counts().values()) == (not whole)
    if not first_negative:
        expected = [[True, True], [True, False]] if whole else [[True], [True]]
        assert batch["negative_mask"].tolist() == expected
        assert torch.equal(batch["negative_mask"], batch["negative_image_mask"])


@pytest.mark.parametrize("several", [1, 3])
def test_rows_of_tensors_may_have_several_of_a_role(several):
    torch.manual_seed(0)
    ids = torch.randint(1, 8, (2, several, 4))
    pixels = torch.randn(2, several, 3, 2, 2)
    rows = [
        {
            "pixel_values": torch.zeros(3, 2, 2),
            "input_ids": torch.tensor([1, 2, 9, 0]),
            "negative_input_ids": ids[row],
            "negative_attention_mask": torch.ones_like(ids[row]),
            "negative_pixel_values": pixels[row],
        }
        for row in range(2)
    ]
    batch = TensorCollator()(rows)
    assert torch.equal(batch["negative_input_ids"], ids.reshape(-1, 4))
    assert torch.equal(batch["negative_pixel_values"], pixels.reshape(-1, 3, 2, 2))
    assert batch["negative_attention_mask"].shape == (2 * several, 4)
    assert batch["negative_mask"].tolist() == batch["negative_image_mask"].tolist() == [[True] * several] * 2
    assert batch["input_ids"].shape == (2, 4)

# SPDX-License-Identifier: Apache-2.0
"""Batches hold the token ids that a decoder must write."""

from __future__ import annotations

import dataclasses
import pickle

import pytest
import torch
from PIL import Image

from hf_tripletclip.data import TripletCollator, build_processor
from hf_tripletclip.data.decoder_labels import LabelCollator, labels_of, with_labels
from hf_tripletclip.objectives.reconstruction import load_tokenizer
from tests.tiny_decoder import tiny_decoder

COLUMNS = ("image", "caption", "paraphrase")


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(tiny_decoder())


@pytest.fixture(scope="module")
def collator(tokenizer):
    processor = build_processor(["a red cat", "the blue dog"], image_size=16)
    return with_labels(TripletCollator(processor, columns=COLUMNS, max_length=12), tokenizer, ("paraphrase",))


def row(caption: object, paraphrase: object) -> dict:
    return {"image": Image.new("RGB", (16, 16)), "caption": caption, "paraphrase": paraphrase}


def written(tokenizer, labels: torch.Tensor) -> list[str]:
    return [tokenizer.decode(one[one != -100], skip_special_tokens=True) for one in labels]


def test_labels_are_the_paraphrases_in_their_order(collator, tokenizer):
    rows = [row("a cat", ["the red cat", "one cat"]), row("a dog", None), row("one dog", ["the", ""]), row("a", "a")]
    batch = collator(rows)
    assert written(tokenizer, batch["paraphrase_decoder_targets"]) == ["the red cat", "one cat", "the", "a"]
    assert len(batch["paraphrase_input_ids"]) == 4
    assert batch["paraphrase_mask"].sum(dim=1).tolist() == [2, 0, 1, 1]
    plain = TripletCollator(collator.processor, columns=COLUMNS, max_length=12)(rows)
    assert batch.keys() - plain.keys() == {"paraphrase_decoder_targets"}
    for name, value in plain.items():
        assert torch.equal(batch[name], value)


def test_one_each_and_broken_rows(collator, tokenizer):
    batch, usable = collator.collate([row("a cat", "one cat"), row("", "one"), row("a dog", "the dog")])
    assert len(usable) == 2
    assert written(tokenizer, batch["paraphrase_decoder_targets"]) == ["one cat", "the dog"]
    assert "paraphrase_mask" not in batch
    assert collator([row("a cat", None), row("a dog", [])])["paraphrase_decoder_targets"].shape[0] == 0


def test_labels_have_an_end_token_and_are_padded_and_cut(tokenizer):
    labels = labels_of(tokenizer, ["a red cat", "a", "cat " * 200])
    assert labels.shape == (3, 77)
    end = tokenizer.eos_token_id
    assert labels[0, 3] == end
    assert labels[1, 1] == labels[2, 76] == end
    assert (labels[0, 4:] == -100).all()
    assert (labels[1, 2:] == -100).all()


def test_other_collators(collator, tokenizer):
    assert with_labels(collator, tokenizer, ("paraphrase",)) is collator
    of_tensors = object()
    assert with_labels(of_tensors, tokenizer, ("paraphrase",)) is of_tensors

    class Mine(TripletCollator):
        pass

    with pytest.raises(
        ValueError, match=r"paraphrase_decoder_targets in each batch: .*`LabelCollator` instead of Mine"
    ):
        with_labels(Mine(collator.processor), tokenizer, ("paraphrase",))


def test_the_collator_can_be_replaced_and_sent_to_workers(collator, tokenizer):
    for one in (
        dataclasses.replace(collator, columns=("image", "caption")),
        dataclasses.replace(pickle.loads(pickle.dumps(collator)), first_negative=True),
    ):
        assert isinstance(one, LabelCollator)
        batch = one([row("a cat", "one cat")])
        assert ("paraphrase_decoder_targets" in batch) == ("paraphrase" in one.columns)

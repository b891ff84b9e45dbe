# SPDX-License-Identifier: Apache-2.0
"""What is reached without looking at the image, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from hf_tripletclip.evaluation.checks.blind import LONGEST, SHORTEST, TEXT_TOWER, blind_baselines
from hf_tripletclip.evaluation.images import ImageFile
from hf_tripletclip.evaluation.items import WINOGROUND, Item, choice, predict
from hf_tripletclip.results.result import Mean

ONE, TWO = ImageFile("one.png"), ImageFile("two.png")
MEANS = {
    "accuracy": Mean("accuracy"),
    "x": Mean("accuracy", where={"category": "x"}),
    "y": Mean("accuracy", where={"category": "y"}),
    "absent": Mean("accuracy", where={"category": "absent"}),
    "macro": Mean("accuracy", by="category"),
}


def unit(degrees: float) -> torch.Tensor:
    return torch.tensor([math.cos(math.radians(degrees)), math.sin(math.radians(degrees))])


def baselines(items, images, texts, means=MEANS):
    found = dict.fromkeys(image for item in items for image in item.images)
    return blind_baselines(
        items,
        torch.stack([images[image] for image in found]) if found else torch.empty(0, 0),
        texts,
        predict(items, images, texts),
        means,
    )


def test_length_and_prior_by_hand():
    images = {ONE: unit(0), TWO: unit(40)}  # their mean is at 20 degrees
    texts = {"a cat": unit(20), "a cat and dog": unit(70), "a dog": unit(20), "one two three": unit(15)}
    items = [
        Item("1", (ONE,), ("a cat", "a cat and dog"), choice(2), category="x"),
        Item("2", (TWO,), ("a cat and dog", "a dog"), choice(2), category="x"),
        Item("3", (TWO,), ("a cat", "a dog"), choice(2), category="x"),  # the same length, the same embedding
        Item("4", (ONE,), ("one two three", "a cat", "a dog"), choice(3), category="y"),
    ]
    found = baselines(items, images, texts)
    assert list(found) == [LONGEST, SHORTEST, TEXT_TOWER] == ["longest caption", "shortest caption", "text tower"]
    assert found[LONGEST] == pytest.approx({"accuracy": 2 / 4, "x": 1 / 3, "y": 1.0, "macro": 2 / 3})
    assert found[SHORTEST] == pytest.approx({"accuracy": 1 / 4, "x": 1 / 3, "y": 0.0, "macro": 1 / 6})
    assert found[TEXT_TOWER] == pytest.approx({"accuracy": 1 / 4, "x": 1 / 3, "y": 0.0, "macro": 1 / 6})


def test_the_prior_does_not_depend_on_the_image_asked_for():
    texts = {"a": unit(0), "b": unit(90)}
    items = [Item(str(angle), (ImageFile(str(angle)),), ("a", "b"), choice(2)) for angle in (0, 30, 80, 10)]
    images = {ImageFile(str(angle)): unit(angle) for angle in (0, 30, 80, 10)}
    found = baselines(items, images, texts, {"accuracy": Mean("accuracy")})
    assert found[TEXT_TOWER] == {"accuracy": 1.0}  # also for the image at 80 degrees, which is nearer to "b"


def test_two_images_cannot_be_told_apart_blind():
    items = [Item("1", (ONE, TWO), ("a cat", "a cat and dog"), WINOGROUND)]
    means = {name: Mean(name) for name in WINOGROUND}
    found = baselines(items, {ONE: unit(0), TWO: unit(40)}, {"a cat": unit(0), "a cat and dog": unit(40)}, means)
    assert found == {name: {"text_score": 0.0} for name in (LONGEST, SHORTEST, TEXT_TOWER)}


def test_two_captions_that_are_compared_have_no_baseline():
    comparisons = {**choice(2, "image"), "text_only": (("c0c1", "c0c2"),)}
    items = [Item("1", (ONE,), ("a b c", "a", "a b"), comparisons)]
    texts = {"a": unit(0), "a b": unit(5), "a b c": unit(9)}
    means = {"image": Mean("image"), "text_only": Mean("text_only")}
    assert baselines(items, {ONE: unit(0)}, texts, means)[LONGEST] == {"image": 1.0}
    alone = [Item("1", (), ("a b c", "a", "a b"), {"text_only": comparisons["text_only"]})]
    assert baselines(alone, {}, texts, {"text_only": Mean("text_only")}) == {}

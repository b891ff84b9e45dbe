# SPDX-License-Identifier: Apache-2.0
"""Questions, and what a benchmark of them does with a model, by hand-made embeddings."""

from __future__ import annotations

import math

import pytest
import torch

from hf_tripletclip.evaluation.images import ImageFile
from hf_tripletclip.evaluation.items import CHANCE, WINOGROUND, Item, choice, fingerprint, places, predict

ONE, TWO = ImageFile("one.png"), ImageFile("two.png")


def unit(degrees: float) -> torch.Tensor:
    return torch.tensor([math.cos(math.radians(degrees)), math.sin(math.radians(degrees))])


def test_pairs_are_named_by_their_places():
    assert places("i0c1") == (("i", 0), ("c", 1))
    assert places("c2c10") == (("c", 2), ("c", 10))
    for wrong in ("i0", "x0c1", "i0c1 ", "icc", ""):
        with pytest.raises(ValueError, match="is not the name of a pair"):
            places(wrong)


def test_the_pairs_of_an_item_are_those_that_are_compared():
    assert Item("k", (ONE,), ("a", "b", "c"), choice(3)).pairs() == ["i0c0", "i0c1", "i0c2"]
    assert Item("k", (ONE, TWO), ("a", "b"), WINOGROUND).pairs() == ["i0c0", "i0c1", "i1c1", "i1c0"]
    assert Item("k", (ONE,), ("a",), {}).pairs() == []
    assert choice(1) == {"accuracy": ()}


def test_chance_of_winoground_by_all_orders_of_four_scores():
    from itertools import permutations

    orders = [dict(zip(("i0c0", "i0c1", "i1c0", "i1c1"), order, strict=True)) for order in permutations(range(4))]
    for name, comparisons in WINOGROUND.items():
        right = [all(order[one] > order[other] for one, other in comparisons) for order in orders]
        assert sum(right) / len(right) == pytest.approx(CHANCE[name])


def test_predictions_by_hand():
    images = {ONE: unit(0), TWO: unit(90)}
    texts = {"near": unit(10), "far": unit(50), "same": unit(10)}
    items = [
        Item("a", (ONE,), ("near", "far"), choice(2), category="x", columns={"note": 1}),
        Item("b", (ONE,), ("far", "near"), choice(2), category="y"),
        Item("c", (TWO,), ("near", "same", "far"), choice(3)),
        Item("d", (TWO,), ("near", "same"), choice(2)),
    ]
    found = predict(items, images, texts)
    assert found["key"] == ["a", "b", "c", "d"]
    assert found["category"] == ["x", "y", None, None]
    assert found["cluster"] == [0, 0, 1, 1]
    assert found["note"] == [1, None, None, None]
    assert found["accuracy"] == [True, False, False, False]
    assert found["tie"] == [False, False, True, True]
    assert found["score_i0c0"] == pytest.approx([math.cos(math.radians(d)) for d in (10, 50, 80, 80)], abs=1e-6)
    assert found["score_i0c2"][:2] == [None, None]
    assert found["score_i0c2"][2] == pytest.approx(math.cos(math.radians(40)), abs=1e-6)


def test_two_captions_can_be_compared_without_an_image():
    item = Item("a", (), ("one", "other", "wrong"), {"text_only": (("c0c1", "c0c2"),)})
    found = predict([item, item], {}, {"one": unit(0), "other": unit(10), "wrong": unit(5)})
    assert found["text_only"] == [False, False]
    assert found["cluster"] == [0, 0]
    assert found["score_c0c2"][0] == pytest.approx(math.cos(math.radians(5)), abs=1e-6)


def test_the_official_rule_replaces_the_outcomes_but_not_the_ties():
    item = Item("a", (ONE,), ("one", "other"), choice(2))
    found = predict(
        [item], {ONE: unit(0)}, {"one": unit(10), "other": unit(10)}, lambda item, scores: {"accuracy": True}
    )
    assert (found["accuracy"], found["tie"]) == ([True], [True])


def test_the_fingerprint_tells_questions_apart():
    item = Item("a", (ONE,), ("one", "other"), choice(2))
    others = [
        Item("b", (ONE,), ("one", "other"), choice(2)),
        Item("a", (TWO,), ("one", "other"), choice(2)),
        Item("a", (ONE,), ("one", "another"), choice(2)),
        Item("a", (ONE,), ("one", "other"), choice(2), category="x"),
        Item("a", (ONE,), ("one", "other"), choice(2, "other_name")),
    ]
    assert len({fingerprint([other]) for other in (item, *others)}) == 6
    assert fingerprint([item]) == fingerprint(
        [Item("a", (ImageFile("/elsewhere/one.png"),), ("one", "other"), choice(2))]
    )

# SPDX-License-Identifier: Apache-2.0
"""Concept coverage and the subsets by it."""

from __future__ import annotations

import numpy as np
import pytest
from datasets import Dataset

from hf_tripletclip.generation.concepts import (
    concept_coverage,
    coverage_table,
    select_by_coverage,
    synsets_of,
    words_of,
)
from hf_tripletclip.generation.wordnet import load_wordnet
from tests.generation.needs import needs_wordnet

pytestmark = needs_wordnet

CAPTIONS = [
    "a dog on a bench",
    "a cat on a bench",
    "two dogs, and a cat",
    "an aardvark with a theodolite",
    "a dog on a bench",
    "",
    "a dog with a theodolite",
    "zzxq",
]


def names(word: str) -> set[str]:
    return {f"{synset.offset():08d}{synset.pos()}" for synset in load_wordnet().synsets(word)}


def test_words():
    assert words_of("A Fire-truck's 2 wheels,<PERSON>!") == ["a", "fire-truck's", "2", "wheels", "person"]
    assert words_of(["A dog", None, "a cat"]) == ["a", "dog", "a", "cat"]
    assert words_of(None) == words_of("") == []


def test_synsets_of_words():
    leaf, leave = (f"{load_wordnet().synset(name).offset():08d}{name[-4]}" for name in ("leaf.n.01", "leave.v.01"))
    assert {leaf, leave} <= synsets_of("leaves")
    assert synsets_of("dogs") == names("dog")
    assert len(synsets_of("a")) > 3
    assert synsets_of("fire-truck") == names("fire") | names("truck")
    assert synsets_of("t-shirt") == names("t-shirt") != names("shirt")
    assert synsets_of("dog's") >= names("dog")
    assert synsets_of("zzxq") == frozenset()


def test_coverage_counts_every_word_and_sense():
    found = concept_coverage(["a dog", "a dog", None])
    assert found.captions == 3
    assert found.synsets == names("a") | names("dog")
    assert found.unique == len(names("a")) + len(names("dog"))
    assert found.total == 2 * found.unique


def test_coverage_of_datasets_and_lists():
    rows = Dataset.from_dict({"caption": ["a dog", "a cat"], "neg_caption": [["a wolf", "a fox"], []]})
    assert concept_coverage(rows) == concept_coverage(["a dog", "a cat"])
    assert concept_coverage(rows, column="neg_caption").synsets == names("a") | names("wolf") | names("fox")
    with pytest.raises(ValueError, match="no column 'text'; it has caption, neg_caption"):
        concept_coverage(rows, column="text")


def test_table():
    table = coverage_table(["dog", "bench"], ["dog", "fox"])
    assert table.intersection == len(names("dog") | (names("bench") & names("fox")))
    assert table.union == len(names("dog") | names("bench") | names("fox"))
    rows = {row["captions"]: row for row in table.rows()}
    assert list(rows) == ["positive", "negative", "union", "intersection"]
    assert rows["union"]["total"] == rows["positive"]["total"] + rows["negative"]["total"]
    assert rows["positive"]["unique"] == table.positive.unique
    assert rows["intersection"] == {"captions": "intersection", "unique": table.intersection, "total": None}


def test_growing_subsets_leave_rare_concepts_for_later():
    two, four, six = select_by_coverage(CAPTIONS, [2, 4, 6])
    assert set(two) <= set(four) <= set(six)
    assert not {3, 5, 7} & set(four)  # the aardvark, and what has no concept
    assert 3 in six
    coverage = [concept_coverage([CAPTIONS[row] for row in rows]).unique for rows in (two, four, six)]
    assert coverage[0] < coverage[2]
    assert coverage == sorted(coverage)
    assert set(select_by_coverage(CAPTIONS, 7)) >= set(six)
    assert list(select_by_coverage(CAPTIONS, 8)) == list(range(8))


def test_widest_subsets_cover_all_first():
    four = select_by_coverage(CAPTIONS, 4, order="widest")
    assert concept_coverage([CAPTIONS[row] for row in four]).synsets == concept_coverage(CAPTIONS).synsets
    assert list(four) == [0, 1, 2, 3]
    one = select_by_coverage(CAPTIONS, 1, order="widest")
    assert one[0] in four


@pytest.mark.parametrize("order", ["growing", "widest"])
def test_selection_is_deterministic_and_takes_datasets(order):
    captions = [f"a {noun} {verb} in the {place}" for noun in ("dog", "man") for verb in ("sits", "runs") for place in
                ("park", "street", "river", "house")] * 5  # fmt: skip
    first = select_by_coverage(captions, 30, order=order)
    assert np.array_equal(first, select_by_coverage(captions, 30, order=order))
    assert np.array_equal(first, select_by_coverage(Dataset.from_dict({"caption": captions}), 30, order=order))
    assert len(set(first.tolist())) == 30
    assert list(first) == sorted(first)
    assert not np.array_equal(first, select_by_coverage(captions, 30, order=order, seed=1))
    rows = Dataset.from_dict({"caption": captions}).select(first)
    assert len(rows) == 30


def test_errors():
    with pytest.raises(ValueError, match="`size` is 9; there are 8 captions"):
        select_by_coverage(CAPTIONS, [2, 9])
    with pytest.raises(ValueError, match="`size` is -1"):
        select_by_coverage(CAPTIONS, -1)
    with pytest.raises(ValueError, match="'best'; give 'growing' or 'widest'"):
        select_by_coverage(CAPTIONS, 1, order="best")

# SPDX-License-Identifier: Apache-2.0
"""The words of scenes: the chosen nouns, nouns that include others, and that no two words are confused."""

from __future__ import annotations

import itertools

import pytest

from hf_tripletclip.data.scenes.vocabulary import (
    COLOURS,
    INCLUDES,
    MEASURES,
    NOUNS,
    PATTERNS,
    RELATIONS,
    SIZES,
    choose_nouns,
    is_true_of,
    unrelated,
)


@pytest.mark.parametrize("number", [4, 24, 48, len(NOUNS)])
def test_the_most_recognisable_nouns_come_first(number):
    assert choose_nouns(number) == tuple(NOUNS)[:number] == choose_nouns("all")[:number]
    assert len(choose_nouns(number)) == number


@pytest.mark.parametrize("bad", [3, len(NOUNS) + 1, "some", 24.0])
def test_other_numbers_of_nouns_are_refused(bad):
    with pytest.raises(ValueError, match=f"`nouns` is {bad!r}; give 4 to {len(NOUNS)}, or 'all'"):
        choose_nouns(bad)


def test_the_first_24_nouns_include_none_of_each_other():
    assert set(INCLUDES) <= set(NOUNS)
    assert set().union(*INCLUDES.values()) <= set(NOUNS)
    first = choose_nouns(24)
    assert not [(one, other) for one, other in itertools.permutations(first, 2) if is_true_of(one, other)]
    assert [(one, other) for one, other in itertools.permutations(choose_nouns(48), 2) if is_true_of(one, other)] == [
        ("bird", "duck"),
        ("bird", "owl"),
        ("lamp", "lightbulb"),
    ]


def test_unrelated_looks_both_ways():
    assert unrelated(["cat", "duck", "bird", "owl"], ["bird"]) == ["cat"]
    assert unrelated(["cat", "duck", "bird", "owl"], ["duck"]) == ["cat", "owl"]
    assert unrelated(["cat", "duck"], []) == ["cat", "duck"]


def test_words_have_one_meaning():
    assert set(MEASURES) <= set(NOUNS)
    assert not {*COLOURS, *PATTERNS, *SIZES} & {word for noun in NOUNS for word in noun.split()}
    assert len({synonym for synonyms in RELATIONS.values() for synonym in synonyms}) == 12


def test_colours_can_be_told_apart():
    values = list(COLOURS.values())
    for index, one in enumerate(values):
        for other in values[:index]:
            assert sum((a - b) ** 2 for a, b in zip(one, other, strict=True)) ** 0.5 > 45

# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import random

import pytest

from hf_tripletclip.joining.words import KINDS, exchange, joined, parse, stems_of
from tests.generation.needs import needs_wordnet

pytestmark = needs_wordnet


def every(first: str, second: str) -> set[tuple[str, str, str]]:
    """All that the draws can give."""
    found = [exchange(first, second, random.Random(seed)) for seed in range(40)]
    assert len({one is None for one in found}) == 1  # whether there is one is no matter of luck
    return {(one.kind, one.first, one.second) for one in found if one is not None}


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (
            "A dog walks through a field.",
            "A white sheep on a road",
            {
                ("swap_obj", "A sheep walks through a field.", "A white dog on a road"),
                ("swap_obj", "A dog walks through a road.", "A white sheep on a field"),
            },
        ),
        (  # the article follows, and capitals stay
            "An elephant under a tree",
            "a cat in a house",
            {("swap_obj", "A cat under a tree", "an elephant in a house")},
        ),
        (
            "a man in a blue shirt",
            "a woman in a pink hat",
            {
                ("swap_att", "a man in a pink shirt", "a woman in a blue hat"),
                ("swap_obj", "a woman in a blue shirt", "a man in a pink hat"),
                ("swap_obj", "a man in a blue hat", "a woman in a pink shirt"),
            },
        ),
        ("two dogs in a park", "three cats on a sofa", {
            ("swap_att", "three dogs in a park", "two cats on a sofa"),
            ("swap_obj", "two cats in a park", "three dogs on a sofa"),
        }),
        (
            "a dog is running over there",
            "a dog is sitting in the sun",
            {("replace_rel", "a dog is sitting over there", "a dog is running in the sun")},
        ),
    ],
)  # fmt: skip
def test_a_word_of_each_takes_the_place_of_the_other(first, second, expected):
    found = every(first, second)
    assert expected <= found
    assert {kind for kind, *_ in found} <= set(KINDS)
    for _, one, other in found:
        assert one != first
        assert other != second


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("a cat", "a dog"),  # "a dog. a cat." is as true
        ("a red bus", "a blue bus"),
        ("a girl on a bench", "a child on a bench"),  # a girl is a child
        ("a man with a hat", "a person with a hat"),
        ("a dog and a cat", "a cat"),
        ("a puppy", "a dog"),
        ("two dogs", "a cat"),  # not the same number
        ("a happy thing", "it is good"),
        ("Ein Hund läuft über die Straße", "a cat on a table"),
        ("a dog on a table", "Une femme dans la rue"),
        ("", "a dog"),
    ],
)
def test_where_nothing_can_be_exchanged_there_is_no_negative(first, second):
    assert every(first, second) == set()
    assert every(second, first) == set()


@pytest.mark.parametrize(
    ("first", "second", "beside", "refused"),
    [
        ("a boy on a road", "a girl in a field", ("a girl walks", ""), "a girl on a road"),
        ("a boy on a road", "a girl in a field", ("", "boys play"), "a girl on a road"),
        ("two dogs on a road", "three cats in a field", ("3 dogs", ""), "three dogs on a road"),
        ("a red bus on a road", "a blue car in a field", ("a blue and white bus", ""), "a blue bus on a road"),
        ("a dog runs on a road", "a cat sits in a field", ("it is sitting there", ""), "a dog sits on a road"),
    ],
)
def test_a_word_that_another_caption_of_the_picture_has_may_be_true(first, second, beside, refused):
    assert refused in {one for _, one, _ in every(first, second)}
    said = tuple(stems_of([own, further]) for own, further in zip((first, second), beside, strict=True))
    found = [exchange(first, second, random.Random(seed), said) for seed in range(40)]
    assert refused not in {one.first for one in found if one is not None}
    assert len({one.first for one in found if one is not None}) > 0


def test_the_two_together_are_the_negative_of_the_two():
    """No word that goes to a caption is there already, so that one more word of it is false."""
    first, second = "a black dog and a brown horse near a red car", "a white cat on a blue sofa beside a dog"
    for kind, one, other in every(first, second):
        assert not (kind == "swap_obj" and " dog" in one.replace("black dog", ""))
        assert sorted(f"{one} {other}".split()) == sorted(f"{first} {second}".split())


@pytest.mark.parametrize(
    ("first", "second", "whole"),
    [
        ("a cat", "a dog", "a cat. a dog."),
        (" A cat. ", "Is it a dog?", "A cat. Is it a dog?"),
        ("a cat .", "a dog!", "a cat . a dog!"),
        ('he says "no."', "a dog…", 'he says "no." a dog…'),
    ],
)
def test_two_captions_are_two_sentences(first, second, whole):
    assert joined(first, second) == whole


def test_other_languages_are_not_parsed():
    assert parse("Ein Hund läuft über die Straße") is None
    assert parse("a dog on a street") is not None

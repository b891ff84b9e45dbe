# SPDX-License-Identifier: Apache-2.0
"""The grammar of captions."""

from __future__ import annotations

import itertools
import re

import pytest

from hf_tripletclip.data.scenes.build import make_row
from hf_tripletclip.data.scenes.captions import TEMPLATES, describe, describe_thing
from hf_tripletclip.data.scenes.scene import Scene, Thing
from hf_tripletclip.data.scenes.vocabulary import (
    COLOURS,
    MEASURES,
    NOUNS,
    PATTERNS,
    PLAIN,
    RELATIONS,
    SETTINGS,
    SIZES,
    choose_nouns,
)

ADJECTIVES = {*COLOURS, *PATTERNS, *SIZES}


@pytest.fixture(scope="module")
def rows() -> list[tuple[Scene, Scene, str]]:
    nouns = choose_nouns("all")
    return [make_row("test", index, 1, nouns) for index in range(350)]


def test_every_noun_has_its_article():
    for noun in NOUNS:
        for colour in ("orange", "red"):
            phrase = describe_thing(Thing(noun, colour, PLAIN, "large"))
            if noun in MEASURES:
                assert phrase == f"{MEASURES[noun]} {colour} {noun}"
            else:
                assert phrase == f"{'an' if colour == 'orange' else 'a'} {colour} {noun}"
    assert describe_thing(Thing("scissors", "orange", PLAIN, "large")) == "a pair of orange scissors"
    assert describe_thing(Thing("corn", "yellow", PLAIN, "large")) == "an ear of yellow corn"
    assert describe_thing(Thing("stairs", "red", "striped", "small", True)) == "a flight of small striped red stairs"


def test_size_comes_before_pattern_before_colour():
    assert describe_thing(Thing("cat", "orange", PLAIN, "small", True)) == "a small orange cat"
    assert describe_thing(Thing("cat", "orange", "dotted", "small")) == "a dotted orange cat"
    assert describe_thing(Thing("cat", "orange", "striped", "small", True)) == "a small striped orange cat"
    assert describe_thing(Thing("socks", "orange", "dotted", "large", True)) == "a pair of large dotted orange socks"


def test_articles_fit_the_following_word(rows):
    for positive, negative, _ in rows:
        for caption in map(describe, (positive, negative)):
            words = caption.split()
            for article, following in itertools.pairwise(words):
                if article in ("a", "an"):
                    assert (article == "an") == (following[0] in "aeiou"), caption


def test_captions_are_tidy(rows):
    for positive, negative, _ in rows:
        for caption in map(describe, (positive, negative)):
            assert re.fullmatch(r"[a-z]+( [a-z]+)*", caption), caption


def test_a_caption_says_what_the_scene_says_and_no_more(rows):
    for scene in (scene for row in rows for scene in row[:2]):
        caption = describe(scene)
        places = [caption.index(describe_thing(thing)) for thing in scene.objects]
        assert places == sorted(places)
        expected = [
            word
            for thing in scene.objects
            for word in (thing.size if thing.says_size else PLAIN, thing.pattern, thing.colour)
            if word != PLAIN
        ]
        assert [word for word in caption.split() if word in ADJECTIVES] == expected, caption
        phrases = [name for name, setting in SETTINGS.items() if setting.phrase in caption]
        assert phrases == ([scene.setting] if scene.says_setting else [])
        assert ("them" in caption.split()) == (len(scene.objects) == 3)


def test_both_captions_of_a_row_have_the_same_wording(rows):
    used = set()
    for positive, negative, _ in rows:
        assert positive.wording == negative.wording
        assert (positive.setting, positive.says_setting) == (negative.setting, negative.says_setting)
        openings = set()
        for scene in (positive, negative):
            opening, separator, _ = describe(scene).partition(describe_thing(scene.objects[0]))
            assert separator
            openings.add(opening)
        assert len(openings) == 1
        used.add(positive.wording[0] % len(TEMPLATES))
    assert used == set(range(len(TEMPLATES)))


def test_whole_captions():
    things = (Thing("cat", "red", PLAIN, "large"), Thing("umbrella", "blue", "dotted", "small"))
    two = Scene(things, "left", "above", "beach", True, (0, 0, 0))
    assert describe(two) == "a red cat to the left of a dotted blue umbrella on the beach"
    three = Scene((*things, Thing("star", "white", PLAIN, "large")), "left", "above", "beach", False, (1, 1, 1))
    assert describe(three) == "there is a red cat on the left of a dotted blue umbrella and a white star over them"


def test_every_template_and_every_synonym():
    things = (Thing("cat", "red", PLAIN, "large"), Thing("fish", "blue", PLAIN, "large"))
    captions = [describe(Scene(things, "left", "above", "sea", True, (template, 0, 0))) for template in range(6)]
    assert captions == [
        "a red cat to the left of a blue fish at sea",
        "there is a red cat to the left of a blue fish at sea",
        "a picture of a red cat to the left of a blue fish at sea",
        "at sea a red cat to the left of a blue fish",
        "we see a red cat to the left of a blue fish at sea",
        "at sea there is a red cat to the left of a blue fish",
    ]
    for relation, synonyms in RELATIONS.items():
        for choice, synonym in enumerate(synonyms):
            scene = Scene(things, relation, "above", "sea", False, (6, choice + 3, 0))
            assert describe(scene) == f"a red cat {synonym} a blue fish"

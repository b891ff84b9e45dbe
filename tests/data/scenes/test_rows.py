# SPDX-License-Identifier: Apache-2.0
"""Scenes, captions and negatives: what is true of them, over thousands of rows."""

from __future__ import annotations

import hashlib
import random
from collections import Counter

import pytest

from hf_tripletclip.data.scenes.blind import blind_score
from hf_tripletclip.data.scenes.build import SPLITS, caption_split, make_row
from hf_tripletclip.data.scenes.captions import describe, describe_thing
from hf_tripletclip.data.scenes.negatives import EXCLUSIVE
from hf_tripletclip.data.scenes.scene import Scene, Thing, describes, is_held_out, sample_scene
from hf_tripletclip.data.scenes.vocabulary import NOUNS, PATTERNS, choose_nouns
from hf_tripletclip.data.schema import NEGATIVE_TYPES

ROWS = {"train": 2000, "validation": 1000, "test": 2100}


@pytest.fixture(scope="module")
def rows() -> dict[str, list[tuple[Scene, Scene, str]]]:
    return {split: [make_row(split, index, 0, choose_nouns(24)) for index in range(ROWS[split])] for split in SPLITS}


def test_captions_are_true_of_their_own_image_only(rows):
    for split in SPLITS:
        for positive, negative, kind in rows[split]:
            assert describes(positive, positive)
            assert describes(negative, negative)
            crossed = (describes(positive, negative), describes(negative, positive))
            if kind in EXCLUSIVE:
                assert crossed == (False, False), (describe(positive), describe(negative))
            else:  # the shorter caption is true of the fuller image
                shorter_is_positive = len(describe(positive)) < len(describe(negative))
                assert crossed == (shorter_is_positive, not shorter_is_positive)


def test_splits_have_the_kinds_they_should_in_equal_numbers(rows):
    for split in ("train", "validation"):
        assert Counter(kind for *_, kind in rows[split]) == dict.fromkeys(EXCLUSIVE, ROWS[split] // 5)
    assert Counter(kind for *_, kind in rows["test"]) == dict.fromkeys(NEGATIVE_TYPES, 300)


def test_no_caption_of_one_split_occurs_in_another(rows):
    captions = {split: {describe(scene) for row in rows[split] for scene in row[:2]} for split in SPLITS}
    for split, found in captions.items():
        assert {caption_split(caption) for caption in found} == {split}
    assert not captions["train"] & captions["test"]


def test_training_never_shows_a_held_out_combination(rows):
    def combinations(split: str) -> set[tuple[str, str]]:
        return {(thing.noun, thing.colour) for row in rows[split] for scene in row[:2] for thing in scene.objects}

    held_out = [row for row in rows["test"] if is_held_out(row[0]) or is_held_out(row[1])]
    assert 0.15 < len(held_out) / len(rows["test"]) < 0.45
    assert not any(is_held_out(scene) for row in rows["train"] for scene in row[:2])
    unseen = {pair for pair in combinations("test") if is_held_out(one_thing(*pair))}
    assert unseen
    assert not unseen & combinations("train")


def one_thing(noun: str, colour: str) -> Scene:
    return Scene((Thing(noun, colour, "plain", "large"),), "left", "above", "sea", False, (0, 0, 0))


def test_positive_and_negative_use_the_same_words_around_the_change(rows):
    for positive, negative, kind in rows["test"]:
        first, second = Counter(describe(positive).split()), Counter(describe(negative).split())
        changed = sum(((first - second) + (second - first)).values())
        if kind in ("swap_obj", "swap_att"):
            assert changed <= 4  # "a" and "an" may change with what comes after
        elif kind.startswith("replace"):
            assert changed <= 16


def test_the_same_seed_gives_the_same_captions_on_every_machine():
    nouns = choose_nouns(24)
    scenes = [make_row(split, index, 0, nouns)[:2] for split in SPLITS for index in range(50)]
    captions = [describe(scene) for pair in scenes for scene in pair]
    digest = hashlib.sha256("\n".join(captions).encode()).hexdigest()
    assert digest == "b27d2982510378ec3e25189bec946ce0bcd02ba03c07800078f31e079f4ece9a"
    assert make_row("train", 0, 1, choose_nouns(24)) != make_row("train", 0, 0, choose_nouns(24))


def test_grammar():
    assert describe_thing(Thing("cat", "orange", "plain", "large")) == "an orange cat"
    assert describe_thing(Thing("cat", "orange", "striped", "small", says_size=True)) == "a small striped orange cat"
    assert describe_thing(Thing("scissors", "orange", "plain", "large")) == "a pair of orange scissors"
    things = (Thing("cat", "red", "plain", "large"), Thing("umbrella", "blue", "dotted", "small"))
    scene = Scene(things, "left", "above", "beach", True, (0, 0, 0))
    assert describe(scene) == "a red cat to the left of a dotted blue umbrella on the beach"
    third = Scene((*things, Thing("star", "white", "plain", "large")), "left", "above", "beach", False, (1, 1, 1))
    assert describe(third) == "there is a red cat on the left of a dotted blue umbrella and a white star over them"


def test_what_is_not_mentioned_is_left_open():
    plain = Thing("cat", "red", "plain", "large")
    dog = Thing("house", "blue", "plain", "large")
    said = Scene((plain, dog), "left", "above", "beach", False, (0, 0, 0))
    for pattern in PATTERNS:
        shown = Scene((Thing("cat", "red", pattern, "small"), dog), "left", "above", "sea", False, (0, 0, 0))
        assert describes(said, shown)
        assert not describes(shown, said)
    mirrored = Scene((dog, plain), "right", "above", "beach", False, (0, 0, 0))
    assert describes(said, mirrored)  # a left of b is b right of a
    assert not describes(said, Scene((plain, dog), "above", "left", "beach", False, (0, 0, 0)))


def test_scenes_of_all_nouns_and_bad_sizes():
    rng = random.Random(0)
    seen = {thing.noun for _ in range(3000) for thing in sample_scene(rng, choose_nouns("all"), 3).objects}
    assert len(seen) > 0.95 * len(NOUNS)
    assert len(choose_nouns(48)) == 48
    for bad in (3, len(NOUNS) + 1, "some"):
        with pytest.raises(ValueError, match="nouns"):
            choose_nouns(bad)


@pytest.mark.parametrize("split", SPLITS)
def test_captions_alone_do_not_tell_which_is_the_positive(rows, split):
    captions = [(describe(positive), describe(negative)) for positive, negative, _ in rows[split]]
    score = blind_score(*zip(*captions, strict=True))
    tried = len(captions) // 2
    assert abs(score - 0.5) < 4 * 0.5 / tried**0.5


@pytest.mark.parametrize("kind", NEGATIVE_TYPES)
def test_nor_within_a_kind(rows, kind):
    captions = [
        (describe(positive), describe(negative)) for positive, negative, other in rows["test"] if other == kind
    ]
    score = blind_score(*zip(*captions, strict=True))
    assert abs(score - 0.5) < 4 * 0.5 / 150**0.5


def test_the_blind_score_finds_a_leak_where_there_is_one():
    positives = [f"a {noun}" for noun in NOUNS]
    assert blind_score(positives, [f"{caption} and more" for caption in positives]) == 1.0
    negatives = [caption.replace("a ", "one ") for caption in positives]
    assert blind_score(positives, negatives) == 1.0
    assert blind_score(positives, positives) == 0.5
    with pytest.raises(ValueError, match="at least 4"):
        blind_score(["a"], ["b"])

# SPDX-License-Identifier: Apache-2.0
"""What is true of a scene by its geometry, and random scenes."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest

from hf_tripletclip.data.scenes.scene import (
    Scene,
    Thing,
    describes,
    is_held_out,
    pick,
    sample_scene,
    stable_hash,
    stands,
)
from hf_tripletclip.data.scenes.vocabulary import (
    COLOURS,
    HORIZONTAL,
    NOUNS,
    PATTERNS,
    PLAIN,
    RELATIONS,
    SETTINGS,
    SIZES,
    VERTICAL,
    choose_nouns,
    is_true_of,
)

OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
CAT = Thing("cat", "red", PLAIN, "large")
FISH = Thing("fish", "blue", "dotted", "small")
KEY = Thing("key", "white", PLAIN, "large")


def scene(*things: Thing, relation: str = "left", third: str = "above", **changes) -> Scene:
    return replace(Scene(things, relation, third, "beach", False, (0, 0, 0)), **changes)


def test_positions_fulfil_exactly_the_stated_relation():
    for relation in RELATIONS:
        first, second = scene(CAT, FISH, relation=relation).positions()
        assert [name for name in RELATIONS if stands(name, first, second)] == [relation]
        assert [name for name in RELATIONS if stands(name, second, first)] == [OPPOSITE[relation]]


def test_positions_of_three_fulfil_both_relations_and_stay_inside():
    for relation in RELATIONS:
        for third in VERTICAL if relation in HORIZONTAL else HORIZONTAL:
            centres = scene(CAT, FISH, KEY, relation=relation, third=third).positions()
            assert all(0.1 < value < 0.9 for centre in centres for value in centre)
            assert [name for name in RELATIONS if stands(name, centres[0], centres[1])] == [relation]
            middle = tuple(sum(values) / 2 for values in zip(*centres[:2], strict=True))
            assert [name for name in RELATIONS if stands(name, centres[2], middle)] == [third]
            for one, other in itertools.combinations(centres, 2):  # apart, on one of the axes
                assert max(abs(one[0] - other[0]), abs(one[1] - other[1])) > 0.2


@pytest.mark.parametrize(
    "image",
    [
        scene(replace(CAT, noun="dog"), FISH),
        scene(replace(CAT, colour="green"), FISH),
        scene(CAT, replace(FISH, pattern=PLAIN)),
        scene(CAT, replace(FISH, pattern="striped")),
        scene(replace(CAT, colour="blue"), replace(FISH, colour="red")),
        scene(FISH, CAT),
        scene(CAT, FISH, relation="right"),
        scene(CAT, FISH, relation="above"),
    ],
)
def test_a_change_of_the_caption_makes_it_false(image):
    said = scene(CAT, FISH)
    assert describes(said, said)
    assert not describes(said, image)
    assert not describes(scene(CAT, FISH, KEY), image)


def test_size_and_setting_matter_only_if_mentioned():
    shown = scene(replace(CAT, size="small"), FISH, setting="sea")
    assert describes(scene(CAT, FISH), shown)
    assert not describes(scene(replace(CAT, says_size=True), FISH), shown)
    assert not describes(scene(CAT, FISH, says_setting=True), shown)
    assert describes(scene(CAT, FISH, says_setting=True), scene(CAT, FISH))


def test_what_is_not_mentioned_is_left_open():
    said = scene(CAT, KEY)
    for pattern in PATTERNS:
        shown = scene(replace(CAT, pattern=pattern, size="small"), KEY, setting="sea")
        assert describes(said, shown)
        assert not describes(shown, said)
    assert describes(said, scene(KEY, CAT, relation="right"))  # a left of b is b right of a


def test_a_third_object_is_seen_and_missed():
    two, three = scene(CAT, FISH), scene(CAT, FISH, KEY)
    assert describes(two, three)
    assert not describes(three, two)
    assert not describes(three, scene(CAT, FISH, KEY, third="below"))


def test_sampled_scenes_never_repeat_a_noun_or_a_colour():
    rng = random.Random(0)
    nouns = choose_nouns(4)
    for index in range(1000):
        sampled = sample_scene(rng, nouns, 2 + index % 2)
        assert len(sampled.objects) == 2 + index % 2
        assert len({thing.noun for thing in sampled.objects}) == len(sampled.objects)
        assert len({thing.colour for thing in sampled.objects}) == len(sampled.objects)
        assert len({thing.says_size for thing in sampled.objects}) == 1
        assert (sampled.relation in HORIZONTAL) != (sampled.third_relation in HORIZONTAL)
        for thing in sampled.objects:
            assert thing.noun in nouns
            assert thing.colour in COLOURS
            assert thing.pattern in (PLAIN, *PATTERNS)
            assert thing.size in SIZES
        assert sampled.setting in SETTINGS
        assert describes(sampled, sampled)


def test_sampled_scenes_use_nearly_all_nouns():
    rng = random.Random(0)
    seen = {thing.noun for _ in range(3000) for thing in sample_scene(rng, choose_nouns("all"), 3).objects}
    assert len(seen) > 0.95 * len(NOUNS)


def test_pick_reaches_every_option_evenly():
    rng = random.Random(0)
    picked = [pick(rng, "abcd") for _ in range(4000)]
    assert set(picked) == set("abcd")
    assert all(abs(picked.count(letter) - 1000) < 120 for letter in "abcd")


def test_the_hash_is_the_same_on_every_machine():
    assert (
        stable_hash("held out", "cat", "red") == 0x9A826C44A8D97948
    )  # of `printf "held out\037cat\037red" | sha256sum`
    assert stable_hash("a", "b") != stable_hash("ab")
    assert stable_hash(1) == stable_hash("1")


def test_a_tenth_of_the_combinations_is_held_out():
    nouns = choose_nouns("all")
    held_out = [
        (noun, colour)
        for noun in nouns
        for colour in COLOURS
        if is_held_out(scene(Thing(noun, colour, PLAIN, "large")))
    ]
    assert 0.08 < len(held_out) / (len(nouns) * len(COLOURS)) < 0.12
    noun, colour = held_out[0]
    # One object suffices, whatever its pattern and size and whatever stands beside it.
    assert is_held_out(scene(KEY if noun != "key" else CAT, Thing(noun, colour, "striped", "small")))


def test_a_wider_noun_is_true_of_a_narrower_one_and_not_back():
    duck, bird = (Thing(noun, "red", PLAIN, "large") for noun in ("duck", "bird"))
    assert describes(scene(bird, FISH), scene(duck, FISH))
    assert not describes(scene(duck, FISH), scene(bird, FISH))


def test_related_nouns_never_meet():
    rng = random.Random(0)
    nouns = choose_nouns("all")
    for index in range(3000):
        shown = [thing.noun for thing in sample_scene(rng, nouns, 2 + index % 2).objects]
        assert not [(one, other) for one, other in itertools.permutations(shown, 2) if is_true_of(one, other)]

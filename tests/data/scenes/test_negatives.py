# SPDX-License-Identifier: Apache-2.0
"""Each kind of change changes one thing, and is reversible."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator

import pytest

from hf_tripletclip.data.scenes.captions import describe
from hf_tripletclip.data.scenes.negatives import CHANGES, EXCLUSIVE, can_change
from hf_tripletclip.data.scenes.scene import Scene, Thing, describes, sample_scene
from hf_tripletclip.data.scenes.vocabulary import COLOURS, HORIZONTAL, PATTERNS, PLAIN, SIZES, choose_nouns
from hf_tripletclip.data.schema import NEGATIVE_TYPES

NOUNS = choose_nouns(24)


def changed(kind: str, number: int = 400) -> Iterator[tuple[Scene, Scene]]:
    """Scenes, and the results of the change."""
    rng = random.Random(f"{kind}")
    found = 0
    while found < number:
        scene = sample_scene(rng, NOUNS, 2 + (found % 2 if kind != "add_obj" else 0))
        if can_change(kind, scene):
            found += 1
            yield scene, CHANGES[kind](rng, scene, NOUNS)


def differences(before: Scene, after: Scene) -> list[tuple[str, str, str]]:
    return [
        (name, getattr(one, name), getattr(other, name))
        for one, other in zip(before.objects, after.objects, strict=True)
        for name in ("noun", "colour", "pattern", "size", "says_size")
        if getattr(one, name) != getattr(other, name)
    ]


@pytest.mark.parametrize("kind", NEGATIVE_TYPES)
def test_the_result_is_a_scene_like_any_other(kind):
    for before, after in changed(kind):
        assert len({thing.noun for thing in after.objects}) == len(after.objects)
        assert len({thing.colour for thing in after.objects}) == len(after.objects)
        assert (after.relation in HORIZONTAL) != (after.third_relation in HORIZONTAL)
        assert (after.setting, after.says_setting, after.wording) == (
            before.setting,
            before.says_setting,
            before.wording,
        )
        assert describes(after, after)
        assert describe(after) != describe(before)


@pytest.mark.parametrize("kind", EXCLUSIVE)
def test_exclusive_kinds_are_false_both_ways(kind):
    for before, after in changed(kind, 1000):
        assert not describes(before, after)
        assert not describes(after, before)


@pytest.mark.parametrize("kind", ["add_obj", "add_att"])
def test_additions_are_false_in_exactly_one_direction(kind):
    for before, after in changed(kind, 1000):
        assert describes(before, after)
        assert not describes(after, before)


def test_replace_obj_replaces_a_noun():
    places = Counter()
    for before, after in changed("replace_obj"):
        ((name, old, new),) = differences(before, after)
        assert name == "noun"
        assert (before.relation, before.third_relation) == (after.relation, after.third_relation)
        assert new not in [thing.noun for thing in before.objects]
        places[[thing.noun for thing in before.objects].index(old)] += 1
    assert set(places) == {0, 1, 2}


def test_replace_att_replaces_an_attribute_that_the_caption_mentions():
    replaced = Counter()
    for before, after in changed("replace_att"):
        ((name, old, new),) = differences(before, after)
        words = {"colour": tuple(COLOURS), "pattern": PATTERNS, "size": SIZES}[name]
        assert old in words  # not "plain", which no caption says
        assert new in words
        if name == "size":
            assert before.objects[0].says_size
        replaced[name] += 1
    assert min(replaced[name] for name in ("colour", "pattern", "size")) > 10


def test_replace_rel_reaches_every_other_relation():
    pairs = set()
    for before, after in changed("replace_rel"):
        assert differences(before, after) == []
        pairs.add((before.relation, after.relation))
    assert len(pairs) == 4 * 3


def test_swaps_are_their_own_inverse():
    for kind in ("swap_obj", "swap_att"):
        for before, after in changed(kind):
            assert after != before
            assert CHANGES[kind](random.Random(0), after, NOUNS) == before
    for before, after in changed("swap_obj"):
        assert after.objects[:2] == before.objects[1::-1]
        assert after.objects[2:] == before.objects[2:]
    for before, after in changed("swap_att"):
        assert [thing.noun for thing in after.objects] == [thing.noun for thing in before.objects]
        assert [thing.size for thing in after.objects] == [thing.size for thing in before.objects]
        assert [(thing.colour, thing.pattern) for thing in after.objects[:2]] == [
            (thing.colour, thing.pattern) for thing in before.objects[1::-1]
        ]


def test_additions_leave_the_rest_alone():
    for before, after in changed("add_obj"):
        assert after.objects[:2] == before.objects
        assert len(after.objects) == 3
        assert after.objects[2].says_size == before.objects[0].says_size
    for before, after in changed("add_att"):
        ((name, old, new),) = differences(before, after)
        assert (name, old) == ("pattern", PLAIN)
        assert new in PATTERNS


def test_changes_need_room_in_the_scene():
    plain, dotted = Thing("cat", "red", PLAIN, "large"), Thing("fish", "blue", "dotted", "large")
    three = Thing("key", "white", "striped", "large")

    def scene(*things: Thing) -> Scene:
        return Scene(things, "left", "above", "sea", False, (0, 0, 0))

    assert can_change("add_obj", scene(plain, dotted))
    assert not can_change("add_obj", scene(plain, dotted, three))
    assert can_change("add_att", scene(dotted, plain))
    assert not can_change("add_att", scene(dotted, three))
    assert all(can_change(kind, scene(dotted, three, plain)) for kind in EXCLUSIVE)


@pytest.mark.parametrize("nouns", [48, "all"])
def test_a_replaced_noun_is_not_another_word_for_the_same_thing(nouns):
    chosen = choose_nouns(nouns)
    rng = random.Random(0)
    for index in range(4000):
        before = sample_scene(rng, chosen, 2 + index % 2)
        after = CHANGES["replace_obj"](rng, before, chosen)
        assert not describes(before, after)
        assert not describes(after, before)
        if len(before.objects) == 2:
            fuller = CHANGES["add_obj"](rng, before, chosen)
            assert describes(before, fuller)
            assert describes(fuller, fuller)

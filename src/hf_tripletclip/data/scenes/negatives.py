# SPDX-License-Identifier: Apache-2.0
"""Hard negatives of a scene: SugarCrepe's seven kinds (Hsieh et al. 2023, arXiv 2306.14610).

Each function changes one thing at random. The reverse change is equally likely, so that nothing about a pair of
captions reveals which is the negative.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from hf_tripletclip.data.scenes.scene import Scene, Thing, pick, sample_thing
from hf_tripletclip.data.scenes.vocabulary import COLOURS, PATTERNS, PLAIN, RELATIONS, SIZES, unrelated

Change = Callable[[random.Random, Scene, Sequence[str]], Scene]


def _with(scene: Scene, index: int, thing: Thing) -> Scene:
    return replace(scene, objects=(*scene.objects[:index], thing, *scene.objects[index + 1 :]))


def replace_obj(rng: random.Random, scene: Scene, nouns: Sequence[str]) -> Scene:
    index = int(rng.random() * len(scene.objects))
    absent = unrelated(nouns, (thing.noun for thing in scene.objects))
    return _with(scene, index, replace(scene.objects[index], noun=pick(rng, absent)))


def replace_att(rng: random.Random, scene: Scene, nouns: Sequence[str]) -> Scene:
    index = int(rng.random() * len(scene.objects))
    thing = scene.objects[index]
    # Only attributes in the caption change, so that each caption is false of the other's image.
    attributes = ["colour"] + ["pattern"] * (thing.pattern != PLAIN) + ["size"] * thing.says_size
    attribute = pick(rng, attributes)
    options: dict[str, Sequence[str]] = {"colour": tuple(COLOURS), "pattern": PATTERNS, "size": SIZES}
    used = {thing.colour for thing in scene.objects} | {thing.pattern, thing.size}
    changed = pick(rng, [value for value in options[attribute] if value not in used])
    new = replace(thing, **{attribute: changed})  # type: ignore[arg-type]
    return _with(scene, index, new)


def replace_rel(rng: random.Random, scene: Scene, nouns: Sequence[str]) -> Scene:
    relation = pick(rng, [relation for relation in RELATIONS if relation != scene.relation])
    third = scene.third_relation
    # The third object stays on the axis that the pair leaves free.
    axis = {"left": "above", "right": "below", "above": "left", "below": "right"}
    same_axis = {relation, scene.relation} in ({"left", "right"}, {"above", "below"})
    return replace(scene, relation=relation, third_relation=third if same_axis else axis[third])


def swap_obj(rng: random.Random, scene: Scene, nouns: Sequence[str]) -> Scene:
    first, second, *rest = scene.objects
    return replace(scene, objects=(second, first, *rest))


def swap_att(rng: random.Random, scene: Scene, nouns: Sequence[str]) -> Scene:
    first, second, *rest = scene.objects
    return replace(
        scene,
        objects=(
            replace(first, colour=second.colour, pattern=second.pattern),
            replace(second, colour=first.colour, pattern=first.pattern),
            *rest,
        ),
    )


def add_obj(rng: random.Random, scene: Scene, nouns: Sequence[str]) -> Scene:
    """Add a third object to a scene of two."""
    absent = unrelated(nouns, (thing.noun for thing in scene.objects))
    colours = [colour for colour in COLOURS if all(colour != thing.colour for thing in scene.objects)]
    return replace(scene, objects=(*scene.objects, sample_thing(rng, absent, colours, scene.objects[0].says_size)))


def add_att(rng: random.Random, scene: Scene, nouns: Sequence[str]) -> Scene:
    """Add a pattern to a plain object, of which the scene must have one."""
    plain = [index for index, thing in enumerate(scene.objects) if thing.pattern == PLAIN]
    index = pick(rng, plain)
    return _with(scene, index, replace(scene.objects[index], pattern=pick(rng, PATTERNS)))


CHANGES: dict[str, Change] = {
    "replace_obj": replace_obj,
    "replace_att": replace_att,
    "replace_rel": replace_rel,
    "swap_obj": swap_obj,
    "swap_att": swap_att,
    "add_obj": add_obj,
    "add_att": add_att,
}

# Kinds in which both captions are false of the other's image. If something is added, the shorter caption is still true
# of the fuller image, so it would be a false negative in training.
EXCLUSIVE = ("replace_obj", "replace_att", "replace_rel", "swap_obj", "swap_att")


def can_change(kind: str, scene: Scene) -> bool:
    """Whether the scene has room for a change of this kind."""
    if kind == "add_obj":
        return len(scene.objects) == 2
    if kind == "add_att":
        return any(thing.pattern == PLAIN for thing in scene.objects)
    return True

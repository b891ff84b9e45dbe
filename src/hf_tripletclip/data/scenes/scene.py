# SPDX-License-Identifier: Apache-2.0
"""Scenes: their objects, what is true of them, and random scenes."""

from __future__ import annotations

import functools
import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from hf_tripletclip.data.scenes.vocabulary import (
    COLOURS,
    HORIZONTAL,
    PATTERNS,
    PLAIN,
    RELATIONS,
    SETTINGS,
    SIZES,
    VERTICAL,
    is_true_of,
    unrelated,
)

T = TypeVar("T")


def pick(rng: random.Random, options: Sequence[T]) -> T:
    """A random option. Only `random.Random.random` is used, the one sequence that Python promises not to change."""
    return options[int(rng.random() * len(options))]


@dataclass(frozen=True)
class Thing:
    """An object: a noun with its attributes. `says_size` tells whether the caption mentions the size."""

    noun: str
    colour: str
    pattern: str
    size: str
    says_size: bool = False


@dataclass(frozen=True)
class Scene:
    """
    Two or three objects in a setting.

    Args:
        objects (`tuple[Thing, ...]`): The first object stands in `relation` to the second; a third one stands in
            `third_relation` to both.
        relation (`str`): `left`, `right`, `above` or `below`.
        third_relation (`str`): The same on the other axis. It has no meaning without a third object.
        setting (`str`): The background.
        says_setting (`bool`): Whether the caption mentions the background.
        wording (`tuple[int, int, int]`): Numbers of the caption's template and synonyms.
    """

    objects: tuple[Thing, ...]
    relation: str
    third_relation: str
    setting: str
    says_setting: bool
    wording: tuple[int, int, int]

    def positions(self) -> list[tuple[float, float]]:
        """Centres of the objects as fractions of the image's side, from the top left; a single one in the middle."""
        if len(self.objects) == 1:
            return [(0.5, 0.5)]
        near, far = (0.27, 0.73) if len(self.objects) == 2 else (0.26, 0.74)
        first_is_near = self.relation in ("left", "above")
        pair = (near, far) if first_is_near else (far, near)
        across = 0.5
        if len(self.objects) == 3:
            across = 0.70 if self.third_relation in ("left", "above") else 0.30
        horizontal = self.relation in HORIZONTAL
        centres = [(along, across) if horizontal else (across, along) for along in pair]
        if len(self.objects) == 3:
            third = 1.0 - across - (0.05 if across > 0.5 else -0.05)
            centres.append((0.5, third) if horizontal else (third, 0.5))
        return centres


def stands(relation: str, first: tuple[float, float], second: tuple[float, float]) -> bool:
    """Whether a centre clearly stands in the relation to another, on the relation's axis."""
    dx, dy = second[0] - first[0], second[1] - first[1]
    return {"left": dx, "right": -dx, "above": dy, "below": -dy}[relation] > 0.2


def describes(caption: Scene, image: Scene) -> bool:
    """
    Whether the caption of one scene is true of the image of another. A caption leaves open what it does not mention:
    "a red cat" is true of a striped red cat.
    """
    if caption.says_setting and caption.setting != image.setting:
        return False
    shown = list(zip(image.objects, image.positions(), strict=True))
    centres = []
    for said in caption.objects:
        # At most one, because no noun of a scene is true of another object in it.
        meant = [pair for pair in shown if is_true_of(said.noun, pair[0].noun)]
        if not meant:
            return False
        ((thing, centre),) = meant
        if said.colour != thing.colour or said.pattern not in (PLAIN, thing.pattern):
            return False
        if said.says_size and said.size != thing.size:
            return False
        centres.append(centre)
    if not stands(caption.relation, centres[0], centres[1]):
        return False
    if len(centres) == 2:
        return True
    both = ((centres[0][0] + centres[1][0]) / 2, (centres[0][1] + centres[1][1]) / 2)
    return stands(caption.third_relation, centres[2], both)


def sample_thing(rng: random.Random, nouns: Sequence[str], colours: Sequence[str], says_size: bool) -> Thing:
    pattern = pick(rng, PATTERNS) if rng.random() < 0.3 else PLAIN
    return Thing(pick(rng, nouns), pick(rng, colours), pattern, pick(rng, SIZES), says_size)


def sample_third_relation(rng: random.Random, relation: str) -> str:
    return pick(rng, VERTICAL if relation in HORIZONTAL else HORIZONTAL)


def sample_scene(rng: random.Random, nouns: Sequence[str], objects: int) -> Scene:
    """A random scene of `objects` objects, with unrelated nouns and different colours."""
    says_size = rng.random() < 0.4
    things: list[Thing] = []
    for _ in range(objects):
        used = [thing.colour for thing in things]
        colours = [colour for colour in COLOURS if colour not in used]
        things.append(sample_thing(rng, unrelated(nouns, (thing.noun for thing in things)), colours, says_size))
    relation = pick(rng, tuple(RELATIONS))
    return Scene(
        objects=tuple(things),
        relation=relation,
        third_relation=sample_third_relation(rng, relation),
        setting=pick(rng, tuple(SETTINGS)),
        says_setting=rng.random() < 0.6,
        wording=tuple(int(rng.random() * 60) for _ in range(3)),  # type: ignore[arg-type]
    )


def stable_hash(*parts: object) -> int:
    """64 bits of the SHA-256 of the parts, which are the same on every machine, unlike `hash`."""
    return int.from_bytes(hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()[:8], "big")


def is_held_out(scene: Scene) -> bool:
    """Whether the scene has one of the held-out (noun, colour) combinations, a tenth of all: training shows none."""
    return any(_is_held_out(thing.noun, thing.colour) for thing in scene.objects)


@functools.cache
def _is_held_out(noun: str, colour: str) -> bool:
    return stable_hash("held out", noun, colour) % 10 == 0

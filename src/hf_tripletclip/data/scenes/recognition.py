# SPDX-License-Identifier: Apache-2.0
"""A recognition set of `scenes`: one object per picture, whose colour is the class."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from datasets import ClassLabel, Dataset, Features, Image

from hf_tripletclip.data.scenes.build import VERSION, png_bytes
from hf_tripletclip.data.scenes.captions import TEMPLATES, describe_thing
from hf_tripletclip.data.scenes.drawing import draw_scene, require_fonts
from hf_tripletclip.data.scenes.scene import Scene, Thing, pick, sample_thing, stable_hash
from hf_tripletclip.data.scenes.vocabulary import COLOURS, PLAIN, SETTINGS, Nouns, choose_nouns

PER_CLASS = 100  # pictures
LABEL = "label"


def load_recognition(*, nouns: Nouns = 24, seed: int = 0, image_size: int = 64, per_class: int = PER_CLASS) -> Dataset:
    """
    Load pictures of one object each, in the middle, whose colour is the class. No caption of `scenes` has a single
    object, so this set measures what a model knows beyond its training task: it tests retention in fine-tuning. Like
    those of `scenes`, its results do not carry over to photographs.

    Args:
        nouns, seed, image_size: As in [`load_scenes`].
        per_class (`int`, defaults to 100): Number of pictures per colour.

    Returns:
        `Dataset` with the columns `image` and `label`, a `ClassLabel`.

    Raises:
        ImportError: The icon fonts are not installed.
        ValueError: An argument is out of range.
    """
    if per_class < 1:
        raise ValueError(f"`per_class` is {per_class}; give at least 1.")
    require_fonts()
    names = choose_nouns(nouns)
    rows = [(colour, index) for index in range(per_class) for colour in COLOURS]
    features = Features({"image": Image(), LABEL: ClassLabel(names=list(COLOURS))})
    pictures = [_draw(colour, index, seed, names, image_size) for colour, index in rows]
    return Dataset.from_dict({"image": pictures, LABEL: [colour for colour, _ in rows]}, features=features)


def _draw(colour: str, index: int, seed: int, nouns: Sequence[str], image_size: int) -> dict[str, Any]:
    key = stable_hash("recognition", VERSION, seed, colour, index)
    rng = random.Random(key)
    thing = sample_thing(rng, nouns, (colour,), says_size=False)
    scene = Scene((thing,), "left", "above", pick(rng, tuple(SETTINGS)), says_setting=False, wording=(0, 0, 0))
    return {"bytes": png_bytes(draw_scene(scene, image_size, key)), "path": None}


def recognition_templates(nouns: Nouns = 24) -> list[str]:
    """Prompts for a colour, `{c}`, in the words of the captions, with each noun."""
    first = TEMPLATES[0].format(pair="{thing}", third="", where="")
    things = [Thing(noun, "{c}", PLAIN, size="") for noun in choose_nouns(nouns)]
    return [first.replace("{thing}", describe_thing(thing)) for thing in things]

# SPDX-License-Identifier: Apache-2.0
"""Negative images that do not show their captions, like some of text-to-image models: a test for filters."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from hf_tripletclip.data.scenes.build import caption_split, make_row, png_bytes
from hf_tripletclip.data.scenes.captions import describe
from hf_tripletclip.data.scenes.drawing import draw_scene
from hf_tripletclip.data.scenes.negatives import CHANGES, EXCLUSIVE
from hf_tripletclip.data.scenes.scene import Scene, describes, is_held_out, pick, stable_hash

SPLIT = "train"  # the only one with faulty rows


def is_faulty(split: str, index: int, seed: int, share: float) -> bool:
    """
    Whether the negative image of a row is faulty. The faulty rows of a smaller share are also faulty for a larger one.

    Args:
        split (`str`): Only `train` has faulty rows.
        index (`int`): The row.
        seed (`int`): The `seed` of the scenes.
        share (`float`): Share of faulty rows, from 0 to 1.
    """
    return split == SPLIT and stable_hash("faulty", seed, index) < share * 2**64


def faulty_scene(index: int, seed: int, nouns: Sequence[str]) -> Scene:
    """
    The scene in the faulty image of a training row. For half of the rows it is the positive scene again, as if the
    change had been overlooked; for the others it is the negative scene with a change of another kind. The negative
    caption is false of it, and its own caption belongs to `train`, so no caption of another split leaks.
    """
    rng = random.Random(stable_hash("faulty scene", seed, index))
    positive, negative, kind = make_row(SPLIT, index, seed, nouns)
    if rng.random() < 0.5:
        return positive
    others = [other for other in EXCLUSIVE if other != kind]
    while True:
        shown = CHANGES[pick(rng, others)](rng, negative, nouns)
        if not (describes(negative, shown) or is_held_out(shown)) and caption_split(describe(shown)) == SPLIT:
            return shown


def faulty_image(index: int, seed: int, nouns: Sequence[str], image_size: int) -> dict[str, Any]:
    """The faulty negative image of a training row, as datasets hold it."""
    drawn = draw_scene(faulty_scene(index, seed, nouns), image_size, stable_hash("faulty image", seed, index))
    return {"bytes": png_bytes(drawn), "path": None}

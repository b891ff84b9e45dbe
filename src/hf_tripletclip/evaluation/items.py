# SPDX-License-Identifier: Apache-2.0
"""`Item`: a question of a compositional benchmark, as images, captions and which pairs must win."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hf_tripletclip.evaluation.readers.images import ImageRef

# A pair is named by its two places: "i0c1" is the first image with the second caption, "c0c2" are two captions.
# In a comparison the score of the first pair must be strictly greater than that of the second.
Comparison = tuple[str, str]
Comparisons = Mapping[str, tuple[Comparison, ...]]  # outcome -> all of these must hold

PAIR = re.compile(r"([ic])(\d+)([ic])(\d+)")

CHOOSE_CAPTION = (("i0c0", "i0c1"), ("i1c1", "i1c0"))  # of either image, its caption
CHOOSE_IMAGE = (("i0c0", "i1c0"), ("i1c1", "i0c1"))  # of either caption, its image
# Thrush et al. 2022, "Winoground", arXiv 2204.03162
WINOGROUND: Comparisons = {
    "text_score": CHOOSE_CAPTION,
    "image_score": CHOOSE_IMAGE,
    "group_score": CHOOSE_CAPTION + CHOOSE_IMAGE,
}
CHANCE = {"text_score": 1 / 4, "image_score": 1 / 4, "group_score": 1 / 6}


def choice(captions: int, outcome: str = "accuracy") -> Comparisons:
    """The first of so many captions must beat each of the others on the only image. Chance is 1 / `captions`."""
    return {outcome: tuple(("i0c0", f"i0c{other}") for other in range(1, captions))}


@functools.cache
def places(pair: str) -> tuple[tuple[str, int], tuple[str, int]]:
    """
    The two places of a pair: "i0c1" -> (("i", 0), ("c", 1)).

    Raises:
        ValueError: It names no pair.
    """
    if not (match := PAIR.fullmatch(pair)):
        raise ValueError(f"{pair!r} names no pair; pairs are named like i0c1, or c0c1 for two captions.")
    return (match[1], int(match[2])), (match[3], int(match[4]))


@dataclass(frozen=True)
class Item:
    """
    Args:
        key (`str`): Names it in the predictions, unique in the benchmark.
        images (`tuple[ImageRef, ...]`): Its images.
        captions (`tuple[str, ...]`): Its captions, the first one true of the first image.
        comparisons (`Comparisons`): Outcome -> the comparisons that must all hold. All items of a benchmark have the
            same outcomes.
        category (`str`, *optional*): For metrics per category.
        columns (`Mapping[str, Any]`): Further columns of the predictions, of the same names in all items.
    """

    key: str
    images: tuple[ImageRef, ...]
    captions: tuple[str, ...]
    comparisons: Comparisons
    category: str | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)

    def pairs(self) -> list[str]:
        """The pairs whose scores are compared, each once."""
        return list(dict.fromkeys(pair for wins in self.comparisons.values() for both in wins for pair in both))

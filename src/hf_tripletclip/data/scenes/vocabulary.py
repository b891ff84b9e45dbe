# SPDX-License-Identifier: Apache-2.0
"""The vocabulary of scenes: nouns with their icons, colours, patterns, sizes, relations and settings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hf_tripletclip.utils.tsv import read_tsv

MDI, FA = "mdi", "fa"  # Material Design Icons 6 (Apache-2.0) and Font Awesome 6 Free Solid (SIL OFL 1.1)


_TABLE = read_tsv(Path(__file__).with_name("nouns.tsv"))  # its first lines say what the columns are
# noun -> (font, icon). The first 24 are the most recognisable, then come 24 more, then the rest.
NOUNS: dict[str, tuple[str, str]] = {row["noun"]: (row["font"], row["icon"]) for row in _TABLE}
# noun that takes no "a" -> the words before its attributes: "a pair of red scissors", "an ear of yellow corn"
MEASURES: dict[str, str] = {row["noun"]: row["measure"] for row in _TABLE if row["measure"]}
# noun -> the other nouns of which it is also true
INCLUDES: dict[str, frozenset[str]] = {
    row["noun"]: frozenset(row["also true of"].split(", ")) for row in _TABLE if row["also true of"]
}


def is_true_of(said: str, shown: str) -> bool:
    """Whether one noun is true of everything that another names: "bird" is true of a duck, "duck" not of a bird."""
    return said == shown or shown in INCLUDES.get(said, ())


# noun -> itself and the nouns that must not occur in the same scene
_RELATED = {noun: {other for other in NOUNS if is_true_of(noun, other) or is_true_of(other, noun)} for noun in NOUNS}


def unrelated(nouns: Sequence[str], present: Iterable[str]) -> list[str]:
    """The nouns that are not true of any noun that is present, and of which none of these is true."""
    excluded = set().union(*(_RELATED[noun] for noun in present))
    return [noun for noun in nouns if noun not in excluded] if excluded else list(nouns)


# colour -> RGB of the fill
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 39, 40),
    "orange": (255, 140, 0),
    "yellow": (250, 218, 40),
    "green": (34, 139, 52),
    "blue": (30, 85, 220),
    "purple": (128, 40, 170),
    "pink": (255, 130, 190),
    "brown": (121, 70, 28),
    "black": (28, 28, 30),
    "white": (250, 250, 250),
    "gray": (128, 132, 138),
}

PLAIN = "plain"  # the pattern that captions do not mention
PATTERNS = ("striped", "dotted", "checkered")
SIZES = ("small", "large")

# relation -> its synonyms, each of which is followed by the other object
RELATIONS: dict[str, tuple[str, ...]] = {
    "left": ("to the left of", "on the left of", "left of"),
    "right": ("to the right of", "on the right of", "right of"),
    "above": ("above", "over", "directly above"),
    "below": ("below", "under", "underneath"),
}
HORIZONTAL, VERTICAL = ("left", "right"), ("above", "below")


@dataclass(frozen=True)
class Setting:
    """A two-tone background, and its phrase in captions."""

    phrase: str
    top: tuple[int, int, int]
    bottom: tuple[int, int, int]


SETTINGS: dict[str, Setting] = {
    "beach": Setting("on the beach", (150, 205, 235), (238, 214, 165)),
    "snow": Setting("in the snow", (190, 205, 220), (236, 241, 246)),
    "meadow": Setting("in a meadow", (176, 220, 245), (134, 190, 100)),
    "night": Setting("at night", (22, 28, 66), (44, 52, 92)),
    "sunset": Setting("at sunset", (250, 170, 110), (178, 92, 108)),
    "desert": Setting("in the desert", (246, 226, 180), (216, 168, 104)),
    "sea": Setting("at sea", (196, 224, 238), (44, 120, 165)),
    "room": Setting("in a room", (222, 205, 226), (160, 128, 104)),
}

Nouns = int | Literal["all"]


def choose_nouns(nouns: Nouns) -> tuple[str, ...]:
    """
    Choose the nouns of a dataset.

    Args:
        nouns (`int` or `"all"`): The number of nouns; the most recognisable ones come first.

    Raises:
        ValueError: The number is less than 4 or more than there are, or the text is not "all".
    """
    if nouns == "all":
        return tuple(NOUNS)
    if not isinstance(nouns, int) or not 4 <= nouns <= len(NOUNS):
        raise ValueError(f"`nouns` is {nouns!r}; give 4 to {len(NOUNS)}, or 'all'.")
    return tuple(NOUNS)[:nouns]

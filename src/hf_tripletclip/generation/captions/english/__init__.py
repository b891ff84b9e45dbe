# SPDX-License-Identifier: Apache-2.0
"""The English that the rules need: tables of words in `words/`, a light grammar, the changes and the swaps."""

from __future__ import annotations

import functools
from pathlib import Path

from hf_tripletclip.utils.tsv import read_tsv


def table(name: str) -> list[dict[str, str]]:
    """The rows of `words/NAME.tsv`, whose first lines say what its columns are."""
    return read_tsv(Path(__file__).with_name("words") / f"{name}.tsv")


@functools.lru_cache(maxsize=1)
def _lists() -> dict[str, frozenset[str]]:
    return {row["list"]: frozenset(row["words"].split()) for row in table("lists")}


def words(name: str) -> frozenset[str]:
    """The words of a list of `words/lists.tsv`."""
    return _lists()[name]


def split(text: str, at: str = ",") -> tuple[str, ...]:
    """The parts of a cell; none if it is empty."""
    return tuple(part.strip() for part in text.split(at)) if text else ()

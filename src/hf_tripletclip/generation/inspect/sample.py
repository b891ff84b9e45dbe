# SPDX-License-Identifier: Apache-2.0
"""What is kept of the rows that the page is made of."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from hf_tripletclip.data.schema import COLUMNS

FIRST_KEYS = 3  # of the rows with one fault


@dataclass
class Row:
    """
    A row without its images.

    Args:
        split, key (`str`): Where it is.
        caption (`str`): Its caption.
        negatives (`list[str]`): Its hard negative captions.
        kinds (`list[str | None]`): The `negative_type` of each.
        scores (`dict[str, float]`): Those that it has.
        generator (`str`, *optional*): What made it.
        held_out (`bool`): Whether training never shows its combination of concepts.
    """

    split: str
    key: str
    caption: str
    negatives: list[str]
    kinds: list[str | None]
    scores: dict[str, float]
    generator: str | None = None
    held_out: bool = False


@dataclass
class Look:
    """
    The images of a row that were decoded.

    Args:
        row (`Row`, *optional*): The row; `None` where its captions cannot be used.
        thumbnails (`dict[str, str]`): Column -> small image as a `data:` URI.
        problems (`list[tuple[str, str]]`): Reason and column of the images that are broken, and the row's key.
    """

    row: Row | None
    thumbnails: dict[str, str] = field(default_factory=dict)
    problems: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class SplitSample:
    """
    What was read of a split.

    Args:
        name (`str`): The split.
        total (`int`, *optional*): Its rows, where that is known.
        read (`int`): Rows that were read.
        how (`str`): Which ones.
        columns (`tuple[str, ...]`): Of our four columns those that it has.
        scores (`tuple[str, ...]`): The score columns that it has.
        rows (`list[Row]`): Rows with usable captions.
        looks (`list[Look]`): Rows whose images were decoded, at random from those read.
        captions (`Counter[str]`): Reason and column -> rows read whose captions cannot be used.
        left_out (`Counter[str]`): Reason and column -> negative captions that are left out of rows that are used.
        files (`Counter[str]`): Reason -> files that are damaged.
        keys (`dict[str, list[str]]`): Reason and column -> the first keys.
    """

    name: str
    total: int | None = None
    read: int = 0
    how: str = "all rows"
    columns: tuple[str, ...] = COLUMNS
    scores: tuple[str, ...] = ()
    rows: list[Row] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)
    captions: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    files: Counter[str] = field(default_factory=Counter)
    keys: dict[str, list[str]] = field(default_factory=dict)

    @property
    def whole(self) -> bool:
        """Whether all rows were read."""
        return self.how == "all rows"

    @property
    def images(self) -> Counter[str]:
        """Reason and column -> rows whose images are broken, of those that were decoded."""
        return Counter(label for look in self.looks for label, _ in look.problems)

    def count(self, counter: Counter[str], label: str, key: str) -> None:
        """Count a fault and keep the first keys."""
        counter[label] += 1
        self.keep_key(label, key)

    def keep_key(self, label: str, key: str) -> None:
        """Keep a key as an example, unless there are enough."""
        first = self.keys.setdefault(label, [])
        if len(first) < FIRST_KEYS:
            first.append(key)

# SPDX-License-Identifier: Apache-2.0
"""Splits a source of one split by its images: all rows of an image are in the same split."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

logger = logging.getLogger(__name__)  # not that of transformers, which workers need not import

TRAIN, VALIDATION, TEST = "train", "validation", "test"


@dataclass(frozen=True)
class Shares:
    """
    Which share of the pictures is kept for validation and for the test; the rest is for training.

    A picture's split follows from a hash of its pixels: it does not depend on the order of the rows, on the number of
    workers or on what else is in the source. So shares of few pictures are met roughly only.

    Args:
        validation, test (`float`, defaults to 0): From 0 to below 1, and below 1 together.
    """

    validation: float = 0.0
    test: float = 0.0

    def __post_init__(self) -> None:
        for name in ("validation", "test"):
            if not 0 <= getattr(self, name) < 1:  # also what is no number
                raise ValueError(f"`{name}_share` is {getattr(self, name)}; give 0 to below 1.")
        if self.validation + self.test >= 1:
            raise ValueError(
                f"`validation_share` and `test_share` are {self.validation + self.test:g} together, which leaves no "
                "row for training; give less than 1."
            )

    def __bool__(self) -> bool:
        return bool(self.validation or self.test)

    def splits(self, of_source: Sequence[str]) -> list[str]:
        """The splits of the dataset, for a source with these."""
        if not self:
            return list(of_source)
        return [TRAIN, *([VALIDATION] if self.validation else []), *([TEST] if self.test else [])]

    def check(self, name: str, of_source: Sequence[str]) -> None:
        """Raise `ValueError` if the source has several splits: rows must not leave the split that they are in."""
        if self and len(of_source) > 1:
            raise ValueError(
                f"{name} has the splits {', '.join(of_source)} already: `test_share` and `validation_share` are for a "
                f"source of one; choose it, such as `--splits {of_source[0]}`."
            )

    def split_of(self, picture: str) -> str:
        """The split of a picture, by the hexadecimal digest of its pixels."""
        if not picture:  # of a row that is left out
            return TRAIN
        place = int(picture, 16) / 16 ** len(picture)
        return TEST if place < self.test else VALIDATION if place < self.test + self.validation else TRAIN

    def warn_of_empty(self, sizes: Mapping[str, int]) -> None:
        """Warn if a split that was asked for has no row."""
        for split in (split for split, rows in sizes.items() if self and not rows):
            logger.warning(f"No picture fell into the split {split!r}: there are too few for such a share of it.")

    def to_dict(self) -> dict[str, float]:
        """As a plan has it."""
        return {"validation_share": float(self.validation), "test_share": float(self.test)}

    @classmethod
    def of_plan(cls, output: Mapping[str, Any]) -> Shares:
        return cls(output.get("validation_share", 0.0), output.get("test_share", 0.0))

# SPDX-License-Identifier: Apache-2.0
"""Random choices among a row's captions or negatives, which change in each pass over the data."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch


class Draw:
    """
    The draw depends only on the seed, the pass over the data and the row's own texts, not on the process, the worker
    or the batch of the row. A resumed run therefore draws the same as an uninterrupted one.

    Args:
        seed (`int`, defaults to 0): Another seed leads to other draws.

    Attributes:
        epoch (`torch.Tensor` of shape `()`): int64, the pass over the data. It lies in shared memory, so that the
            loader's workers see it change.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def number(self, texts: Sequence[str]) -> int:
        """A random number of 64 bits, the same for equal texts in one pass."""
        text = "\0".join((str(self.seed), str(int(self.epoch)), *texts))
        digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        return int.from_bytes(digest, "big")


class CaptionDraw(Draw):
    """Draws one of a row's captions."""

    def __call__(self, captions: Sequence[str]) -> str:
        """
        One of the captions.

        Args:
            captions (`Sequence[str]`): At least one.
        """
        return captions[self.number(captions) % len(captions)]


class SeveralDraw(Draw):
    """
    Draws a limited number of a row's negatives, paraphrases or dense captions.

    Args:
        most (`Mapping[str, int]`): Column -> the largest number to draw. Of other columns all values are taken.
        seed (`int`, defaults to 0): Another seed leads to other draws.
    """

    def __init__(self, most: Mapping[str, int], seed: int = 0) -> None:
        super().__init__(seed)
        self.most = dict(most)

    def __call__(self, column: str, values: Sequence[Any], texts: Sequence[str]) -> list[Any]:
        """
        Some of the values, in their order. For equal texts, columns of equal length draw the same positions.

        Args:
            column (`str`): The column of the values.
            values (`Sequence`): The values.
            texts (`Sequence[str]`): Texts that tell the row from others.
        """
        most = self.most.get(column, len(values))
        if most >= len(values):
            return list(values)
        row = str(self.number(texts))
        order = sorted(range(len(values)), key=lambda place: (self.number((row, str(place))), place))
        return [values[place] for place in sorted(order[:most])]

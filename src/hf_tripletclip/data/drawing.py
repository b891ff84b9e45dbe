# SPDX-License-Identifier: Apache-2.0
"""Some of what a row has several of, drawn anew in each pass over the data."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch


class Draw:
    """
    What is drawn depends on the seed, the pass and the row's own texts alone: not on the process, the worker or the
    batch that the row falls to, so a resumed run draws what the whole run would have.

    Args:
        seed (`int`, defaults to 0): Another seed draws others.

    Attributes:
        epoch (`torch.Tensor` of shape `()`): int64, the pass over the data. It lies in shared memory: the loader's
            workers see it change.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def number(self, texts: Sequence[str]) -> int:
        """A random number of 64 bits, the same for the same texts in one pass."""
        text = "\0".join((str(self.seed), str(int(self.epoch)), *texts))
        digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        return int.from_bytes(digest, "big")


class CaptionDraw(Draw):
    """Draws a caption of a row."""

    def __call__(self, captions: Sequence[str]) -> str:
        """
        One of the captions.

        Args:
            captions (`Sequence[str]`): At least one.
        """
        return captions[self.number(captions) % len(captions)]


class SeveralDraw(Draw):
    """
    Draws at most so many of a row's negatives, paraphrases or dense captions.

    Args:
        most (`Mapping[str, int]`): Column -> how many at most. Of others all are taken.
        seed (`int`, defaults to 0): Another seed draws others.
    """

    def __init__(self, most: Mapping[str, int], seed: int = 0) -> None:
        super().__init__(seed)
        self.most = dict(most)

    def __call__(self, column: str, values: Sequence[Any], texts: Sequence[str]) -> list[Any]:
        """
        Some of the values, in their order. Columns with as many values draw the same places for the same texts.

        Args:
            column (`str`): The column that they are of.
            values (`Sequence`): The values.
            texts (`Sequence[str]`): What tells the row from others.
        """
        most = self.most.get(column, len(values))
        if most >= len(values):
            return list(values)
        row = str(self.number(texts))
        order = sorted(range(len(values)), key=lambda place: (self.number((row, str(place))), place))
        return [values[place] for place in sorted(order[:most])]

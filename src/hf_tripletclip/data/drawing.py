# SPDX-License-Identifier: Apache-2.0
"""One of several captions of a row, drawn anew in each pass over the data."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch


class CaptionDraw:
    """
    Draws a caption of a row. What is drawn depends on the seed, the pass and the captions alone: not on the process,
    the worker or the batch that the row falls to, so a resumed run draws what the whole run would have.

    Args:
        seed (`int`, defaults to 0): Another seed draws others.

    Attributes:
        epoch (`torch.Tensor` of shape `()`): int64, the pass over the data. It lies in shared memory: the loader's
            workers see it change.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __call__(self, captions: Sequence[str]) -> str:
        """
        One of the captions.

        Args:
            captions (`Sequence[str]`): At least one.
        """
        text = "\0".join((str(self.seed), str(int(self.epoch)), *captions))
        drawn = int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
        return captions[drawn % len(captions)]

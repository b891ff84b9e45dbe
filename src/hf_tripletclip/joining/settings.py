# SPDX-License-Identifier: Apache-2.0
"""What is joined, and how."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from hf_tripletclip.generation.images.encoding import check_encoding


@dataclass(frozen=True)
class JoinSettings:
    """
    Args:
        size (`int`, defaults to 224): Side of a joined picture, a square, in pixels: that of the model, so that
            nothing is cropped. Each picture is resized to a half of it, whatever its shape, as in CLIC's code.
        rounds (`int`, defaults to 1): With how many others each pair is joined, which is also its number of rows. One
            pass over a dataset of E rounds shows what E passes with partners drawn anew would.
        num_paraphrases (`int`, defaults to 1): The first is the joined caption in the other order. Further ones join
            other captions of the two pictures, if they have any; `paraphrase` is then a list.
        singles (`bool`, defaults to `False`): Whether the pairs themselves are rows too, without negatives and
            paraphrases, which are then lists, empty in these rows.
        seed (`int`, defaults to 0): Another seed draws other partners and words.
        tries (`int`, defaults to 20): Partners that are tried for a pair before it is left out.
        format (`str`, defaults to `"jpeg"`): How joined pictures are stored: `jpeg`, `webp` or `png`.
        quality (`int`, defaults to 95): Of JPEG and WebP, 1 to 100.

    Raises:
        ValueError: A setting is out of range.
    """

    size: int = 224
    rounds: int = 1
    num_paraphrases: int = 1
    singles: bool = False
    seed: int = 0
    tries: int = 20
    format: str = "jpeg"
    quality: int = 95

    def __post_init__(self) -> None:
        for name in ("rounds", "num_paraphrases", "tries"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` is {getattr(self, name)}; give at least 1.")
        if self.size % 2:
            raise ValueError(f"`size` is {self.size}; give an even number: half of it is for each picture.")
        check_encoding(self.size, self.format, self.quality)

    def to_dict(self) -> dict[str, Any]:
        """For the plan."""
        return asdict(self)

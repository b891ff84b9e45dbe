# SPDX-License-Identifier: Apache-2.0
"""What is mined, and the guards against false negatives."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

SIMILARITIES = ("image", "text", "image_text")
NEGATIVES = ("pairs", "captions")


@dataclass(frozen=True)
class MiningSettings:
    """
    Args:
        negatives (`str`, defaults to `"pairs"`): What a row gets: `"pairs"`, the image and the caption of another
            pair (`neg_image`, `neg_caption`), or `"captions"`, a caption alone.
        similarity (`str`, defaults to `"image"`): What is near: `"image"`, the other images to the row's image;
            `"text"`, the other captions to its caption; `"image_text"`, the other captions to its image. Of a near
            image with several captions, the one nearest to the row's caption that passes the guards is taken.
        num_negatives (`int`, defaults to 1): Negatives of a row, the nearest that pass the guards. With several,
            `neg_caption` is a list (`"captions"`), or each pair stands in as many rows (`"pairs"`). With 0 the
            dataset gets no negatives, only the neighbours for batches.
        num_neighbours (`int`, defaults to 10): Neighbours of each row, by the same guards, that are kept for batches
            of neighbours.
        range_min (`int`, defaults to 0): How many of the nearest are skipped.
        range_max (`int`, defaults to 100): How many of the nearest are considered, with those that are skipped.
        max_score, min_score (`float`, *optional*): Bounds on the similarity.
        absolute_margin (`float`, *optional*): By how much less a negative caption must score for the row's image than
            the row's caption; the same holds for a negative image and the row's caption.
        relative_margin (`float`, *optional*, defaults to 0.05): The same as a share of the row's own score: 0.05
            is the 95 % of NV-Retriever (Moreira et al. 2024, arXiv 2407.15831, TopK-PercPos). `None` turns it off.

    The names are those of sentence-transformers' `mine_hard_negatives`. Its margins compare the scores that it ranks
    by; here they always compare images with captions, because that is what makes a negative false.

    Raises:
        ValueError: A setting is unknown or out of range.
    """

    negatives: str = "pairs"
    similarity: str = "image"
    num_negatives: int = 1
    num_neighbours: int = 10
    range_min: int = 0
    range_max: int = 100
    max_score: float | None = None
    min_score: float | None = None
    absolute_margin: float | None = None
    relative_margin: float | None = 0.05

    def __post_init__(self) -> None:
        for name, known in (("negatives", NEGATIVES), ("similarity", SIMILARITIES)):
            if getattr(self, name) not in known:
                raise ValueError(f"`{name}` is {getattr(self, name)!r}; give {', '.join(known)}.")
        for name in ("num_negatives", "num_neighbours", "range_min"):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` is {getattr(self, name)}; give 0 or more.")
        if self.wanted < 1:
            raise ValueError("`num_negatives` and `num_neighbours` are both 0: there is nothing to mine.")
        if self.range_max - self.range_min < self.wanted:
            raise ValueError(
                f"`range_min` {self.range_min} and `range_max` {self.range_max} leave "
                f"{max(self.range_max - self.range_min, 0)} candidates, and {self.wanted} are wanted: raise "
                "`range_max`, or lower `num_negatives` and `num_neighbours`."
            )
        for name in ("max_score", "min_score", "absolute_margin", "relative_margin"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise ValueError(f"`{name}` is {value}; give a finite number.")
        for name in ("absolute_margin", "relative_margin"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"`{name}` is {value}; give 0 or more, or leave it out.")
        if self.max_score is not None and self.min_score is not None and self.max_score < self.min_score:
            raise ValueError(f"`max_score` {self.max_score} is less than `min_score` {self.min_score}.")

    @property
    def wanted(self) -> int:
        """How many neighbours of a row are looked for."""
        return max(self.num_negatives, self.num_neighbours)

    @property
    def with_images(self) -> bool:
        """Whether rows get negative images."""
        return self.negatives == "pairs"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

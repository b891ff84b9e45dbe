# SPDX-License-Identifier: Apache-2.0
"""ColorSwap: two images and two captions whose colours have changed places."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from hf_tripletclip.evaluation.image_pairs import PairsBenchmark


@dataclass(kw_only=True)
class ColorSwap(PairsBenchmark):
    r"""
    ColorSwap (Burapacheep et al. 2024, arXiv 2402.04492): 1,000 rows, 300 of them the test split, of two images and
    two captions in which the colours have changed places.

    Metrics: those of [`~hf_tripletclip.evaluation.benchmarks.winoground.Winoground`], per category `IMAGES/CAPTIONS`,
    who made the images and the captions, such as `group_score_midjourney/human`, and `..._macro` over these. The
    official numbers are those over the rows, strict.

    Args:
        data (`str`, defaults to `stanfordnlp/colorswap`): The Hub dataset, whose conditions must be accepted; the
            unpacked `data` folder of the authors' download (`test.json` and `images`); or a table with the columns
            `image_1`, `image_2`, `caption_1`, `caption_2` and, if known, `image_source` and `caption_source`.
        split, images, revision: As in [`PairsBenchmark`].
        protocol, allow_missing, max_rows: As in [`Benchmark`].
    """

    name: ClassVar[str] = "colorswap"
    title: ClassVar[str] = "ColorSwap"
    reference: ClassVar[str] = "Burapacheep et al. 2024, arXiv 2402.04492"
    hub_dataset: ClassVar[str | None] = "stanfordnlp/colorswap"
    image_columns: ClassVar[tuple[str, str]] = ("image_1", "image_2")
    caption_columns: ClassVar[tuple[str, str]] = ("caption_1", "caption_2")
    further: ClassVar[tuple[str, ...]] = ("image_source", "caption_source")
    files: ClassVar[tuple[str, ...]] = ("test.json", "data/test.json")

    data: str = "stanfordnlp/colorswap"

    def category(self, row: dict[str, Any]) -> str | None:
        return "/".join(row[name] for name in self.further if row.get(name)) or None

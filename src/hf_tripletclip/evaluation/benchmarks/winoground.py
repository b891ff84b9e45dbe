# SPDX-License-Identifier: Apache-2.0
"""Winoground: two images and two captions of the same words in another order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from hf_tripletclip.evaluation.image_pairs import PairsBenchmark


@dataclass(kw_only=True)
class Winoground(PairsBenchmark):
    r"""
    Winoground (Thrush et al. 2022, arXiv 2204.03162): 400 rows of two photographs and two captions, which have the
    same words in another order, written by experts.

    Metrics, over the rows: `text_score` (of either image, its caption is chosen; chance 1/4), `image_score` (of either
    caption, its image; chance 1/4) and `group_score` (both; chance 1/6); each of them per `collapsed_tag` (`Object`,
    `Relation`, `Both`), such as `group_score_Object`, and `..._macro` over these. The official script agrees: it is
    strict.

    Args:
        data (`str`, defaults to `facebook/winoground`): The Hub dataset, whose conditions must be accepted; its
            `data` folder (`examples.jsonl` and `images.zip`, unpacked); or a table with the columns `image_0`,
            `image_1`, `caption_0`, `caption_1` and, if there are tags, `collapsed_tag`.
        split, images, revision: As in [`PairsBenchmark`].
        protocol, allow_missing, max_rows: As in [`Benchmark`].
    """

    name: ClassVar[str] = "winoground"
    title: ClassVar[str] = "Winoground"
    reference: ClassVar[str] = "Thrush et al. 2022, arXiv 2204.03162"
    hub_dataset: ClassVar[str | None] = "facebook/winoground"
    image_columns: ClassVar[tuple[str, str]] = ("image_0", "image_1")
    caption_columns: ClassVar[tuple[str, str]] = ("caption_0", "caption_1")
    further: ClassVar[tuple[str, ...]] = ("tag", "secondary_tag", "num_main_preds", "collapsed_tag")
    files: ClassVar[tuple[str, ...]] = ("examples.jsonl", "data/examples.jsonl")

    data: str = "facebook/winoground"

    def category(self, row: dict[str, Any]) -> str | None:
        return row.get("collapsed_tag") or None

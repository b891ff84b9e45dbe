# SPDX-License-Identifier: Apache-2.0
"""BiVLC: SugarCrepe's captions with an image for the negative one too, in both directions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from hf_tripletclip.evaluation.image_pairs import PairsBenchmark
from hf_tripletclip.evaluation.items import CHANCE, CHOOSE_CAPTION, CHOOSE_IMAGE, Comparisons, Item
from hf_tripletclip.results.result import Mean

# With the names of the official script.
DIRECTIONS: Comparisons = {
    "Ipos_2T": CHOOSE_CAPTION[:1],
    "Ineg_2T": CHOOSE_CAPTION[1:],
    "Tpos_2I": CHOOSE_IMAGE[:1],
    "Tneg_2I": CHOOSE_IMAGE[1:],
}


@dataclass(kw_only=True)
class BiVLC(PairsBenchmark):
    r"""
    BiVLC (Miranda et al. 2024, arXiv 2406.09952): 2,933 rows of SugarCrepe with a drawn image for the negative
    caption: a COCO photograph and its caption, the negative caption and its image.

    Metrics, over the rows, by the names of the official script: `I2T` (of either image, its caption is chosen; chance
    1/4), `T2I` (of either caption, its image; chance 1/4), `group_score` (both; chance 1/6) and the four directions
    `Ipos_2T`, `Ineg_2T`, `Tpos_2I`, `Tneg_2I` (from the positive or negative image or text; chance 1/2). Each of them
    per `type` (`group_score_replace`, `_swap`, `_add`, as the official script prints), per type and subtype
    (`group_score_replace_obj`, ...), and `..._macro` over these seven. The official script agrees: it is strict.

    Args:
        data (`str`, defaults to `imirandam/BiVLC`): The Hub dataset, a copy of it, or a table with the columns
            `image`, `caption`, `negative_caption`, `negative_image`, `type` and `subtype`.
        split, images, revision: As in [`PairsBenchmark`].
        protocol, allow_missing, max_rows: As in [`Benchmark`].
    """

    name: ClassVar[str] = "bivlc"
    title: ClassVar[str] = "BiVLC"
    reference: ClassVar[str] = "Miranda et al. 2024, arXiv 2406.09952"
    hub_dataset: ClassVar[str | None] = "imirandam/BiVLC"
    drawn_images: ClassVar[bool] = True
    image_columns: ClassVar[tuple[str, str]] = ("image", "negative_image")
    caption_columns: ClassVar[tuple[str, str]] = ("caption", "negative_caption")
    further: ClassVar[tuple[str, ...]] = ("type", "subtype")
    comparisons: ClassVar[Comparisons] = {
        "I2T": CHOOSE_CAPTION,
        "T2I": CHOOSE_IMAGE,
        "group_score": CHOOSE_CAPTION + CHOOSE_IMAGE,
        **DIRECTIONS,
    }

    data: str = "imirandam/BiVLC"

    def category(self, row: dict[str, Any]) -> str | None:
        return "_".join(row[name] for name in self.further if row.get(name)) or None

    def chance(self, items: Sequence[Item]) -> dict[str, float]:
        group = CHANCE["group_score"]
        return {"I2T": 1 / 4, "T2I": 1 / 4, "group_score": group, **dict.fromkeys(DIRECTIONS, 1 / 2)}

    def means(self, predictions: Mapping[str, list[Any]], outcomes: Sequence[str]) -> dict[str, Mean]:
        found = super().means(predictions, outcomes)
        kinds = [kind for kind in dict.fromkeys(predictions.get("type", ())) if kind is not None]
        return found | {
            f"{outcome}_{kind}": Mean(outcome, where={"type": kind}) for outcome in outcomes for kind in kinds
        }

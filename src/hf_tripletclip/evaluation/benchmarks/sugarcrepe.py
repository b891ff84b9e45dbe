# SPDX-License-Identifier: Apache-2.0
"""SugarCrepe: find the one of two captions that is true of a COCO photograph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from hf_tripletclip.data.schema import NEGATIVE_TYPES
from hf_tripletclip.evaluation.caption_choice import PartsBenchmark, pair
from hf_tripletclip.evaluation.items import Item, settled
from hf_tripletclip.evaluation.readers.annotations import ImageFinder, image_cells, read_rows, strings
from hf_tripletclip.evaluation.readers.tables import load_table

TYPE_COLUMNS = ("Negative_type", "negative_type", "category")  # of a table: which of the seven


@dataclass(kw_only=True)
class SugarCrepe(PartsBenchmark):
    r"""
    SugarCrepe (Hsieh et al. 2023, arXiv 2306.14610): 7,511 pairs of captions in seven categories, the negative one a
    fluent sentence written by a language model, over 1,560 images of COCO val2017.

    Metrics: the accuracy of each category (`replace_obj`, ..., `add_att`), `macro` (over the seven, what the
    TripletCLIP paper prints) and `micro` (over the rows). Chance is 0.5. The official script agrees: it is strict.

    Args:
        annotations (`str`): Folder of the seven JSON files of github.com/RAIVNLab/sugar-crepe, of which some may be
            absent; or a table with `images`, `caption`, `negative_caption` and `Negative_type`, such as the Hub's
            `mteb/SUGARCREPE_fmt`.
        images (`str`, *optional*): Folder of COCO val2017. Defaults to the annotations' folder, or one in it. A table
            has its images.
        parts (`tuple[str, ...]`, *optional*): Only these categories.
        protocol, allow_missing, max_rows: As in [`Benchmark`].
    """

    name: ClassVar[str] = "sugarcrepe"
    title: ClassVar[str] = "SugarCrepe"
    reference: ClassVar[str] = "Hsieh et al. 2023, arXiv 2306.14610"
    hub_dataset: ClassVar[str | None] = "mteb/SUGARCREPE_fmt"
    primary: ClassVar[str] = "macro"
    tradeoff: ClassVar[tuple[str, ...]] = ("macro",)
    FILES: ClassVar[Mapping[str, str]] = {kind: f"{kind}.json" for kind in NEGATIVE_TYPES}
    WHERE: ClassVar[str] = "get them from the folder data/ of https://github.com/RAIVNLab/sugar-crepe"

    def items(self) -> list[Item]:
        if not (files := self.files()):
            return self._of_table()
        find = ImageFinder(self.image_folders())
        items = []
        for category, file in files.items():
            for number, row, where in read_rows(file):  # ids have holes
                image, *captions = strings(row, ("filename", "caption", "negative_caption"), where)
                items.append(pair(f"{category}/{number}", find(image), captions, category))
        return settled(items, find)

    def _of_table(self) -> list[Item]:
        table = load_table(self.annotations, columns=("caption", "negative_caption"), images=self.images)
        kind = next((name for name in TYPE_COLUMNS if name in table.column_names), None)
        if kind is None:
            raise ValueError(
                f"{self.title}: {self.annotations} has no column {', '.join(TYPE_COLUMNS)} that says which of the "
                f"seven categories a row is of; it has {', '.join(table.column_names)}"
            )
        images = image_cells(table, self.annotations)
        texts = table.select_columns([kind, "caption", "negative_caption"])
        items = []
        for number, (row, image) in enumerate(zip(texts, images, strict=True)):
            category, *captions = strings(row, (kind, "caption", "negative_caption"), f"{self.source}, row {number}")
            if self.wants(category):
                items.append(pair(f"{category}/{number}", image, captions, category))
        return items

    def chance(self, items: Sequence[Item]) -> dict[str, float]:
        return {"accuracy": 1 / 2}

# SPDX-License-Identifier: Apache-2.0
"""SugarCrepe++: two captions with one meaning in different words, and a false one that looks like the first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from hf_tripletclip.evaluation.caption_choice import PartsBenchmark
from hf_tripletclip.evaluation.items import Comparisons, Item, settled
from hf_tripletclip.evaluation.readers.annotations import ImageFinder, read_rows, strings
from hf_tripletclip.evaluation.readers.tables import load_table

# The captions are both positives and the negative.
OUTCOMES: Comparisons = {
    "itt": (("i0c0", "i0c2"), ("i0c1", "i0c2")),
    "tot": (("c0c1", "c0c2"), ("c0c1", "c1c2")),
}


@dataclass(kw_only=True)
class SugarCrepePP(PartsBenchmark):
    r"""
    SugarCrepe++ (Dumpala et al. 2024, arXiv 2406.11171): 4,757 rows of five of SugarCrepe's categories, with a second
    positive caption in other words.

    Metrics: `itt`, image-to-text: both positives score above the negative; `tot`, text only: the two positives are
    nearer to each other than either is to the negative. Each over all rows, by category (`itt_swap_obj`, ...) and as
    the mean of the categories (`itt_macro`, `tot_macro`). Chance is 1/3: of three scores the right one must be the
    least, or the greatest. The official script agrees (it is strict) and prints them by category as "Accuracy
    image-to-text task" and "Accuracy text-only task".

    Args:
        annotations (`str`): Folder of the five JSON files of github.com/Sri-Harsha/scpp, of which some may be absent;
            or the Hub's `Aman-J/SugarCrepe_pp`, which has the same rows.
        images (`str`, *optional*): Folder of COCO val2017. Defaults to the annotations' folder, or one in it.
        parts (`tuple[str, ...]`, *optional*): Only these categories: `swap_obj`, `swap_att`, `replace_obj`,
            `replace_att`, `replace_rel`.
        protocol, allow_missing, max_rows: As in [`Benchmark`].
    """

    name: ClassVar[str] = "sugarcrepe_pp"
    title: ClassVar[str] = "SugarCrepe++"
    reference: ClassVar[str] = "Dumpala et al. 2024, arXiv 2406.11171"
    hub_dataset: ClassVar[str | None] = "Aman-J/SugarCrepe_pp"
    primary: ClassVar[str] = "itt_macro"
    also_true: ClassVar[tuple[str, ...]] = ("i0c1",)
    CONFIGS: ClassVar[dict[str, str]] = {  # as the Hub's dataset spells them
        "swap_obj": "swap_object",
        "swap_att": "swap_atribute",
        "replace_obj": "replace_object",
        "replace_att": "replace_attribute",
        "replace_rel": "replace_relation",
    }
    FILES: ClassVar[Mapping[str, str]] = {part: f"{part}.json" for part in CONFIGS}
    WHERE: ClassVar[str] = "get them from the folder data/ of https://github.com/Sri-Harsha/scpp"

    def items(self) -> list[Item]:
        rows = list(self._rows())
        find = ImageFinder(self.image_folders())
        items = []
        for category, number, row, where in rows:
            image, *captions = strings(row, ("filename", "caption", "caption2", "negative_caption"), where)
            items.append(
                Item(
                    key=f"{category}/{number}",
                    images=(find(image),),
                    captions=tuple(captions),
                    comparisons=OUTCOMES,
                    category=category,
                )
            )
        return settled(items, find)

    def _rows(self) -> Iterator[tuple[str, str, Any, str]]:
        for category, file in (files := self.files()).items():
            yield from ((category, number, row, where) for number, row, where in read_rows(file))
        if files:
            return
        if self.folder.is_file():
            raise ValueError(
                f"{self.title}: {self.folder} is a file: give the folder of {', '.join(self.FILES.values())}"
            )
        for category, config in self.CONFIGS.items():
            if self.wants(category):
                table = load_table(self.annotations, config=config)
                rows = enumerate(table)
                yield from ((category, str(n), row, f"{self.source} ({config}), row {n}") for n, row in rows)

    def chance(self, items: Sequence[Item]) -> dict[str, float]:
        return {"itt": 1 / 3, "tot": 1 / 3}

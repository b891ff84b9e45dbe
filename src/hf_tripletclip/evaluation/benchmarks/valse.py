# SPDX-License-Identifier: Apache-2.0
"""VALSE: a caption against a foil that differs in one linguistic phenomenon."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from hf_tripletclip.evaluation.caption_choice import PartsBenchmark, pair
from hf_tripletclip.evaluation.items import Item, settled
from hf_tripletclip.evaluation.readers.annotations import ImageFinder, check_text, listed_rows, read_rows, strings
from hf_tripletclip.evaluation.readers.tables import take

VOTES = 2  # of three annotators, for a foil to be valid


@dataclass(kw_only=True)
class VALSE(PartsBenchmark):
    r"""
    VALSE (Parcalabescu et al. 2022, arXiv 2112.07566): a caption and a foil in eleven pieces of six phenomena
    (existence, plurality, counting, relations, actions, coreference) and FOIL it!.

    Only valid rows count: those of which at least two of three annotators chose the caption and not the foil
    (`mturk.caption`), as the paper says: 7,702 of the 8,782 in the files.

    Metrics: the pairwise accuracy of each piece (`existence`, ..., `foil-it`), `macro` (over the pieces) and `micro`
    (over the rows). It is what the official script prints as "Pairwise accuracy acc_r", strictly. Its other numbers
    (`acc`, `p_c`, `p_f`) ask a classifier whether a caption fits, which a model of cosines does not answer. Chance is
    0.5.

    Args:
        annotations (`str`): Folder of the eleven JSON files of github.com/Heidelberg-NLP/VALSE, of which some may be
            absent; or a copy of the Hub's `Mayfull/valse_vlms`: its `examples.jsonl`, or a folder that has it.
        images (`str`, *optional*): Folder of the images, or of a folder for each source: they come from Visual7W, COCO
            (2014 and 2017), SWiG, VisDial and FOIL. Defaults to the annotations' folder.
        parts (`tuple[str, ...]`, *optional*): Only these pieces.
        protocol, allow_missing, max_rows: As in [`Benchmark`].
    """

    name: ClassVar[str] = "valse"
    title: ClassVar[str] = "VALSE"
    reference: ClassVar[str] = "Parcalabescu et al. 2022, arXiv 2112.07566"
    hub_dataset: ClassVar[str | None] = "Mayfull/valse_vlms"
    primary: ClassVar[str] = "macro"
    FILES: ClassVar[Mapping[str, str]] = {
        piece: f"{piece}.json"
        for piece in (
            "existence",
            "plurals",
            "counting-hard",
            "counting-small-quant",
            "counting-adversarial",
            "relations",
            "action-replacement",
            "actant-swap",
            "coreference-standard",
            "coreference-hard",
            "foil-it",
        )
    }
    WHERE: ClassVar[str] = "get them from the folder data/ of https://github.com/Heidelberg-NLP/VALSE"

    def items(self) -> list[Item]:
        if not (files := self.files()):
            return self._of_table()
        find = ImageFinder(self.image_folders())
        items = []
        for piece, file in files.items():
            for key, row, where in read_rows(file):
                if _votes(row, where) >= VOTES:
                    image, *captions = strings(row, ("image_file", "caption", "foil"), where)
                    items.append(pair(f"{piece}/{key}", find(image), captions, piece))
        return settled(items, find)

    def _of_table(self) -> list[Item]:
        items = []
        for number, row, image, where in listed_rows(self.annotations, self.images):
            piece = Path(str(row.get("original_file_name"))).stem
            if piece not in self.FILES:
                piece = check_text(row.get("linguistic_phenomena"), f"{where}: linguistic_phenomena")
            if self.wants(piece):
                captions = [row["positive_caption"][0], row["negative_caption"][0]]
                items.append(pair(f"{piece}/{number}", image, captions, piece))
        return items

    def chance(self, items: Sequence[Item]) -> dict[str, float]:
        return {"accuracy": 1 / 2}


def _votes(row: Any, where: str) -> int:
    """The number of annotators who chose the caption and not the foil."""
    (mturk,) = take(row, ("mturk",), where)
    (votes,) = take(mturk, ("caption",), f"{where}: mturk")
    if not isinstance(votes, int):
        raise ValueError(f"{where}: mturk.caption is {votes!r}; a number of annotators is expected")
    return votes

# SPDX-License-Identifier: Apache-2.0
"""NegBench: find the true one of four captions that say what is and what is not in an image."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from hf_tripletclip.evaluation.caption_choice import ChoiceBenchmark, question
from hf_tripletclip.evaluation.items import CATEGORY, Item, settled
from hf_tripletclip.evaluation.readers.annotations import ImageFinder, check_text
from hf_tripletclip.evaluation.readers.tables import read_csv
from hf_tripletclip.results.result import Mean

CAPTION = re.compile(r"caption_\d+")
TEMPLATE = "template"  # the column of predictions: positive, negative or hybrid
TEMPLATE_COLUMN = "correct_answer_template"  # the column of the file


@dataclass(kw_only=True)
class NegBench(ChoiceBenchmark):
    r"""
    The multiple-choice questions of NegBench (Alhamoud et al. 2025, arXiv 2501.09425): four captions of an image that
    affirm one object, negate another, or both, of which one is true; 5,914 over COCO val2017 and 5,031 over VOC2007.

    Metrics: the top-1 accuracy of each file (`coco`, `voc2007`, ...), `macro` (over the files), `micro` (over the
    rows), and, if the file names the kind of the true caption, the accuracy of each kind (`coco_positive`,
    `coco_negative`, `coco_hybrid`). The official script prints them as `coco-mcq-total_accuracy`,
    `coco-mcq-positive_accuracy`, ... Chance is one over the number of captions.

    Args:
        annotations (`str`): Folder of the CSV files of github.com/m1k2zoo/negbench, of which some may be absent, or
            one such file, with `image_path`, `caption_0`, `caption_1`, ... and `correct_answer`.
        images (`str`, *optional*): Folder of the images, or of a folder for each source. The files hold paths of their
            authors' machine, of which the longest end that is there counts. Defaults to the annotations' folder.
        parts (`tuple[str, ...]`, *optional*): Only these: `coco`, `voc2007`, `synthetic`, `chexpert`,
            `chexpert_affirmation`.
        protocol, allow_missing, max_rows: As in [`Benchmark`].
    """

    name: ClassVar[str] = "negbench"
    title: ClassVar[str] = "NegBench"
    reference: ClassVar[str] = "Alhamoud et al. 2025, arXiv 2501.09425"
    primary: ClassVar[str] = "macro"
    official_difference: ClassVar[str] = "of equal scores the first caption in the file's order wins (argmax)"
    FILES: ClassVar[Mapping[str, str]] = {
        "coco": "COCO_val_mcq_llama3.1_rephrased.csv",
        "voc2007": "VOC2007_mcq_llama3.1_rephrased.csv",
        "synthetic": "synthetic_mcq_llama3.1_rephrased.csv",
        "chexpert": "chexpert_binary_mcq.csv",
        "chexpert_affirmation": "chexpert_binary_mcq_control.csv",
    }
    WHERE: ClassVar[str] = "get them from https://github.com/m1k2zoo/negbench/blob/main/datasets.md"

    def items(self) -> list[Item]:
        files = self.files()
        if not files:
            files = self._one_file()
        folders = self.image_folders()
        found: list[Item] = []
        for part, file in files.items():
            find = ImageFinder(folders)  # a finder for each file: their authors' folders may differ
            found += settled(_questions(part, file, find), find)
        return found

    def _one_file(self) -> dict[str, Path]:
        if not self.folder.is_file() or self.folder.suffix != ".csv":
            raise FileNotFoundError(f"{self.title}: {self.folder} is no folder and no CSV file: {self.WHERE}")
        part = next((part for part, name in self.FILES.items() if name == self.folder.name), self.folder.stem)
        if not self.wants(part):
            raise FileNotFoundError(f"{self.title}: {self.folder} is {part}, not {', '.join(self.parts or ())}")
        return {part: self.folder}

    def means(self, predictions: Mapping[str, list[Any]], outcomes: Sequence[str]) -> dict[str, Mean]:
        found = super().means(predictions, outcomes)
        kinds = zip(predictions[CATEGORY], predictions[TEMPLATE], strict=True)
        for part, kind in dict.fromkeys(kinds):
            if kind is not None:
                found[f"{part}_{kind}"] = Mean("accuracy", where={CATEGORY: part, TEMPLATE: kind})
        return found


def _questions(part: str, file: Path, find: ImageFinder) -> list[Item]:
    items = []
    for number, row in enumerate(read_csv(file, ("image_path", "caption_0", "caption_1", "correct_answer"))):
        where = f"{file}, row {number + 2}"  # `read_csv` counts from the header
        captions = [check_text(row[name], f"{where}: {name}") for name in row if name and CAPTION.fullmatch(name)]
        image = find(check_text(row["image_path"], f"{where}: image_path"))
        answer = row["correct_answer"]
        if not answer.isdecimal() or int(answer) >= len(captions):
            raise ValueError(f"{where}: correct_answer is {answer!r}, which is none of the {len(captions)} captions")
        items.append(
            question(
                f"{part}/{number}",
                image,
                captions,
                int(answer),
                category=part,
                columns={TEMPLATE: row.get(TEMPLATE_COLUMN) or None},
            )
        )
    return items

# SPDX-License-Identifier: Apache-2.0
"""What's Up: find the true one of captions that differ in one preposition."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from hf_tripletclip.evaluation.caption_choice import ChoiceBenchmark, question
from hf_tripletclip.evaluation.encoder import Encoder
from hf_tripletclip.evaluation.images import ImageRef
from hf_tripletclip.evaluation.items import CATEGORY, Item, settled
from hf_tripletclip.evaluation.readers.annotations import ImageFinder, check_text, listed_rows, read_rows
from hf_tripletclip.evaluation.readers.tables import take
from hf_tripletclip.results.result import EvaluationResult, Mean
from hf_tripletclip.results.scoring import CLUSTER

OPPOSITES = {"left": "right", "on": "under", "in-front": "behind"}  # in the names of the images
RELATION, SET = "relation", "set"  # columns of predictions
PAIR_RIGHT, SET_RIGHT = "pair", "set_right"
GUESS = 1 / 4  # one of four captions


@dataclass(kw_only=True)
class WhatsUp(ChoiceBenchmark):
    r"""
    What's Up (Kamath et al. 2023, arXiv 2310.19785): photographs of the same two objects in four positions
    (`controlled_images`, `controlled_clevr`, four captions each), and two captions with opposite prepositions of
    photographs of COCO and Visual Genome (`coco_qa_one_obj`, `coco_qa_two_obj`, `vg_qa_one_obj`, `vg_qa_two_obj`).

    Metrics: the accuracy of each of the six, `macro` (over the six) and `micro` (over the rows). Of the controlled
    ones also, over the pairs of opposite positions and over the sets of four of the same objects, the share of which
    all photographs are right: `pair_controlled_images`, `set_controlled_images`, ..., and their means over the two,
    `pair_macro` and `set_macro`. They are what the official script prints as "Individual accuracy", "Pair accuracy"
    and "Set accuracy". Pairs and sets that are not complete do not count. Chance is 1/4, 1/16 and 1/256 for the
    controlled ones and 1/2 for the others.

    Args:
        annotations (`str`): Folder of the six JSON files of github.com/amitakamath/whatsup_vlms, of which some may be
            absent; or a copy of the Hub's `Mayfull/whats_up_vlms`: its `examples.jsonl`, or a folder that has it.
        images (`str`, *optional*): Folder of the folders `controlled_images`, `controlled_clevr`, `val2017` and
            `vg_images`. Defaults to the annotations' folder.
        parts (`tuple[str, ...]`, *optional*): Only these of the six.
        protocol, allow_missing, max_rows: As in [`Benchmark`].
    """

    name: ClassVar[str] = "whatsup"
    title: ClassVar[str] = "What's Up"
    reference: ClassVar[str] = "Kamath et al. 2023, arXiv 2310.19785"
    hub_dataset: ClassVar[str | None] = "Mayfull/whats_up_vlms"
    primary: ClassVar[str] = "macro"
    official_difference: ClassVar[str] = (
        "of equal scores the first caption wins (argmax), which is always the true one"
    )
    FOLDERS: ClassVar[dict[str, str]] = {
        "controlled_images": "controlled_images",
        "controlled_clevr": "controlled_clevr",
        "coco_qa_one_obj": "val2017",
        "coco_qa_two_obj": "val2017",
        "vg_qa_one_obj": "vg_images",
        "vg_qa_two_obj": "vg_images",
    }
    FILES: ClassVar[Mapping[str, str]] = {
        part: f"{part}_dataset.json" if "controlled" in part else f"{part}.json" for part in FOLDERS
    }
    WHERE: ClassVar[str] = "https://github.com/amitakamath/whatsup_vlms says where to get them"

    def items(self) -> list[Item]:
        if not (files := self.files()):
            return self._of_table()
        base = self.image_folders()[0]
        items: list[Item] = []
        for part, file in files.items():
            # No other folders: images of both controlled parts have the same names.
            find = ImageFinder([base / self.FOLDERS[part], base])
            of_part = []
            for number, row, where in read_rows(file):
                image, captions = _controlled(row, where) if "controlled" in part else _two(part, row, where)
                of_part.append(_question(f"{part}/{number}", find(image), image, captions, part))
            items += settled(of_part, find)
        return items

    def _of_table(self) -> list[Item]:
        items = []
        for number, row, image, where in listed_rows(self.annotations, self.images):
            name = check_text(row.get("original_file_name"), f"{where}: original_file_name")
            part = Path(name).stem.removesuffix("_dataset")
            if self.wants(part):
                captions = [row["positive_caption"][0], *row["negative_caption"]]
                items.append(_question(f"{part}/{number}", image, row.get("image_file_name") or "", captions, part))
        return items

    def make_result(
        self, encoder: Encoder, *, predictions: dict[str, list[Any]], means: Mapping[str, Mean], **values: Any
    ) -> EvaluationResult:
        predictions[PAIR_RIGHT], predictions[SET_RIGHT] = _pairs_and_sets(predictions)
        known: dict[Any, int] = {}  # photographs of the same objects are not independent
        for row, (part, objects) in enumerate(zip(predictions[CATEGORY], predictions[SET], strict=True)):
            same = predictions[CLUSTER][row] if objects is None else (part, objects)
            predictions[CLUSTER][row] = known.setdefault(same, len(known))
        more, chance = dict(means), dict(values.pop("chance"))
        for name, column, guess in (("pair", PAIR_RIGHT, GUESS**2), ("set", SET_RIGHT, GUESS**4)):
            parts = [part for part in dict.fromkeys(predictions[CATEGORY]) if "controlled" in part]
            of_parts = {f"{name}_{part}": Mean(column, where={CATEGORY: part}) for part in parts}
            more |= of_parts | {f"{name}_macro": Mean(column, by=CATEGORY)}
            chance |= dict.fromkeys([*of_parts, f"{name}_macro"], guess)
        return super().make_result(encoder, predictions=predictions, means=more, chance=chance, **values)


def _controlled(row: Any, where: str) -> tuple[str, list[str]]:
    image, captions = take(row, ("image_path", "caption_options"), where)
    if not isinstance(captions, list) or len(captions) < 2:
        raise ValueError(f"{where}: caption_options is {captions!r}; a list of captions is expected")
    captions = [check_text(caption, f"{where}: caption_options") for caption in captions]
    return check_text(image, f"{where}: image_path"), captions


def _two(part: str, row: Any, where: str) -> tuple[str, list[str]]:
    if not isinstance(row, list) or len(row) != 3:
        raise ValueError(f"{where}: [image, true caption, false caption] is expected, not {row!r}")
    name = str(row[0]).zfill(12) if part.startswith("coco") else str(row[0])
    return f"{name}.jpg", [check_text(caption, where) for caption in row[1:]]


def _question(key: str, image: ImageRef, name: str, captions: list[str], part: str) -> Item:
    """`name` is the image's name, in the controlled parts <object>_<relation>[_of]_<object>.jpeg."""
    steps = Path(name).stem.split("_")
    named = "controlled" in part and len(steps) >= 3
    columns = {RELATION: steps[1] if named else None, SET: f"{steps[0]}/{steps[-1]}" if named else None}
    return question(key, image, captions, 0, category=part, columns=columns)


def _pairs_and_sets(predictions: Mapping[str, list[Any]]) -> tuple[list[bool | None], list[bool | None]]:
    """For each pair of opposites and each set of two such pairs, whether all are right, in the row of the first."""
    rows: dict[tuple[str, str], dict[str, int]] = {}
    named = zip(predictions[CATEGORY], predictions[SET], predictions[RELATION], strict=True)
    for row, (part, objects, relation) in enumerate(named):
        if objects is not None:
            rows.setdefault((part, objects), {})[relation] = row
    right = predictions["accuracy"]
    pairs: list[bool | None] = [None] * len(right)
    sets: list[bool | None] = [None] * len(right)
    for of in rows.values():
        found = [(of[one], of[other]) for one, other in OPPOSITES.items() if one in of and other in of]
        for one, other in found:
            pairs[one] = right[one] and right[other]
        if len(found) == 2:
            sets[found[0][0]] = all(pairs[one] for one, _ in found)
    return pairs, sets

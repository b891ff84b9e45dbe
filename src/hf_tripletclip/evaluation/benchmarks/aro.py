# SPDX-License-Identifier: Apache-2.0
"""ARO: find the true caption among captions with another relation, other attributes or another order of words."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from PIL import Image

from hf_tripletclip.evaluation.caption_choice import ChoiceBenchmark, question
from hf_tripletclip.evaluation.images import ImageCell
from hf_tripletclip.evaluation.items import CATEGORY, Item, settled
from hf_tripletclip.evaluation.readers.annotations import ImageFinder, check_text, image_cells, read_rows, strings
from hf_tripletclip.evaluation.readers.tables import load_table, take
from hf_tripletclip.results.result import Mean

RELATION, ATTRIBUTION = "vg_relation", "vg_attribution"
KIND = "kind"  # the column of predictions: the relation, or the two attributes
GROUP = "group"  # the kind, if it counts for the macro mean
MIN_ROWS = 25  # a pair of attributes with fewer rows does not count
BOX = ("bbox_x", "bbox_y", "bbox_w", "bbox_h")
SHUFFLES = ("hard_text_1", "hard_text_2", "hard_text_3", "hard_text_4")
# Relations that the authors leave out of the mean, because they are symmetric or otherwise uninformative:
# notebooks/Replicate ARO! VG-Relation, VG-Attribution.ipynb in their repository.
LEFT_OUT_LIST = """
    adjusting; around; attached to; beside; between; bigger than; biting; boarding; brushing; by; chewing; cleaning;
    climbing; close to; coming from; coming out of; contain; crossing; dragging; draped over; drinking; drinking from;
    driving; driving down; driving on; eating from; eating in; enclosing; exiting; facing; filled with; floating in;
    floating on; flying; flying above; flying in; flying over; flying through; full of; going down; going into;
    going through; grazing in; growing in; growing on; guiding; hanging from; hanging in; hanging off; hanging over;
    higher than; holding onto; hugging; in between; jumping off; jumping on; jumping over; kept in; larger than;
    leading; leaning over; leaving; licking; longer than; looking in; looking into; looking out; looking over;
    looking through; lying next to; lying on top of; making; mixed with; mounted on; moving; near; next to; of;
    on the back of; on the edge of; on the front of; on the other side of; on the side of; opening; painted on;
    parked at; parked beside; parked by; parked in; parked in front of; parked near; parked next to; perched on;
    petting; piled on; playing; playing in; playing on; playing with; pouring; reaching for; reading; reflected on;
    riding on; running in; running on; running through; seen through; sitting behind; sitting beside; sitting by;
    sitting in front of; sitting near; sitting next to; sitting under; skiing down; skiing on; sleeping in;
    sleeping on; smiling at; sniffing; splashing; sprinkled on; stacked on; standing against; standing around;
    standing behind; standing beside; standing in front of; standing near; standing next to; staring at; stuck in;
    surrounding; swimming in; swinging; talking to; topped with; touching; traveling down; traveling on; tying;
    typing on; underneath; wading in; waiting for; walking across; walking by; walking down; walking next to;
    walking through; with; working in; working on; worn on; wrapped around; wrapped in
    """
LEFT_OUT = frozenset(name.strip() for name in LEFT_OUT_LIST.split(";"))


@dataclass(frozen=True)
class BoxedCell(ImageCell):
    """A part of an image in a dataset: left, top, right, bottom in pixels."""

    box: tuple[int, int, int, int] = (0, 0, 0, 0)

    @property
    def name(self) -> str:
        return f"{super().name}{list(self.box)}"

    @property
    def identity(self) -> str:
        return f"{super().identity}{list(self.box)}"

    def version(self) -> str:
        return f"{super().version()}:{self.box}"

    def load(self, *, as_stored: bool = False) -> Image.Image:
        image = super().load(as_stored=as_stored)
        left, top, right, bottom = self.box
        # An image with the size of the box is already the crop.
        return image if image.size == (right - left, bottom - top) else image.crop(self.box)


@dataclass(kw_only=True)
class ARO(ChoiceBenchmark):
    r"""
    ARO (Yuksekgonul et al. 2023, arXiv 2210.01936), in four parts. `vg_relation` and `vg_attribution`: of two captions
    of a region of a Visual Genome image, the one whose objects, or whose attributes, were not swapped. `coco_order`
    and `flickr30k_order`: of five captions, the one whose words were not shuffled.

    Metrics: `vg_relation`, the mean over the relations of their accuracies, without those that the authors leave out
    as symmetric; `vg_attribution`, the mean over the pairs of attributes that have at least 25 rows; `coco_order` and
    `flickr30k_order`, top-1 accuracy over the rows; `macro`, the mean of these four. These are the means of the
    authors' notebook ("VG-Relation Macro Accuracy", "VG-Attribution Macro Accuracy") and script ("Precision@1"). Also
    `vg_relation_micro` and `vg_attribution_micro`, over all rows, which is what `mteb` prints. Chance is 1/2 and 1/5.

    Args:
        annotations (`str`): The place of the parts; some may be absent. Either a folder with
            `visual_genome_relation.json` and `visual_genome_attribution.json`, the authors' files, and
            `coco_order.json` and `flickr30k_order.json`, lists of `{"image", "caption_options"}` with the true caption
            first: the authors publish no shuffled captions but shuffle as they load, and what they load has this
            shape (`json.dump(COCO_Order(...).test_cases, file)` in their repository). Or the name of who has the four
            tables `ARO-Visual-Relation`, `ARO-Visual-Attribution`, `ARO-COCO-order` and `ARO-Flickr-Order` on the Hub,
            `"mteb"`, or one of these tables, or a folder with copies of them.
        images (`str`, *optional*): Folder of the images, or of the folders `images` (Visual Genome), `val2014` and
            `flickr30k-images`. Defaults to the annotations' folder. The tables have their images.
        parts (`tuple[str, ...]`, *optional*): Only these of the four.
        protocol, allow_missing, max_rows: As in [`Benchmark`].
    """

    name: ClassVar[str] = "aro"
    title: ClassVar[str] = "ARO"
    reference: ClassVar[str] = "Yuksekgonul et al. 2023, arXiv 2210.01936"
    primary: ClassVar[str] = "macro"
    official_difference: ClassVar[str] = (
        "of equal scores the first caption wins (argmax): in coco_order and flickr30k_order that is the true one, in "
        "vg_relation and vg_attribution the false one"
    )
    FILES: ClassVar[Mapping[str, str]] = {
        RELATION: "visual_genome_relation.json",
        ATTRIBUTION: "visual_genome_attribution.json",
        "coco_order": "coco_order.json",
        "flickr30k_order": "flickr30k_order.json",
    }
    FOLDERS: ClassVar[dict[str, str]] = {
        RELATION: "images",
        ATTRIBUTION: "images",
        "coco_order": "val2014",
        "flickr30k_order": "flickr30k-images",
    }
    TABLES: ClassVar[dict[str, str]] = {
        RELATION: "ARO-Visual-Relation",
        ATTRIBUTION: "ARO-Visual-Attribution",
        "coco_order": "ARO-COCO-order",
        "flickr30k_order": "ARO-Flickr-Order",
    }
    WHERE: ClassVar[str] = (
        'see https://github.com/mertyg/vision-language-models-are-bows, or give "mteb" for the tables of the Hub'
    )

    def items(self) -> list[Item]:
        if tables := self._tables():
            return _grouped([item for part, source in tables.items() for item in _of_table(part, source, self.images)])
        files = self.files()
        base = self.image_folders()[0]
        found = []
        for part, file in files.items():
            # No other folders: names are numbers, and two folders may have the same.
            find = ImageFinder([base / self.FOLDERS[part], base])
            of_row = _relation if "vg" in part else _order
            rows = read_rows(file)
            found += settled([of_row(f"{part}/{number}", part, row, where, find) for number, row, where in rows], find)
        return _grouped(found)

    def _tables(self) -> dict[str, str]:
        """Part -> its table, if the annotations are tables."""
        self.check_path()
        names = {part: name for part, name in self.TABLES.items() if self.wants(part)}
        if one := {part: self.annotations for part, name in names.items() if self.folder.name == name}:
            return one
        if not self.folder.exists():
            return {part: f"{self.annotations}/{name}" for part, name in names.items()}
        here = {part: str(path) for part, name in names.items() if (path := self.folder / name).is_dir()}
        if here and (absent := [self.TABLES[part] for part in self.parts or () if part not in here]):
            raise FileNotFoundError(f"{self.title}: {self.folder} has no {', '.join(absent)}: {self.WHERE}")
        return here

    def means(self, predictions: Mapping[str, list[Any]], outcomes: Sequence[str]) -> dict[str, Mean]:
        found: dict[str, Mean] = {"macro": Mean("accuracy", by=GROUP, over=CATEGORY)}
        for part in self.FILES:
            rows = Mean("accuracy", where={CATEGORY: part})
            if "vg" in part:
                found[part] = Mean("accuracy", by=GROUP, where={CATEGORY: part})
                found[f"{part}_micro"] = rows
            else:
                found[part] = rows
        return found


def _relation(key: str, part: str, row: Any, where: str, find: ImageFinder) -> Item:
    image, true, false = strings(row, ("image_path", "true_caption", "false_caption"), where)
    file = replace(find(image), box=_box(take(row, BOX, where), where))
    kind = _kind(part, take(row, ("relation_name" if part == RELATION else "attributes",), where)[0], where)
    return question(key, file, [false, true], 1, category=part, columns={KIND: kind})


def _order(key: str, part: str, row: Any, where: str, find: ImageFinder) -> Item:
    image, captions = take(row, ("image", "caption_options"), where)
    if not isinstance(captions, list) or len(captions) < 2:
        raise ValueError(f"{where}: caption_options is {captions!r}; a list of captions is expected")
    captions = [check_text(caption, f"{where}: caption_options") for caption in captions]
    file = find(check_text(image, f"{where}: image"))
    return question(key, file, captions, 0, category=part, columns={KIND: None})


def _of_table(part: str, source: str, images: str | None) -> list[Item]:
    """The rows of a table with the layout of `mteb`."""
    columns = ("true_caption", "false_caption") if "vg" in part else ("correct_caption", *SHUFFLES)
    table = load_table(source, columns=columns, images=images)
    cells = image_cells(table, source)
    texts = table.select_columns([name for name in table.column_names if name not in ("image", "images")])
    items = []
    for number, (row, cell) in enumerate(zip(texts, cells, strict=True)):
        where = f"{source}, row {number}"
        captions = strings(row, columns, where)
        kind = None
        if "vg" in part:
            captions.reverse()
            kind = _kind(part, row.get("relation_name" if part == RELATION else "attributes"), where)
            if box := row.get("bbox"):
                cell = BoxedCell(
                    cell.digest, cell.dataset, cell.row, cell.column, box=_box(take(box, "xywh", where), where)
                )
        answer = 1 if "vg" in part else 0
        items.append(question(f"{part}/{number}", cell, captions, answer, category=part, columns={KIND: kind}))
    return items


def _box(values: Sequence[Any], where: str) -> tuple[int, int, int, int]:
    if not all(isinstance(value, (int, float)) and math.isfinite(value) for value in values) or min(values[2:]) <= 0:
        raise ValueError(f"{where}: the box is {values!r}; left, top, width and height are expected")
    left, top, width, height = (round(value) for value in values)
    return left, top, left + width, top + height


def _kind(part: str, value: Any, where: str) -> str | None:
    if value is None or (part == RELATION and isinstance(value, str)):
        return value
    if part == RELATION:
        raise ValueError(f"{where}: relation_name is {value!r}; a text is expected")
    if not isinstance(value, list) or len(value) < 2:
        raise ValueError(f"{where}: attributes is {value!r}; a list of two is expected")
    return f"{value[0]}_{value[1]}"


def _grouped(items: list[Item]) -> list[Item]:
    """The items with their group in the macro mean: their kind, unless it is left out."""
    rows = Counter((item.category, item.columns[KIND]) for item in items)

    def group(part: str | None, kind: str | None) -> str | None:
        if part not in (RELATION, ATTRIBUTION):
            return part  # all rows of the part form one group
        counts = kind not in LEFT_OUT if part == RELATION else rows[part, kind] >= MIN_ROWS
        return kind if counts else None

    return [replace(item, columns={**item.columns, GROUP: group(item.category, item.columns[KIND])}) for item in items]

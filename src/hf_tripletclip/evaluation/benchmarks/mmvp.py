# SPDX-License-Identifier: Apache-2.0
"""MMVP-VLM: pairs of images that CLIP takes for similar, and a statement that is true of each."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

from hf_tripletclip.data.raw import check_local_path
from hf_tripletclip.evaluation.images import ImageFile
from hf_tripletclip.evaluation.items import CHANCE, CHOOSE_IMAGE, Comparisons, Item
from hf_tripletclip.evaluation.questions import ItemBenchmark
from hf_tripletclip.evaluation.readers.tables import read_csv

FILE, IMAGES = "Questions.csv", "MLLM_VLM Images"
COMPARISONS: Comparisons = {"accuracy": CHOOSE_IMAGE}
PREFIX = "a photo of "
PAIRS_OF_A_CATEGORY = 15  # by position in the file, in the official script
OFFICIAL_CATEGORIES = (
    "Orientation and Direction",
    "Presence of Specific Features",
    "State and Condition",
    "Quantity and Count",
    "Positional and Relational Context",
    "Color and Appearance",
    "Structural Characteristics",
    "Texts",
    "Viewpoint and Perspective",
)
Row = tuple[int, str, str]  # id, type, statement


@dataclass(kw_only=True)
class MMVP(ItemBenchmark):
    r"""
    MMVP-VLM (Tong et al. 2024, "Eyes Wide Shut", arXiv 2401.06209): 135 pairs of images, 15 of each of nine visual
    patterns, with a statement that is true of one of them only.

    Metrics: the share of pairs whose two statements choose their images, of each pattern under its name in the file,
    `macro` (over the patterns) and `micro` (over the pairs); chance is 1/4. An odd id and the next one are a pair,
    in any order of the rows, and a statement belongs to the image of its id.

    Args:
        data (`str`, defaults to `MMVP/MMVP_VLM`): The Hub dataset, or a folder with its files: `Questions.csv` (id,
            type, statement) and the images as `MLLM_VLM Images/TYPE/ID.jpg`.
        images (`str`, *optional*): Folder of the folders TYPE. Defaults to `MLLM_VLM Images` beside the file.
        revision (`str`, *optional*): Branch, tag or commit of the Hub dataset.
        protocol, allow_missing, max_rows: As in [`Benchmark`].
    """

    name: ClassVar[str] = "mmvp"
    title: ClassVar[str] = "MMVP-VLM"
    reference: ClassVar[str] = "Tong et al. 2024, arXiv 2401.06209"
    hub_dataset: ClassVar[str | None] = "MMVP/MMVP_VLM"
    primary: ClassVar[str] = "macro"
    official_difference: ClassVar[str] = (
        "statements begin with 'a photo of ', a tie chooses the pair's second image, two rows that follow each other "
        "are a pair whose odd id means the first row's image, and every 15 pairs are a pattern"
    )

    data: str = "MMVP/MMVP_VLM"
    images: str | None = None
    revision: str | None = None

    def items(self) -> list[Item]:
        folder = self._folder()
        rows = _read(folder / FILE)
        pictures = folder / IMAGES if self.images is None else Path(self.images).expanduser()
        if self.protocol == "official":
            return _official_items(folder, pictures, rows)
        pairs: dict[int, dict[int, Row]] = {}
        for row in rows:
            pairs.setdefault((row[0] + 1) // 2, {})[row[0]] = row
        items = []
        for pair in pairs.values():
            if len(pair) != 2 or len({kind for _, kind, _ in pair.values()}) != 1:
                raise ValueError(
                    f"{folder / FILE}: an odd id and the next are a pair of one type; here are {[*pair.values()]}"
                )
            one, other = (pair[number] for number in sorted(pair))
            items.append(_item(pictures, (one, other), (one[2], other[2]), one[1]))
        return items

    def official_outcomes(self, item: Item, scores: Mapping[str, float]) -> dict[str, bool]:
        first = {"c0": scores["i0c0"] > scores["i1c0"], "c1": scores["i0c1"] > scores["i1c1"]}
        ids = (int(number) for number in item.key.split("-"))
        return {"accuracy": list(first.values()) == [number % 2 == 1 for number in ids]}

    def chance(self, items: Sequence[Item]) -> dict[str, float]:
        return {"accuracy": CHANCE["image_score"]}

    def _folder(self) -> Path:
        folder = Path(self.data).expanduser()
        check_local_path(os.fspath(folder))
        if not folder.is_dir() and self.data.count("/") == 1 and not os.path.isabs(self.data):
            try:
                folder = Path(snapshot_download(self.data, repo_type="dataset", revision=self.revision))
            except (RepositoryNotFoundError, LocalEntryNotFoundError, HfHubHTTPError, ConnectionError) as error:
                raise FileNotFoundError(
                    f"{self.data!r} is neither a folder that exists nor a dataset of the Hub that can be reached: "
                    f"{error}"
                ) from error
        if not (folder / FILE).is_file():
            raise FileNotFoundError(
                f"MMVP-VLM: {folder} has no {FILE}: get https://huggingface.co/datasets/MMVP/MMVP_VLM"
            )
        return folder


def _read(path: Path) -> list[Row]:
    """The rows, by the position of their columns, as in the official script: headers differ."""
    rows: dict[int, Row] = {}
    for line, row in enumerate(read_csv(path, ()), 2):
        values = list(row.values())
        if len(values) != 3 or not all(isinstance(value, str) and value.strip() for value in values):
            raise ValueError(f"{path}, row {line}: id, type, statement are expected, not {values}")
        if not values[0].strip().isdecimal() or int(values[0]) in rows:
            raise ValueError(f"{path}, row {line}: {values[0]!r} is no id, or one that an earlier row has")
        rows[int(values[0])] = (int(values[0]), values[1].strip(), values[2].strip())
    return list(rows.values())


def _item(pictures: Path, rows: tuple[Row, Row], captions: tuple[str, str], category: str) -> Item:
    (one, kind, _), (other, _, _) = rows
    return Item(
        key=f"{one}-{other}",
        images=tuple(ImageFile(str(pictures / kind / f"{number}.jpg")) for number in (one, other)),
        captions=captions,
        comparisons=COMPARISONS,
        category=category,
    )


def _official_items(folder: Path, pictures: Path, rows: Sequence[Row]) -> list[Item]:
    pairs = list(zip(rows[::2], rows[1::2], strict=False))
    if len(pairs) > len(OFFICIAL_CATEGORIES) * PAIRS_OF_A_CATEGORY:
        raise ValueError(
            f"{folder / FILE} has {len(pairs)} pairs; the official script takes 135: use --protocol strict"
        )
    return [
        _item(
            pictures,
            pair,
            (PREFIX + pair[0][2], PREFIX + pair[1][2]),
            OFFICIAL_CATEGORIES[index // PAIRS_OF_A_CATEGORY],
        )
        for index, pair in enumerate(pairs)
    ]

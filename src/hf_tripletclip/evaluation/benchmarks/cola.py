# SPDX-License-Identifier: Apache-2.0
"""Cola, multiple objects: find the photograph of two of which a caption is true."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlparse

from hf_tripletclip.evaluation.images import find_image
from hf_tripletclip.evaluation.items import CHANCE, CHOOSE_IMAGE, Comparisons, Item
from hf_tripletclip.evaluation.questions import ItemBenchmark
from hf_tripletclip.evaluation.readers.tables import image_folders
from hf_tripletclip.utils.files import read_json

FILE = "COLA_multiobjects_matching_benchmark.json"
COMPARISONS: Comparisons = {"accuracy": CHOOSE_IMAGE}


@dataclass(kw_only=True)
class Cola(ItemBenchmark):
    r"""
    Cola in its multi-object setting (Ray et al. 2023, arXiv 2305.03689): 210 pairs of Visual Genome photographs with
    a caption each, whose objects and attributes are combined in another way.

    Metrics: `accuracy`, the share of rows in which both captions choose their image (chance 1/4). The official script
    agrees: it is strict.

    Args:
        annotations (`str`): `COLA_multiobjects_matching_benchmark.json` of github.com/arijitray1993/COLA, or its
            folder: a list of [URL of image 1, caption 1, URL of image 2, caption 2].
        images (`str`, *optional*): Folder of the Visual Genome images, by the file names of the URLs, such as
            `2414605.jpg`. Defaults to the annotations' folder, or one in it.
        protocol, allow_missing, max_rows: As in [`Benchmark`].
    """

    name: ClassVar[str] = "cola"
    title: ClassVar[str] = "Cola"
    reference: ClassVar[str] = "Ray et al. 2023, arXiv 2305.03689"
    primary: ClassVar[str] = "accuracy"

    annotations: str
    images: str | None = None

    def items(self) -> list[Item]:
        file = Path(self.annotations).expanduser()
        file = file / FILE if file.is_dir() else file
        if not file.is_file():
            raise FileNotFoundError(
                f"Cola: there is no {file}: get it from the folder data/ of https://github.com/arijitray1993/COLA"
            )
        rows = read_json(file)
        if not isinstance(rows, list):
            raise ValueError(f"{file}: a JSON list of rows is expected, not {type(rows).__name__}")
        folders = image_folders(file, self.images)
        items = []
        for number, row in enumerate(rows):
            if not (
                isinstance(row, list) and len(row) == 4 and all(isinstance(value, str) and value for value in row)
            ):
                raise ValueError(f"{file}, row {number}: [url, caption, url, caption] is expected, not {row!r:.200}")
            one, caption, other, other_caption = row
            items.append(
                Item(
                    key=str(number),
                    images=tuple(find_image(folders, Path(urlparse(url).path).name) for url in (one, other)),
                    captions=(caption, other_caption),
                    comparisons=COMPARISONS,
                )
            )
        return items

    def chance(self, items: Sequence[Item]) -> dict[str, float]:
        return {"accuracy": CHANCE["image_score"]}

# SPDX-License-Identifier: Apache-2.0
"""`PairsBenchmark`: benchmarks whose rows have two images and two captions, read from a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from datasets import Dataset

from hf_tripletclip.data.decoding import BrokenValue, decode_caption
from hf_tripletclip.data.loading import undecoded
from hf_tripletclip.evaluation.images import EXTENSIONS, ImageCell, ImageRef, find_image
from hf_tripletclip.evaluation.items import CHANCE, WINOGROUND, Comparisons, Item
from hf_tripletclip.evaluation.questions import ItemBenchmark
from hf_tripletclip.evaluation.readers.tables import image_folders, load_table

ID = "id"


@dataclass(kw_only=True)
class PairsBenchmark(ItemBenchmark):
    """
    A benchmark whose rows have two images and two captions. The first caption is true of the first image, the second
    of the second. A subclass names the columns and the place of the table.

    Args:
        data (`str`): Id of a Hub dataset; a folder of parquet files; the folder that the authors' download unpacks
            to; or a file of parquet, JSON or JSON lines.
        split (`str`, *optional*): Defaults to `test`, or to what a single file holds.
        images (`str`, *optional*): Folder of the images, if the table has file names. Defaults to the table's folder,
            or one in it.
        revision (`str`, *optional*): Branch, tag or commit of a Hub dataset.
        protocol, allow_missing, max_rows: As in [`Benchmark`].
    """

    primary: ClassVar[str] = "group_score"
    image_columns: ClassVar[tuple[str, str]]
    caption_columns: ClassVar[tuple[str, str]]
    further: ClassVar[tuple[str, ...]] = ()  # columns to put into the predictions, if the table has them
    files: ClassVar[tuple[str, ...]] = ()  # possible places of the rows in the authors' download
    comparisons: ClassVar[Comparisons] = WINOGROUND

    data: str
    split: str | None = None
    images: str | None = None
    revision: str | None = None

    def items(self) -> list[Item]:
        table, file = self._table()
        pictures = list(zip(*(self._pictures(table, column, file) for column in self.image_columns), strict=True))
        further = [name for name in self.further if name in table.column_names]
        keys = table[ID] if ID in table.column_names else range(len(table))
        texts = table.select_columns([*self.caption_columns, *further])
        return [
            Item(
                key=str(key),
                images=pair,
                captions=tuple(self._caption(row[name], number, name) for name in self.caption_columns),
                comparisons=self.comparisons,
                category=self.category(row),
                columns={name: row[name] for name in further},
            )
            for number, (key, pair, row) in enumerate(zip(keys, pictures, texts, strict=True))
        ]

    def category(self, row: dict[str, Any]) -> str | None:
        """The category of a row with the `further` columns."""
        return None

    def chance(self, items: Sequence[Item]) -> dict[str, float]:
        return dict(CHANCE)

    def _table(self) -> tuple[Dataset, Path]:
        """The rows, with undecoded images, and the file or folder that they come from."""
        path = Path(self.data).expanduser()
        path = next((path / name for name in self.files if (path / name).is_file()), path)
        split = self.split or (None if path.is_file() else "test")
        source = str(path) if path.exists() else self.data
        columns = (*self.image_columns, *self.caption_columns)
        table = load_table(source, split, columns=columns, revision=self.revision, images=self.images)
        return undecoded(table, self.image_columns), path

    def _pictures(self, table: Dataset, column: str, file: Path) -> Sequence[ImageRef]:
        if getattr(table.features[column], "dtype", None) not in ("string", "large_string"):
            return ImageCell.of_column(table, column)
        folders = image_folders(file, self.images)
        return [
            _find(folders, name, f"{self.title}: {file}, row {n}, {column}") for n, name in enumerate(table[column])
        ]

    def _caption(self, value: Any, row: int, column: str) -> str:
        try:
            return decode_caption(value)
        except BrokenValue as error:
            raise ValueError(f"{self.title}: {self.source}, row {row}: {error} in {column}") from error


def _find(folders: Sequence[Path], name: Any, where: str) -> ImageRef:
    """The image file with this name, which may lack the extension."""
    if not name:
        raise ValueError(f"{where}: no file name")
    if Path(name).suffix.lower() in EXTENSIONS:
        return find_image(folders, name)
    found = [find_image(folders, f"{name}{extension}") for extension in (".png", ".jpg", ".jpeg")]
    return next((image for image in found if image.exists()), found[0])

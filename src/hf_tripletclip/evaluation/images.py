# SPDX-License-Identifier: Apache-2.0
"""References to the images of a benchmark: their names and places. The images are read when they are encoded."""

from __future__ import annotations

import filecmp
import hashlib
import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from hf_tripletclip.data.decoding import decode_image, is_several

LISTED = 5  # names in a message
EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
LEFT_BEHIND = ("__MACOSX", "@eaDir", "Thumbs.db", "desktop.ini")  # files of archives and file managers


def is_left_behind(name: str) -> bool:
    """Whether a file or folder is not data: it is hidden (`._x.jpg`, `.DS_Store`) or in `LEFT_BEHIND`."""
    return name.startswith(".") or name in LEFT_BEHIND


@dataclass(frozen=True)
class ImageFile:
    """
    An image in a file.

    Args:
        path (`str`): The file.
        box (`tuple[int, int, int, int]`, *optional*): Only this part of it: left, top, right, bottom in pixels.
        said (`str`, *optional*): The name in the annotations, if the file was found by the end of this name.
    """

    path: str
    box: tuple[int, int, int, int] | None = None
    said: str | None = field(default=None, compare=False, repr=False)

    @property
    def name(self) -> str:
        """Its name in reports."""
        return Path(self.path).name if self.box is None else f"{Path(self.path).name}{list(self.box)}"

    @property
    def identity(self) -> str:
        """A name that is unique in its benchmark and does not depend on the folder of the files."""
        return self.name

    def exists(self) -> bool:
        return os.path.isfile(self.path)

    def in_file(self) -> bool:
        """Whether the image is in a file of its own, not in a row."""
        return True

    def version(self) -> str:
        """A text that changes when the file changes: part of the key of cached embeddings."""
        if not self.exists():
            return f"{os.path.abspath(self.path)}:{self.box}:missing"
        status = os.stat(self.path)
        return f"{os.path.abspath(self.path)}:{self.box}:{status.st_size}:{status.st_mtime_ns}"

    def load(self, *, as_stored: bool = False) -> Image.Image:
        """
        The RGB image.

        Args:
            as_stored (`bool`, defaults to `False`): As in [`~hf_tripletclip.data.decoding.decode_image`].

        Raises:
            BrokenValue: The image cannot be read.
        """
        image = decode_image(self.path, as_stored=as_stored)
        return image if self.box is None else image.crop(self.box)


@dataclass(frozen=True)
class ImageCell:
    """
    An image in a dataset. Cells with the same contents are equal, so each image is encoded once.

    Args:
        digest (`str`): The digest of the contents.
        dataset (`datasets.Dataset`): A dataset that does not decode its images, see
            [`~hf_tripletclip.data.loading.undecoded`].
        row (`int`): The row.
        column (`str`): The column.
        place (`int`, *optional*): The place of the image, if the cell has several.
    """

    digest: str
    dataset: Any = field(compare=False, repr=False)
    row: int = field(compare=False)
    column: str = field(compare=False)
    place: int | None = field(default=None, compare=False)

    @classmethod
    def of(cls, dataset: Any, row: int, column: str) -> ImageCell:
        """The image in a row and column of a dataset. Its contents are read, not decoded."""
        return cls(content_digest(dataset[row][column]) or f"{column}:{row}", dataset, row, column)

    @classmethod
    def of_column(
        cls, dataset: Any, column: str, usable: Sequence[Collection[int] | None] | None = None
    ) -> list[ImageCell]:
        """
        All images of a column. If a row has several, the first that is not empty.

        Args:
            dataset (`datasets.Dataset`): As above.
            column (`str`): The column.
            usable (`Sequence`, *optional*): For each row with several images, the places that may be chosen.
        """
        cells = []
        for row, values in enumerate(dataset.select_columns([column])):
            value, place = values[column], None
            if is_several(value):
                places = range(len(value)) if usable is None or usable[row] is None else usable[row]
                place = next((one for one in places or () if one < len(value) and value[one] is not None), None)
                value = None if place is None else value[place]
            cells.append(cls(content_digest(value) or f"{column}:{row}", dataset, row, column, place))
        return cells

    @property
    def name(self) -> str:
        return f"{self.column} of row {self.row}"

    @property
    def identity(self) -> str:
        return self.digest

    def exists(self) -> bool:
        return True

    def in_file(self) -> bool:
        value = self._value()
        return isinstance(value, dict) and value.get("bytes") is None and value.get("path") is not None

    def version(self) -> str:
        return self.digest

    def load(self, *, as_stored: bool = False) -> Image.Image:
        return decode_image(self._value(), as_stored=as_stored)

    def _value(self) -> Any:
        value = self.dataset[self.row][self.column]
        if not is_several(value):
            return value
        return None if self.place is None else value[self.place]


ImageRef = ImageFile | ImageCell


def content_digest(value: Any) -> str | None:
    """A digest of the contents of an image in a cell of a dataset; `None` if the cell is empty."""
    if isinstance(value, dict):
        value = value["bytes"] if value.get("bytes") is not None else value.get("path")
    if isinstance(value, Image.Image):
        value = f"{value.mode}{value.size}".encode() + value.tobytes()
    if isinstance(value, str):
        # The contents of a file count, not its path, which differs between machines.
        value = Path(value).read_bytes() if os.path.isfile(value) else value.encode("utf-8", "surrogatepass")
    return hashlib.sha256(value).hexdigest() if isinstance(value, bytes) else None


def find_image(folders: Sequence[str | os.PathLike[str]], name: str) -> ImageFile:
    """
    The image file with this name: in the first folder, else in another folder; if no folder has it, its path in the
    first folder.

    Raises:
        ValueError: Several of the other folders have the file, and these files differ.
    """
    first, *others = (str(Path(folder) / name) for folder in folders)
    return ImageFile(first if os.path.isfile(first) else the_one(filter(os.path.isfile, others)) or first)


def the_one(paths: Iterable[str]) -> str | None:
    """
    The file, of which there may be copies and links; `None` if there is none.

    Raises:
        ValueError: Two of the files differ.
    """
    found = list(paths)
    for other in found[1:]:
        if not filecmp.cmp(found[0], other, shallow=False):
            raise ValueError(
                f"which image is it, {found[0]} or {other}? They differ: say which folder it is in (`images`)"
            )
    return found[0] if found else None

# SPDX-License-Identifier: Apache-2.0
"""Images of a benchmark by reference: what they are called, where they lie; they are read when they are encoded."""

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
LEFT_BEHIND = ("__MACOSX", "@eaDir", "Thumbs.db", "desktop.ini")  # by archives and file managers


def is_left_behind(name: str) -> bool:
    """Whether a file or folder is none of the data: hidden (`._x.jpg`, `.DS_Store`), or of an archive's own."""
    return name.startswith(".") or name in LEFT_BEHIND


@dataclass(frozen=True)
class ImageFile:
    """
    An image in a file.

    Args:
        path (`str`): The file.
        box (`tuple[int, int, int, int]`, *optional*): Only this part of it: left, top, right, bottom in pixels.
        said (`str`, *optional*): What the annotations call it, where the file was found by the end of that alone.
    """

    path: str
    box: tuple[int, int, int, int] | None = None
    said: str | None = field(default=None, compare=False, repr=False)

    @property
    def name(self) -> str:
        """What reports call it."""
        return Path(self.path).name if self.box is None else f"{Path(self.path).name}{list(self.box)}"

    @property
    def identity(self) -> str:
        """What tells it from others of its benchmark, wherever the files lie."""
        return self.name

    def exists(self) -> bool:
        return os.path.isfile(self.path)

    def in_file(self) -> bool:
        """Whether it is in a file of its own, not in a row."""
        return True

    def version(self) -> str:
        """Changes where the file does: part of the key of cached embeddings."""
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
            BrokenValue: It cannot be read.
        """
        image = decode_image(self.path, as_stored=as_stored)
        return image if self.box is None else image.crop(self.box)


@dataclass(frozen=True)
class ImageCell:
    """
    An image in a dataset. Cells of the same contents are equal, so that each image is encoded once.

    Args:
        digest (`str`): Of the contents.
        dataset (`datasets.Dataset`): It leaves its images undecoded, see [`~hf_tripletclip.data.loading.undecoded`].
        row (`int`): The row.
        column (`str`): The column.
        place (`int`, *optional*): Which of several images in the cell.
    """

    digest: str
    dataset: Any = field(compare=False, repr=False)
    row: int = field(compare=False)
    column: str = field(compare=False)
    place: int | None = field(default=None, compare=False)

    @classmethod
    def of(cls, dataset: Any, row: int, column: str) -> ImageCell:
        """The image of a dataset's row and column; its contents are read, not decoded."""
        return cls(content_digest(dataset[row][column]) or f"{column}:{row}", dataset, row, column)

    @classmethod
    def of_column(
        cls, dataset: Any, column: str, usable: Sequence[Collection[int] | None] | None = None
    ) -> list[ImageCell]:
        """
        All images of a column; of several in a row the first that is there.

        Args:
            dataset (`datasets.Dataset`): As above.
            column (`str`): The column.
            usable (`Sequence`, *optional*): Of each row, the places of several images that are looked at.
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
    """The same for images of the same contents in a dataset's cells; `None` where nothing says what these are."""
    if isinstance(value, dict):
        value = value["bytes"] if value.get("bytes") is not None else value.get("path")
    if isinstance(value, Image.Image):
        value = f"{value.mode}{value.size}".encode() + value.tobytes()
    if isinstance(value, str):
        # Of a file the contents count, which may change, and not the path, which is another on another machine.
        value = Path(value).read_bytes() if os.path.isfile(value) else value.encode("utf-8", "surrogatepass")
    return hashlib.sha256(value).hexdigest() if isinstance(value, bytes) else None


def find_image(folders: Sequence[str | os.PathLike[str]], name: str) -> ImageFile:
    """
    The image file of this name in the first folder, or in the others where that has none; in the first folder where
    none has it.

    Raises:
        ValueError: Several of the other folders have it, and these files differ.
    """
    first, *others = (str(Path(folder) / name) for folder in folders)
    return ImageFile(first if os.path.isfile(first) else the_one(filter(os.path.isfile, others)) or first)


def the_one(paths: Iterable[str]) -> str | None:
    """
    The file, of which there may be copies and links; `None` where there is none.

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

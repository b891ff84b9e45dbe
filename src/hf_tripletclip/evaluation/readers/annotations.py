# SPDX-License-Identifier: Apache-2.0
"""Annotation files: their rows, the texts in them, and the image files that they name."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from datasets import Dataset, List
from datasets import Image as ImageFeature

from hf_tripletclip.data.decoding import BrokenValue, decode_caption
from hf_tripletclip.data.loading import undecoded
from hf_tripletclip.evaluation.images import ImageCell, ImageFile, ImageRef, the_one
from hf_tripletclip.evaluation.readers.tables import image_folders, load_table, take
from hf_tripletclip.utils.files import read_json

EXAMPLES = "examples.jsonl"


def read_rows(path: Path) -> Iterator[tuple[str, Any, str]]:
    """
    The rows of a JSON file: a list of rows, or an object with rows by id.

    Yields:
        `tuple[str, Any, str]`: The row's id or number, the row, and file and id for messages.

    Raises:
        ValueError: The file is neither.
    """
    rows = read_json(path)
    if not isinstance(rows, (dict, list)):
        raise ValueError(f"{path}: a JSON object of rows by id, or a list, is expected, not {type(rows).__name__}")
    for key, row in rows.items() if isinstance(rows, dict) else enumerate(rows):
        yield str(key), row, f"{path}, row {key!r}"


def strings(row: Any, names: Sequence[str], where: str) -> list[str]:
    """
    The texts of a JSON object for these names.

    Raises:
        ValueError: The row is not an object, a name is missing, or a value is not a text.
    """
    values = take(row, names, where)
    for name, value in zip(names, values, strict=True):
        check_text(value, f"{where}: {name}")
    return values


def check_text(value: Any, where: str) -> str:
    """
    The value, if it is a text and not empty.

    Raises:
        ValueError: It is not a text, or it is empty.
    """
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{where} is {value!r}; a text is expected")
    try:
        return decode_caption(value)
    except BrokenValue as error:  # it holds lone surrogates
        raise ValueError(f"{where} is {value!r}: {error}") from error


class ImageFinder:
    """
    Finds image files by names that may be paths on another machine. The file with the longest end of the name counts,
    unless the rest of the name distinguishes two images.

    Args:
        folders (`Sequence[Path]`): The folders to search, in this order.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self.roots = [os.fspath(path) for path in folders if path.parent != folders[0]]
        self.inside: dict[str, list[str]] = {}  # file name -> the folders inside the first folder that hold it
        for folder in folders:
            if folder.parent == folders[0] and folder.is_dir():
                for name in os.listdir(folder):
                    self.inside.setdefault(name, []).append(os.fspath(folder))
        self.known: dict[str, ImageFile] = {}
        self.names: dict[str, set[tuple[str, ...]]] = {}  # file -> the names by which it was found
        self.spoken_of: set[str] = set()  # the folders in the names

    def __call__(self, name: str) -> ImageFile:
        """
        The image file; if there is none, the path of the whole name in the first folder. When all names are known,
        [`settle`] checks whether the file is certain.

        Raises:
            ValueError: Two files with the whole name differ.
        """
        if name not in self.known:
            steps = _steps(name)
            path, dropped = self._find(steps)
            self.names.setdefault(path, set()).add(steps)
            self.spoken_of.update(steps[:-1])
            self.known[name] = ImageFile(path, said=name if dropped else None)
        return self.known[name]

    def settle(self, image: ImageRef) -> ImageRef:
        """
        The image, or a missing image instead if it was found only by the end of its name, and either another name
        leads to the same file, or the file is in a folder that other names contain and this one does not.
        """
        if not isinstance(image, ImageFile) or image.said is None:
            return image
        steps = _steps(image.said)
        elsewhere = (self.spoken_of - set(steps)) & set(self._within(image.path))
        if len(self.names[image.path]) == 1 and not elsewhere:
            return image
        return replace(image, path=self._missing(steps))

    def _within(self, path: str) -> tuple[str, ...]:
        """The folders between the first one and the file."""
        return () if self.roots[0] not in path else Path(os.path.relpath(path, self.roots[0])).parts[:-1]

    def _find(self, steps: tuple[str, ...]) -> tuple[str, bool]:
        """The path, and whether only the end of the name matches it."""
        for start in range(len(steps)):
            end = steps[start:]
            paths = [os.path.join(root, *end) for root in self.roots]
            if found := next(filter(os.path.isfile, paths), None):
                return found, start > 0
            folders = self.inside.get(end[0], ())
            if start:  # `patient2/a.png` is not in `patient1`
                folders = [
                    folder for folder in folders if not _same_series(os.path.basename(folder), steps[start - 1])
                ]
            inside = [path for folder in folders if os.path.isfile(path := os.path.join(folder, *end))]
            try:
                if found := the_one(inside):
                    return found, start > 0
            except ValueError:
                if start == 0:
                    raise
                break  # the rest of the name says which of them it is
        return self._missing(steps), False

    def _missing(self, steps: tuple[str, ...]) -> str:
        return os.path.join(self.roots[0], *steps)


def _steps(name: str) -> tuple[str, ...]:
    return PurePosixPath(name.replace("\\", "/")).parts


def _same_series(one: str, other: str) -> bool:
    """Whether two names differ in their numbers only."""
    return one != other and re.sub(r"\d+", "0", one) == re.sub(r"\d+", "0", other)


def image_cells(table: Dataset, source: str) -> list[ImageCell]:
    """
    The image of each row of a table, from its column `image` or `images`. The first image of a list counts.

    Raises:
        ValueError: The table has no such column.
    """
    features = table.features
    column = next((name for name in ("image", "images") if name in features), None)
    if column is None:
        raise ValueError(f"{source} has no column image or images; it has {', '.join(features)}")
    if isinstance(features[column], List):
        undecoded_list = List(ImageFeature(decode=False))
        table = table.select_columns([column]).cast_column(column, undecoded_list)
        table = table.map(
            lambda lists: {column: [images[0] if images else None for images in lists]},
            input_columns=[column],
            batched=True,
            features=type(table.features)({column: ImageFeature(decode=False)}),
        )
    return ImageCell.of_column(undecoded(table, [column]), column)


def listed_rows(source: str, images: str | None) -> Iterator[tuple[int, dict[str, Any], ImageRef, str]]:
    """
    The rows of a copy of the Hub's `Mayfull/valse_vlms` or `Mayfull/whats_up_vlms`, or of a similar table. It has
    lists of captions, `positive_caption` and `negative_caption`, and the image in `images` or its file in
    `image_file_name`.

    Args:
        source (`str`): `examples.jsonl`, a folder that has it, or any table.
        images (`str`, *optional*): The folder of the images. Defaults to the folder of the rows, and `images` in it.

    Yields:
        `tuple`: The row's number, the row, its image, and source and number for messages.

    Raises:
        OSError: The source does not exist.
        ValueError: The source does not have this layout.
    """
    path = Path(source).expanduser()
    path = path / EXAMPLES if (path / EXAMPLES).is_file() else path
    lists = ("positive_caption", "negative_caption")
    table = load_table(path if path.exists() else source, columns=lists, images=images)
    files: list[ImageRef] | None = None
    if "image_file_name" in table.column_names:
        base = image_folders(path, images)[0]
        find = ImageFinder([base, base / "images"])
        names = enumerate(table["image_file_name"])
        files = [find(check_text(name, f"{source}, row {number}: image_file_name")) for number, name in names]
        files = [find.settle(image) for image in files]
    found: Sequence[ImageRef] = image_cells(table, source) if files is None else files
    texts = table.select_columns([name for name in table.column_names if name not in ("image", "images")])
    for number, row in enumerate(texts):
        where = f"{source}, row {number}"
        for name in lists:
            if not isinstance(row[name], list) or not row[name]:
                raise ValueError(f"{where}: {name} is {row[name]!r}; a list of captions is expected")
            for caption in row[name]:
                check_text(caption, f"{where}: {name}")
        yield number, row, found[number], where

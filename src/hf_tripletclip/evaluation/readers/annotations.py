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
from hf_tripletclip.evaluation.readers.images import ImageCell, ImageFile, ImageRef, the_one
from hf_tripletclip.evaluation.readers.tables import image_folders, load_table, read_json, take

EXAMPLES = "examples.jsonl"


def read_rows(path: Path) -> Iterator[tuple[str, Any, str]]:
    """
    The rows of a JSON file, which is a list or an object of rows by id.

    Yields:
        `tuple[str, Any, str]`: The row's id or number, the row, and file and id for messages.

    Raises:
        ValueError: It is neither.
    """
    rows = read_json(path)
    if not isinstance(rows, (dict, list)):
        raise ValueError(f"{path}: a JSON object of rows by id, or a list, is expected, not {type(rows).__name__}")
    for key, row in rows.items() if isinstance(rows, dict) else enumerate(rows):
        yield str(key), row, f"{path}, row {key!r}"


def strings(row: Any, names: Sequence[str], where: str) -> list[str]:
    """
    The values of these names of a JSON object, which are texts.

    Raises:
        ValueError: It is no object, lacks one of them, or one is no text.
    """
    values = take(row, names, where)
    for name, value in zip(names, values, strict=True):
        check_text(value, f"{where}: {name}")
    return values


def check_text(value: Any, where: str) -> str:
    """
    The value, which is a text that is not empty.

    Raises:
        ValueError: It is not.
    """
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{where} is {value!r}, where a text is expected")
    try:
        return decode_caption(value)
    except BrokenValue as error:  # it holds what is no character
        raise ValueError(f"{where} is {value!r}: {error}") from error


class ImageFinder:
    """
    Finds image files by names that may be paths of other people's folders: the longest end of it that is there counts,
    unless what it leaves out tells two images apart.

    Args:
        folders (`Sequence[Path]`): Where to look, in this order.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self.roots = [os.fspath(path) for path in folders if path.parent != folders[0]]
        self.inside: dict[str, list[str]] = {}  # what is directly in a folder inside the first one -> these folders
        for folder in folders:
            if folder.parent == folders[0] and folder.is_dir():
                for name in os.listdir(folder):
                    self.inside.setdefault(name, []).append(os.fspath(folder))
        self.known: dict[str, ImageFile] = {}
        self.names: dict[str, set[tuple[str, ...]]] = {}  # file -> the names that it was found by
        self.spoken_of: set[str] = set()  # the folders in the names

    def __call__(self, name: str) -> ImageFile:
        """
        The image file; where there is none, that of the whole name in the first folder. With all names known,
        [`settle`] says whether it is certain.

        Raises:
            ValueError: Two files of the whole name differ.
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
        The image, or a missing one instead, if it was found by the end of its name alone and either another name leads
        to the same file, or the file is in a folder that other names speak of and this one does not.
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
        """The path, and whether it has only the end of the name."""
        for start in range(len(steps)):
            end = steps[start:]
            paths = [os.path.join(root, *end) for root in self.roots]
            if found := next(filter(os.path.isfile, paths), None):
                return found, start > 0
            folders = self.inside.get(end[0], ())
            if start:  # of `patient2/a.png` none is in `patient1`
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
                break  # what the end leaves out says which of them it is
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
    The image of each row of a table, from its column `image` or `images`; of a list, the first.

    Raises:
        ValueError: It has no such column.
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
    The rows of a copy of the Hub's `Mayfull/valse_vlms` or `Mayfull/whats_up_vlms`, or of a table like them: with
    lists of captions, `positive_caption` and `negative_caption`, and the image as `images` or by `image_file_name`.

    Args:
        source (`str`): `examples.jsonl`, a folder that has it, or any table.
        images (`str`, *optional*): The folder of the images. Defaults to the one of the rows, and `images` in it.

    Yields:
        `tuple`: The row's number, the row, its image, and source and number for messages.

    Raises:
        OSError: There is none.
        ValueError: It is not of this layout.
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
                raise ValueError(f"{where}: {name} is {row[name]!r}, where a list of captions is expected")
            for caption in row[name]:
                check_text(caption, f"{where}: {name}")
        yield number, row, found[number], where

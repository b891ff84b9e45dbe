# SPDX-License-Identifier: Apache-2.0
"""Reading a benchmark's data: official JSON and CSV files, tables in folders or on the Hub."""

from __future__ import annotations

import contextlib
import csv
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import (
    Dataset,
    DatasetDict,
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
    load_dataset_builder,
)
from datasets.exceptions import DatasetNotFoundError
from huggingface_hub.errors import GatedRepoError

from hf_tripletclip.data.folders import csv_separator, data_files
from hf_tripletclip.data.loading import load_tripletdata, undecoded
from hf_tripletclip.data.raw import absolute_folder, as_arguments, check_local_path, load_raw, not_found
from hf_tripletclip.data.schema import ERROR
from hf_tripletclip.evaluation.images import EXTENSIONS, is_left_behind

UNKNOWN_SPLIT = re.compile(
    r"(?:Should be one of \[|has no split [^;]*; it has )([^\]:\n]*)"
)  # in messages of several libraries
SAVED = ("dataset_dict.json", "state.json")  # files of `save_to_disk`


def read_csv(path: str | os.PathLike[str], columns: Sequence[str]) -> list[dict[str, str]]:
    """
    The rows of a CSV file with a header.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A column or a value of a row is missing; the message says which.
    """
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        try:
            if missing := [name for name in columns if name not in (reader.fieldnames or ())]:
                raise ValueError(f"{path} has no column {', '.join(missing)}; it has {reader.fieldnames}")
            rows = list(reader)
        except csv.Error as error:
            raise ValueError(f"{path}, line {reader.line_num}, is no CSV: {error}") from error
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not UTF-8: byte {error.start}: {error.reason}") from error
    for number, row in enumerate(rows, 2):
        if short := [name for name in columns if row[name] is None]:
            raise ValueError(f"{path}, row {number}: no value for {', '.join(short)}")
    return rows


def read_csv_rows(path: str | os.PathLike[str]) -> list[dict[str, str]]:
    """
    The rows of a CSV file with a header and any columns, separated by commas, semicolons or tabs.

    Raises:
        ValueError: A row has more or fewer values than the header; the message says which.
    """
    sign = csv_separator(path)
    with open(path, encoding="utf-8-sig", newline="") as file:
        try:
            header, *rows = [row for row in csv.reader(file, delimiter=sign, strict=True) if row] or [[]]
        except csv.Error as error:
            raise ValueError(f"{path} is no CSV: {error}") from error
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not UTF-8: byte {error.start}: {error.reason}") from error
    names = [name.strip() for name in header]
    if len(set(names)) < len(names):
        raise ValueError(f"{path} has two columns of one name: {', '.join(names)}")
    for number, row in enumerate(rows):
        if len(row) != len(names):
            raise ValueError(
                f"{path}, row {number}: {len(row)} values for {len(names)} columns: put quotes around values with "
                f"the sign between columns, {sign!r}, in them"
            )
    return [dict(zip(names, row, strict=True)) for row in rows]


def take(row: Any, names: Sequence[str], where: str) -> list[Any]:
    """
    The values of a JSON object for these names.

    Args:
        row: The value that should be a JSON object.
        names (`Sequence[str]`): The names.
        where (`str`): File and key of the row, for the message.

    Raises:
        ValueError: The value is not an object, or a name is missing.
    """
    if not isinstance(row, dict):
        raise ValueError(f"{where}: a JSON object is expected, not {type(row).__name__}")
    if missing := [name for name in names if name not in row]:
        raise ValueError(f"{where}: no {', '.join(missing)}; it has {', '.join(map(str, row))}")
    return [row[name] for name in names]


def load_table(
    source: str | os.PathLike[str],
    split: str | None = None,
    *,
    columns: Sequence[str] = (),
    config: str | None = None,
    revision: str | None = None,
    images: str | os.PathLike[str] | None = None,
) -> Dataset:
    """
    A table, with its images undecoded: a folder or file of parquet, JSON lines, CSV or pictures with metadata, or the
    id of a Hub dataset.

    Args:
        source (`str` or `os.PathLike`): The path or Hub id.
        split (`str`, *optional*): The split. Not needed if there is only one.
        columns (`Sequence[str]`): Columns that the table must have.
        config (`str`, *optional*): The configuration of a Hub dataset.
        revision (`str`, *optional*): Branch, tag or commit of a Hub dataset.
        images (`str` or `os.PathLike`, *optional*): Another folder that paths in columns of images may lead to, and in
            which relative ones are looked up first.

    Raises:
        FileNotFoundError: The source is neither an existing path nor a dataset of the Hub that can be reached, or the
            folder of images does not exist.
        PermissionError: The Hub asks to accept conditions first.
        ValueError: There is no such split or column, or the table is empty.
    """
    name = os.path.expanduser(os.fspath(source))
    options = {key: value for key, value in (("name", config), ("revision", revision)) if value is not None}
    try:
        with _without_bars():
            loaded, _ = load_raw(name, None, False, {}, options | _of_split(name, split, options), images=images)
    except (OSError, ValueError) as error:
        if _is_gated(error):
            raise PermissionError(
                f"{name} is a gated dataset: open https://huggingface.co/datasets/{name}, accept its conditions, and "
                "log in with `hf auth login` (or set HF_TOKEN)."
            ) from error
        if name in str(error) or isinstance(error, OSError):
            raise
        raise ValueError(f"{name} cannot be read: {error}") from error
    assert isinstance(loaded, DatasetDict)  # with all splits
    if split is None and len(loaded) > 1:
        raise ValueError(f"{name}: say which split: it has {', '.join(map(str, loaded))}")
    split = split or next(iter(loaded))
    if split not in loaded and list(loaded) == ["train"] and Path(name).exists():
        split = "train"  # the name that `datasets` gives to a folder or file without splits
    if split not in loaded:
        raise ValueError(f"{name} has no split {split!r}; it has {', '.join(map(str, loaded))}")
    table = loaded[split]
    if missing := [column for column in columns if column not in table.column_names]:
        there = ", ".join(column for column in table.column_names if column != ERROR)
        raise ValueError(f"{name} has no column {', '.join(missing)}; it has {there}")
    if len(table) == 0:
        raise ValueError(f"{name} (split {split!r}) has no rows")
    return undecoded(table, table.column_names)


def load_triplets(
    source: str,
    split: str | None,
    *,
    columns: Mapping[str, str] | str | None = None,
    images: str | None = None,
    revision: str | None = None,
) -> Dataset:
    """
    The rows of a triplet dataset, see [`~hf_tripletclip.data.load_tripletdata`].

    Args:
        source, columns, images, revision: As there.
        split (`str`, *optional*): Defaults to `test`, or the only one.

    Raises:
        OSError: The dataset does not exist.
        ValueError: It has no such split, or does not have the expected form.
    """
    given = (("images", images), ("revision", revision))
    options: dict[str, Any] = {name: value for name, value in given if value is not None}
    wanted = split or (None if Path(source).expanduser().is_file() else "test")
    try:
        loaded = load_tripletdata(source, split=wanted, columns=columns, **options)
    except ValueError as error:
        if not (unknown := UNKNOWN_SPLIT.search(str(error))):
            raise
        there = [name.rstrip(".") for name in re.findall(r"[\w.-]+", unknown[1])]
        if split is not None or len(there) != 1:
            named = "test" if split is None else repr(split)
            raise ValueError(
                f"{source} has no split {named}; it has {', '.join(there)}: say which (`split`, as in --option "
                "triplets.split=NAME)"
            ) from error
        loaded = load_tripletdata(source, split=there[0], columns=columns, **options)
    if isinstance(loaded, DatasetDict):  # from a file
        if len(loaded) > 1:
            raise ValueError(f"{source}: say which split (`split`): it has {', '.join(map(str, loaded))}")
        loaded = next(iter(loaded.values()))
    assert isinstance(loaded, Dataset)
    return loaded


def _of_split(name: str, split: str | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """
    Arguments that make `datasets` read only the files of one split; otherwise it would download ImageNet's training
    set to evaluate the validation set. Empty if the files of the split are not known beforehand.
    """
    if split is None or Path(name).is_file() or any((Path(name) / marker).exists() for marker in SAVED):
        return {}
    if Path(name).is_dir() and (found := data_files(Path(name))) is not None:
        return as_arguments({split: found[split]}) if split in found and len(found) > 1 else {}
    check_local_path(name)
    try:
        files = load_dataset_builder(absolute_folder(name), **options).config.data_files
    except (DatasetNotFoundError, ConnectionError) as error:
        raise not_found(name, error) from error
    if not files or split not in files or len(files) == 1:
        return {}
    # The numbers of rows in the card count all splits.
    return {"data_files": {split: files[split]}, "verification_mode": "no_checks"}


@contextlib.contextmanager
def _without_bars() -> Iterator[None]:
    """Hide the progress bars of `datasets` for files that it reads quickly; those of downloads stay."""
    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            enable_progress_bars()


def _is_gated(error: BaseException | None) -> bool:
    while error is not None:
        # `datasets` replaces the cause of the first error by its own text.
        if isinstance(error, GatedRepoError) or "is a gated dataset" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def image_folders(annotations: str | os.PathLike[str], images: str | os.PathLike[str] | None) -> list[Path]:
    """The folders that may hold the images: the user's, or the folder of the annotations and the folders in it."""
    if images is not None:
        folder = Path(images).expanduser()
        if not folder.is_dir():
            raise FileNotFoundError(f"the image folder {folder} does not exist")
        return [folder]
    base = Path(annotations).expanduser()
    base = base.parent if base.is_file() else base
    below = (
        [
            path
            for path in sorted(base.iterdir())
            if path.is_dir() and not is_left_behind(path.name) and _has_images(path)
        ]
        if base.is_dir()
        else []
    )
    return [base, *below]


def _has_images(folder: Path) -> bool:
    return any(path.suffix.lower() in EXTENSIONS and not is_left_behind(path.name) for path in folder.iterdir())

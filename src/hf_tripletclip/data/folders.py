# SPDX-License-Identifier: Apache-2.0
"""
Which files of a local folder hold the rows, and to which split they belong.

`datasets` decides both by the names of all files: a picture called "photo of a train.png" becomes a split of its own,
and files without such a name, even metadata, are silently ignored.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.json as pj
import pyarrow.parquet as pq
import yaml
from huggingface_hub import DatasetCard

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".avif", ".jp2")
TABLES = (".parquet", ".csv", ".jsonl", ".json")  # `.json` is often something else: rows only if no other table exists
SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
OURS = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "config.json")
_SHARD = re.compile(r"(?P<split>\w+)-\d{5}-of-\d{5}\b.*")


def data_files(folder: Path) -> dict[str, list[str]] | None:
    """
    The files that hold the rows, by split; `None` if `datasets` must decide, because a card names the files or they
    are unclear.

    If there are tars, these hold the rows: `img2dataset` puts tables and statistics next to them. If not,
    `metadata.csv`, `.jsonl` or `.parquet` files do, and after these other tables. The split follows from the names of
    the file's folders or of the file itself, as `datasets` reads them (`train`, `dev-1`, ...); it is `train` if they
    name none. The names of pictures do not count.

    Args:
        folder (`Path`): An existing folder.

    Raises:
        ValueError: There are pictures and tables of several kinds, metadata of several kinds, or a card that cannot be
            read.
    """
    if _card_decides(folder):
        return None
    files = sorted(_visible(folder))
    kinds = {suffix: [file for file in files if file.suffix.lower() == suffix] for suffix in (".tar", *TABLES)}
    metadata = [file for file in files if file.name in METADATA]
    if kinds[".tar"]:
        rows = kinds[".tar"]
    elif metadata:
        rows = metadata
        if len({file.suffix for file in metadata}) > 1:
            first = ", ".join(str(file.relative_to(folder)) for file in metadata[:3])
            raise ValueError(f"{folder} holds metadata of several kinds ({first}): keep only one kind.")
    else:
        kinds[".json"] = [
            file for file in kinds[".json"] if file.name not in OURS and not file.stem.endswith("_stats")
        ]
        present = [suffix for suffix in TABLES if kinds[suffix]]
        if len(present) > 1 and present[-1] == ".json":
            present.pop()
        if any(_SHARD.fullmatch(file.name) for file in kinds[".parquet"]):
            present = [".parquet"]  # written by `push_to_hub` and the like: other tables only describe them
        pictures = any(file.suffix.lower() in PICTURES for file in files)
        if not present or (len(present) > 1 and not pictures):
            return None
        if len(present) > 1:
            first = ", ".join(str(kinds[suffix][0].relative_to(folder)) for suffix in present)
            raise ValueError(f"{folder} holds tables of several kinds ({first}): give the file that holds the rows.")
        rows = kinds[present[0]]
    splits: dict[str, list[str]] = {}
    for file in rows:
        splits.setdefault(_split_of(file.relative_to(folder)), []).append(str(file))
    order = [*SPLITS, *sorted(splits)]
    return {split: splits[split] for split in dict.fromkeys(order) if split in splits}


def unlisted_pictures(folder: Path) -> list[str]:
    """
    The pictures of a folder, relative to it, that its metadata do not name: they are in no row.

    Args:
        folder (`Path`): A folder with `metadata.csv`, `.jsonl` or `.parquet` files. Without these the result is empty.
    """
    named = _named_in(folder)
    if not named:
        return []
    pictures = {os.path.normpath(file) for file in _visible(folder) if file.suffix.lower() in PICTURES}
    return sorted(os.path.relpath(path, folder) for path in pictures.difference(*named.values()))


def merged_splits(folder: Path) -> list[str]:
    """
    The splits that folders of pictures name although one metadata file lists them together, which makes them one
    split.

    Args:
        folder (`Path`): As for `unlisted_pictures`.
    """
    merged = set()
    for pictures in _named_in(folder).values():
        splits = {_split_of(Path(os.path.relpath(place, folder))) for place in set(map(os.path.dirname, pictures))}
        merged |= splits if len(splits) > 1 else set()
    return sorted(merged)


def _named_in(folder: Path) -> dict[Path, set[str]]:
    """The pictures that each metadata file names; empty if a file cannot be read, which is reported with its rows."""
    named = {}
    for file in _visible(folder):
        if file.name in METADATA:
            try:
                named[file] = {os.path.normpath(file.parent / name) for name in _named(file)}
            except (OSError, ValueError, pa.ArrowException):
                return {}
    return named


def _named(file: Path) -> Iterator[str]:
    """The file names in a metadata file."""
    if file.suffix == ".csv":
        table = pa.Table.from_pandas(pd.read_csv(file, sep=csv_separator(file), dtype=str, keep_default_na=False))
    else:
        table = pq.read_table(file) if file.suffix == ".parquet" else pj.read_json(file)
    for column in table.column_names:
        if image_column(column) is not None:
            for value in table[column].to_pylist():
                yield from value if isinstance(value, list) else [value] if value else []


def csv_separator(file: str | os.PathLike[str], encoding: str = "utf-8-sig") -> str:
    """
    The separator of a CSV file: comma, semicolon or tab, whichever splits its header into most columns.

    Args:
        file (`str` or `os.PathLike`): A local file.
        encoding (`str`, defaults to UTF-8): The file's encoding.
    """
    separators = (",", ";", "\t")
    try:
        with open(file, encoding=encoding, errors="replace", newline="") as lines:
            head = next((line for line in lines if line.strip()), "")
        return max(separators, key=lambda separator: len(next(csv.reader([head], delimiter=separator), [])))
    except (LookupError, csv.Error):  # no such encoding, or no text: reported when the rows are read
        return separators[0]


def image_column(name: str) -> str | None:
    """`datasets`' name for the images that a metadata column names: `file_name` -> `image`; `None` for others."""
    for end, alone in (("file_name", "image"), ("file_names", "images")):
        if name == end:
            return alone
        if name.endswith(f"_{end}"):
            return name.removesuffix(f"_{end}")
    return None


def _visible(folder: Path) -> Iterator[Path]:
    """Files that are neither hidden nor in hidden folders or folders of a system or cache (`__MACOSX`)."""
    for path, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__")))
        yield from (Path(path, name) for name in sorted(files) if not name.startswith("."))


def _split_of(file: Path) -> str:
    """The split named by a file's folders, the outer ones first, or by its own name; `train` if none names one."""
    for part in file.parts:
        for split, words in SPLITS.items():
            if any(re.search(rf"(^|[-._ 0-9]){word}($|[-._ 0-9])", part) for word in words):
                return split
    shard = _SHARD.fullmatch(file.name)
    return shard["split"] if shard else "train"


def _card_decides(folder: Path) -> bool:
    """Whether a card names the files that hold the rows."""
    card = folder / "README.md"
    if not card.is_file():
        return (folder / ".huggingface.yaml").is_file()
    try:
        return "configs" in DatasetCard.load(card, ignore_metadata_errors=True).data.to_dict()
    except (yaml.YAMLError, ValueError) as error:
        problem = str(error).splitlines()[0]
        raise ValueError(f"The header of {card} is not valid YAML: {problem}. Correct it, or delete it.") from error

# SPDX-License-Identifier: Apache-2.0
"""
Which files of a local folder hold the rows, and of which split.

`datasets` decides both by the names of all files: a picture called "photo of a train.png" makes a split of itself, and
files without such a name, the metadata among them, are dropped without a word.
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
TABLES = (".parquet", ".csv", ".jsonl", ".json")  # `.json` is often something else: rows only where nothing else is
SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
OURS = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "config.json")
_SHARD = re.compile(r"(?P<split>\w+)-\d{5}-of-\d{5}\b.*")


def data_files(folder: Path) -> dict[str, list[str]] | None:
    """
    The files that hold the rows, by split; `None` where `datasets` decides: a card says so, or nothing is known.

    Tars decide, if there are any: `img2dataset` leaves tables and statistics beside them. Else `metadata.csv`,
    `.jsonl` or `.parquet`; else tables. The split is that which the file's folders or its own name say, as `datasets`
    reads them (`train`, `dev-1`, ...), and `train` otherwise. Names of pictures say nothing.

    Args:
        folder (`Path`): It exists.

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
            raise ValueError(f"{folder} holds metadata of several kinds ({first}): keep those of one.")
    else:
        kinds[".json"] = [
            file for file in kinds[".json"] if file.name not in OURS and not file.stem.endswith("_stats")
        ]
        present = [suffix for suffix in TABLES if kinds[suffix]]
        if len(present) > 1 and present[-1] == ".json":
            present.pop()
        if any(_SHARD.fullmatch(file.name) for file in kinds[".parquet"]):
            present = [".parquet"]  # what `push_to_hub` and the like wrote: other tables are about it
        pictures = any(file.suffix.lower() in PICTURES for file in files)
        if not present or (len(present) > 1 and not pictures):
            return None
        if len(present) > 1:
            first = ", ".join(str(kinds[suffix][0].relative_to(folder)) for suffix in present)
            raise ValueError(f"{folder} holds tables of several kinds ({first}): give the file that has the rows.")
        rows = kinds[present[0]]
    splits: dict[str, list[str]] = {}
    for file in rows:
        splits.setdefault(_split_of(file.relative_to(folder)), []).append(str(file))
    order = [*SPLITS, *sorted(splits)]
    return {split: splits[split] for split in dict.fromkeys(order) if split in splits}


def left_out(folder: Path) -> list[str]:
    """
    The pictures of a folder that its metadata do not name, relative to it: they are in no row.

    Args:
        folder (`Path`): One with `metadata.csv`, `.jsonl` or `.parquet` files; of others nothing is left out.
    """
    named = _named_in(folder)
    if not named:
        return []
    pictures = {os.path.normpath(file) for file in _visible(folder) if file.suffix.lower() in PICTURES}
    return sorted(os.path.relpath(path, folder) for path in pictures.difference(*named.values()))


def undivided(folder: Path) -> list[str]:
    """
    The splits that the folders of pictures tell of whose rows stand in one metadata file, and so are of one split.

    Args:
        folder (`Path`): As of `left_out`.
    """
    found = set()
    for pictures in _named_in(folder).values():
        splits = {_split_of(Path(os.path.relpath(place, folder))) for place in set(map(os.path.dirname, pictures))}
        found |= splits if len(splits) > 1 else set()
    return sorted(found)


def _named_in(folder: Path) -> dict[Path, set[str]]:
    """The pictures that each metadata file names; nothing where one cannot be read, which is told with its rows."""
    found = {}
    for file in _visible(folder):
        if file.name in METADATA:
            try:
                found[file] = {os.path.normpath(file.parent / name) for name in _named(file)}
            except (OSError, ValueError, pa.ArrowException):
                return {}
    return found


def _named(file: Path) -> Iterator[str]:
    """The file names in a metadata file."""
    if file.suffix == ".csv":
        table = pa.Table.from_pandas(pd.read_csv(file, sep=csv_sign(file), dtype=str, keep_default_na=False))
    else:
        table = pq.read_table(file) if file.suffix == ".parquet" else pj.read_json(file)
    for column in table.column_names:
        if image_column(column) is not None:
            for value in table[column].to_pylist():
                yield from value if isinstance(value, list) else [value] if value else []


def csv_sign(file: str | os.PathLike[str], encoding: str = "utf-8-sig") -> str:
    """
    What stands between the columns of a CSV file: that of comma, semicolon and tab that makes most of its header.

    Args:
        file (`str` or `os.PathLike`): A local file.
        encoding (`str`, defaults to UTF-8): How it is written.
    """
    signs = (",", ";", "\t")
    try:
        with open(file, encoding=encoding, errors="replace", newline="") as lines:
            head = next((line for line in lines if line.strip()), "")
        return max(signs, key=lambda sign: len(next(csv.reader([head], delimiter=sign), [])))
    except (LookupError, csv.Error):  # no such encoding, or no text: which is told when the rows are read
        return signs[0]


def image_column(name: str) -> str | None:
    """What `datasets` calls the images that a column of metadata names: `file_name` -> `image`; `None` of others."""
    for end, alone in (("file_name", "image"), ("file_names", "images")):
        if name == end:
            return alone
        if name.endswith(f"_{end}"):
            return name.removesuffix(f"_{end}")
    return None


def _visible(folder: Path) -> Iterator[Path]:
    """Files that are neither hidden nor in hidden folders, nor in those of a system or a cache (`__MACOSX`)."""
    for path, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__")))
        yield from (Path(path, name) for name in sorted(files) if not name.startswith("."))


def _split_of(file: Path) -> str:
    """The split that a file's folders, the outer ones first, or its own name say; `train` if they say nothing."""
    for part in file.parts:
        for split, words in SPLITS.items():
            if any(re.search(rf"(^|[-._ 0-9]){word}($|[-._ 0-9])", part) for word in words):
                return split
    shard = _SHARD.fullmatch(file.name)
    return shard["split"] if shard else "train"


def _card_decides(folder: Path) -> bool:
    """Whether a card says where the rows are."""
    card = folder / "README.md"
    if not card.is_file():
        return (folder / ".huggingface.yaml").is_file()
    try:
        return "configs" in DatasetCard.load(card, ignore_metadata_errors=True).data.to_dict()
    except (yaml.YAMLError, ValueError) as error:
        problem = str(error).splitlines()[0]
        raise ValueError(f"The header of {card} is no YAML: {problem}. Mend it, or delete it.") from error

# SPDX-License-Identifier: Apache-2.0
"""A digest that tells two datasets apart even if they share a name, made without reading every picture."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, IterableDataset

ROWS_AT_A_TIME = 10_000
PICTURES = 64  # number of pictures whose bytes are read; of the others only the length counts
ENDS = 1 << 16  # bytes that are read at each end of a stream's file


def contents(dataset: Any, columns: Sequence[str] | None = None) -> str:
    """
    A digest of a dataset's contents. It depends neither on the place of the files nor on the cache of `datasets`.

    For a `Dataset` it covers all captions, the length of every picture and the bytes of some pictures. For a stream it
    covers names, sizes and both ends of the files on this machine. For any other dataset it covers the number of rows.

    Args:
        dataset (`Any`): The training dataset.
        columns (`Sequence[str]`, *optional*): The columns that count; all by default.

    Returns:
        `str`: The number of rows, if it is known, and a digest.
    """
    digest = hashlib.sha256()
    if isinstance(dataset, Dataset):
        for piece in _of_rows(dataset, columns):
            digest.update(piece)
    elif isinstance(dataset, IterableDataset):
        for piece in _of_stream(dataset._ex_iterable):
            digest.update(piece)
    else:
        digest.update(type(dataset).__name__.encode())
    rows = f"{len(dataset)} rows, " if hasattr(dataset, "__len__") else ""
    return f"{rows}{digest.hexdigest()[:16]}"


def _of_rows(dataset: Dataset, columns: Sequence[str] | None) -> Iterator[bytes]:
    table: pa.Table = dataset.data.table
    names = [name for name in columns or table.column_names if name in table.column_names]
    if dataset._indices is not None:
        yield dataset._indices.column(0).to_numpy().tobytes()
    sampled = sorted({int(row) for row in np.linspace(0, max(len(dataset) - 1, 0), PICTURES)}) if len(dataset) else []
    for name in names:
        yield name.encode()
        yield from _of_column(table.column(name))
        if _holds_bytes(table.schema.field(name).type):
            column = dataset.with_format("arrow").select_columns([name])
            for row in sampled:
                yield _of_picture(column[row].column(0)[0].as_py())


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(_holds_bytes(field.type) for field in kind)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _of_column(column: pa.ChunkedArray) -> Iterator[bytes]:
    kind = column.type
    if pa.types.is_struct(kind) and {"bytes", "path"} <= {field.name for field in kind}:  # a picture
        data, paths = (pc.struct_field(column, name) for name in ("bytes", "path"))
        yield from _of_column(data)
        if data.null_count:
            yield from _texts(pc.if_else(pc.is_null(data), paths, None), names_only=True)
    elif _holds_bytes(kind) and not pa.types.is_struct(kind):
        yield pc.fill_null(pc.binary_length(column), -1).to_numpy().astype(np.int64).tobytes()
    else:
        yield from _texts(column)


def _texts(column: pa.ChunkedArray, names_only: bool = False) -> Iterator[bytes]:
    for start in range(0, len(column), ROWS_AT_A_TIME):
        values = column.slice(start, ROWS_AT_A_TIME).to_pylist()
        if names_only:
            values = [value and PurePath(value).name for value in values]
        yield json.dumps(values, default=str).encode()


def _of_picture(value: Any) -> bytes:
    if isinstance(value, Mapping):
        value = value.get("bytes") if value.get("bytes") is not None else value.get("path")
    if isinstance(value, str):
        return _of_file(value)
    return hashlib.sha256(value).digest() if isinstance(value, bytes) else b"-"


def _of_stream(examples: Any) -> Iterator[bytes]:
    """The contents of a stream's sources, below the steps that shuffle, map or rename them."""
    for name in ("ex_iterable", "ex_iterables"):
        below = getattr(examples, name, None)
        for part in below if isinstance(below, list) else [below]:
            if part is not None:
                yield from _of_stream(part)
    # The `versions` of our tar reader are modification times, which a copy of a file does not keep.
    for name, value in sorted((getattr(examples, "kwargs", None) or {}).items()):
        if name not in ("versions", "token"):
            yield from _of_source(value)


def _of_source(value: Any) -> Iterator[bytes]:
    if isinstance(value, (list, tuple)):
        for part in value:
            yield from _of_source(part)
    elif isinstance(value, Dataset):
        yield from _of_rows(value, None)
    elif isinstance(value, str):
        yield _of_file(value)


def _of_file(path: str) -> bytes:
    """Name, size and both ends of a file on this machine; only the path of any other file."""
    try:
        size = os.path.getsize(path)
        with open(path, "rb") as file:
            start = file.read(ENDS)
            file.seek(max(size - ENDS, 0))
            end = file.read(ENDS)
    except (OSError, ValueError):
        return path.encode()
    return f"{PurePath(path).name} {size}".encode() + hashlib.sha256(start + end).digest()

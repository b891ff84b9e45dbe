# SPDX-License-Identifier: Apache-2.0
"""The neighbours of each row of a mined dataset, on disk; batches of neighbours are made from them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from hf_tripletclip.generation.plan import NEIGHBOURS_FOLDER

GROUP, NEIGHBOURS = "group", "neighbours"  # the columns of a file
CAPTIONS_KEY = b"captions"  # of its metadata: `captions_digest` of its rows


@dataclass
class Neighbours:
    """
    Args:
        groups (`numpy.ndarray` of shape `(rows,)`, int64): Rows of one group have the same image.
        starts (`numpy.ndarray` of shape `(rows + 1,)`, int64): Where the neighbours of each row begin in `rows`.
        rows (`numpy.ndarray`, int64): The neighbours of all rows, those of each from the nearest on.
        captions (`str`): `captions_digest` of the rows.
    """

    groups: np.ndarray
    starts: np.ndarray
    rows: np.ndarray
    captions: str

    def __len__(self) -> int:
        return len(self.groups)

    def of(self, row: int) -> np.ndarray:
        """The neighbours of a row, the nearest first."""
        return self.rows[self.starts[row] : self.starts[row + 1]]

    def digest(self) -> str:
        """A hash of them."""
        found = hashlib.sha256(self.captions.encode())
        for part in (self.groups, self.starts, self.rows):
            found.update(np.ascontiguousarray(part, np.int64).tobytes())
        return found.hexdigest()[:16]

    @classmethod
    def of_lists(cls, groups: Sequence[int], neighbours: Sequence[Sequence[int]], captions: str) -> Neighbours:
        """Neighbours in lists, one for each row."""
        starts = np.cumsum([0, *map(len, neighbours)], dtype=np.int64)
        rows = np.fromiter((one for few in neighbours for one in few), np.int64, int(starts[-1]))
        return cls(np.asarray(groups, np.int64), starts, rows, captions)

    def save(self, path: Path) -> None:
        """Write a parquet file; its folder is made."""
        path.parent.mkdir(parents=True, exist_ok=True)
        lists = pa.ListArray.from_arrays(pa.array(self.starts, pa.int32()), pa.array(self.rows, pa.int64()))
        table = pa.table({GROUP: pa.array(self.groups), NEIGHBOURS: lists})
        pq.write_table(table.replace_schema_metadata({CAPTIONS_KEY: self.captions.encode()}), path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Neighbours:
        """
        Read a file that `tripletclip mine` wrote, `neighbours/SPLIT.parquet` in its output.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is damaged.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"There is no file {path}: `tripletclip mine` writes `{NEIGHBOURS_FOLDER}`.")
        try:
            table = pq.read_table(path)
            lists: Any = table.column(NEIGHBOURS).combine_chunks()
            captions = (table.schema.metadata or {})[CAPTIONS_KEY].decode()
            groups = table.column(GROUP).to_numpy()
            starts = np.concatenate([[0], np.cumsum(lists.value_lengths().to_numpy(zero_copy_only=False))])
            rows = lists.flatten().to_numpy()
        except (pa.ArrowException, OSError, KeyError, AttributeError, TypeError) as error:
            raise ValueError(f"{path} is damaged: {error}. `tripletclip mine --overwrite` makes it anew.") from error
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(groups):
            raise ValueError(f"{path} is damaged: it names rows that are not there.")
        return cls(groups, starts.astype(np.int64), rows, captions)


def find_neighbours(source: str | os.PathLike[str], captions: str, rows: int) -> Neighbours:
    """
    Find the neighbours of some rows among those of all splits of a mined dataset.

    Args:
        source (`str` or `os.PathLike`): What `tripletclip mine` wrote, or the id of a Hub dataset that was pushed
            from there.
        captions (`str`): `captions_digest` of the rows.
        rows (`int`): How many they are, for the message.

    Raises:
        OSError: There are no neighbours, or the Hub cannot be reached.
        ValueError: They are of other rows.
    """
    folder = Path(source).expanduser()
    if not folder.exists():
        pattern = f"{NEIGHBOURS_FOLDER}/*.parquet"
        try:
            folder = Path(snapshot_download(os.fspath(source), repo_type="dataset", allow_patterns=pattern))
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, ConnectionError) as error:
            raise FileNotFoundError(
                f"{source} is neither a folder that `tripletclip mine` wrote nor a dataset of the Hub that can be "
                f"reached: {error}"
            ) from error
    files = sorted((folder / NEIGHBOURS_FOLDER).glob("*.parquet"))
    if not files:
        raise FileNotFoundError(
            f"{source} has no folder `{NEIGHBOURS_FOLDER}` with files in it: `tripletclip mine` writes it."
        )
    found = {file.stem: Neighbours.load(file) for file in files}
    for one in found.values():
        if one.captions == captions and len(one) == rows:
            return one
    lengths = ", ".join(f"{split} ({len(one):,} rows)" for split, one in found.items())
    raise ValueError(
        f"The neighbours in {source} are those of {lengths}, and not of the {rows:,} rows that are trained on: train "
        "on the dataset that `tripletclip mine` wrote, on all rows of a split in their order, or mine again."
    )


def captions_digest(captions: Iterable[Any]) -> str:
    """A hash of the captions of a dataset's rows, in their order. UTF-8 `bytes` count as the text."""
    found = hashlib.sha256()
    for caption in captions:
        found.update(json.dumps(caption, default=_as_text).encode() + b"\n")
    return found.hexdigest()[:32]


def _as_text(value: Any) -> Any:
    if isinstance(value, (bytes, bytearray)):
        return value.decode("utf-8", "surrogateescape")
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError(f"A caption is no text: it is a {type(value).__name__}.")

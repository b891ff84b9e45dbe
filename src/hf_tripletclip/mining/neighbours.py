# SPDX-License-Identifier: Apache-2.0
"""The neighbours of each row of a mined dataset, as they lie on disk: what batches of neighbours are filled from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hf_tripletclip.generation.layout import NEIGHBOURS_FOLDER

GROUP, NEIGHBOURS = "group", "neighbours"  # the columns of a file
CAPTIONS_KEY = b"captions"  # of its metadata: `captions_digest` of the rows that it is of


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
    def load(cls, folder: Path | str, split: str) -> Neighbours:
        """
        Those of a split of a mined dataset.

        Args:
            folder (`Path` or `str`): What `tripletclip mine` wrote.
            split (`str`): The split.

        Raises:
            FileNotFoundError: There are none.
            ValueError: The file is damaged.
        """
        path = Path(folder).expanduser() / NEIGHBOURS_FOLDER / f"{split}.parquet"
        if not path.is_file():
            there = sorted(one.stem for one in path.parent.glob("*.parquet"))
            has = f"it has those of {', '.join(there)}" if there else "`tripletclip mine` writes them"
            raise FileNotFoundError(f"{folder} has no neighbours of the split {split!r}: {has}.")
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


def captions_digest(captions: Iterable[Any]) -> str:
    """What tells the captions of a dataset's rows, in their order, from others'."""
    found = hashlib.sha256()
    for caption in captions:
        found.update(json.dumps(caption).encode() + b"\n")
    return found.hexdigest()[:32]

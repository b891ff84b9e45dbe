# SPDX-License-Identifier: Apache-2.0
"""The files of finished units: whole or absent, and only of the plan that asks for them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features, Image, Value

from hf_tripletclip.data.schema import ID
from hf_tripletclip.generation.plan import Unit
from hf_tripletclip.generation.stage import ERROR, Batch

PLAN_KEY = b"tripletclip_plan"


class UnitFiles:
    """
    The units of one step.

    Args:
        folder (`Path`): Where they lie.
        plan_hash (`str`): `Plan.hash_of` the step.
        columns (`Features`): The columns that the step makes; `id` and `error` come with them.
    """

    def __init__(self, folder: Path, plan_hash: str, columns: Features) -> None:
        self.folder = folder
        self.plan_hash = plan_hash
        self.features = Features({ID: Value("string"), **columns, ERROR: Value("string")})

    def path(self, unit: Unit) -> Path:
        return self.folder / f"unit-{unit.number:06d}.parquet"

    def is_done(self, unit: Unit) -> bool:
        """Whether the unit's file is there, readable, of this plan, and has all rows."""
        path = self.path(unit)
        if not path.is_file():
            return False
        try:
            metadata = pq.read_metadata(path)
        except (pa.ArrowInvalid, OSError):  # no parquet file, or one cut short
            return False
        found = (metadata.metadata or {}).get(PLAN_KEY, b"").decode()
        return found == self.plan_hash and metadata.num_rows == unit.rows

    def count_done(self, sizes: Mapping[str, int]) -> int:
        """Rows of the units, by the name of their file, whose file is there: a quick look, for the progress bar."""
        if not self.folder.is_dir():
            return 0
        with os.scandir(self.folder) as entries:
            return sum(sizes.get(entry.name, 0) for entry in entries)

    def write(self, unit: Unit, rows: Batch) -> None:
        """Write a unit's file, whole or not at all."""
        schema = self.features.arrow_schema
        table = pa.Table.from_pydict(encode(rows, self.features), schema=schema)
        if table.num_rows != unit.rows:
            raise ValueError(f"{self.path(unit)} would have {table.num_rows} rows instead of {unit.rows}.")
        table = table.replace_schema_metadata({**(schema.metadata or {}), PLAN_KEY: self.plan_hash.encode()})
        self.folder.mkdir(parents=True, exist_ok=True)
        staged = self.folder / f"{self.path(unit).name}.{os.getpid()}.tmp"
        try:
            with open(staged, "wb") as file:
                pq.write_table(table, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(staged, self.path(unit))
        finally:
            staged.unlink(missing_ok=True)

    def read(self, unit: Unit, columns: Sequence[str] | None = None) -> Batch:
        """The rows of a finished unit, or those columns of them."""
        table = pq.read_table(self.path(unit), columns=None if columns is None else list(columns))
        if (table.schema.metadata or {}).get(PLAN_KEY, b"").decode() != self.plan_hash:
            raise OSError(f"{self.path(unit)} was changed by another run. The same command makes it again.")
        return table.to_pydict()

    def remove_leftovers(self) -> None:
        """Remove what killed runs left half-written."""
        for path in self.folder.glob("*.tmp"):
            path.unlink(missing_ok=True)


def encode(rows: Batch, features: Features) -> Batch:
    """
    Columns as Arrow takes them. Pictures come without their paths: where a file of that name lies in the working
    directory, `datasets` would store the path instead of the picture.
    """
    columns = {
        name: [_without_path(value) for value in rows[name]] if isinstance(feature, Image) else rows[name]
        for name, feature in features.items()
    }
    return features.encode_batch(columns)


def _without_path(image: Any) -> Any:
    return {"bytes": image["bytes"], "path": None} if isinstance(image, dict) and image.get("bytes") else image

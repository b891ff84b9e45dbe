# SPDX-License-Identifier: Apache-2.0
"""The files of finished units: whole or absent, and only of the plan that asks for them."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time
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
# Errors of the machine, which say nothing of the file: too many open files, no memory, a network disk that is away.
OF_THE_MACHINE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT})
OLD_SECONDS = 24 * 3600  # a half-written file of another machine that nobody has touched for so long is left over


class DamagedUnit(OSError):
    """A unit's file is gone or is not what was written; it was removed, so that the unit is made again."""


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
        """
        Whether the unit's file is there, of this plan, and has all rows. That is a quick look: `read` and `check` also
        look at what it holds.
        """
        path = self.path(unit)
        if not path.is_file():
            return False
        try:
            metadata = pq.read_metadata(path)
        except (pa.ArrowInvalid, OSError) as error:  # no parquet file, or one cut short
            if isinstance(error, OSError) and error.errno in OF_THE_MACHINE:
                raise
            return False
        found = (metadata.metadata or {}).get(PLAN_KEY)
        return found == self.plan_hash.encode() and metadata.num_rows == unit.rows

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
        staged = self.folder / f"{self.path(unit).name}.{socket.gethostname()}-{os.getpid()}.tmp"
        try:
            with open(staged, "wb") as file:
                pq.write_table(table, file, write_page_checksum=True)
                file.flush()
                os.fsync(file.fileno())
            os.replace(staged, self.path(unit))
        finally:
            staged.unlink(missing_ok=True)

    def read(self, unit: Unit, columns: Sequence[str] | None = None) -> Batch:
        """
        The rows of a finished unit, or those columns of them.

        Raises:
            DamagedUnit: The file is gone, cut short, or its checksums do not agree with what it holds; it is removed.
            OSError: It is of another plan, or may not be read.
        """
        path = self.path(unit)
        wanted = self.features.arrow_schema if columns is None else pa.schema(map(self._field, columns))
        try:
            table = pq.read_table(path, columns=wanted.names, page_checksum_verification=True)
            rows = table.to_pydict()
        except PermissionError:
            raise
        except FileNotFoundError:
            raise DamagedUnit(f"{path} is gone. The same command makes it again.") from None
        except (pa.ArrowException, OSError, ValueError, KeyError, MemoryError) as error:
            if isinstance(error, OSError) and error.errno in OF_THE_MACHINE:
                raise
            raise self._damaged(unit, str(error).partition("\n")[0].removesuffix(".")) from error
        if (table.schema.metadata or {}).get(PLAN_KEY) != self.plan_hash.encode():
            if self.is_done(unit):  # of its two copies of the hash one is damaged
                raise self._damaged(unit, "it has another hash in its schema than in its footer")
            raise OSError(f"{path} was changed by another run. The same command makes it again.")
        if table.num_rows != unit.rows or not table.schema.equals(wanted):
            raise self._damaged(unit, f"it has {table.num_rows} rows of {', '.join(table.schema.names)}")
        return rows

    def check(self, unit: Unit) -> bool:
        """Read a unit's file, if there is one; whether it was damaged. It is removed then."""
        try:
            if self.is_done(unit):
                self.read(unit)
        except DamagedUnit:
            return True
        return False

    def _field(self, name: str) -> pa.Field:
        return self.features.arrow_schema.field(name)

    def _damaged(self, unit: Unit, problem: str) -> DamagedUnit:
        with contextlib.suppress(FileNotFoundError):
            self.path(unit).unlink()
        return DamagedUnit(
            f"{self.path(unit)} is damaged ({problem}) and was removed. The same command makes it again."
        )

    def remove_leftovers(self) -> None:
        """Remove what killed runs left half-written, and nothing that a process may still be writing."""
        for path in self.folder.glob("*.tmp"):
            if _is_left_over(path):
                path.unlink(missing_ok=True)


def _is_left_over(staged: Path) -> bool:
    """Whether the writer of a half-written file, which its name tells, is dead or has been still for a day."""
    host, _, process = staged.name.removesuffix(".tmp").partition(".parquet.")[2].rpartition("-")
    if not host:  # an older version wrote it
        return True
    if host == socket.gethostname() and process.isdigit():
        return not is_alive(int(process))
    try:
        return time.time() - staged.stat().st_mtime > OLD_SECONDS
    except FileNotFoundError:
        return False


def is_alive(process: int) -> bool:
    """Whether there is a process of this number on this machine."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


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

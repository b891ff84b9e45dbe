# SPDX-License-Identifier: Apache-2.0
"""
What a run of generation will do, fixed before it starts, and the files of its finished units. A rerun continues the
plan or is refused. A unit's file is complete or absent, and belongs to one plan.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features, Image, Value

from hf_tripletclip.data.schema import ID
from hf_tripletclip.generation.stage import ERROR, Batch

FORMAT = 2  # of the plan and its units; raised when older ones cannot be continued


@dataclass(frozen=True)
class Unit:
    """Rows `start` to `stop` (exclusive) of a split: the smallest piece of work that is done or not done."""

    number: int
    split: str
    start: int
    stop: int

    @property
    def rows(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Plan:
    """
    Args:
        source (`dict`): `OpenSource.identity`; its `splits` are in the order of the rows, and its `rows` say how many
            rows each split has.
        unit_rows (`int`): Rows of a unit.
        stages (`dict`): Step (`captions`, `images`, `check-clip`, ...) -> the stage's settings, in order.
        output (`dict`): What is made of the rows afterwards: filters, rows of a file.
    """

    source: dict[str, Any]
    unit_rows: int
    stages: dict[str, dict[str, Any]]
    output: dict[str, Any]

    def units(self) -> Iterator[Unit]:
        """All units, in the order of the rows."""
        number = 0
        for split in self.source["splits"]:
            rows = self.source["rows"][split]
            for start in range(0, rows, self.unit_rows):
                yield Unit(number, split, start, min(start + self.unit_rows, rows))
                number += 1

    @property
    def rows(self) -> int:
        return sum(self.source["rows"].values())

    def hash_of(self, step: str) -> str:
        """
        Of everything that determines the units of a step: the source, how it is cut, and the stages up to this one.
        """
        names = list(self.stages)
        before = {name: self.stages[name] for name in names[: names.index(step) + 1]}
        return _digest([FORMAT, self.source, self.unit_rows, before])

    def to_dict(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "source": self.source,
            "unit_rows": self.unit_rows,
            "stages": self.stages,
            "output": self.output,
        }

    def to_json(self) -> str:
        """The contents of the plan's file."""
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + "\n"

    def differences(self, other: Mapping[str, Any]) -> list[str]:
        """What another plan, as `to_dict` has it, says otherwise: `captions.temperature was 0.7 and is 1.0`."""
        was, now = _flat(other), _flat(self.to_dict())
        return [
            f"{name} was {was.get(name)!r} and is {now.get(name)!r}"
            for name in dict.fromkeys([*was, *now])
            if was.get(name) != now.get(name)
        ]

    def save(self, path: Path, staging: Path | None = None) -> None:
        """Write the plan, completely or not at all; the unfinished file is in the folder `staging`, or beside it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        staged = (staging or path.parent) / f"{path.name}.{os.getpid()}.tmp"
        try:
            with open(staged, "w", encoding="utf-8") as file:
                file.write(self.to_json())
                file.flush()
                os.fsync(file.fileno())
            os.replace(staged, path)
        finally:
            staged.unlink(missing_ok=True)

    def is_in(self, path: Path) -> bool:
        """Whether a file holds this plan and no other."""
        return path.is_file() and path.read_bytes() == self.to_json().encode()

    @classmethod
    def load(cls, path: Path) -> Plan:
        """Read a plan. Raises `ValueError` if the file is no plan of this version."""
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            if fields.pop("format") == FORMAT:
                return cls(**fields)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is no plan: {error}. `--overwrite` starts anew.") from error
        raise ValueError(f"{path} was written by another version of this package: `--overwrite` starts anew.")


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for name, part in value.items():
        flat |= _flat(part, f"{prefix}.{name}" if prefix and prefix != "stages" else str(name))
    return flat


DATA_FOLDER = "data"
ASSETS_FOLDER = "assets"  # the pictures of the card
REPORT_FILE = "report.json"  # written last: a folder that has it is finished
LEFT_OUT_FILE = "left_out.jsonl"
NEIGHBOURS_FOLDER = "neighbours"  # of `tripletclip mine`: the nearest rows of each row, a file for each split
MINING_PAGE = "mining.html"  # of `tripletclip mine`: what was found
PLAN_FILE = "plan.json"  # in the work folder, of the dataset in the making

WORK_FOLDER = ".generation"  # all but its lock is gone once the dataset is written
LOCK_FILE = "lock"  # in the work folder, where it stays
LOGS_FOLDER = "logs"  # in the work folder: of the tasks


PLAN_KEY = b"tripletclip_plan"
# Errors of the machine, not of the file: too many open files, no memory, a network disk that does not answer.
OF_THE_MACHINE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT})
OLD_SECONDS = 24 * 3600  # an unfinished file of another machine is a leftover if nothing has changed it for so long


class DamagedUnit(OSError):
    """A unit's file is missing or damaged. It was removed, so that the unit is made again."""


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
        """Write a unit's file, completely or not at all."""
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
        """Remove the unfinished files of killed runs, but none that a process may still be writing."""
        for path in self.folder.glob("*.tmp"):
            if _is_left_over(path):
                path.unlink(missing_ok=True)


def _is_left_over(staged: Path) -> bool:
    """Whether the process that writes a file, by the file's name, is dead, or the file is a day old."""
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
    Columns as Arrow takes them. Images come without their paths: if a file of that name lies in the working
    directory, `datasets` would store the path instead of the image.
    """
    columns = {
        name: [_without_path(value) for value in rows[name]] if isinstance(feature, Image) else rows[name]
        for name, feature in features.items()
    }
    return features.encode_batch(columns)


def _without_path(image: Any) -> Any:
    return {"bytes": image["bytes"], "path": None} if isinstance(image, dict) and image.get("bytes") else image

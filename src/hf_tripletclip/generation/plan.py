# SPDX-License-Identifier: Apache-2.0
"""What a run of generation will do, fixed before it starts: a rerun continues this plan or is refused."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
        """Write the plan, whole or not at all; what is half-written lies in the folder `staging`, or beside it."""
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
        """Read a plan. Raises `ValueError` where the file is no plan of this version."""
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

# SPDX-License-Identifier: Apache-2.0
"""Reports of rows that cannot be used, collected from all DataLoader workers and processes."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers.utils import logging

logger = logging.get_logger(__name__)

MAX_REASON = 500  # characters; a line must be short enough to be written at once
FEW_BYTES = 1 << 16  # once a file is longer than this, all warnings have been logged


class BrokenRows:
    """
    A report of the rows that were skipped or changed, with the reasons.

    The report is a file of JSON lines, see `add`. All DataLoader workers and all processes of a machine append to the
    same file, and nothing is lost if one of them dies. The first entry creates the file; a resumed run appends to it.
    Every epoch reports its rows again, but reading the report gives each row, column and reason once. Rows without a
    key are given as often as they were reported.

    Args:
        path (`str` or `os.PathLike`, *optional*): The file. Defaults to one in the system's temporary folder, which
            workers share but other ranks do not, and which is removed when this process ends. On a network file system
            give each machine its own file.
        max_warnings (`int`, defaults to 5): How many skipped rows, and how many changed rows, are also logged.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, max_warnings: int = 5) -> None:
        if path is None:
            handle, name = tempfile.mkstemp(prefix="broken_rows-", suffix=".jsonl")
            os.close(handle)
            os.unlink(name)  # only its name is needed: most runs report nothing
            path = name
            atexit.register(_remove, name, os.getpid())
        self.path = Path(path)
        self.max_warnings = max_warnings
        self._start = self.path.stat().st_size if self.path.exists() else 0  # where this run's reports begin

    def add(
        self,
        key: str | None,
        reason: str,
        column: str | None = None,
        *,
        digest: str | None = None,
        skipped: bool = True,
    ) -> None:
        """
        Report a row.

        Args:
            key (`str`, *optional*): The row's key, or another name by which to find it.
            reason (`str`): What is wrong; the text after a colon is detail.
            column (`str`, *optional*): The column with the problem.
            digest (`str`, *optional*): Digest of the row's contents, if different rows may share `key`.
            skipped (`bool`, defaults to `True`): Whether the row was left out. If not, it was used but changed.
        """
        report: dict[str, Any] = {"key": key, "reason": reason[:MAX_REASON]}
        report |= {name: value for name, value in (("column", column), ("digest", digest)) if value is not None}
        if not skipped:
            report["skipped"] = False
        # A lone surrogate, such as in a file name that is not UTF-8, is written as a JSON escape.
        line = json.dumps(report, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a+b", buffering=0) as file:  # one write per line: lines of workers do not mix
            end = file.seek(0, os.SEEK_END)
            if end:
                file.seek(end - 1)
                if file.read(1) != b"\n":
                    line = b"\n" + line  # a process died while it wrote
            file.write(line)
        self._warn(report, end)

    def _warn(self, report: dict[str, Any], end: int) -> None:
        # Earlier warnings are counted in the file, because each epoch starts new workers.
        if end - self._start > FEW_BYTES:
            return
        before = sum(_skipped(other) is _skipped(report) for other in self._read(self._start, end))
        what = "broken" if _skipped(report) else "changed"
        if before < self.max_warnings:
            detail = "".join(report["reason"].partition(":")[1:])
            logger.warning(f"{what.capitalize()} row {report['key']}: {_label(report)}{detail}")
        elif before == self.max_warnings:
            logger.warning(f"More {what} rows are listed in {self.path}")

    def _read(self, start: int = 0, end: int | None = None) -> Iterator[dict[str, Any]]:
        if not self.path.exists():
            return
        with open(self.path, "rb") as file:
            file.seek(start)
            for line in file.read(-1 if end is None else max(end - start, 0)).split(b"\n"):
                if line:
                    yield _parse(line)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The reports. Each row, column and reason comes once, however many epochs reported it."""
        seen = set()
        for report in self._read():
            identity = (report["key"], report.get("digest"), _label(report))
            if report["key"] is None or identity not in seen:
                seen.add(identity)
                yield report

    def __len__(self) -> int:
        """Number of rows that were skipped."""
        return sum(map(_skipped, self))

    def __bool__(self) -> bool:
        return True  # also when no row was reported

    def counts(self, skipped: bool | None = None) -> dict[str, int]:
        """
        Number of rows by reason and column, the most frequent first.

        Args:
            skipped (`bool`, *optional*): Count only rows that were skipped, or only rows that were changed.
        """
        reports = (report for report in self if skipped is None or _skipped(report) is skipped)
        return dict(Counter(map(_label, reports)).most_common())

    def summary(self) -> str:
        """A line for the end of a run."""
        counts = self.counts()
        if not counts:
            return "No broken rows."
        listed = ", ".join(f"{number} × {reason}" for reason, number in counts.items())
        return f"Rows skipped or changed: {listed}. They are listed in {self.path}"


def _remove(path: str, process: int) -> None:
    if os.getpid() == process:  # not when a forked worker ends
        with contextlib.suppress(OSError):
            os.unlink(path)


def _label(report: dict[str, Any]) -> str:
    reason = report["reason"].partition(":")[0]
    return f"{reason} in {report['column']}" if "column" in report else reason


def _skipped(report: dict[str, Any]) -> bool:
    return report.get("skipped", True)


def _parse(line: bytes) -> dict[str, Any]:
    try:
        return {"key": None, "reason": "", **json.loads(line)}
    except (ValueError, TypeError):  # cut short because a process died; it still stands for a row
        return {"key": None, "reason": f"incomplete report: {line.decode('utf-8', 'replace')}"}

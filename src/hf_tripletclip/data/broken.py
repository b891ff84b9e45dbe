# SPDX-License-Identifier: Apache-2.0
"""Reports of rows that could not be used, over all DataLoader workers and processes."""

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

MAX_REASON = 500  # characters; a line must stay short, so that it is written at once
FEW_BYTES = 1 << 16  # a report longer than this has had its warnings


class BrokenRows:
    """
    Rows that were skipped, or changed, and why.

    The report is a file of JSON lines, see `add`, so that all DataLoader workers, and all processes of a machine,
    append to the same one and nothing is lost when one of them dies. It is created with the first report. A run that
    is resumed goes on with the file that is there. Every epoch writes its reports; whoever reads them gets each row,
    column and reason once, and reports of rows that have no key all.

    Args:
        path (`str` or `os.PathLike`, *optional*): The file. Defaults to one in the system's temporary folder, which
            workers share and other ranks do not, and which is removed when this process ends. On a network file system
            give each machine its own.
        max_warnings (`int`, defaults to 5): Reports that are also logged, of skipped and of changed rows each.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, max_warnings: int = 5) -> None:
        if path is None:
            handle, name = tempfile.mkstemp(prefix="broken_rows-", suffix=".jsonl")
            os.close(handle)
            os.unlink(name)  # only the name: most runs report nothing
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
            key (`str`, *optional*): The row's key, or what else tells which it is.
            reason (`str`): What is wrong; what follows a colon is detail.
            column (`str`, *optional*): The column that it is wrong with.
            digest (`str`, *optional*): Of the row's contents, where rows that differ may share `key`.
            skipped (`bool`, defaults to `True`): Whether the row was left out; else it was used, but changed.
        """
        report: dict[str, Any] = {"key": key, "reason": reason[:MAX_REASON]}
        report |= {name: value for name, value in (("column", column), ("digest", digest)) if value is not None}
        if not skipped:
            report["skipped"] = False
        # A lone surrogate, as in the name of a file that is not UTF-8, is written as JSON's own escape.
        line = json.dumps(report, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a+b", buffering=0) as file:  # appended in one write: lines of workers do not mix
            end = file.seek(0, os.SEEK_END)
            if end:
                file.seek(end - 1)
                if file.read(1) != b"\n":
                    line = b"\n" + line  # a process died while it wrote
            file.write(line)
        self._warn(report, end)

    def _warn(self, report: dict[str, Any], end: int) -> None:
        # The file counts for all workers, which are new ones in each epoch.
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
        """The reports, each row, column and reason once however often an epoch met it."""
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
        return True  # an empty report is still a report

    def counts(self, skipped: bool | None = None) -> dict[str, int]:
        """Number of rows by reason and column, the most frequent first; only skipped or only changed ones if asked."""
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
    if os.getpid() == process:  # not the end of a worker that was forked
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
    except (ValueError, TypeError):  # cut short when a process died: it stands for a row all the same
        return {"key": None, "reason": f"incomplete report: {line.decode('utf-8', 'replace')}"}

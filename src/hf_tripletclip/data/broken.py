# SPDX-License-Identifier: Apache-2.0
"""Reports of rows that could not be used, over all DataLoader workers and processes."""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers.utils import logging

logger = logging.get_logger(__name__)


class BrokenRows:
    """
    Rows that were skipped, or changed, and why.

    The report is a file of JSON lines, so that all DataLoader workers write to the same one and nothing is lost when
    one of them dies. It is created with the first report.

    Args:
        path (`str` or `os.PathLike`, *optional*): The file. Defaults to one in the system's temporary folder.
        max_warnings (`int`, defaults to 5): Reports that each process also logs.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, max_warnings: int = 5) -> None:
        if path is None:
            handle, name = tempfile.mkstemp(prefix="broken_rows-", suffix=".jsonl")
            os.close(handle)
            os.unlink(name)  # only the name: most runs report nothing
            path = name
        self.path = Path(path)
        self.max_warnings = max_warnings
        self._logged = 0

    def add(self, key: str, reason: str) -> None:
        """Report a row by its key, or by what else tells which it is."""
        line = json.dumps({"key": key, "reason": reason}, ensure_ascii=False) + "\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "ab", buffering=0) as file:  # appended in one write: lines of workers do not mix
            file.write(line.encode(errors="backslashreplace"))  # a lone surrogate, as JSON escapes it
        if self._logged < self.max_warnings:
            logger.warning(f"Broken row {key}: {reason}")
        elif self._logged == self.max_warnings:
            logger.warning(f"More broken rows are listed in {self.path}")
        self._logged += 1

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The reports, each row and reason once however often an epoch met it."""
        seen = set()
        if self.path.exists():
            for line in self.path.read_bytes().split(b"\n"):
                if line and line not in seen:
                    seen.add(line)
                    yield json.loads(line)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __bool__(self) -> bool:
        return True  # an empty report is still a report

    def counts(self) -> dict[str, int]:
        """Number of rows by reason, the most frequent first; what follows a colon in a reason is detail."""
        return dict(Counter(report["reason"].partition(":")[0] for report in self).most_common())

    def summary(self) -> str:
        """A line for the end of a run."""
        counts = self.counts()
        if not counts:
            return "No broken rows."
        listed = ", ".join(f"{number} × {reason}" for reason, number in counts.items())
        return f"Rows skipped or changed: {listed}. They are listed in {self.path}"

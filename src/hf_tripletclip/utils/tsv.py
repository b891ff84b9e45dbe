# SPDX-License-Identifier: Apache-2.0
"""Reads the tables that come with the package as tab-separated text."""

from __future__ import annotations

from pathlib import Path


def read_tsv(path: Path) -> list[dict[str, str]]:
    """
    The rows of a table, in order.

    Args:
        path (`Path`): A UTF-8 file. Empty lines and lines that begin with `#` are skipped; the first other line names
            the columns, separated by tabs. Cells at the end of a line may be missing, and are empty then.

    Raises:
        OSError: The file cannot be read.
        ValueError: A row has more cells than there are columns.
    """
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    names = lines[0].split("\t")
    rows = []
    for line in lines[1:]:
        cells = line.split("\t")
        if len(cells) > len(names):
            raise ValueError(f"{path} has a row of {len(cells)} cells for {len(names)} columns: {line!r}")
        rows.append(dict(zip(names, [*cells, *[""] * (len(names) - len(cells))], strict=True)))
    return rows

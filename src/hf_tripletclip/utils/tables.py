# SPDX-License-Identifier: Apache-2.0
"""Tables as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def markdown_table(head: Sequence[str], rows: Iterable[Iterable[object]], *, numbers: Iterable[str] = ()) -> str:
    """
    A Markdown table.

    Args:
        head (`Sequence[str]`): The names of the columns.
        rows (`Iterable[Iterable[object]]`): The cells. A text is Markdown already, with `|` escaped; a whole number
            gets thousands separators; `None` is an empty cell.
        numbers (`Iterable[str]`): The names of the columns to align on the right.

    Returns:
        `str`: The lines, without a line break at the end.

    Example:

    ```python
    >>> print(markdown_table(["method", "rows"], [["clip", 12345]], numbers=["rows"]))
    | method | rows |
    | --- | ---: |
    | clip | 12,345 |
    ```"""
    right = set(numbers)
    lines = [head, ["---:" if name in right else "---" for name in head], *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else str(value)

# SPDX-License-Identifier: Apache-2.0
"""Markdown that shows text of others, such as captions, names and settings, as it is; and tables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from hf_tripletclip.utils.pages.markup import UNSHOWN, escape_markdown

INSIDE = re.compile(r"(?<=[A-Za-z0-9])\\_(?=[A-Za-z0-9])")  # an underscore inside a word emphasises nothing


class Markdown(str):
    """Markdown, not text."""


def words(value: object) -> Markdown:
    """Any text as Markdown that shows it as it is, on one line."""
    if isinstance(value, Markdown):
        return value
    escaped = INSIDE.sub("_", escape_markdown(value))
    return Markdown(escaped if escaped.count("$") > 1 else escaped.replace("\\$", "$"))  # one alone begins no formula


def code(value: object) -> Markdown:
    """Any text in the type of code, on one line; backticks, which would end it, become apostrophes."""
    clean = " ".join(UNSHOWN.sub("\ufffd", str(value).encode("utf-8", "replace").decode("utf-8")).split())
    return Markdown(f"`{clean.replace('`', chr(39)) or ' '}`")


def in_python(name: str) -> str:
    """A name between the quotation marks of a line of Python."""
    return " ".join(name.split()).replace("\\", "\\\\").replace('"', '\\"')


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
    return "\n".join("| " + " | ".join(map(_plain_cell, line)) + " |" for line in lines)


def _plain_cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else str(value)


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table of any text, shown as it is; cells that are [`Markdown`] stay."""
    return markdown_table([_cell(name) for name in head], (map(_cell, row) for row in rows))


def _cell(value: object) -> str:
    return re.sub(r"(?<!\\)\|", r"\\|", words(value)).replace("\n", " ")

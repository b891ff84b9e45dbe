# SPDX-License-Identifier: Apache-2.0
"""Markdown that shows text of others, such as captions, names and settings, as it is; and tables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from hf_tripletclip.utils.pages.markup import UNSHOWN, escape_markdown
from hf_tripletclip.utils.tables import markdown_table

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


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table; cells are text, or [`Markdown`]."""
    return markdown_table([_cell(name) for name in head], (map(_cell, row) for row in rows))


def _cell(value: object) -> str:
    return re.sub(r"(?<!\\)\|", r"\\|", words(value)).replace("\n", " ")

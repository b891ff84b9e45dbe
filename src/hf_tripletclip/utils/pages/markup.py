# SPDX-License-Identifier: Apache-2.0
"""Text, tables and controls as HTML."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape

# What a browser does not show, or what would turn the text around it.
UNSHOWN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufffe\uffff]")

MARKDOWN = re.compile(r"[\\`*_\[\]<>|#~$]|&(?=#?\w+;)")  # what has a meaning there inside a line
ADDRESS = re.compile(r"((?:https?|ftp)|www)(:|\.)", re.IGNORECASE)  # becomes a link even without brackets


class Html(str):
    """HTML, not text."""


def text(value: object) -> str:
    """Any text as HTML."""
    clean = str(value).encode("utf-8", "replace").decode("utf-8")  # lone surrogates cannot be written
    return escape(UNSHOWN.sub("\ufffd", clean))


def escape_markdown(value: object) -> str:
    """Any text as Markdown that shows it as it is, on one line: no HTML, link, picture, emphasis or table cell."""
    clean = " ".join(UNSHOWN.sub("\ufffd", str(value).encode("utf-8", "replace").decode("utf-8")).split())
    clean = MARKDOWN.sub(r"\\\g<0>", clean)
    return ADDRESS.sub(lambda found: f"{found[1]}\\{found[2]}", clean)


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[object]],
    classes: Sequence[str] = (),
    words: Sequence[str] = (),
) -> str:
    """
    A table whose columns but the first, and `words`, hold numbers.

    Args:
        head (`Sequence[str]`): Names of the columns.
        rows (`Iterable[Sequence[object]]`): The cells; whole numbers get thousands separators, `None` is a dash, and
            [`Html`] is shown as it is.
        classes (`Sequence[str]`): A class of the style sheet for each row.
        words (`Sequence[str]`): Names of the columns, beside the first, that hold words.
    """

    styles = ["words" if place == 0 or name in words else "" for place, name in enumerate(head)]
    body = ""
    for place, row in enumerate(rows):
        style = f' class="{classes[place]}"' if classes and classes[place] else ""
        body += f"<tr{style}>{''.join(map(_cell, row, styles))}</tr>"
    titles = "".join(f"<th{_class(style)}>{text(name)}</th>" for name, style in zip(head, styles, strict=True))
    return f'<div class="wide"><table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(value: object, style: str) -> str:
    if not isinstance(value, Html):
        value = text(f"{value:,}" if isinstance(value, int) else "–" if value is None else value)
    return f"<td{_class(style)}>{value}</td>"


def _class(style: str) -> str:
    return f' class="{style}"' if style else ""


def figure(drawing: str, caption: str = "") -> str:
    """A chart with what to know about it, as HTML."""
    return f"<figure>{drawing}<figcaption>{caption}</figcaption></figure>"


def controls(filters: Mapping[str, tuple[str, Sequence[tuple[str, str]]]], sorts: Sequence[tuple[str, str]]) -> str:
    """
    The boxes that filter and sort the cards of a grid where scripts run. One with nothing to choose is left out.

    Args:
        filters (`Mapping[str, tuple[str, Sequence[tuple[str, str]]]]`): Name of a box -> the cards' `data-` attribute
            that it looks at, which holds a value or a JSON list of values, and (value, label) of its entries.
        sorts (`Sequence[tuple[str, str]]`): (value, label) of the ways to sort: the name of one of the cards'
            `data-scores` and `up` or `down`.
    """
    boxes = [(name, f' data-by="{by}"', entries) for name, (by, entries) in filters.items()]
    shown = "".join(
        f'<label>{name} <select id="{name}"{by}>'
        + "".join(f'<option value="{text(value)}">{text(label)}</option>' for value, label in entries)
        + "</select></label>"
        for name, by, entries in [*boxes, ("sort", "", sorts)]
        if len(entries) > 2 or (name == "sort" and len(entries) > 1)
    )
    return f'<div class="controls" id="controls" hidden>{shown}<output id="shown"></output></div>'


def grid(cards: Iterable[str]) -> str:
    """Cards, of which more are shown on demand where scripts run."""
    return f'<div class="grid" id="grid">{"".join(cards)}</div><button id="more" hidden>show all</button>'

# SPDX-License-Identifier: Apache-2.0
"""Parts of pages as HTML: tables, figures, grids of cards and their controls. `parts.html` holds the markup."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from hf_tripletclip.utils.pages.template import macro


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[object]],
    classes: Sequence[str] = (),
    words: Sequence[str] = (),
) -> str:
    """
    A table. The first column and `words` hold words, the other columns hold numbers.

    Args:
        head (`Sequence[str]`): The names of the columns.
        rows (`Iterable[Sequence[object]]`): The cells. A whole number gets thousands separators, `None` is a dash.
        classes (`Sequence[str]`): For each row, a class of the style sheet, or an empty text.
        words (`Sequence[str]`): The names of more columns of words.
    """
    return str(macro("table")(head, rows, classes, words))


def figure(drawing: str, caption: str = "") -> str:
    """A chart (HTML) with a caption (HTML) below it."""
    return str(macro("figure")(drawing, caption))


def controls(filters: Mapping[str, tuple[str, Sequence[tuple[str, str]]]], sorts: Sequence[tuple[str, str]]) -> str:
    """
    The boxes that filter and sort the cards of a grid, if the browser runs scripts. A box without a choice is left
    out.

    Args:
        filters (`Mapping[str, tuple[str, Sequence[tuple[str, str]]]]`): The name of a box -> the cards' `data-`
            attribute that it filters by, which holds a value or a JSON list of values, and the (value, label) of its
            entries.
        sorts (`Sequence[tuple[str, str]]`): The (value, label) of the ways to sort. A value is a name in the cards'
            `data-scores` followed by `up` or `down`.
    """
    return str(macro("controls")(filters, sorts))


def grid(cards: Iterable[str]) -> str:
    """Cards (HTML), with a button that shows more of them, if the browser runs scripts."""
    return str(macro("grid")(cards))

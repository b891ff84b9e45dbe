# SPDX-License-Identifier: Apache-2.0
"""
Drawings that show which pairs enter which denominator.

`python -m hf_tripletclip.objectives.drawing docs/images/methods` draws all objectives.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_tripletclip.objectives import OBJECTIVES, Objective, get_objective
from hf_tripletclip.objectives.own_terms import AnyOwnTerm, MarginTerm, OwnTerm, PairwiseTerm
from hf_tripletclip.objectives.reconstruction import ReconstructionTerm
from hf_tripletclip.objectives.sigmoid_terms import SigmoidTerm
from hf_tripletclip.objectives.teacher_terms import PriorTerm, TeacherTerm
from hf_tripletclip.objectives.terms import (
    AnyTerm,
    CloseTerm,
    CyclicTerm,
    LossTerm,
    Term,
    WithinTerm,
    symbol,
)
from hf_tripletclip.objectives.token_terms import LocalOwnTerm

ROWS = 3  # rows of the drawn batch
EACH = 2  # embeddings per row, for roles of which a row may have several
NOTHING, TARGET, WRONG, COMPARED = range(4)
COLOURS = ("#f4f4f4", "#009E73", "#D55E00", "#0072B2")
MEANINGS = ("not used", "right answer", "wrong answer", "compared")
INCHES_PER_CELL = 0.26
MARGIN = 3  # cells between terms
WIDEST = 30  # cells in a line
# Settings of the drawings: they switch on terms that are off by default.
OPTIONS: dict[str, dict[str, Any]] = {
    "fsc_clip": {"local_weight": 0.2},
    "read_alignment": {"decoder": "google/t5-v1_1-large"},
}


@dataclass(frozen=True)
class Picture:
    """
    A term as a grid.

    Args:
        queries, keys (`list[str]`): Labels of the rows and of the columns.
        cells (`list[list[int]]`): For each row and column `NOTHING`, `TARGET`, `WRONG` or `COMPARED`.
    """

    queries: list[str]
    keys: list[str]
    cells: list[list[int]]


def _names(role: str, each: int = 1, star: str = "") -> list[str]:
    return [f"{symbol(role)}{row + 1}{'ab'[n] if each > 1 else ''}{star}" for row in range(ROWS) for n in range(each)]


def _grid(query: str, blocks: Sequence[tuple[str, int, Callable[[int, int], int]]], star: str = "") -> Picture:
    """
    Queries of a role against blocks of keys. A block is a role, the number of its embeddings per row, and a function
    that gives the cell of query i and a key of row j.
    """
    keys = [name for role, each, _ in blocks for name in _names(role, each, star if role == blocks[0][0] else "")]
    cells = [
        [meaning(i, j) for _, each, meaning in blocks for j in range(ROWS) for _ in range(each)] for i in range(ROWS)
    ]
    return Picture(_names(query), keys, cells)


def _pairs(i: int, j: int) -> int:
    return TARGET if i == j else WRONG


def _own_target(i: int, j: int) -> int:
    return TARGET if i == j else NOTHING


def _own_wrong(i: int, j: int) -> int:
    return WRONG if i == j else NOTHING


def _all_wrong(i: int, j: int) -> int:
    return WRONG


def _term(term: Term) -> Picture:
    first, *others = term.keys
    return _grid(term.query, [(first, 1, _pairs), *((role, 1, _all_wrong) for role in others)])


def _own(term: OwnTerm | MarginTerm | PairwiseTerm | LocalOwnTerm) -> Picture:
    star = "*" if term.teacher_roles else ""
    return _grid(term.query, [(term.target, 1, _own_target), *((role, EACH, _own_wrong) for role in term.keys)], star)


def _any(term: AnyTerm) -> Picture:
    return _grid(term.query, [(term.target, EACH, _pairs)])


def _any_own(term: AnyOwnTerm) -> Picture:
    return _grid(term.query, [(term.target, EACH, _own_target), *((role, EACH, _own_wrong) for role in term.keys)])


def _within(term: WithinTerm) -> Picture:
    return _grid(term.pair[1], [(term.pair[0], 1, _own_target), *((role, 1, _all_wrong) for role in term.keys)])


def _cyclic(term: CyclicTerm) -> Picture:
    one, other = term.pair
    query, keys = (one, one) if term.kind == "within" else (one, other)
    return _grid(query, [(keys, 1, lambda i, j: COMPARED if i != j else NOTHING)])


def _close(term: CloseTerm) -> Picture:
    return _grid(term.query, [(term.target, 1, _own_target)])


def _reconstruction(term: ReconstructionTerm) -> Picture:
    return _grid(term.source, [(term.target, EACH, _own_target)])


def _teacher(term: TeacherTerm) -> Picture:
    return _grid(term.role, [(term.role, 1, _own_target)], star="*")


def _prior(term: PriorTerm) -> Picture:
    keys = [*_names(term.role), *_names(term.role, star="*")]
    return Picture([f"mean {symbol(term.query)}"], keys, [[COMPARED] * len(keys)])


def _sigmoid(term: SigmoidTerm) -> Picture:
    queries, keys = ([name for role in roles for name in _names(role)] for roles in (term.images, term.texts))
    return Picture(queries, keys, [[_pairs(i, j) for j in range(len(keys))] for i in range(len(queries))])


DRAWN: dict[type[LossTerm], Callable[[Any], Picture]] = {
    Term: _term,
    OwnTerm: _own,
    LocalOwnTerm: _own,
    MarginTerm: _own,
    PairwiseTerm: _own,
    PriorTerm: _prior,
    AnyTerm: _any,
    AnyOwnTerm: _any_own,
    WithinTerm: _within,
    CyclicTerm: _cyclic,
    CloseTerm: _close,
    TeacherTerm: _teacher,
    ReconstructionTerm: _reconstruction,
    SigmoidTerm: _sigmoid,
}


def picture_of(term: LossTerm) -> Picture:
    """
    The grid of a term, for a batch of three rows, with two embeddings per row for roles that allow several.

    Raises:
        ValueError: The term's class is not one of this package's.
    """
    if type(term) not in DRAWN:
        raise ValueError(f"There is no drawing of a {type(term).__name__}.")
    return DRAWN[type(term)](term)


def draw_objective(objective: Objective | type[Objective], path: str | os.PathLike[str]) -> None:
    """
    Draw an objective's terms side by side.

    Args:
        objective ([`Objective`] or its class): The objective with its settings, or its class for the default settings.
        path (`str` or `os.PathLike`): The PNG file to write.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: A term's class is not one of this package's.
    """
    from hf_tripletclip.utils.plots import new_figure

    terms = [term for term in objective.terms if term.weight]
    pictures = [picture_of(term) for term in terms]
    lines = _lines([len(picture.keys) for picture in pictures])
    width = max(sum(len(pictures[place].keys) + MARGIN for place in line) for line in lines)
    figure = new_figure(max(4.5, width * INCHES_PER_CELL), len(lines) * 1.55 + 0.3)
    for part, line in zip(figure.subfigures(len(lines), 1, squeeze=False)[:, 0], lines, strict=True):
        ratios = [len(pictures[place].keys) + MARGIN for place in line]
        for panel, place in zip(part.subplots(1, len(line), squeeze=False, width_ratios=ratios)[0], line, strict=True):
            _draw(panel, pictures[place], f"{terms[place].weight:.3g} {terms[place].formula}")
    from matplotlib.patches import Patch

    used = sorted({cell for picture in pictures for row in picture.cells for cell in row})
    handles = [Patch(facecolor=COLOURS[meaning], label=MEANINGS[meaning]) for meaning in used]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=6, frameon=False)
    figure.savefig(path, dpi=150)


def _lines(widths: Sequence[int]) -> list[list[int]]:
    """Arrange the terms in lines that are not too wide to read: the indices of each line's terms."""
    lines: list[list[int]] = [[]]
    for place, width in enumerate(widths):
        if lines[-1] and sum(widths[other] + MARGIN for other in lines[-1]) + width > WIDEST:
            lines.append([])
        lines[-1].append(place)
    return lines


def _draw(panel: Any, picture: Picture, title: str) -> None:
    from matplotlib.colors import ListedColormap

    panel.imshow(picture.cells, cmap=ListedColormap(COLOURS), vmin=0, vmax=3, aspect="equal")
    panel.set_xticks(range(len(picture.keys)), picture.keys, fontsize=6, rotation=90)
    panel.set_yticks(range(len(picture.queries)), picture.queries, fontsize=6)
    panel.set_title(title, fontsize=7, loc="left")
    # An empty margin at the right end gives all cells the same size, and leaves room for titles.
    panel.set_xlim(-0.5, len(picture.keys) + MARGIN - 0.5)
    panel.set_xticks([place + 0.5 for place in range(len(picture.keys) - 1)], minor=True)
    panel.set_yticks([place + 0.5 for place in range(len(picture.queries) - 1)], minor=True)
    panel.grid(which="minor", color="white", linewidth=1.5)
    panel.tick_params(which="both", length=0)
    panel.spines[:].set_visible(False)


def main(arguments: Sequence[str]) -> None:
    """Draw every registered objective into a folder."""
    if len(arguments) != 1:
        raise SystemExit("usage: python -m hf_tripletclip.objectives.drawing FOLDER")
    folder = Path(arguments[0])
    folder.mkdir(parents=True, exist_ok=True)
    for name in OBJECTIVES:
        draw_objective(get_objective(name, **OPTIONS.get(name, {})), folder / f"{name}.png")


if __name__ == "__main__":
    main(sys.argv[1:])

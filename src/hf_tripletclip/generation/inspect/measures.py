# SPDX-License-Identifier: Apache-2.0
"""The numbers of the page: counts by kind, what captions give away, what filters leave, and the concepts."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hf_tripletclip.data.blind import MAX_ROWS, blind_score
from hf_tripletclip.data.schema import NEGATIVE_TYPES
from hf_tripletclip.generation.captions.content import LEFT_OUT, SAME, content_problem
from hf_tripletclip.generation.concepts import CoverageTable, coverage_table
from hf_tripletclip.generation.filters import QUANTITIES, FilterSettings, _quantity, apply_filters
from hf_tripletclip.generation.inspect.rows import Row

NO_KIND = "no kind given"
CURVE_POINTS = 48
TABLE_POINTS = 8


def kinds_by_split(rows: Sequence[Row]) -> dict[str, Counter[str]]:
    """Kind -> split -> number of negative captions, the most frequent kind first."""
    counts: dict[str, Counter[str]] = {}
    for row in rows:
        for kind in row.kinds:
            counts.setdefault(kind or NO_KIND, Counter())[row.split] += 1
    return dict(sorted(counts.items(), key=lambda entry: (-entry[1].total(), entry[0])))


def true_negatives(rows: Sequence[Row]) -> dict[str, Counter[str]]:
    """
    Reason -> split -> number of negative captions that are true of the same picture, see
    [`~hf_tripletclip.generation.content_problem`]. One that only adds words may be false, and is not counted.
    """
    counts: dict[str, Counter[str]] = {}
    for row in rows:
        for negative in row.negatives:
            if (reason := content_problem(row.caption, negative)) in (SAME, LEFT_OUT):
                counts.setdefault(str(reason), Counter())[row.split] += 1
    return dict(sorted(counts.items(), key=lambda entry: (-entry[1].total(), entry[0])))


@dataclass(frozen=True)
class BlindScore:
    """
    How well captions alone tell the positive.

    Args:
        group (`str`): Which rows.
        number (`int`): Pairs of captions.
        score (`float`): Share of right answers, 0.5 by chance.
        low, high (`float`): The interval of chance, two standard errors around 0.5.
    """

    group: str
    number: int
    score: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """In a few words."""
        if self.score > self.high:
            return "captions give it away"
        return "below chance" if self.score < self.low else "at chance"


def blind_scores(rows: Sequence[Row]) -> list[BlindScore]:
    """
    The blind score of all rows and of each kind. Of a row with several negative captions one counts, of each kind
    one: the positive caption would else stand in both halves, of which one is fitted and the other tried.
    """
    groups: dict[str, list[tuple[str, str]]] = {"all": []}
    for number, row in enumerate(rows):
        if row.negatives:
            groups["all"].append((row.caption, row.negatives[number % len(row.negatives)]))
        of_kind: dict[str, str] = {}
        for negative, kind in zip(row.negatives, row.kinds, strict=True):
            of_kind.setdefault(kind or NO_KIND, negative)
        for kind, negative in of_kind.items():
            groups.setdefault(kind, []).append((row.caption, negative))
    scores = []
    for group, pairs in sorted(groups.items(), key=lambda entry: _place(entry[0])):
        if group != "all" and len(groups) == 2 and group == NO_KIND:
            continue  # the same rows
        pairs = pairs[:: -(-len(pairs) // MAX_ROWS) or 1]
        if len(pairs) >= 4:
            score = blind_score([positive for positive, _ in pairs], [negative for _, negative in pairs])
            error = 2 * 0.5 / (len(pairs) // 2) ** 0.5  # of the half that is tried
            scores.append(BlindScore(group, len(pairs), score, 0.5 - error, 0.5 + error))
    return scores


def _place(group: str) -> tuple[int, str]:
    """All rows first, then SugarCrepe's kinds in their order, then others."""
    known = ("all", *NEGATIVE_TYPES)
    return (known.index(group) if group in known else len(known), group)


@dataclass(frozen=True)
class FilterEffect:
    """
    How many rows a bound on a quantity leaves.

    Args:
        quantity (`str`): As `FilterSettings` calls it after `min_` and `max_`.
        scored (`int`): Rows that have the scores for it.
        places (`list[float]`): Thresholds.
        at_least (`list[int]`): Rows that a minimum of each leaves.
        at_most (`list[int]`, *optional*): Rows that a maximum leaves, if there is such a filter.
        table (`list[tuple[float, int, int | None]]`): Round thresholds and the rows that each leaves.
    """

    quantity: str
    scored: int
    places: list[float]
    at_least: list[int]
    at_most: list[int] | None
    table: list[tuple[float, int, int | None]]


def filter_effects(rows: Sequence[Row]) -> list[FilterEffect]:
    """The effect of each filter whose scores the rows have."""
    effects = []
    for quantity, columns in QUANTITIES.items():
        scores = {name: [row.scores.get(name) for row in rows] for name in columns}
        whole = [values for values in zip(*scores.values(), strict=True) if None not in values]
        if not whole:
            continue
        scores = {name: [values[place] for values in whole] for place, name in enumerate(columns)}
        values = _quantity(quantity, {name: np.asarray(column, np.float32) for name, column in scores.items()})
        low, high = float(values.min()), float(values.max())

        def kept(bound: str, threshold: float, scores: dict = scores) -> int:
            return len(apply_filters(scores, FilterSettings(**{bound: threshold}))[0])  # type: ignore[arg-type]

        both = f"max_{quantity}" in FilterSettings.__dataclass_fields__
        places = np.linspace(low, high, CURVE_POINTS).tolist() if high > low else [low]
        effects.append(
            FilterEffect(
                quantity=quantity,
                scored=len(whole),
                places=places,
                at_least=[kept(f"min_{quantity}", place) for place in places],
                at_most=[kept(f"max_{quantity}", place) for place in places] if both else None,
                table=[
                    (place, kept(f"min_{quantity}", place), kept(f"max_{quantity}", place) if both else None)
                    for place in ticks(low, high, TABLE_POINTS)
                ],
            )
        )
    return effects


def concepts(rows: Sequence[Row]) -> CoverageTable | str:
    """WordNet's synsets in positive and negative captions; or how to get WordNet if it is missing."""
    try:
        return coverage_table([row.caption for row in rows], [row.negatives for row in rows])
    except (ImportError, FileNotFoundError) as error:
        return str(error)


def left_out_reasons(folder: Path) -> dict[str, Counter[str]] | None:
    """
    Reason -> split -> rows that generation left out, the most frequent first; `None` of a dataset without the file
    that lists them.
    """
    from hf_tripletclip.generation.plan import LEFT_OUT_FILE

    path = folder / LEFT_OUT_FILE
    if not path.is_file():
        return None
    counts: dict[str, Counter[str]] = {}
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                entry = json.loads(line)
                reason, split = str(entry["reason"]), str(entry["split"])
            except (ValueError, TypeError, KeyError):
                reason, split = f"a line of {LEFT_OUT_FILE} that cannot be read", "?"
            counts.setdefault(reason, Counter())[split] += 1
    return dict(sorted(counts.items(), key=lambda entry: -entry[1].total()))


def ticks(low: float, high: float, number: int = 5) -> list[float]:
    """About so many round numbers from `low` to `high`."""
    if not high > low:
        return [low]
    rough = (high - low) / number
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.8)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(place * step, 12) for place in range(first, last + 1)]

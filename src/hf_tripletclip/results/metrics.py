# SPDX-License-Identifier: Apache-2.0
"""Which metrics of a result reports show, and whether two models differ by more than chance."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from hf_tripletclip.results.result import EvaluationResult, main_metrics
from hf_tripletclip.results.scoring import CLUSTER, all_alike, bootstrap

KEYS = ("key", "row")  # columns of predictions with the names of rows
QUANTILE = re.compile(r"_(q\d\d|median)$")
ASPECTS = {"direction", "held_out"}  # columns that divide the rows, but not into categories


def overall_metrics(result: EvaluationResult) -> list[str]:
    """The main metrics, without those of a single category."""
    return [name for name in main_metrics(result) if _category(result, name) is None]


def category_metrics(result: EvaluationResult) -> dict[str, str]:
    """Category -> its metric of the primary outcome."""
    primary = result.means.get(result.primary or "")
    found: dict[str, str] = {}
    for name, mean in result.means.items():
        category = _category(result, name)
        if primary is not None and category is not None and mean.outcome == primary.outcome and name in result.metrics:
            found.setdefault(category, name)
    return found


def _category(result: EvaluationResult, name: str) -> str | None:
    """The category of a metric: the value that all its rows have and that its name contains."""
    mean = result.means.get(name)
    if mean is None or mean.where.keys() & ASPECTS:
        return None
    where = [str(value) for value in mean.where.values()]
    return " ".join(where) if where and all(value in name for value in where) else None


def show(value: float, raw: bool = False) -> str:
    """A metric as reports print it: per cent with one decimal, or, if `raw`, the number with three."""
    return f"{value:.3f}" if raw else f"{100 * value:.1f}"


@dataclass(frozen=True)
class Difference:
    """
    The lead of the second of two models over the first.

    Args:
        value (`float`): Second minus first.
        low, high (`float`): The 95 % interval of a paired bootstrap. NaN if all draws are the same, because there is
            only one row or the models differ by the same amount in all rows: such draws do not show how certain the
            difference is.
    """

    value: float
    low: float
    high: float

    @property
    def is_clear(self) -> bool:
        """Whether there is an interval and it does not contain zero."""
        return self.low > 0 or self.high < 0

    def interval(self, form: Callable[[float], str], between: str, *, sign: int = 1) -> str:
        """The interval of the difference times `sign`, in words; `n/a` if there is none."""
        if math.isnan(self.low):
            return "n/a"
        return between.join(map(form, sorted((sign * self.low, sign * self.high))))


class Draws:
    """The bootstrap of several results: each is computed once, and all have the same draws."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[EvaluationResult, dict[str, np.ndarray]]] = {}

    def of(self, result: EvaluationResult) -> dict[str, np.ndarray]:
        """Overall metric -> its values over resampled rows."""
        if id(result) not in self._known:
            means = {name: result.means[name] for name in overall_metrics(result) if name in result.means}
            self._known[id(result)] = result, bootstrap(result.predictions, means)
        return self._known[id(result)][1]


def why_not_paired(first: EvaluationResult, second: EvaluationResult) -> str | None:
    """Why two results cannot be compared row by row; `None` if they can."""
    if first.benchmark != second.benchmark:
        return f"one is of {first.benchmark}, the other of {second.benchmark}"
    if first.data.get("fingerprint") != second.data.get("fingerprint"):
        return "the data are not the same (their fingerprints differ)"
    if first.settings.get("protocol") != second.settings.get("protocol"):
        return "the scoring is not the same (strict and official)"
    if not first.means or not second.means:
        return "the results do not say how their metrics come from rows"
    if not first.predictions or not second.predictions:
        return "the .parquet of predictions is missing beside a result"
    column = next((name for name in KEYS if name in first.predictions), None)
    if column is None or column not in second.predictions:
        return "the predictions do not name their rows"
    if list(first.predictions[column]) != list(second.predictions[column]):
        return "the rows are not the same (their keys differ)"
    if list(first.predictions.get(CLUSTER, ())) != list(second.predictions.get(CLUSTER, ())):
        return "the rows are not drawn together in the same way (their clusters differ)"
    return None


def different_settings(results: Sequence[EvaluationResult]) -> str:
    """The settings that differ between results, except places and speed, in words; empty if there are none."""
    found = []
    for name in dict.fromkeys(name for result in results for name in result.settings):
        if name in ("batch_size", "annotations", "images", "data", "scores"):
            continue
        values = list(dict.fromkeys(repr(result.settings.get(name)) for result in results))
        if len(values) > 1:
            found.append(f"`{name}` is {' and '.join(value[:60] for value in values)}")
    return "; ".join(found)


def differences(
    first: EvaluationResult, second: EvaluationResult, draws: Draws | None = None, *, level: float = 0.95
) -> dict[str, Difference]:
    """
    The lead of the second model over the first on the same rows, by a paired bootstrap: both are measured on the same
    resampled rows, so rows that are hard for both cancel out.

    Args:
        first, second ([`EvaluationResult`]): With predictions.
        draws ([`Draws`], *optional*): The draws of other pairs, to use again.
        level (`float`, defaults to 0.95): The level of the interval.

    Returns:
        `dict[str, Difference]`: By metric, for the metrics that both results have and that are means over rows.

    Raises:
        ValueError: The rows are not the same.
    """
    if reason := why_not_paired(first, second):
        raise ValueError(f"these results cannot be compared row by row: {reason}.")
    draws = draws or Draws()
    one, other = draws.of(first), draws.of(second)
    edges = [(1 - level) / 2, (1 + level) / 2]
    found = {}
    for name in one:
        if name in other and first.means[name] == second.means[name]:
            values = other[name] - one[name]
            values = values[~np.isnan(values)]
            if len(values):
                low, high = (math.nan, math.nan) if all_alike(values) else map(float, np.quantile(values, edges))
                found[name] = Difference(second.metrics[name] - first.metrics[name], low, high)
    return found


def best(values: Sequence[float | None]) -> list[bool]:
    """For each value, whether it is the highest as printed. None is, if all are equal or only one is known."""
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return [False] * len(values)
    top = show(max(known))
    flags = [value is not None and show(value) == top for value in values]
    return [False] * len(values) if sum(flags) == len(known) else flags


def shared(results: Sequence[EvaluationResult]) -> list[str]:
    """The overall metrics of all results, in order. Quantiles are left out."""
    names = dict.fromkeys(name for result in results for name in overall_metrics(result))
    return [name for name in names if not QUANTILE.search(name)]

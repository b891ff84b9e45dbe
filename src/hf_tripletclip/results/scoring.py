# SPDX-License-Identifier: Apache-2.0
"""The scoring rules: who wins a comparison, means, intervals, paired differences.

Scores are cosines of L2-normalised embeddings, in float32 even if the model encodes in another precision. **The first
score of a comparison must be strictly greater; a tie is wrong**, so a collapsed model scores zero, and the share of
rows with a tie is reported beside the metrics. On tensors the same rule stands in `evaluation/triplets.py` and
`evaluation/recall.py`.

Intervals are percentiles of a bootstrap that draws clusters, not rows, because rows that share an image are not
independent. If all draws are the same, for example because all rows are right, they are Wilson's intervals with as
many tries as there are clusters.
"""

from __future__ import annotations

import math
import random
from collections.abc import Hashable, Iterable, Mapping, Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
import torch

from hf_tripletclip.results.result import Mean

RESAMPLES = 2_000
CLUSTER = "cluster"  # the column of predictions with the cluster of each row
TIE = "tie"  # the column of predictions: two scores that are compared are equal
CELLS = 20_000_000  # of the matrix of draws that is in memory at a time


def cosines(queries: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
    """The cosine of each row of one with the same row of the other, L2-normalised `(N, dim)`, as float32 `(N,)`."""
    return (queries.float() * candidates.float()).sum(dim=-1)


def wins(comparisons: Iterable[tuple[str, str]], scores: Mapping[str, float]) -> bool:
    """Whether in each comparison the score of the first pair is strictly greater."""
    return all(scores[one] > scores[other] for one, other in comparisons)


def tally(predictions: Mapping[str, Sequence[Any]], mean: Mean) -> float:
    """
    A metric from the predictions.

    Returns:
        `float`: NaN if no row counts.
    """
    sums, clusters = _sums(predictions, mean)
    return float(_means(sums, np.ones((1, clusters)))[0])


def bootstrap(
    predictions: Mapping[str, Sequence[Any]],
    means: Mapping[str, Mean],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """
    The values of metrics over resampled clusters of rows. The draws are the same for every metric, and for every model
    on the same rows, so differences between two results are paired.

    Args:
        predictions (`Mapping[str, Sequence]`): Columns. Rows with the same `cluster` are drawn together; without this
            column each row is a cluster.
        means (`Mapping[str, Mean]`): The metrics.
        resamples (`int`, defaults to 2,000): The number of draws.
        seed (`int`, defaults to 0): The seed of the draws.

    Returns:
        `dict[str, np.ndarray]` of shape `(resamples,)`.
    """
    sums = {name: _sums(predictions, mean) for name, mean in means.items()}
    found: dict[str, list[np.ndarray]] = {name: [] for name in means}
    clusters = next(iter(sums.values()))[1] if sums else 0
    if clusters == 0:
        return {name: np.full(resamples, np.nan) for name in means}
    generator = np.random.default_rng(seed)
    left = resamples
    while left:
        draws = min(left, max(1, CELLS // clusters))
        weights = generator.multinomial(clusters, np.full(clusters, 1 / clusters), size=draws).astype(np.float64)
        for name, (of_metric, _) in sums.items():
            found[name].append(_means(of_metric, weights))
        left -= draws
    return {name: np.concatenate(parts) for name, parts in found.items()}


def intervals(
    predictions: Mapping[str, Sequence[Any]], means: Mapping[str, Mean], *, level: float = 0.95, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """
    Percentile intervals of [`bootstrap`]. A metric for which no row counts has none.

    If outcomes are right or wrong and all draws are the same, there are too few rows to draw from, and the interval is
    that of Wilson 1927, "Probable Inference, the Law of Succession, and Statistical Inference", with as many
    independent tries as there are clusters with rows that count.
    """
    edges = [(1 - level) / 2, (1 + level) / 2]
    found = {}
    for name, values in bootstrap(predictions, means, seed=seed).items():
        values = values[~np.isnan(values)]
        if len(values):
            low, high = map(float, np.quantile(values, edges))
            if all_alike(values) and (tries := _tries(predictions, means[name])):
                low, high = _wilson((low + high) / 2, tries, level)
            found[name] = (low, high)
    return found


def all_alike(draws: np.ndarray) -> bool:
    """Whether draws are the same up to rounding: then they do not show how uncertain a metric is."""
    return bool(np.ptp(draws) < 1e-9)


def _tries(predictions: Mapping[str, Sequence[Any]], mean: Mean) -> int:
    """The number of clusters with rows that count; 0 if outcomes are numbers, not right and wrong."""
    if any(value not in (None, 0, 1) for value in predictions[mean.outcome]):
        return 0
    return len(np.unique(_sums(predictions, mean)[0].cluster))


def _wilson(share: float, tries: int, level: float) -> tuple[float, float]:
    z = NormalDist().inv_cdf((1 + level) / 2)
    middle = share + z**2 / (2 * tries)
    half = z * math.sqrt(share * (1 - share) / tries + z**2 / (4 * tries**2))
    low, high = ((middle + sign * half) / (1 + z**2 / tries) for sign in (-1, 1))
    return min(max(low, 0.0), share), max(min(high, 1.0), share)


def _codes(values: Sequence[Hashable]) -> np.ndarray:
    """A number for each value, in order of first appearance."""
    known: dict[Hashable, int] = {}
    return np.array([known.setdefault(value, len(known)) for value in values], dtype=np.int64)


class _Sums(NamedTuple):
    """For each group and each cluster with rows of it: the sum of the outcomes and the number of rows."""

    starts: np.ndarray  # the first place of each group
    cluster: np.ndarray
    numerator: np.ndarray
    denominator: np.ndarray
    above: np.ndarray  # for each group, the value of `Mean.over` that it belongs to


def _sums(predictions: Mapping[str, Sequence[Any]], mean: Mean) -> tuple[_Sums, int]:
    """The sums of a metric, and the number of clusters."""
    outcome = predictions[mean.outcome]
    clusters = _codes(predictions[CLUSTER]) if CLUSTER in predictions else np.arange(len(outcome))
    number = int(clusters.max(initial=-1)) + 1
    counted = np.array([value is not None for value in outcome], dtype=bool)
    for column, wanted in mean.where.items():
        counted &= np.array([value == wanted for value in predictions[column]], dtype=bool)
    columns = [predictions[name] for name in (mean.over, mean.by) if name is not None]
    for values_of in columns:
        counted &= np.array([value is not None for value in values_of], dtype=bool)
    places = np.flatnonzero(counted).tolist()
    groups = np.zeros(len(outcome), dtype=np.int64)
    groups[counted] = _codes([tuple(values_of[place] for values_of in columns) for place in places])
    above = np.zeros(len(outcome), dtype=np.int64)
    if mean.over is not None:
        above[counted] = _codes([columns[0][place] for place in places])
    values = np.array([float(value) for value, counts in zip(outcome, counted, strict=True) if counts])
    # Only pairs of group and cluster that occur: a matrix of ImageNet's classes and images would not fit in memory.
    pairs, inverse = np.unique(groups[counted] * number + clusters[counted], return_inverse=True)
    of_group = pairs // max(number, 1)
    _, first_rows = np.unique(groups[counted], return_index=True)
    sums = _Sums(
        above=above[counted][first_rows],
        starts=np.flatnonzero(np.diff(of_group, prepend=-1)),
        cluster=pairs % max(number, 1),
        numerator=np.bincount(inverse, values, len(pairs)),
        denominator=np.bincount(inverse, minlength=len(pairs)).astype(np.float64),
    )
    return sums, number


def _means(sums: _Sums, weights: np.ndarray) -> np.ndarray:
    """For each draw, the mean of the means of the groups that have rows; NaN if none has."""
    if len(sums.cluster) == 0:
        return np.full(len(weights), np.nan)
    drawn = weights[:, sums.cluster]
    numerators = np.add.reduceat(drawn * sums.numerator, sums.starts, axis=1)
    denominators = np.add.reduceat(drawn * sums.denominator, sums.starts, axis=1)
    there = denominators > 0
    means = np.divide(numerators, denominators, out=np.zeros_like(numerators), where=there)
    if sums.above.any():  # the mean of each value of `Mean.over`, then the mean of these
        order = np.argsort(sums.above, kind="stable")
        starts = np.flatnonzero(np.diff(sums.above[order], prepend=-1))
        counts = np.add.reduceat(there[:, order].astype(np.float64), starts, axis=1)
        totals = np.add.reduceat(means[:, order], starts, axis=1)
        there = counts > 0
        means = np.divide(totals, counts, out=np.zeros_like(totals), where=there)
    groups = there.sum(axis=1)
    return np.divide(means.sum(axis=1), groups, out=np.full(groups.shape, np.nan), where=groups > 0)


def sample_rows(number: int, most: int | None) -> list[int]:
    """
    The places of at most this many rows, in order. They are drawn at random, because a fixed step would miss
    categories that take turns, and with a fixed seed, so they are always the same.
    """
    if most is None or most >= number:
        return list(range(number))
    return sorted(random.Random(0).sample(range(number), most))

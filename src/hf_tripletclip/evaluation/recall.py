# SPDX-License-Identifier: Apache-2.0
"""Exact recall@k: how many wrong candidates rank before the first right one, without the whole matrix of scores.

**Ties lose**: a wrong candidate with the score of the best right one ranks before it, so a collapsed model finds
nothing. Scores are cosines rounded to float32 from float64 products. So equal pairs have equal scores anywhere in the
matrix, which float32 products do not guarantee: BLAS adds in another order at the edges of a matrix.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

RECALL_AT = (1, 5)
CELLS = 1_000_000  # scores in memory at a time: 8 MB of float64


class Ranking(NamedTuple):
    """
    Args:
        rank (`torch.Tensor` of shape `(N,)`, int64): For each query, the number of wrong candidates that score at
            least as high as the best right one. 0 is the best; recall@k is the share of ranks below k.
        tied (`torch.Tensor` of shape `(N,)`, bool): Whether a wrong candidate has the score of the best right one.
        rival (`torch.Tensor` of shape `(N,)`, int64): The wrong candidate with the highest score; -1 if all
            candidates are right.
    """

    rank: torch.Tensor
    tied: torch.Tensor
    rival: torch.Tensor


def rank(queries: torch.Tensor, candidates: torch.Tensor, targets: Sequence[Sequence[int]]) -> Ranking:
    """
    The rank of the best right candidate of each query; ties count against it.

    Args:
        queries (`torch.Tensor` of shape `(N, dim)`): L2-normalised embeddings of any floating-point type.
        candidates (`torch.Tensor` of shape `(M, dim)`): L2-normalised embeddings of the candidates.
        targets (`Sequence[Sequence[int]]` of length N): For each query, the rows of the right candidates; at least
            one.

    Returns:
        [`Ranking`] of N rows.

    Raises:
        ValueError: There are no queries, the lengths differ, an embedding is not finite, a query has no target, or a
            row does not exist.
    """
    queries, candidates = _checked(queries, candidates)
    right = _Targets(targets, len(queries), len(candidates))
    ranks, ties, rivals = [], [], []
    transposed = candidates.double().T
    for start, stop in _chunks(len(queries), len(candidates)):
        scores = (queries[start:stop].double() @ transposed).float()
        rows, columns = right.pairs(start, stop)
        best = torch.full((stop - start,), -torch.inf)
        best.scatter_reduce_(0, rows, scores[rows, columns], reduce="amax")
        scores[rows, columns] = -torch.inf  # the right ones do not compete
        highest, rival = scores.max(dim=1)
        ties.append((scores == best[:, None]).any(dim=1))
        ranks.append((scores >= best[:, None]).sum(dim=1))
        rivals.append(torch.where(highest.isfinite(), rival, -1))
    return Ranking(torch.cat(ranks), torch.cat(ties), torch.cat(rivals))


def topk_hits(
    queries: torch.Tensor, candidates: torch.Tensor, targets: Sequence[Sequence[int]], at: Sequence[int]
) -> dict[int, torch.Tensor]:
    """
    Hits by `torch.topk` on float32 scores, as in CLIP_benchmark (https://github.com/LAION-AI/CLIP_benchmark). It takes
    any of equal scores, so a collapsed model may be right.

    Args:
        queries, candidates, targets: As in `rank`.
        at (`Sequence[int]`): The k.

    Returns:
        `dict[int, torch.Tensor]`: k -> for each query, whether a right candidate is among the k, bool of shape `(N,)`.

    Raises:
        ValueError: As `rank`.
    """
    queries, candidates = _checked(queries, candidates)
    right = _Targets(targets, len(queries), len(candidates))
    found: dict[int, list[torch.Tensor]] = {k: [] for k in at}
    for start, stop in _chunks(len(queries), len(candidates)):
        scores = queries[start:stop].float() @ candidates.float().T
        is_right = torch.zeros(scores.shape, dtype=torch.bool)
        is_right[right.pairs(start, stop)] = True
        for k in at:
            best = scores.topk(min(k, len(candidates)), dim=1).indices
            found[k].append(is_right.gather(1, best).any(dim=1))
    return {k: torch.cat(parts) for k, parts in found.items()}


def first_hits(queries: torch.Tensor, candidates: torch.Tensor, targets: Sequence[Sequence[int]]) -> torch.Tensor:
    """
    Whether `argmax` of float32 scores is right, bool of shape `(N,)`. It takes the first of equal scores, whereas
    `torch.topk` takes any. Arguments and errors are those of `rank`.
    """
    queries, candidates = _checked(queries, candidates)
    right = _Targets(targets, len(queries), len(candidates))
    found = []
    for start, stop in _chunks(len(queries), len(candidates)):
        best = (queries[start:stop].float() @ candidates.float().T).argmax(dim=1, keepdim=True)
        is_right = torch.zeros(stop - start, len(candidates), dtype=torch.bool)
        is_right[right.pairs(start, stop)] = True
        found.append(is_right.gather(1, best)[:, 0])
    return torch.cat(found)


def recall_by_chance(right: int, candidates: int, k: int) -> float:
    """The probability that at least one right candidate is among k candidates in random order."""
    if right == 1:
        return min(k, candidates) / candidates
    return 1 - math.comb(candidates - right, min(k, candidates)) / math.comb(candidates, min(k, candidates))


def _checked(queries: torch.Tensor, candidates: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    if queries.ndim != 2 or candidates.ndim != 2 or queries.shape[1] != candidates.shape[1] or not len(queries):
        raise ValueError(
            f"Embeddings are of shapes (N, dim) and (M, dim) with at least one row; these are {tuple(queries.shape)} "
            f"and {tuple(candidates.shape)}."
        )
    for name, embeddings in (("query", queries), ("candidate", candidates)):
        if bad := (~embeddings.sum(dim=1).isfinite()).nonzero().flatten().tolist():
            raise ValueError(f"{name} embeddings are not finite in rows {bad[:5]}: the model has diverged.")
    return queries.detach().cpu(), candidates.detach().cpu()


def _chunks(queries: int, candidates: int) -> Iterator[tuple[int, int]]:
    size = max(1, CELLS // max(candidates, 1))
    for start in range(0, queries, size):
        yield start, min(start + size, queries)


class _Targets:
    """The queries' lists of right candidates, concatenated."""

    def __init__(self, lists: Sequence[Sequence[int]], queries: int, candidates: int) -> None:
        if len(lists) != queries:
            raise ValueError(f"`targets` has {len(lists)} entries for {queries} queries.")
        lengths = [len(values) for values in lists]
        if empty := [query for query, length in enumerate(lengths) if not length]:
            raise ValueError(f"`targets` is empty for the queries {empty[:5]}.")
        self.lengths = torch.tensor(lengths, dtype=torch.int64)
        self.ends = [0, *self.lengths.cumsum(0).tolist()]
        self.columns = torch.tensor([value for values in lists for value in values], dtype=torch.int64)
        if bad := self.columns[(self.columns < 0) | (self.columns >= candidates)].tolist():
            raise ValueError(f"`targets` names the candidates {bad[:5]}, and there are {candidates}.")

    def pairs(self, start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The row, counted from `start`, and the column of each entry of these queries."""
        rows = torch.repeat_interleave(torch.arange(stop - start), self.lengths[start:stop])
        return rows, self.columns[self.ends[start] : self.ends[stop]]

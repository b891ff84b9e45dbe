# SPDX-License-Identifier: Apache-2.0
"""Exact nearest neighbours in chunks, without a matrix of all scores, and with a fixed order of equal scores.

Scores are cosines rounded to float32 from float64 products, so that equal pairs have equal scores wherever they stand
in a chunk; of equal scores the first candidate comes first. So the size of the chunks changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

QUERIES = 512  # at a time
CELLS = 4_000_000  # scores that exist at a time: 32 MB of float64 and as much of their keys
LOW = 0xFFFFFFFF
NONE = torch.iinfo(torch.int64).min


class Found(NamedTuple):
    """
    Args:
        start (`int`): The first query of these.
        indices (`torch.Tensor` of shape `(Q, k)`, int64): Candidates, the nearest first; -1 when there are no more.
        scores (`torch.Tensor` of shape `(Q, k)`, float32): Their cosines; NaN when there are no more.
    """

    start: int
    indices: torch.Tensor
    scores: torch.Tensor


def nearest(
    queries: torch.Tensor,
    candidates: torch.Tensor,
    k: int,
    exempt: Sequence[Sequence[int]],
    *,
    device: torch.device | str = "cpu",
    cells: int = CELLS,
) -> Iterator[Found]:
    """
    The k nearest candidates of each query.

    Args:
        queries (`torch.Tensor` of shape `(N, dim)`): L2-normalised embeddings of any floating-point type.
        candidates (`torch.Tensor` of shape `(M, dim)`): Those of what is searched.
        k (`int`): How many.
        exempt (`Sequence[Sequence[int]]` of length N): Of each query, candidates that do not compete.
        device (`torch.device` or `str`, defaults to `"cpu"`): Where the products are computed. MPS has no float64.
        cells (`int`, *optional*): Scores that exist at a time.

    Returns:
        `Iterator[Found]`: The queries in order, on the CPU, some hundred at a time.

    Raises:
        ValueError: The lengths differ, `k` is less than 1, or there are more than 4 billion candidates.
    """
    if len(exempt) != len(queries):
        raise ValueError(f"There are {len(queries)} queries, and `exempt` has {len(exempt)} entries.")
    if k < 1:
        raise ValueError(f"`k` is {k}; give at least 1.")
    if len(candidates) > LOW:
        raise ValueError(f"There are {len(candidates):,} candidates; at most {LOW:,} can be told apart.")
    width = max(1, cells // QUERIES)
    for start in range(0, len(queries), QUERIES):
        part = queries[start : start + QUERIES].to(device).double()
        rows = torch.tensor(
            [row for row, few in enumerate(exempt[start : start + QUERIES]) for _ in few], dtype=torch.long
        )
        columns = torch.tensor([one for few in exempt[start : start + QUERIES] for one in few], dtype=torch.long)
        best = torch.full((len(part), 0), NONE, device=device)
        for first in range(0, len(candidates), width):
            chunk = candidates[first : first + width].to(device).double()
            keys = _keys((part @ chunk.T).float(), first)
            here = (columns >= first) & (columns < first + len(chunk))
            keys[rows[here].to(device), (columns[here] - first).to(device)] = NONE
            best = torch.cat([best, keys], dim=1)
            best = best.topk(min(k, best.shape[1]), dim=1).values  # keys are all different, but for those of none
        yield Found(start, *_decoded(best.cpu(), k))


def _keys(scores: torch.Tensor, first: int) -> torch.Tensor:
    """Numbers that order (score, place): a higher score is more, and of equal ones the earlier candidate."""
    bits = (scores + 0.0).contiguous().view(torch.int32).long()  # -0.0 becomes 0.0
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    places = torch.arange(first, first + scores.shape[1], device=scores.device)
    return (ordered << 32) | (LOW - places)


def _decoded(keys: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    if keys.shape[1] < k:
        keys = torch.cat([keys, torch.full((len(keys), k - keys.shape[1]), NONE)], dim=1)
    ordered = keys >> 32
    scores = torch.where(ordered < 0, ordered ^ 0x7FFFFFFF, ordered).to(torch.int32).view(torch.float32)
    missing = keys == NONE
    return (LOW - (keys & LOW)).masked_fill(missing, -1), scores.masked_fill(missing, torch.nan)

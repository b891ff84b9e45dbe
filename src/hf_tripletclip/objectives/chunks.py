# SPDX-License-Identifier: Apache-2.0
"""What the kernels of the losses share: their numbers, and chunks of keys with targets and left-out keys."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from numbers import Real

import torch

CHUNK_SIZE = 2048  # keys


def common_dtype(tensors: Sequence[torch.Tensor]) -> torch.dtype:
    """The dtype in which losses are computed: float32, or float64 if any tensor is float64."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def as_scale(scale: torch.Tensor | float, like: torch.Tensor) -> torch.Tensor:
    """
    Convert the factor on cosines, a number or a tensor of one element, to a tensor of shape `()` on the device of
    `like`.

    Raises:
        ValueError: It is neither, or a number that is not positive or not finite.
    """
    if isinstance(scale, torch.Tensor):
        if scale.numel() == 1 and not scale.is_complex():
            return scale.reshape(()).to(like.device)
    elif isinstance(scale, Real) and not isinstance(scale, bool) and 0 < scale < math.inf:
        return torch.tensor(float(scale), dtype=like.dtype, device=like.device)
    given = f"a tensor of shape {tuple(scale.shape)}" if isinstance(scale, torch.Tensor) else repr(scale)
    raise ValueError(
        f"`scale` is {given}: give the factor on the cosines, `exp(logit_scale)`, as a positive number such as 14.3 "
        "or as a tensor of one element."
    )


def as_bias(bias: torch.Tensor | float, like: torch.Tensor) -> torch.Tensor:
    """
    Convert the number that is added to logits, a number or a tensor of one element, to a tensor of shape `()` on the
    device of `like`.

    Raises:
        ValueError: It is neither, or a number that is not finite.
    """
    if isinstance(bias, torch.Tensor):
        if bias.numel() == 1 and not bias.is_complex():
            return bias.reshape(()).to(like.device)
    elif is_bias(bias):
        return torch.tensor(float(bias), dtype=like.dtype, device=like.device)
    given = f"a tensor of shape {tuple(bias.shape)}" if isinstance(bias, torch.Tensor) else repr(bias)
    raise ValueError(
        f"`bias` is {given}: give what is added to the logits, `logit_bias`, as a number such as -10 or as a tensor "
        "of one element."
    )


def is_bias(value: object) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


@dataclass(frozen=True)
class Codes:
    """
    Which keys are left out of a loss: key j is left out for query i if both have the same number in some
    column.

    Args:
        queries (`torch.Tensor` of shape `(rows, columns)`): int64.
        keys (`Sequence[torch.Tensor]`, each of shape `(n, columns)`): int64, for each block of keys.
    """

    queries: torch.Tensor
    keys: Sequence[torch.Tensor]

    def select(self, queries: torch.Tensor) -> Codes:
        """The codes of selected queries, bool `(rows,)`."""
        return Codes(self.queries[queries], self.keys)


def check_blocks(keys: Sequence[torch.Tensor], chunk_size: int) -> Sequence[torch.Tensor]:
    """Return the blocks of keys; raises `ValueError` if they are no list, or `chunk_size` is not positive."""
    if chunk_size < 1:
        raise ValueError(f"`chunk_size` is {chunk_size}; give at least 1.")
    if isinstance(keys, torch.Tensor) or not keys:
        raise ValueError("`keys` must be a list of blocks of keys: give `[keys]` if there is only one block.")
    return keys


def targets_from(first: int, queries: torch.Tensor, block: torch.Tensor) -> torch.Tensor:
    """
    Consecutive rows of the first block of keys as the targets of the queries, int64 `(rows,)`.

    Raises:
        ValueError: The block has no such row for some query.
    """
    if not 0 <= first <= len(block) - len(queries):
        raise ValueError(
            f"The targets of {len(queries)} queries start at row {first} of the first block of keys, but "
            f"that block has only {len(block)} rows."
        )
    return torch.arange(first, first + len(queries), device=queries.device)


def reduce(losses: torch.Tensor, reduction: str) -> torch.Tensor:
    """
    The `"mean"` or `"sum"` of the losses of queries, `()`, or with `"none"` the losses, `(rows,)`.

    Raises:
        ValueError: `reduction` is none of the three.
    """
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"`reduction` is {reduction!r}; it can be 'mean', 'sum' or 'none'.")
    if reduction == "none":
        return losses
    return losses.sum() / len(losses) if reduction == "mean" else losses.sum()


def chunks_of(blocks: Sequence[torch.Tensor], chunk_size: int) -> Iterator[tuple[int, slice, int]]:
    """Chunks of at most `chunk_size` rows: index of the block, slice of its rows, and number of rows before them."""
    before = 0
    for index, block in enumerate(blocks):
        for start in range(0, len(block), chunk_size):
            yield index, slice(start, start + chunk_size), before + start
        before += len(block)


@dataclass(frozen=True)
class Place:
    """The places of the queries' targets in a chunk."""

    column: torch.Tensor  # (rows, 1); the nearest column if the target is not in this chunk
    here: torch.Tensor  # (rows,), bool: whether the target is in this chunk


def place_of(targets: torch.Tensor | None, start: int, length: int) -> Place | None:
    """Where a chunk of `length` keys from `start` has the targets; `None` if it cannot have any."""
    if targets is None or length == 0:
        return None
    column = (targets - start).clamp(0, length - 1)
    return Place(column[:, None], column == targets - start)


def left_out(codes: tuple[torch.Tensor, torch.Tensor], start: int, length: int, place: Place | None) -> torch.Tensor:
    """Which keys of a chunk are left out, bool `(rows, keys)`."""
    queries, keys = codes[0], codes[1][start : start + length]
    equal = queries[:, :1] == keys[:, 0]
    for column in range(1, queries.shape[1]):
        equal |= queries[:, column : column + 1] == keys[:, column]
    if place is not None:
        equal.scatter_(1, place.column, equal.gather(1, place.column) & ~place.here[:, None])
    return equal

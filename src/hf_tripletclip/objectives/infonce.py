# SPDX-License-Identifier: Apache-2.0
"""The softmax kernel of all objectives: InfoNCE, streamed over keys and distributed over processes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
import torch.distributed as dist
from torch.autograd.function import once_differentiable

CHUNK_SIZE = 2048  # keys
# torch 2.13 introduced the first names and warns about the older ones.
all_gather_single: Any = getattr(dist, "all_gather_single", None) or getattr(dist, "all_gather_into_tensor", None)
reduce_scatter_single: Any = getattr(dist, "reduce_scatter_single", None) or getattr(
    dist, "reduce_scatter_tensor", None
)


def world_size() -> int:
    """Number of processes; 1 if `torch.distributed` is not in use."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


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


@dataclass(frozen=True)
class Codes:
    """
    Which keys are left out of the denominators: key j is left out for query i if both have the same number in some
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


def info_nce(
    queries: torch.Tensor,
    keys: Sequence[torch.Tensor],
    scale: torch.Tensor | float,
    *,
    first_target: int = 0,
    chunk_size: int = CHUNK_SIZE,
    reduction: str = "mean",
    targets: torch.Tensor | None = None,
    excluded: Codes | None = None,
) -> torch.Tensor:
    r"""
    The InfoNCE loss, ``mean_i [logsumexp_j(s q_i . k_j) - s q_i . k_(first_target + i)]``
    (van den Oord et al. 2018, arXiv 1807.03748, equation 4).

    The forward pass visits keys in chunks and keeps a running logsumexp; the backward pass visits them again. Memory
    is therefore O(rows x chunk_size), never O(rows x keys). Both passes compute in float32 (float64 if an input is
    float64), also under autocast. There is no second derivative.

    Args:
        queries (`torch.Tensor` of shape `(rows, dim)`): L2-normalised embeddings.
        keys (`Sequence[torch.Tensor]`, each of shape `(n, dim)`): Blocks of keys. The targets lie in the first.
        scale (`float` or `torch.Tensor` of one element): Factor on the cosines, `exp(logit_scale)`.
        first_target (`int`, defaults to 0): Row of the first block that is the target of query 0.
        chunk_size (`int`, defaults to 2048): Keys per chunk.
        reduction (`str`, defaults to `"mean"`): `"mean"` or `"sum"` over the queries, or `"none"`.
        targets (`torch.Tensor` of shape `(rows,)`, *optional*): int64, the row of the first block that is the target
            of each query. Defaults to consecutive rows from `first_target`.
        excluded ([`Codes`], *optional*): Keys to leave out. A query's own target always stays.

    Returns:
        `torch.Tensor` of shape `()`, or `(rows,)` for `"none"`, float32 or float64.

    Raises:
        ValueError: The first block has no target for some query, `keys` is not a list of blocks, or the value of
            `scale`, `reduction` or `chunk_size` is not allowed.
    """
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"`reduction` is {reduction!r}; it can be 'mean', 'sum' or 'none'.")
    blocks = _blocks(keys, chunk_size)
    if targets is None:
        if not 0 <= first_target <= len(blocks[0]) - len(queries):
            raise ValueError(
                f"The targets of {len(queries)} queries start at row {first_target} of the first block of keys, but "
                f"that block has only {len(blocks[0])} rows."
            )
        targets = torch.arange(first_target, first_target + len(queries), device=queries.device)
    losses = _over_keys(queries, blocks, scale, targets, chunk_size, excluded)
    if reduction == "none":
        return losses
    return losses.sum() / len(queries) if reduction == "mean" else losses.sum()


def logsumexp_over(
    queries: torch.Tensor,
    keys: Sequence[torch.Tensor],
    scale: torch.Tensor | float,
    *,
    chunk_size: int = CHUNK_SIZE,
    excluded: Codes | None = None,
) -> torch.Tensor:
    """
    ``logsumexp_j(s q_i . k_j)`` of each query over all keys that are not left out. Memory, precision and arguments are
    those of [`info_nce`].

    Returns:
        `torch.Tensor` of shape `(rows,)`; minus infinity if no key is left.
    """
    return _over_keys(queries, _blocks(keys, chunk_size), scale, None, chunk_size, excluded)


def _blocks(keys: Sequence[torch.Tensor], chunk_size: int) -> Sequence[torch.Tensor]:
    if chunk_size < 1:
        raise ValueError(f"`chunk_size` is {chunk_size}; give at least 1.")
    if isinstance(keys, torch.Tensor) or not keys:
        raise ValueError("`keys` must be a list of blocks of keys: give `[keys]` if there is only one block.")
    return keys


def _over_keys(
    queries: torch.Tensor,
    keys: Sequence[torch.Tensor],
    scale: torch.Tensor | float,
    targets: torch.Tensor | None,
    chunk_size: int,
    excluded: Codes | None,
) -> torch.Tensor:
    dtype = common_dtype([queries, *keys])
    with torch.autocast(queries.device.type, enabled=False):
        blocks = [block.to(dtype) for block in keys]
        codes = None if excluded is None else (excluded.queries, torch.cat(list(excluded.keys)))
        single = sum(map(len, blocks)) <= chunk_size
        if single and len(blocks) > 1:
            blocks = [torch.cat(blocks)]  # one product instead of several
        scale = as_scale(scale, queries).to(dtype)
        return _OverKeys.apply(queries.to(dtype), scale, targets, codes, chunk_size, single, *blocks)


class _OverKeys(torch.autograd.Function):
    """`logsumexp_j(s q_i . k_j)` of each query, minus its target's logit if there are targets."""

    @staticmethod
    def forward(
        ctx: Any,
        queries: torch.Tensor,
        scale: torch.Tensor,
        targets: torch.Tensor | None,
        codes: tuple[torch.Tensor, torch.Tensor] | None,
        chunk_size: int,
        single: bool,
        *blocks: torch.Tensor,
    ) -> torch.Tensor:
        scaled = queries * scale
        logsumexp = kept = None
        of_targets = queries.new_zeros(len(queries))
        for index, rows, start in _chunks(blocks, chunk_size):
            block = blocks[index][rows]
            logits = scaled @ block.t()
            place = _place(targets, start, len(block))
            if place is not None:
                of_targets += logits.gather(1, place.column).squeeze(1) * place.here
            if codes is not None:
                logits.masked_fill_(_left_out(codes, start, len(block), place), -torch.inf)
            part = torch.logsumexp(logits, dim=1)
            logsumexp = part if logsumexp is None else torch.logaddexp(logsumexp, part)
            # A single chunk fits the promised memory; keeping it saves the backward pass the product.
            kept = logits if single else None
        if logsumexp is None:
            logsumexp = queries.new_full((len(queries),), -torch.inf)
        ctx.save_for_backward(queries, scale, targets, logsumexp, kept, *(codes or (None, None)), *blocks)
        ctx.chunk_size = chunk_size
        return logsumexp if targets is None else logsumexp - of_targets

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        # The autocast of the forward pass does not apply here, but that of the caller of `backward()` does.
        with torch.autocast(grad.device.type, enabled=False):
            return _OverKeys.gradients(ctx, grad)

    @staticmethod
    def gradients(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        queries, scale, targets, logsumexp, kept, query_codes, key_codes, *blocks = ctx.saved_tensors
        # For a query without any key left: its softmax is 0 everywhere, not infinity minus infinity.
        logsumexp = logsumexp.masked_fill(logsumexp == -torch.inf, 0)
        needs_queries, needs_scale, _, _, _, _, *needs_blocks = ctx.needs_input_grad
        codes = None if query_codes is None else (query_codes, key_codes)
        scaled = queries * scale if kept is None else None
        grad = grad[:, None]
        weighted = queries * (scale * grad) if any(needs_blocks) else None
        direction = torch.zeros_like(queries) if needs_queries or needs_scale else None
        block_grads = [
            torch.empty_like(block) if needed else None for block, needed in zip(blocks, needs_blocks, strict=True)
        ]
        for index, rows, start in _chunks(blocks, ctx.chunk_size):
            block = blocks[index][rows]
            # The gradient with respect to the logits is softmax minus one-hot.
            place = _place(targets, start, len(block))
            if scaled is None:
                logits_grad = (kept - logsumexp[:, None]).exp_()
            else:
                logits_grad = scaled @ block.t()
                if codes is not None:
                    logits_grad.masked_fill_(_left_out(codes, start, len(block), place), -torch.inf)
                logits_grad.sub_(logsumexp[:, None]).exp_()
            if place is not None:
                logits_grad.scatter_add_(1, place.column, -place.here[:, None].to(logits_grad.dtype))
            if direction is not None:
                direction.addmm_(logits_grad, block)
            if (block_grad := block_grads[index]) is not None and weighted is not None:
                torch.mm(logits_grad.t(), weighted, out=block_grad[rows])
        scale_grad = (direction * queries * grad).sum() if direction is not None and needs_scale else None
        query_grad = direction.mul_(scale * grad) if direction is not None and needs_queries else None
        return query_grad, scale_grad, None, None, None, None, *block_grads


def _chunks(blocks: Sequence[torch.Tensor], chunk_size: int) -> Iterator[tuple[int, slice, int]]:
    """Chunks of at most `chunk_size` rows: index of the block, slice of its rows, and number of rows before them."""
    before = 0
    for index, block in enumerate(blocks):
        for start in range(0, len(block), chunk_size):
            yield index, slice(start, start + chunk_size), before + start
        before += len(block)


@dataclass(frozen=True)
class _Place:
    """The places of the queries' targets in a chunk."""

    column: torch.Tensor  # (rows, 1); the nearest column if the target is not in this chunk
    here: torch.Tensor  # (rows,), bool: whether the target is in this chunk


def _place(targets: torch.Tensor | None, start: int, length: int) -> _Place | None:
    if targets is None or length == 0:
        return None
    column = (targets - start).clamp(0, length - 1)
    return _Place(column[:, None], column == targets - start)


def _left_out(codes: tuple[torch.Tensor, torch.Tensor], start: int, length: int, place: _Place | None) -> torch.Tensor:
    """Which keys of a chunk are left out, bool `(rows, keys)`."""
    queries, keys = codes[0], codes[1][start : start + length]
    equal = queries[:, :1] == keys[:, 0]
    for column in range(1, queries.shape[1]):
        equal |= queries[:, column : column + 1] == keys[:, column]
    if place is not None:
        equal.scatter_(1, place.column, equal.gather(1, place.column) & ~place.here[:, None])
    return equal


def gather_with_gradients(tensors: Sequence[torch.Tensor]) -> tuple[list[torch.Tensor], list[int]]:
    """
    Concatenate each tensor over all processes, with gradients: the rows of a process get the sum of the gradients of
    all processes. However many tensors there are, it takes one collective forward and one backward, and one more for
    the row counts.

    Args:
        tensors (`Sequence[torch.Tensor]`, each of shape `(n, dim)`):
            The same tensors in the same order on every process, of one dtype and `dim`. n may differ between
            processes; rows are padded to the largest n on the way.

    Returns:
        The concatenated tensors, in rank order, and the row at which this process's rows start in each.
    """
    ranks, rank = world_size(), dist.get_rank()
    lengths = torch.tensor([len(tensor) for tensor in tensors], device=tensors[0].device)
    sizes = lengths.new_empty(ranks, len(tensors))
    all_gather_single(sizes.view(-1), lengths)
    counts, longest = sizes.tolist(), sizes.amax(dim=0).tolist()
    padded = [
        torch.nn.functional.pad(tensor, (0, 0, 0, length - len(tensor)))
        for tensor, length in zip(tensors, longest, strict=True)
    ]
    everything = _Gather.apply(torch.cat(padded)).unflatten(0, (ranks, sum(longest)))
    gathered, starts = [], []
    for index, block in enumerate(everything.split(longest, dim=1)):
        gathered.append(torch.cat([block[other, : counts[other][index]] for other in range(ranks)]))
        starts.append(sum(counts[other][index] for other in range(rank)))
    return gathered, starts


def gather_rows(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """
    Concatenate each tensor over all processes, without gradients.

    Args:
        tensors (`Sequence[torch.Tensor]`, each of shape `(n, ...)`):
            The same tensors in the same order on every process, of one dtype and trailing shape. n may differ.
    """
    if not tensors or world_size() == 1:
        return list(tensors)
    ranks = world_size()
    lengths = torch.tensor([len(tensor) for tensor in tensors], device=tensors[0].device)
    sizes = lengths.new_empty(ranks, len(tensors))
    all_gather_single(sizes.view(-1), lengths)
    longest = int(sizes.sum(dim=1).max())
    joined = torch.cat(list(tensors))
    padded = torch.cat([joined, joined.new_zeros(longest - len(joined), *joined.shape[1:])])
    everything = padded.new_empty(ranks * longest, *joined.shape[1:])
    all_gather_single(everything, padded.contiguous())
    pieces = [
        part[: sum(counts)].split(counts)
        for part, counts in zip(everything.unflatten(0, (ranks, longest)), sizes.tolist(), strict=True)
    ]
    return [torch.cat(of_all) for of_all in zip(*pieces, strict=True)]


class _Gather(torch.autograd.Function):
    """
    all_gather in the forward pass, reduce_scatter in the backward pass.

    It replaces `torch.distributed.nn.functional.all_gather`, whose backward pass on gloo is one scatter per rank, and
    which on NCCL returns a list instead of one tensor.
    """

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor) -> torch.Tensor:
        ctx.rows = len(tensor)
        gathered = tensor.new_empty(world_size() * len(tensor), *tensor.shape[1:])
        all_gather_single(gathered, tensor.contiguous())
        return gathered

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        own = grad.new_empty(ctx.rows, *grad.shape[1:])
        reduce_scatter_single(own, grad.contiguous())
        return own

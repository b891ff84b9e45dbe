# SPDX-License-Identifier: Apache-2.0
"""The one softmax kernel that every objective calls: InfoNCE, streaming over keys and distributed over processes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

import torch
import torch.distributed as dist
from torch.autograd.function import once_differentiable

CHUNK_SIZE = 2048  # keys
# torch 2.13 names them so and warns of the names before.
all_gather_single: Any = getattr(dist, "all_gather_single", None) or getattr(dist, "all_gather_into_tensor", None)
reduce_scatter_single: Any = getattr(dist, "reduce_scatter_single", None) or getattr(
    dist, "reduce_scatter_tensor", None
)


def world_size() -> int:
    """Number of processes; 1 where `torch.distributed` is not in use."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def common_dtype(tensors: Sequence[torch.Tensor]) -> torch.dtype:
    """The dtype that losses are computed in: float32, or float64 if any tensor is."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def as_scale(scale: torch.Tensor | float, like: torch.Tensor) -> torch.Tensor:
    """
    The factor on cosines as a tensor of shape `()` on the device of `like`, from a number or a tensor of one element.

    Raises:
        ValueError: It is neither, or a number that is not positive or not finite.
    """
    if isinstance(scale, torch.Tensor):
        if scale.numel() == 1 and not scale.is_complex():
            return scale.reshape(()).to(like.device)
    elif isinstance(scale, Real) and not isinstance(scale, bool) and 0 < scale < math.inf:
        return torch.tensor(float(scale), dtype=like.dtype, device=like.device)
    found = f"a tensor of shape {tuple(scale.shape)}" if isinstance(scale, torch.Tensor) else repr(scale)
    raise ValueError(
        f"`scale` is {found}: give the factor on the cosines, `exp(logit_scale)`, as a positive number such as 14.3 "
        "or as a tensor of one element."
    )


def info_nce(
    queries: torch.Tensor,
    keys: Sequence[torch.Tensor],
    scale: torch.Tensor | float,
    *,
    first_target: int = 0,
    chunk_size: int = CHUNK_SIZE,
    reduction: str = "mean",
) -> torch.Tensor:
    r"""
    The InfoNCE loss, ``mean_i [logsumexp_j(s q_i . k_j) - s q_i . k_(first_target + i)]``
    (van den Oord et al. 2018, arXiv 1807.03748, equation 4).

    Keys are visited in chunks with a running logsumexp and visited again in the backward pass, so memory is
    O(rows x chunk_size) and never O(rows x keys). Products and sums are float32 (float64 if an input is float64) in
    both passes, whatever autocast says. There is no second derivative.

    Args:
        queries (`torch.Tensor` of shape `(rows, dim)`): L2-normalised embeddings.
        keys (`Sequence[torch.Tensor]`, each of shape `(n, dim)`): Blocks of keys. Targets lie in the first.
        scale (`float` or `torch.Tensor` of one element): Factor on the cosines, `exp(logit_scale)`.
        first_target (`int`, defaults to 0): Row of the first block that is the target of query 0.
        chunk_size (`int`, defaults to 2048): Keys per chunk.
        reduction (`str`, defaults to `"mean"`): `"mean"` or `"sum"` over the queries.

    Returns:
        `torch.Tensor` of shape `()`, float32 or float64.

    Raises:
        ValueError: The first block has no target for some query, there is no list of blocks, or `scale`, `reduction`
            or `chunk_size` is impossible.
    """
    if reduction not in ("mean", "sum"):
        raise ValueError(f"`reduction` is {reduction!r}; it can be 'mean' or 'sum'.")
    if chunk_size < 1:
        raise ValueError(f"`chunk_size` is {chunk_size}; give at least 1.")
    if isinstance(keys, torch.Tensor) or not keys:
        raise ValueError("`keys` is a list of blocks of keys: give `[keys]` where there is only one.")
    if not 0 <= first_target <= len(keys[0]) - len(queries):
        raise ValueError(
            f"{len(queries)} queries have their targets in rows {first_target} and following of the first block of "
            f"keys, but that has {len(keys[0])} rows."
        )
    dtype = common_dtype([queries, *keys])
    with torch.autocast(queries.device.type, enabled=False):
        blocks = [block.to(dtype) for block in keys]
        single = sum(map(len, blocks)) <= chunk_size
        if single:
            blocks = [torch.cat(blocks)]  # one product instead of several
        total = _InfoNCE.apply(
            queries.to(dtype), as_scale(scale, queries).to(dtype), first_target, chunk_size, single, *blocks
        )
        return total / len(queries) if reduction == "mean" else total


class _InfoNCE(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        queries: torch.Tensor,
        scale: torch.Tensor,
        first_target: int,
        chunk_size: int,
        single: bool,
        *blocks: torch.Tensor,
    ) -> torch.Tensor:
        scaled = queries * scale
        logsumexp = kept = None
        targets = queries.new_zeros(())
        for index, block in enumerate(blocks):
            for start in range(0, len(block), chunk_size):
                logits = scaled @ block[start : start + chunk_size].t()
                if index == 0:
                    # Query i has its target in column first_target + i: on a diagonal, which is empty off the chunk.
                    targets = targets + logits.diagonal(first_target - start).sum()
                part = torch.logsumexp(logits, dim=1)
                logsumexp = part if logsumexp is None else torch.logaddexp(logsumexp, part)
                # A single chunk is within the promised memory, and spares the backward pass the product.
                kept = logits if single else None
        ctx.save_for_backward(queries, scale, logsumexp, kept, *blocks)
        ctx.first_target, ctx.chunk_size = first_target, chunk_size
        return queries.new_zeros(()) if logsumexp is None else logsumexp.sum() - targets

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        # Autocast of the forward pass does not reach here, that of the caller of `backward()` does.
        with torch.autocast(grad.device.type, enabled=False):
            return _InfoNCE.gradients(ctx, grad)

    @staticmethod
    def gradients(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        queries, scale, logsumexp, kept, *blocks = ctx.saved_tensors
        needs_queries, needs_scale, _, _, _, *needs_blocks = ctx.needs_input_grad
        scaled = queries * scale if kept is None else None
        weighted = queries * (scale * grad) if any(needs_blocks) else None
        direction = torch.zeros_like(queries) if needs_queries or needs_scale else None
        block_grads: list[torch.Tensor | None] = []
        for index, block in enumerate(blocks):
            block_grad = torch.empty_like(block) if needs_blocks[index] else None
            for start in range(0, len(block), ctx.chunk_size):
                part = slice(start, start + ctx.chunk_size)
                # The gradient with respect to the logits is softmax minus one-hot.
                if scaled is None:
                    logits_grad = (kept - logsumexp[:, None]).exp_()
                else:
                    logits_grad = (scaled @ block[part].t()).sub_(logsumexp[:, None]).exp_()
                if index == 0:
                    logits_grad.diagonal(ctx.first_target - start).sub_(1)
                if direction is not None:
                    direction.addmm_(logits_grad, block[part])
                if block_grad is not None and weighted is not None:
                    torch.mm(logits_grad.t(), weighted, out=block_grad[part])
            block_grads.append(block_grad)
        scale_grad = (direction * queries).sum() * grad if direction is not None and needs_scale else None
        query_grad = direction.mul_(scale * grad) if direction is not None and needs_queries else None
        return query_grad, scale_grad, None, None, None, *block_grads


def gather_with_gradients(tensors: Sequence[torch.Tensor]) -> tuple[list[torch.Tensor], list[int]]:
    """
    Concatenate each tensor over all processes, with gradients: each process's rows get the sum of what all processes
    send back. One collective forward and one backward, however many tensors, and one more for the row counts.

    Args:
        tensors (`Sequence[torch.Tensor]`, each of shape `(n, dim)`):
            The same tensors in the same order on every process, of one dtype and `dim`; n may differ between
            processes: rows travel padded to the largest n.

    Returns:
        The concatenated tensors, in rank order, and for each the row at which this process's rows start.
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


class _Gather(torch.autograd.Function):
    """
    all_gather forward, reduce_scatter backward.

    `torch.distributed.nn.functional.all_gather` is not used: on gloo its backward is one scatter per rank, on NCCL it
    returns a list where one tensor is wanted.
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

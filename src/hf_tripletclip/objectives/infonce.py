# SPDX-License-Identifier: Apache-2.0
"""The one softmax kernel that every objective calls: InfoNCE, streaming over keys and distributed over processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch.autograd.function import once_differentiable


def world_size() -> int:
    """Number of processes; 1 where `torch.distributed` is not in use."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def info_nce(
    queries: torch.Tensor,
    keys: Sequence[torch.Tensor],
    scale: torch.Tensor,
    *,
    first_target: int = 0,
    chunk_size: int = 2048,
) -> torch.Tensor:
    r"""
    Sum over rows of the InfoNCE loss, ``sum_i [logsumexp_j(s q_i . k_j) - s q_i . k_(first_target + i)]``
    (van den Oord et al. 2018, arXiv 1807.03748, equation 4).

    Keys are visited in chunks with a running logsumexp and visited again in the backward pass, so memory is
    O(rows x chunk_size) and never O(rows x keys). Products and sums are float32 (float64 for float64 inputs) whatever
    autocast says.

    Args:
        queries (`torch.Tensor` of shape `(rows, dim)`): L2-normalised embeddings.
        keys (`Sequence[torch.Tensor]`, each of shape `(n, dim)`): Blocks of keys. Targets lie in the first.
        scale (`torch.Tensor` of shape `()`): Factor on the cosines, `exp(logit_scale)`.
        first_target (`int`, defaults to 0): Row of the first block that is the target of query 0.
        chunk_size (`int`, defaults to 2048): Keys per chunk.

    Returns:
        `torch.Tensor` of shape `()`: The sum; divide by the number of rows for the mean.
    """
    dtype = torch.promote_types(queries.dtype, torch.float32)
    with torch.autocast(queries.device.type, enabled=False):
        blocks = [block.to(dtype) for block in keys]
        return _InfoNCE.apply(queries.to(dtype), scale.to(dtype), first_target, chunk_size, *blocks)


class _InfoNCE(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        queries: torch.Tensor,
        scale: torch.Tensor,
        first_target: int,
        chunk_size: int,
        *blocks: torch.Tensor,
    ) -> torch.Tensor:
        rows = len(queries)
        targets = blocks[0][first_target : first_target + rows]
        target_cosines = (queries * targets).sum(dim=1)
        chunks = [chunk for block in blocks for chunk in block.split(chunk_size)]
        logsumexp = torch.full_like(target_cosines, -torch.inf)
        kept = None
        for chunk in chunks:
            logits = (queries @ chunk.t()).mul_(scale)
            logsumexp = torch.logaddexp(logsumexp, torch.logsumexp(logits, dim=1))
            # A single chunk is within the promised memory, and spares the backward pass the product.
            kept = logits if len(chunks) == 1 else None
        ctx.save_for_backward(queries, scale, target_cosines, logsumexp, kept, *blocks)
        ctx.first_target, ctx.chunk_size = first_target, chunk_size
        return (logsumexp - scale * target_cosines).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        queries, scale, target_cosines, logsumexp, kept, *blocks = ctx.saved_tensors
        own = slice(ctx.first_target, ctx.first_target + len(queries))
        needs_queries, needs_scale, _, _, *needs_blocks = ctx.needs_input_grad
        # Gradients with respect to the scaled logits are softmax minus one-hot; the scale comes in at the end.
        query_grad = -blocks[0][own]
        scale_grad = -target_cosines.sum()
        block_grads: list[torch.Tensor | None] = []
        for index, (block, needed) in enumerate(zip(blocks, needs_blocks, strict=True)):
            block_grad = torch.empty_like(block) if needed else None
            for start in range(0, len(block), ctx.chunk_size):
                part = slice(start, start + ctx.chunk_size)
                chunk = block[part]
                logits = kept if kept is not None else (queries @ chunk.t()).mul_(scale)
                softmax = torch.exp(logits - logsumexp[:, None])
                if needs_queries or needs_scale:
                    weighted = softmax @ chunk
                    query_grad = query_grad + weighted
                    scale_grad = scale_grad + (weighted * queries).sum()
                if block_grad is not None:
                    torch.matmul(softmax.t(), queries, out=block_grad[part])
            if block_grad is not None:
                if index == 0:
                    block_grad[own] -= queries
                block_grad.mul_(grad * scale)
            block_grads.append(block_grad)
        return (
            query_grad.mul_(grad * scale) if needs_queries else None,
            scale_grad * grad if needs_scale else None,
            None,
            None,
            *block_grads,
        )


def gather_rows(tensors: Sequence[torch.Tensor]) -> tuple[list[torch.Tensor], list[int]]:
    """
    Concatenate each tensor over all processes, with gradients: each process's rows get the sum of what all processes
    send back. One collective forward and one backward, however many tensors.

    Args:
        tensors (`Sequence[torch.Tensor]`, each of shape `(n, dim)`):
            The same tensors in the same order on every process, of one dtype and `dim`; n may differ.

    Returns:
        The concatenated tensors, in rank order, and for each the row at which this process's rows start.
    """
    ranks, rank = world_size(), dist.get_rank()
    device = tensors[0].device
    sizes = torch.empty(ranks, len(tensors), dtype=torch.long, device=device)
    dist.all_gather_into_tensor(sizes.view(-1), torch.tensor([len(tensor) for tensor in tensors], device=device))
    counts = sizes.tolist()
    longest = [max(column) for column in zip(*counts, strict=True)]
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
    """all_gather forward, reduce_scatter backward. `torch.distributed.nn`'s own is deprecated under compile and slow
    on gloo (one scatter per rank)."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor) -> torch.Tensor:
        ctx.rows = len(tensor)
        gathered = tensor.new_empty(world_size() * len(tensor), *tensor.shape[1:])
        dist.all_gather_into_tensor(gathered, tensor.contiguous())
        return gathered

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        if dist.get_backend() == dist.Backend.NCCL:
            own = grad.new_empty(ctx.rows, *grad.shape[1:])
            dist.reduce_scatter_tensor(own, grad.contiguous())
            return own
        total = grad.contiguous().clone()
        dist.all_reduce(total)
        start = dist.get_rank() * ctx.rows
        return total[start : start + ctx.rows]

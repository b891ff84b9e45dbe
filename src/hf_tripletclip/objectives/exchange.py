# SPDX-License-Identifier: Apache-2.0
"""How processes share the keys of a loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch.autograd.function import once_differentiable

# torch 2.13 introduced the first names and warns about the older ones.
all_gather_single: Any = getattr(dist, "all_gather_single", None) or getattr(dist, "all_gather_into_tensor", None)
reduce_scatter_single: Any = getattr(dist, "reduce_scatter_single", None) or getattr(
    dist, "reduce_scatter_tensor", None
)


def world_size() -> int:
    """Number of processes; 1 if `torch.distributed` is not in use."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


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

# SPDX-License-Identifier: Apache-2.0
"""
How processes share the keys of a loss: each gathers them all, or they go round in a ring.

With the ring a process holds its own keys, those of one other process, and those that are on their way to it. In the
backward pass the gradients of the keys go round with them, and come home complete.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch.autograd.function import once_differentiable

EXCHANGES = ("gather", "ring", "auto")
GATHER_LIMIT = 256 * 2**20  # bytes
# torch 2.13 introduced the first names and warns about the older ones.
all_gather_single: Any = getattr(dist, "all_gather_single", None) or getattr(dist, "all_gather_into_tensor", None)
reduce_scatter_single: Any = getattr(dist, "reduce_scatter_single", None) or getattr(
    dist, "reduce_scatter_tensor", None
)


def world_size() -> int:
    """Number of processes; 1 if `torch.distributed` is not in use."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def row_counts(tensors: Sequence[torch.Tensor]) -> list[list[int]]:
    """How many rows each process has of each tensor: a list per process, in rank order."""
    lengths = torch.tensor([len(tensor) for tensor in tensors], device=tensors[0].device)
    sizes = lengths.new_empty(world_size(), len(tensors))
    all_gather_single(sizes.view(-1), lengths)
    return sizes.tolist()


def goes_round(key_exchange: str, counts: Sequence[Sequence[int]], bytes_per_row: int) -> bool:
    """
    Whether keys go round in a ring. The answer is the same on every process.

    Args:
        key_exchange (`str`): `"gather"`, `"ring"`, or `"auto"`: the ring if all keys together take more than 256 MiB.
        counts (`Sequence[Sequence[int]]`): Rows of each process of each block of keys.
        bytes_per_row (`int`): Size of a key.
    """
    if key_exchange == "auto":
        return sum(map(sum, counts)) * bytes_per_row > GATHER_LIMIT
    return key_exchange == "ring"


def gather_with_gradients(
    tensors: Sequence[torch.Tensor], counts: Sequence[Sequence[int]]
) -> tuple[list[torch.Tensor], list[int]]:
    """
    Concatenate each tensor over all processes, with gradients: the rows of a process get the sum of the gradients of
    all processes. However many tensors there are, it takes one collective forward and one backward.

    Args:
        tensors (`Sequence[torch.Tensor]`, each of shape `(n, dim)`):
            The same tensors in the same order on every process, of one dtype and `dim`. n may differ between
            processes; rows are padded to the largest n on the way.
        counts (`Sequence[Sequence[int]]`): Their rows on each process, from [`row_counts`].

    Returns:
        The concatenated tensors, in rank order, and the row at which this process's rows start in each.
    """
    if not tensors:
        return [], []
    ranks, rank = world_size(), dist.get_rank()
    longest = [max(of_all) for of_all in zip(*counts, strict=True)]
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


@dataclass(frozen=True)
class Visit:
    """
    Keys that are compared with this process's queries.

    Args:
        blocks (`Sequence[torch.Tensor]`, each of shape `(n, dim)`): The keys.
        targets (`torch.Tensor` of shape `(rows,)`, *optional*): int64, each query's target among them; `None` if they
            are none of the targets.
        codes (`tuple[torch.Tensor, torch.Tensor]`, *optional*): Codes of the queries and of these keys.
        grads (`Sequence[torch.Tensor | None]`): To which the gradients of the keys are added, for each block.
    """

    blocks: Sequence[torch.Tensor]
    targets: torch.Tensor | None
    codes: tuple[torch.Tensor, torch.Tensor] | None
    grads: Sequence[torch.Tensor | None]


@dataclass(frozen=True)
class Ring:
    """
    The processes in a ring. A kernel that gets one visits the keys of all processes, and is called by all of them.

    Args:
        counts (`tuple[tuple[int, ...], ...]`): Rows of each block of keys, for each process in rank order.
    """

    counts: tuple[tuple[int, ...], ...]

    def visits(
        self,
        keys: torch.Tensor,
        targets: torch.Tensor | None,
        codes: tuple[torch.Tensor, torch.Tensor] | None,
        grad: torch.Tensor | None,
    ) -> Iterator[Visit]:
        """
        This process's keys, and then those of each other process. The next keys are on their way meanwhile.

        Args:
            keys (`torch.Tensor` of shape `(n, dim)`): This process's blocks in one.
            targets (`torch.Tensor` of shape `(rows,)`, *optional*): int64, each query's target among this process's
                keys.
            codes (`tuple[torch.Tensor, torch.Tensor]`, *optional*): Codes of this process's queries, and those of the
                keys of all processes: block by block, each in rank order.
            grad (`torch.Tensor` of shape `(n, dim)`, *optional*): Zeros; holds the gradient of `keys` over all
                processes in the end.
        """
        ranks, rank = len(self.counts), dist.get_rank()
        of_ranks = None if codes is None else self._by_rank(codes[1])
        passing = None if grad is None else grad.clone()
        for step in range(ranks):
            whose, next_one = (rank - step) % ranks, (rank - step - 1) % ranks
            arriving, arrival = keys, []
            if step < ranks - 1:
                arriving = keys.new_empty(sum(self.counts[next_one]), keys.shape[1])
                arrival = _pass_on(keys, arriving)
            of_keys = None if codes is None or of_ranks is None else (codes[0], of_ranks[whose])
            yield Visit([keys], targets if step == 0 else None, of_keys, [passing])
            if passing is not None:
                # The gradient of these keys follows them. After the last step this is the gradient of our own.
                following = passing.new_empty(sum(self.counts[next_one]), passing.shape[1])
                _wait(_pass_on(passing, following))
                passing = following
            _wait(arrival)
            keys = arriving
        if grad is not None and passing is not None:
            grad.copy_(passing)

    def _by_rank(self, codes: torch.Tensor) -> list[torch.Tensor]:
        """The codes of all keys, block by block and each in rank order, as those of each process."""
        pieces = iter(codes.split([count for of_block in zip(*self.counts, strict=True) for count in of_block]))
        blocks = [[next(pieces) for _ in self.counts] for _ in self.counts[0]]
        return [torch.cat(of_rank) for of_rank in zip(*blocks, strict=True)]


def visits_of(
    ring: Ring | None,
    blocks: Sequence[torch.Tensor],
    targets: torch.Tensor | None,
    codes: tuple[torch.Tensor, torch.Tensor] | None,
    grads: Sequence[torch.Tensor | None],
) -> Iterator[Visit]:
    """The keys that a kernel visits: these blocks, or with a ring the one block of each process in turn."""
    if ring is None:
        yield Visit(blocks, targets, codes, grads)
    else:
        yield from ring.visits(blocks[0], targets, codes, grads[0])


def _pass_on(tensor: torch.Tensor, arriving: torch.Tensor) -> list[dist.Work]:
    """Send rows to the next process, and receive those of the one before; nothing is sent if there are no rows."""
    ranks, rank = world_size(), dist.get_rank()
    steps = [
        *([dist.P2POp(dist.isend, tensor.contiguous(), (rank + 1) % ranks)] if len(tensor) else []),
        *([dist.P2POp(dist.irecv, arriving, (rank - 1) % ranks)] if len(arriving) else []),
    ]
    return dist.batch_isend_irecv(steps) if steps else []


def _wait(works: Sequence[dist.Work]) -> None:
    for work in works:
        work.wait()

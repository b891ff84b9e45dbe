# SPDX-License-Identifier: Apache-2.0
"""Started by test_ring.py in three processes: the kernels with keys that go round.

Usage: ring_worker.py OUT.pt
"""

from __future__ import annotations

import sys

import torch
import torch.distributed as dist

from hf_tripletclip.objectives import Embeddings, get_objective, info_nce, sigmoid_loss
from hf_tripletclip.objectives.chunks import Codes
from hf_tripletclip.objectives.exchange import Ring
from hf_tripletclip.objectives.infonce import logsumexp_over
from tests.objectives.test_infonce import LargestTensor

# Name of the case -> rows of each process.
CASES = {"even": (2, 2, 2), "uneven": (1, 4, 2), "a process without rows": (3, 0, 2), "one with rows": (0, 0, 4)}
FURTHER = (2, 0, 3)  # rows of the second block of keys
KERNELS = ("info_nce", "info_nce, masked", "logsumexp_over", "sigmoid_loss", "sigmoid_loss, masked")
NAMES = ("queries", "keys", "others", "scale", "bias")


def leaves_of(case: str, rank: int | None) -> list[torch.Tensor]:
    """The queries, keys, further keys, scale and bias of a process, or with `None` of all."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for counts in (CASES[case], CASES[case], FURTHER):
        values = torch.randn(sum(counts), 4, generator=generator, dtype=torch.float64)
        found.append((values if rank is None else values.split(counts)[rank]).clone())
    found += [torch.tensor(2.0, dtype=torch.float64), torch.tensor(-1.0, dtype=torch.float64)]
    return [value.requires_grad_() for value in found]


def codes_of(case: str, rank: int | None) -> Codes:
    """Each query leaves out the keys with its number; own targets stay. Keys are those of all processes."""
    total = sum(CASES[case])
    queries, keys, others = torch.arange(total) % 3, torch.arange(total) % 4, torch.arange(sum(FURTHER)) % 5
    own = queries if rank is None else queries.split(CASES[case])[rank]
    return Codes(own[:, None], [keys[:, None], others[:, None]])


def losses_of(kernel: str, case: str, leaves: list[torch.Tensor], rank: int | None) -> torch.Tensor:
    """The loss of each query of a process, or of all."""
    queries, keys, others, scale, bias = leaves
    ring = None if rank is None else Ring(tuple(zip(CASES[case], FURTHER, strict=True)))
    settings = {"chunk_size": 2, "ring": ring, "excluded": codes_of(case, rank) if "masked" in kernel else None}
    if kernel == "logsumexp_over":
        return logsumexp_over(queries, [keys, others], scale, **settings)
    if kernel.startswith("info_nce"):
        return info_nce(queries, [keys, others], scale, reduction="none", **settings)
    return sigmoid_loss(queries, [keys, others], scale, bias, reduction="none", **settings)


def gradients_of(losses: torch.Tensor, leaves: list[torch.Tensor], first: int) -> dict[str, torch.Tensor]:
    """The gradients of a sum in which each query has a weight of its own."""
    weights = torch.arange(first + 1.0, first + 1 + len(losses), dtype=torch.float64)
    found = torch.autograd.grad((losses * weights).sum(), leaves, allow_unused=True, materialize_grads=True)
    return dict(zip(NAMES, found, strict=True))


def largest_of(key_exchange: str) -> int:
    """The number of elements of the largest tensor that a step makes."""
    leaves = [torch.nn.functional.normalize(torch.randn(64, 32), dim=-1).requires_grad_() for _ in range(4)]
    objective = get_objective("tripletclip", chunk_size=8, key_exchange=key_exchange)
    with LargestTensor() as seen:
        objective(Embeddings(*leaves), 5.0).loss.backward()
    return seen.numel


if __name__ == "__main__":
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    results = {}
    for case, counts in CASES.items():
        for kernel in KERNELS:
            leaves = leaves_of(case, rank)
            losses = losses_of(kernel, case, leaves, rank)
            results[case, kernel] = losses.detach(), gradients_of(losses, leaves, sum(counts[:rank]))
    results["largest"] = {name: largest_of(name) for name in ("gather", "ring", "auto")}
    everything: list = [None] * dist.get_world_size()
    dist.all_gather_object(everything, results)
    if rank == 0:
        torch.save(everything, sys.argv[1])
    dist.barrier()
    dist.destroy_process_group()

# SPDX-License-Identifier: Apache-2.0
"""Started by test_distributed.py in two processes: every objective on two linear towers under DDP.

Usage: towers_worker.py OUT.pt
"""

from __future__ import annotations

import gc
import sys

import torch
import torch.distributed as dist
from torch import nn

from hf_tripletclip.objectives import Embeddings, ObjectiveOutput, available_objectives, get_objective

# Name of the case -> rows of each process, and negative captions of each where they are not as many (negclip only).
CASES: dict[str, tuple[tuple[int, int], tuple[int, int] | None]] = {
    "even": ((4, 4), None),
    "uneven": ((5, 3), None),
    "a process without rows": ((8, 0), None),
    "uneven negatives": ((5, 3), (2, 9)),
}
FEATURES = {"image": 6, "negative_image": 6, "text": 5, "negative_text": 5}


class Towers(nn.Module):
    """Linear image and text towers, normalisation, scale and objective."""

    def __init__(self, name: str, negatives_across_devices: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.image, self.text = nn.Linear(6, 4), nn.Linear(5, 4)
        self.logit_scale = nn.Parameter(torch.tensor(1.5))
        self.objective = get_objective(name, negatives_across_devices=negatives_across_devices, chunk_size=3)
        self.double()

    def forward(self, batch: dict[str, torch.Tensor]) -> ObjectiveOutput:
        embeddings = {
            role: nn.functional.normalize((self.image if "image" in role else self.text)(features), dim=-1)
            for role, features in batch.items()
        }
        return self.objective(Embeddings(**embeddings), self.logit_scale.exp())


def batch_of(case: str, rank: int | None) -> dict[str, torch.Tensor]:
    """The rows of a process, or with `None` of all."""
    counts, negatives = CASES[case]
    batch = {}
    for seed, (role, features) in enumerate(FEATURES.items()):
        first, second = negatives if negatives is not None and role == "negative_text" else counts
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randn(first + second, features, dtype=torch.float64, generator=generator)
        batch[role] = rows if rank is None else rows.split([first, second])[rank]
    return batch


def objectives_of(case: str) -> tuple[str, ...]:
    return available_objectives() if CASES[case][1] is None else ("negclip",)


def step(model: nn.Module, batch: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The loss and the parts, and the gradients by parameter."""
    output = model(batch)
    output.loss.backward()
    core = getattr(model, "module", model)
    return {"loss": output.loss.detach(), **output.parts}, {key: p.grad for key, p in core.named_parameters()}


def mean_over_processes(values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    for value in values.values():
        dist.all_reduce(value)
    return {key: value / dist.get_world_size() for key, value in values.items()}


if __name__ == "__main__":
    dist.init_process_group("gloo")
    results = {}
    for case in CASES:
        for name in objectives_of(case):
            model = nn.parallel.DistributedDataParallel(Towers(name))
            values, gradients = step(model, batch_of(case, dist.get_rank()))
            results[case, name] = mean_over_processes(values), gradients
    alone = nn.parallel.DistributedDataParallel(Towers("tripletclip", negatives_across_devices=False))
    values, gradients = step(alone, batch_of("even", dist.get_rank()))
    results["not shared", "tripletclip"] = mean_over_processes(values), gradients
    if dist.get_rank() == 0:
        torch.save({"world_size": dist.get_world_size(), "results": results}, sys.argv[1])
    del model, alone  # a reducer that outlives the group aborts the process
    gc.collect()
    dist.barrier()
    dist.destroy_process_group()

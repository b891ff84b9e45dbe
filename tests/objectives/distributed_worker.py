# SPDX-License-Identifier: Apache-2.0
"""Started by test_distributed.py in two processes: one step of a small two-tower model under DDP.

Usage: distributed_worker.py OUT.pt ROWS_OF_RANK_0 ROWS_OF_RANK_1 [MINI_BATCH_SIZE]
"""

from __future__ import annotations

import contextlib
import sys

import torch
import torch.distributed as dist

from hf_tripletclip import TripletCLIPModel
from hf_tripletclip.objectives import available_objectives
from hf_tripletclip.training.gradcache import cached_backward
from tests.tiny import negatives, positives, tiny_config


def one_step(name: str, rows: slice, mini_batch_size: int | None, wrap) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of a batch; the model and the whole batch are the same on every process."""
    torch.manual_seed(0)
    core = TripletCLIPModel(tiny_config(objective=name)).double()
    model = wrap(core)
    batch = {**positives(8), **negatives(8)}
    batch = {key: value[rows].double() if value.is_floating_point() else value[rows] for key, value in batch.items()}
    if mini_batch_size is None:
        loss = model(**batch, return_loss=True, return_logits=False).loss
        loss.backward()
    else:
        loss, _ = cached_backward(
            model,
            core,
            batch,
            mini_batch_size=mini_batch_size,
            backward=lambda loss: loss.backward(),
            no_sync=getattr(model, "no_sync", contextlib.nullcontext),
        )
    return loss.item(), {key: parameter.grad for key, parameter in core.named_parameters()}


if __name__ == "__main__":
    dist.init_process_group("gloo")
    counts = [int(count) for count in sys.argv[2:4]]
    mini_batch_size = int(sys.argv[4]) if len(sys.argv) > 4 else None
    start = counts[0] * dist.get_rank()
    rows = slice(start, start + counts[dist.get_rank()])
    results = {}
    for objective in available_objectives():
        loss, gradients = one_step(objective, rows, mini_batch_size, torch.nn.parallel.DistributedDataParallel)
        mean = torch.tensor(loss, dtype=torch.float64)
        dist.all_reduce(mean)
        results[objective] = (mean.item() / dist.get_world_size(), gradients)
    if dist.get_rank() == 0:
        torch.save(results, sys.argv[1])
    dist.barrier()
    dist.destroy_process_group()

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
from hf_tripletclip.objectives.distillation import KINDS
from hf_tripletclip.training.gradcache import cached_backward
from hf_tripletclip.training.teacher import Teacher
from tests.objectives.reference import SEVERAL
from tests.objectives.towers_worker import SETTINGS
from tests.tiny import further_texts, negatives, positives, tiny_config

# The objectives, and each kind of distillation beside two of them: "negclip + embedding".
VARIANTS = (
    *dict.fromkeys((*available_objectives(), *SETTINGS)),
    *(f"{name} + {kind}" for name in ("negclip", "tripletclip") for kind in KINDS),
)


def rows_of(batch: dict[str, torch.Tensor], rows: slice) -> dict[str, torch.Tensor]:
    """Some rows of a batch, with everything that belongs to them."""
    cut = {}
    for key, value in batch.items():
        mask_name = f"{key.split('_')[0]}_mask"
        if mask_name in batch and key != mask_name:
            value = value[torch.isin(batch[mask_name].nonzero()[:, 0], torch.arange(8)[rows])]
        else:
            value = value[rows]
        cut[key] = value.double() if value.is_floating_point() else value
    return cut


def one_step(variant: str, rows: slice, mini_batch_size: int | None, wrap) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of a batch; the model and the whole batch are the same on every process."""
    torch.manual_seed(0)
    name, _, kind = variant.partition(" + ")
    name, settings = SETTINGS.get(name, (name, {}))
    core = TripletCLIPModel(tiny_config()).double()
    core.set_objective(name, **settings, **({"distillation": {"kind": kind, "weight": 0.7}} if kind else {}))
    teacher = Teacher(core, torch.device("cpu"))
    with torch.no_grad():  # where student and teacher agree the term has no gradient
        for parameter in core.parameters():
            parameter.mul_(1.3)
    model = wrap(core)
    batch = rows_of({**positives(8), **negatives(8)}, rows)
    roles = {*core.objective.roles}
    if "negative_image" not in roles and {*SEVERAL} & roles:  # any number per row
        batch |= rows_of(further_texts(8), rows)
    if mini_batch_size is None:
        taught = {"teacher_embeds": teacher(core, batch)} if core.objective.needs_teacher else {}
        loss = model(**batch, **taught, return_loss=True, return_logits=False).loss
        loss.backward()
    else:
        loss, _ = cached_backward(
            model,
            core,
            batch,
            mini_batch_size=mini_batch_size,
            backward=lambda loss: loss.backward(),
            no_sync=getattr(model, "no_sync", contextlib.nullcontext),
            teach=teacher.bound_to(core) if core.objective.needs_teacher else None,
        )
    return loss.item(), {key: parameter.grad for key, parameter in core.named_parameters()}


if __name__ == "__main__":
    dist.init_process_group("gloo")
    counts = [int(count) for count in sys.argv[2:4]]
    mini_batch_size = int(sys.argv[4]) if len(sys.argv) > 4 else None
    start = counts[0] * dist.get_rank()
    rows = slice(start, start + counts[dist.get_rank()])
    results = {}
    for objective in VARIANTS:
        loss, gradients = one_step(objective, rows, mini_batch_size, torch.nn.parallel.DistributedDataParallel)
        mean = torch.tensor(loss, dtype=torch.float64)
        dist.all_reduce(mean)
        results[objective] = (mean.item() / dist.get_world_size(), gradients)
    if dist.get_rank() == 0:
        torch.save(results, sys.argv[1])
    dist.barrier()
    dist.destroy_process_group()

# SPDX-License-Identifier: Apache-2.0
"""Started by test_distributed.py in two processes: every objective on two linear towers under DDP.

Usage: towers_worker.py OUT.pt
"""

from __future__ import annotations

import gc
import sys
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from hf_tripletclip.objectives import Embeddings, ObjectiveOutput, Tokens, available_objectives, get_objective
from hf_tripletclip.roles import ROLES
from tests.objectives.reference import make_batch
from tests.tiny import decoder_labels
from tests.tiny_decoder import WIDTH, tiny_decoder

# Names of settings that an objective does not have by default.
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "fsc_clip, local": ("fsc_clip", {"local_weight": 0.2}),
    "read_alignment, decoder": ("read_alignment", {"decoder": tiny_decoder()}),
    # For models without a bias.
    "siglip": ("siglip", {"bias": -1.5}),
    "siglip_triplet": ("siglip_triplet", {"bias": -1.5}),
}
# The text is gathered whole, and the other keys are not.
HELD = {"tripletclip, captions held": ("tripletclip", {"distillation": {"kind": "embedding", "roles": ["text"]}})}
LENGTHS = {"image": 4, "text": 5, "negative_text": 3}  # of patches or words

# Name of the case -> rows of each process, and negative captions of each where they are not as many (negclip only).
CASES: dict[str, tuple[tuple[int, int], tuple[int, int] | None]] = {
    "even": ((4, 4), None),
    "uneven": ((5, 3), None),
    "a process without rows": ((8, 0), None),
    "uneven negatives": ((5, 3), (2, 9)),
    "any number per row": ((5, 3), None),
    "repeats are masked": ((5, 3), None),
    "any number per row, repeats masked": ((5, 3), None),
}
IN_A_RING = tuple(
    f"{case}, in a ring" for case in ("uneven", "a process without rows", "any number per row, repeats masked")
)
CASES |= {case: CASES[case.removesuffix(", in a ring")] for case in IN_A_RING}
RAGGED = tuple(case for case in CASES if "any number per row" in case)
MASKED = tuple(case for case in CASES if "repeats" in case)
TWINS = (1, 6)  # the rows of the batch, of two processes, that have one picture and one caption


class Towers(nn.Module):
    """Linear image and text towers, normalisation, scale and objective."""

    def __init__(self, name: str, **arguments: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.image, self.text = nn.Linear(6, 4), nn.Linear(5, 4)
        self.logit_scale = nn.Parameter(torch.tensor(1.5))
        bias = nn.Parameter(torch.tensor(-1.0))
        name, settings = {**SETTINGS, **HELD}.get(name, (name, {}))
        self.objective = get_objective(name, chunk_size=3, **arguments, **settings)
        self.logit_bias = bias if self.objective.uses_bias else None
        if self.objective.state_roles:
            self.decoder_input = nn.Linear(5, WIDTH)
        self.double()

    def embed(self, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {
            role: nn.functional.normalize((self.image if "image" in role else self.text)(values), dim=-1)
            for role, values in features.items()
        }

    def tokens(self, features: dict[str, torch.Tensor]) -> dict[str, Tokens]:
        """Patches and words: of an input, and of the input turned."""
        found = {}
        for role in self.objective.token_roles:
            turned = torch.stack([features[role].roll(place, dims=-1) for place in range(LENGTHS[role])], dim=1)
            values = (self.image if "image" in role else self.text)(turned)
            found[role] = Tokens(values, torch.ones(values.shape[:2], dtype=torch.bool))
        return found

    def forward(self, batch: dict[str, dict[str, torch.Tensor]]) -> ObjectiveOutput:
        with torch.no_grad():
            teacher = {role: values.roll(1, dims=-1) for role, values in self.embed(batch["features"]).items()}
        embeddings = Embeddings(
            **self.embed(batch["features"]),
            masks=batch["masks"],
            contents=batch["contents"],
            teacher=teacher,
            tokens=self.tokens(batch["features"]),
            states={role: self.decoder_input(batch["features"][role]) for role in self.objective.state_roles},
            labels={role: decoder_labels(batch["contents"][role]) for role in self.objective.label_roles},
        )
        return self.objective(embeddings, self.logit_scale.exp(), self.logit_bias)


def batch_of(case: str, rank: int | None) -> dict[str, dict[str, torch.Tensor]]:
    """The rows of a process, or with `None` of all."""
    counts, negatives = CASES[case]
    first, end = (0, sum(counts)) if rank is None else ((0, counts[0]), (counts[0], sum(counts)))[rank]
    whole = make_batch("tripletclip", rows=sum(counts), ragged=case in RAGGED)
    features, contents, masks = {}, {}, {}
    for seed, role in enumerate(ROLES):
        owners = whole.owners[role]
        if negatives is not None and role == "negative_text":
            owners = [row for row, number in ((0, negatives[0]), (counts[0], negatives[1])) for _ in range(number)]
        generator = torch.Generator().manual_seed(seed)
        values = torch.randn(len(owners), 6 if "image" in role else 5, dtype=torch.float64, generator=generator)
        numbers = torch.arange(len(owners)) + 100 * seed
        if case in MASKED and role in ("image", "text", "negative_text"):
            values[TWINS[1]], numbers[TWINS[1]] = values[TWINS[0]], numbers[TWINS[0]]
        kept = torch.tensor([first <= row < end for row in owners], dtype=torch.bool)
        features[role], contents[role] = values[kept], numbers[kept]
        if case in RAGGED and role in whole.masks():
            masks[role] = whole.masks()[role][first:end]
    return {"features": features, "contents": contents, "masks": masks}


def model_of(case: str, name: str) -> Towers:
    key_exchange = "ring" if case in IN_A_RING else "gather"
    return Towers(name, repeats="mask" if case in MASKED else "negative", key_exchange=key_exchange)


def objectives_of(case: str) -> tuple[str, ...]:
    if CASES[case][1] is not None:
        return ("negclip",)
    names = dict.fromkeys((*available_objectives(), *SETTINGS, *(HELD if case in IN_A_RING else ())))
    return tuple(name for name in names if case not in RAGGED or name != "clip_all")


def step(model: nn.Module, batch: dict[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
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
            model = nn.parallel.DistributedDataParallel(model_of(case, name))
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

# SPDX-License-Identifier: Apache-2.0
"""Losses are float32 inside and outside of autocast."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hf_tripletclip.objectives import Embeddings, Tokens, available_objectives
from hf_tripletclip.objectives.distillation import KINDS
from hf_tripletclip.roles import ROLES
from tests.objectives.reference import make_objective

FURTHER: tuple[tuple[str, dict[str, Any]], ...] = (
    *(("tripletclip", {"distillation": {"kind": kind}}) for kind in KINDS),
    ("fsc_clip", {"local_weight": 0.2}),
    ("pairwise", {"others": "dense_caption", "prior_weight": 3.0, "debias": 1.0}),
)


@pytest.mark.parametrize(("name", "settings"), [*((name, {}) for name in available_objectives()), *FURTHER])
def test_autocast_changes_no_loss_and_no_gradient(name, settings):
    generator = torch.Generator().manual_seed(0)

    def alike(*shape: int) -> torch.Tensor:
        values = torch.randn(*shape, 16, generator=generator) + 1  # as a CLIP's, in a cone
        return torch.nn.functional.normalize(values, dim=-1)

    values = {role: alike(8) for role in ROLES}
    teacher = {role: alike(8) for role in ROLES}
    tokens = {role: Tokens(alike(8, 5), torch.ones(8, 5, dtype=torch.bool)) for role in ROLES}

    def learned(enabled: bool) -> list[torch.Tensor]:
        leaves = {role: value.clone().requires_grad_() for role, value in values.items()}
        scale = torch.tensor(100.0, requires_grad=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            output = make_objective(name, **settings)(Embeddings(**leaves, teacher=teacher, tokens=tokens), scale)
        inputs = [scale, *leaves.values()]
        return [output.loss, *torch.autograd.grad(output.loss, inputs, allow_unused=True, materialize_grads=True)]

    for mine, expected in zip(learned(True), learned(False), strict=True):
        assert mine.dtype == torch.float32
        torch.testing.assert_close(mine, expected, rtol=1e-6, atol=1e-7)

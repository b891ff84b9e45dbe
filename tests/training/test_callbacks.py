# SPDX-License-Identifier: Apache-2.0
"""What every training run does beside its steps."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from hf_tripletclip import TripletCLIPModel
from hf_tripletclip.training.callbacks import ClampLogitScale, LogWhenSaving
from tests.tiny import tiny_config
from tests.training.test_trainer import make_trainer


@pytest.mark.parametrize(("value", "kept"), [(1000.0, 30.0), (30.5, 30.0), (29.5, 29.5), (1.5, 1.5), (0.5, 1.0)])
@pytest.mark.parametrize("adapted", [False, True])
def test_the_scale_is_kept_within_1_and_the_bound(value, kept, adapted):
    model: Any = TripletCLIPModel(tiny_config())
    if adapted:
        model = get_peft_model(model, LoraConfig(target_modules=["q_proj"], r=2))
    scale = next(one for name, one in model.named_parameters() if name.endswith("logit_scale"))
    others = {name: one.clone() for name, one in model.named_parameters() if one is not scale}
    with torch.no_grad():
        scale.fill_(math.log(value))
    nothing: Any = None
    ClampLogitScale(30.0).on_optimizer_step(nothing, nothing, nothing, model=model)
    assert scale.exp().item() == pytest.approx(kept, rel=1e-6)
    assert all(torch.equal(one, others[name]) for name, one in model.named_parameters() if one is not scale)


@pytest.mark.parametrize(
    ("of_config", "of_arguments", "bound"),
    [({}, None, 100.0), ({"logit_scale_max": 40.0}, None, 40.0), ({}, 60.0, 60.0)],
)
def test_the_bound_of_a_run(tmp_path, of_config, of_arguments, bound):
    model = TripletCLIPModel(tiny_config(**of_config))
    trainer = make_trainer(tmp_path, model=model, max_steps=1, learning_rate=0.0, logit_scale_max=of_arguments)
    with torch.no_grad():
        model.logit_scale.fill_(math.log(5000.0))
    trainer.train()
    assert model.logit_scale.exp().item() == pytest.approx(bound, rel=1e-6)
    assert model.config.logit_scale_max == bound


@pytest.mark.parametrize("maximum", [1.0, 2.0])
def test_the_smallest_bound_is_1(maximum):
    assert ClampLogitScale(maximum).maximum == math.log(maximum)


@pytest.mark.parametrize("saves", [True, False])
def test_a_step_that_saves_also_logs(saves):
    nothing: Any = None
    for event in (LogWhenSaving().on_step_end, LogWhenSaving().on_epoch_end):
        control: Any = SimpleNamespace(should_save=saves, should_log=False)
        assert event(nothing, nothing, control).should_log == saves

# SPDX-License-Identifier: Apache-2.0
"""Training on patches and words: with LoRA, locked towers and a teacher; what cannot be is refused."""

from __future__ import annotations

import json

import pytest
import torch

from hf_tripletclip import TripletCLIPModel
from hf_tripletclip.training.towers import TowerArguments, prepare_towers
from tests.tiny import tiny_config
from tests.training.test_trainer import losses, make_trainer

LOCAL = {"objective": "fsc_clip", "objective_kwargs": json.dumps({"local_weight": 0.2})}
DISTILLED = {
    "objective": "fsc_clip",
    "objective_kwargs": json.dumps({"local_weight": 0.2, "distillation": {"kind": "embedding"}}),
}
LORA = {"train_text": "lora", "train_vision": "lora", "lora_targets": ["all-linear"]}


def tuned(**towers):
    torch.manual_seed(0)
    return prepare_towers(TripletCLIPModel(tiny_config()), TowerArguments(**towers))


@pytest.mark.parametrize(
    "towers", [LORA, {"train_vision": "frozen"}, {"train_text": "frozen"}], ids=["lora", "vision", "text"]
)
def test_adapters_and_locked_towers_train_whole_and_cached(tmp_path, towers):
    curves = []
    for size in (None, 3):
        trainer = make_trainer(tmp_path / str(size), model=tuned(**towers), mini_batch_size=size, **LOCAL)
        trainer.train()
        assert all("image_to_own_text_locally" in log for log in trainer.state.log_history if "loss" in log)
        curves.append(losses(trainer))
    assert curves[0] == pytest.approx(curves[1], rel=1e-4)


@pytest.mark.parametrize(
    ("towers", "said"),
    [
        ({"train_vision": "frozen"}, "what the image tower puts out"),
        ({"train_text": "frozen"}, "what the text tower puts out"),
    ],
)
def test_pooled_outputs_are_not_enough(tmp_path, towers, said):
    with pytest.raises(ValueError, match=r"^`cache_locked_towers` keeps a tower's pooled output only") as caught:
        make_trainer(tmp_path, model=tuned(**towers), cache_locked_towers=str(tmp_path / "cache"), **LOCAL)
    assert said in str(caught.value)
    assert "'fsc_clip' with its settings {'local_weight': 0.2}" in str(caught.value)
    assert "\n" not in str(caught.value)
    without = {"objective": "fsc_clip", "cache_locked_towers": str(tmp_path / "cache")}
    make_trainer(tmp_path / "without", model=tuned(**towers), **without).train()


def test_a_teacher_may_be_cached(tmp_path):
    curves = []
    for cache in (None, str(tmp_path / "cache")):
        trainer = make_trainer(tmp_path / str(bool(cache)), model=tuned(), cache_locked_towers=cache, **DISTILLED)
        trainer.train()
        curves.append(losses(trainer))
    assert curves[0] == pytest.approx(curves[1], rel=1e-4)

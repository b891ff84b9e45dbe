# SPDX-License-Identifier: Apache-2.0
"""A teacher that follows the model; that of two processes is in test_processes.py, a frozen one in test_trainer.py."""

from __future__ import annotations

import copy
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from transformers import TrainerCallback

from hf_tripletclip import TripletCLIPModel
from hf_tripletclip.objectives import get_objective
from hf_tripletclip.objectives.negclip import NegCLIPObjective
from hf_tripletclip.objectives.pairwise import PairwiseObjective
from hf_tripletclip.training.locked_towers import check_some_is_locked
from hf_tripletclip.training.teacher import TEACHER_WEIGHTS, Teacher, teacher_of
from tests.tiny import negatives, positives, tiny_config
from tests.training.cached import VISION, make_cached  # noqa: F401
from tests.training.test_evaluation import processor, rows  # noqa: F401
from tests.training.test_trainer import LORA, losses, make_trainer, tuned

MOVING = {
    "objective": "tripletclip",
    "objective_kwargs": {"distillation": {"kind": "similarity", "weight": 2.0}, "teacher_decay": 0.5},
    "learning_rate": 1e-2,
}
TOWERS = {
    "full": {},
    "image tower locked": {"train_vision": "frozen"},
    "lora": {**LORA, "lora_dropout": 0.3},
    "one by lora": {"train_text": "full", "train_vision": "lora"},
}


class Weights(TrainerCallback):
    """The weights that train before the first step and after each."""

    def __init__(self) -> None:
        self.seen: list[dict[str, torch.Tensor]] = []

    def on_train_begin(self, *args: object, **kwargs: object) -> None:
        model = kwargs["model"]
        named = {name: value for name, value in model.named_parameters() if value.requires_grad}  # type: ignore[attr-defined]
        self.seen.append({name: value.detach().double().clone() for name, value in named.items()})

    on_step_end = on_train_begin


def averages(seen: list[dict[str, torch.Tensor]], decay: float) -> dict[str, torch.Tensor]:
    """The moving average as its equation says, in float64."""
    found = dict(seen[0])
    for weights in seen[1:]:
        found = {name: decay * value + (1 - decay) * weights[name] for name, value in found.items()}
    return found


@pytest.mark.parametrize(
    ("kwargs", "decay"),
    [
        ({}, 0),
        ({}, 0.9996),
        ({"mini_batch_size": 4}, 0.5),
        ({"gradient_accumulation_steps": 2}, 0.5),
        ({"weights_dtype": "bfloat16"}, 0.9996),
    ],
    ids=["the last", "plain", "mini-batches", "accumulated", "half precision"],
)
@pytest.mark.parametrize("towers", TOWERS)
def test_a_teacher_is_the_moving_average_of_the_weights_that_train(tmp_path, towers, kwargs, decay):
    settings = {**MOVING["objective_kwargs"], "teacher_decay": decay}
    trainer = make_trainer(
        tmp_path, model=tuned(**TOWERS[towers]), **{**MOVING, "objective_kwargs": settings}, **kwargs
    )
    watch = Weights()
    trainer.add_callback(watch)
    trainer.train()
    assert len(watch.seen) == 5
    expected = averages(watch.seen, decay)
    assert trainer.teacher.weights.keys() == expected.keys()
    moved = 0.0
    for name, value in trainer.teacher.weights.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-6, msg=name)
        moved += (value.double() - watch.seen[0][name]).abs().sum().item()
    assert moved > 0


@pytest.mark.parametrize("towers", TOWERS)
def test_it_embeds_by_its_own_weights_and_leaves_the_model_alone(tmp_path, towers):
    trainer = make_trainer(tmp_path, model=tuned(**TOWERS[towers]), **MOVING)
    before = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
    first = trainer.teacher(trainer.model, {**positives(), **negatives()})
    with torch.no_grad():
        output = copy.deepcopy(trainer.model).eval()(**positives(), **negatives())
    torch.testing.assert_close(first["negative_text"], output.negative_text_embeds)  # where it begins
    trainer.train()
    now = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
    assert any(not torch.equal(now[name], before[name]) for name in now)
    taught = trainer.teacher(trainer.model, {**positives(), **negatives()})
    assert all(torch.equal(value, now[name]) for name, value in trainer.model.named_parameters())
    assert not any(value.requires_grad for value in taught.values())
    twin = copy.deepcopy(trainer.model).eval()
    with torch.no_grad():
        for name, value in trainer.teacher.weights.items():
            twin.get_parameter(name).copy_(value)
        output = twin(**positives(), **negatives())
    for role in ("image", "text", "negative_image", "negative_text"):
        torch.testing.assert_close(taught[role], output[f"{role}_embeds"])
    assert (taught["text"] - first["text"]).abs().max() > 1e-3


@pytest.mark.parametrize("decay", [None, 0.5])
@pytest.mark.parametrize("roles", [("text",), ("image",), ("negative_text",), ("image", "negative_image")])
def test_a_teacher_embeds_only_the_roles_that_are_compared(roles, decay):
    model = tuned()
    model.set_objective("tripletclip", distillation={"kind": "embedding", "roles": list(roles)}, teacher_decay=decay)
    batch = {**positives(), **negatives()}
    with torch.no_grad():
        whole = copy.deepcopy(model).eval()(**batch)
    teacher, embedded = Teacher(model, torch.device("cpu"), decay), []
    for one in (model, teacher.copy):
        if one is not None:
            one.visual_projection.register_forward_hook(lambda module, args, output: embedded.append(len(output)))
    found = teacher(model, batch)
    assert found.keys() == set(roles)
    for role, value in found.items():
        torch.testing.assert_close(value, whole[f"{role}_embeds"])
    images = [role for role in roles if "image" in role]
    assert embedded == [5 * len(images) or 1]


def test_a_decay_of_one_is_a_frozen_teacher(tmp_path):
    curves = []
    for settings in ({}, {"teacher_decay": None}, {"teacher_decay": 1}, {"teacher_decay": 0.2}):
        kwargs = {**MOVING, "objective_kwargs": {**MOVING["objective_kwargs"], "teacher_decay": None, **settings}}
        trainer = make_trainer(tmp_path, model=tuned(), **kwargs)
        trainer.train()
        assert trainer.teacher.moves == (settings.get("teacher_decay") == 0.2)
        curves.append(losses(trainer))
    assert curves[0] == curves[1] == curves[2] != curves[3]


@pytest.mark.parametrize(
    ("towers", "mini_batch_size"), [("full", None), ("image tower locked", 4), ("lora", 4), ("one by lora", None)]
)
def test_resume_is_exact(tmp_path, towers, mini_batch_size):
    kwargs = {"save_strategy": "steps", "save_steps": 2, "mini_batch_size": mini_batch_size, **MOVING}
    whole = make_trainer(tmp_path, model=tuned(**TOWERS[towers]), **kwargs)
    whole.train()
    second = make_trainer(tmp_path, model=tuned(**TOWERS[towers]), **kwargs)
    second.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert losses(second) == losses(whole)
    for name, value in second.teacher.weights.items():
        assert torch.equal(value, whole.teacher.weights[name]), name
    for (name, ours), theirs in zip(second.model.named_parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(ours, theirs), name


def test_a_checkpoint_of_another_teacher_is_refused(tmp_path):
    kwargs = {"save_strategy": "steps", "save_steps": 2, **MOVING}
    make_trainer(tmp_path, model=tuned(), **kwargs).train()
    assert (tmp_path / "checkpoint-4" / TEACHER_WEIGHTS).exists()
    frozen = {**kwargs, "objective_kwargs": {**MOVING["objective_kwargs"], "teacher_decay": None}}
    with pytest.raises(ValueError, match=r"`objective_kwargs` was .*0\.5"):
        make_trainer(tmp_path, model=tuned(), **frozen).train(resume_from_checkpoint=True)
    teacher = Teacher(tuned(), torch.device("cpu"), 0.5)
    with pytest.raises(ValueError, match=r"has no teacher.safetensors: .* no teacher that moves"):
        teacher.load(tmp_path)
    with pytest.raises(ValueError, match="of a model in which other weights train"):
        Teacher(tuned(**VISION), torch.device("cpu"), 0.5).load(tmp_path / "checkpoint-4")
    Teacher(tuned(), torch.device("cpu")).load(tmp_path)  # a frozen one reads nothing, and writes nothing
    Teacher(tuned(), torch.device("cpu")).save(tmp_path)
    assert not (tmp_path / TEACHER_WEIGHTS).exists()


def test_a_teacher_stays_if_nothing_is_learned(make):
    """The rows of the second of three steps are all broken."""
    data = Dataset.from_list(rows(18, broken=tuple(range(6, 12))))
    given = {"train_dataset": data, "max_steps": 3, "train_sampling_strategy": "sequential", "optim": "sgd"}
    trainer = make({}, cached=False, **given, **MOVING)
    seen = []
    watch = Weights()
    watch.on_step_end = lambda *args, **kwargs: seen.append(  # type: ignore[method-assign]
        {name: value.clone() for name, value in trainer.teacher.weights.items()}
    )
    trainer.add_callback(watch)
    trainer.train()
    same = [all(torch.equal(value, other[name]) for name, value in one.items()) for one, other in pairwise(seen)]
    assert same == [True, False]


@pytest.mark.parametrize(
    ("towers", "kwargs"),
    [(VISION, {}), ({"train_text": "lora", "train_vision": "frozen", "lora_r": 4}, {"mini_batch_size": 4})],
    ids=["plain", "lora by mini-batches"],
)
def test_a_teacher_uses_the_cached_outputs_of_locked_towers(make, towers, kwargs):
    plain, first, second = (make(towers, cached, **MOVING, **kwargs) for cached in (False, True, True))
    for trainer in (plain, first, second):
        trainer.train()
        assert trainer.teacher.towers is None
        assert losses(trainer) == pytest.approx(losses(plain), abs=1e-5)
    assert first.tower_cache.computed == {"vision": 5}
    assert second.tower_cache.computed == {"vision": 0}
    assert make(towers, **MOVING).fill_tower_cache() == 0


def test_outputs_of_a_teacher_that_moves_are_not_cached(make):
    with pytest.raises(ValueError, match=r"the image tower trains, and the teacher follows \(`teacher_decay`\)"):
        make({}, **MOVING)
    modes = {"text": "lora", "vision": "full"}
    with pytest.raises(ValueError, match=r"both towers train, and the teacher follows \(`teacher_decay`\): lock one"):
        check_some_is_locked(modes, get_objective("degla"))
    check_some_is_locked(modes, get_objective("degla", teacher_decay=None))
    check_some_is_locked({"text": "full", "vision": "frozen"}, get_objective("degla"))
    with pytest.raises(ValueError, match="both towers train: lock one"):
        check_some_is_locked(modes, get_objective("clip"))


def test_degla_has_one_and_is_the_same_without_moving_weights(tmp_path):
    trainer = make_trainer(tmp_path, model=tuned(), objective="degla")
    assert trainer.teacher.moves
    assert trainer.core.config.objective_kwargs in (None, {})
    assert make_trainer(tmp_path, objective="degla", objective_kwargs={"teacher_decay": None}).teacher.moves is False
    assert make_trainer(tmp_path, objective="negclip").teacher is None


@pytest.mark.parametrize("decay", [-0.1, 1.1, True, "0.9", float("nan")])
def test_decays_that_are_refused(decay):
    with pytest.raises(ValueError, match=r"`teacher_decay` is .*; give a number from 0 to 1"):
        get_objective("clip", distillation={}, teacher_decay=decay)


def test_a_decay_without_a_teacher_is_refused():
    with pytest.raises(ValueError, match="'negclip' with these settings has none: give `distillation` too"):
        get_objective("negclip", teacher_decay=0.9)
    with pytest.raises(ValueError, match="the objective 'pairwise' with these settings has none"):
        get_objective("pairwise", prior_weight=0, teacher_decay=0.9)  # that of its defaults has one
    for objective in (NegCLIPObjective(teacher_decay=0.9), PairwiseObjective(prior_weight=0, teacher_decay=0.9)):
        with pytest.raises(ValueError, match="with these settings has none"):
            TripletCLIPModel(tiny_config()).set_objective(objective)
    assert get_objective("pairwise", prior_weight=0, distillation={}, teacher_decay=0.9).teacher_moves
    assert get_objective("negclip", distillation={}, teacher_decay=0.9).settings["teacher_decay"] == 0.9
    assert get_objective("degla").settings == {}
    assert get_objective("degla", teacher_decay=None).settings == {"teacher_decay": None}


def test_deepspeed_is_refused():
    core = SimpleNamespace(objective=get_objective("degla"))
    with pytest.raises(ValueError, match=r"`teacher_decay`\) works in one process and with DDP, not with DeepSpeed"):
        teacher_of(SimpleNamespace(core=core, is_deepspeed_enabled=True))


def test_qlora_resumes_exactly_with_a_teacher_that_moves(tmp_path):
    pytest.importorskip("bitsandbytes")
    from hf_tripletclip.training.towers import TowerArguments, prepare_towers

    TripletCLIPModel(tiny_config()).save_pretrained(tmp_path / "base")
    args = TowerArguments(**LORA, load_in_4bit=True)

    def make_one():
        torch.manual_seed(0)
        model = TripletCLIPModel.from_pretrained(tmp_path / "base", **args.loading_arguments())
        return make_trainer(
            tmp_path / "run", model=prepare_towers(model, args), save_strategy="steps", save_steps=2, **MOVING
        )

    whole, second = make_one(), make_one()
    whole.train()
    second.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert losses(second) == losses(whole)
    for name, value in second.teacher.weights.items():
        assert torch.equal(value, whole.teacher.weights[name]), name

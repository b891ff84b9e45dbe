# SPDX-License-Identifier: Apache-2.0
"""Stopping where training costs too much, with the weights of the last evaluation within the bound."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import TrainerControl, TrainerState, TrainingArguments

from hf_tripletclip.training.callbacks import StopAtRetentionLoss
from tests.training.test_trainer import LORA, Rows, make_trainer, tuned

EVERY_STEP = {"eval_strategy": "steps", "eval_steps": 1, "max_steps": 6, "learning_rate": 1e-2}


def watched(tmp_path, values, model=None, **kwargs):
    """A trainer whose evaluations find these values of `kept`, and the weights that each of them saw."""
    trainer = make_trainer(
        tmp_path, model=model, eval_dataset=Rows(10), retention_metric="kept", max_retention_loss=0.1,
        **{**EVERY_STEP, **kwargs},
    )  # fmt: skip
    seen: list[dict[str, torch.Tensor]] = []
    left = iter(values)
    evaluate = trainer.evaluation_loop

    def found(*arguments, **options):
        output = evaluate(*arguments, **options)
        output.metrics["eval_kept"] = next(left)
        seen.append({name: value.detach().clone() for name, value in trainer.model.named_parameters()})
        return output

    trainer.evaluation_loop = found
    return trainer, seen


@pytest.mark.parametrize("towers", [{}, LORA])
def test_training_stops_and_the_model_goes_back(tmp_path, towers):
    trainer, seen = watched(tmp_path, [0.8, 0.75, 0.71, 0.69, 0.9], model=tuned(**towers))
    trainer.train()
    assert trainer.state.global_step == 3
    assert len(seen) == 4
    for name, value in trainer.model.named_parameters():
        assert torch.equal(value, seen[2][name]), name
    assert any(not torch.equal(seen[2][name], seen[3][name]) for name in seen[2])


@pytest.mark.parametrize(("value", "stops"), [(0.5, False), (0.4375, True)])
def test_a_loss_equal_to_the_bound_is_allowed_and_the_model_may_go_back_to_the_start(value, stops, caplog):
    model = torch.nn.Linear(1, 1)
    before = model.weight.detach().clone()
    callback = StopAtRetentionLoss("kept", 0.25, start=0.75, model=model)
    args, state, control = TrainingArguments("unused", use_cpu=True), TrainerState(global_step=3), TrainerControl()
    callback.on_train_begin(args, state, control)
    with torch.no_grad():
        model.weight += 1
    callback.on_evaluate(args, state, control, metrics={"eval_kept": value}, model=model)
    assert control.should_training_stop is stops
    assert torch.equal(model.weight, before if stops else before + 1)
    said = "after step 3: eval_kept fell from 0.7500 to 0.4375, more than 0.2500. The model goes back to the start."
    assert (said in caplog.text) == stops
    callback.on_train_end(args, state, control)
    callback.on_evaluate(args, state, control, metrics={})  # somebody looks at it afterwards
    assert callback.state()["attributes"]["kept"] is None


def test_without_an_earlier_model_and_in_another_process(caplog):
    callback = StopAtRetentionLoss("eval_kept", 0.25, start=0.75)
    args, control = TrainingArguments("unused", use_cpu=True), TrainerControl()
    saved = [{"attributes": {"start": 0.5, "stopped": True, "kept": None}}]  # as of several callbacks of a kind
    state = TrainerState(global_step=3, stateful_callbacks={"StopAtRetentionLoss": saved}, is_world_process_zero=False)
    callback.on_train_begin(args, state, control, model=torch.nn.Linear(1, 1))
    assert (callback.start, control.should_training_stop) == (0.5, True)
    callback.on_evaluate(args, state, control, metrics={"eval_kept": 0.1})
    assert caplog.text == ""
    state.is_world_process_zero = True
    callback.on_evaluate(args, state, control, metrics={"eval_kept": 0.1})
    assert "There is no earlier model to go back to." in caplog.text


def test_within_the_bound_nothing_happens(tmp_path, caplog):
    trainer, seen = watched(tmp_path, [0.8, 0.75, 0.9, 0.71, 0.71, 0.71, 0.71])
    trainer.train()
    assert trainer.state.global_step == 6
    assert "Training stops" not in caplog.text
    assert all(torch.equal(value, seen[-1][name]) for name, value in trainer.model.named_parameters())


def test_a_resumed_run_compares_with_the_first_start(tmp_path):
    first, _ = watched(tmp_path, [0.8] * 7, save_strategy="steps", save_steps=2)
    first.train()
    state = json.loads((tmp_path / "checkpoint-2" / "trainer_state.json").read_text())
    assert state["stateful_callbacks"]["StopAtRetentionLoss"]["attributes"]["start"] == 0.8
    second, _ = watched(tmp_path, [0.69, 0.6], save_strategy="no")
    second.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert second.state.global_step == 3  # 0.69 is 0.11 below 0.8
    evaluated = [entry["step"] for entry in second.state.log_history if "eval_kept" in entry]
    assert evaluated == [0, 1, 2, 3]  # step 2 once, as without an interruption


def test_a_resumed_run_goes_back_to_the_same_weights(tmp_path):
    """Its checkpoint is of a step that was not evaluated."""
    settings = {"save_strategy": "steps", "save_steps": 1, "eval_steps": 3}
    whole, seen = watched(tmp_path / "whole", [0.8, 0.8, 0.6], **settings)
    whole.train()
    assert whole.state.global_step == 6
    resumed, _ = watched(tmp_path / "whole", [0.6], **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-5"))
    assert resumed.state.global_step == 6
    for name, value in resumed.model.named_parameters():
        assert torch.equal(value, seen[1][name]), name


def test_settings(tmp_path):
    with pytest.raises(ValueError, match="`max_retention_loss` is -1"):
        StopAtRetentionLoss("kept", -1)
    with pytest.raises(ValueError, match="is watched at evaluations: give `eval_strategy`"):
        make_trainer(tmp_path, retention_metric="kept")
    trainer = make_trainer(tmp_path, eval_dataset=Rows(10), retention_metric="zeroshot_top1", **EVERY_STEP)
    assert trainer.args.eval_on_start
    with pytest.raises(ValueError, match="`retention_metric` is 'eval_zeroshot_top1', which is not evaluated; there"):
        trainer.train()

# SPDX-License-Identifier: Apache-2.0
"""Resumed runs walk the curve of one that was not interrupted, or say why they do not go on."""

from __future__ import annotations

import errno
import functools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import EarlyStoppingCallback, TrainerCallback
from transformers import trainer as transformers_trainer

from hf_tripletclip.data import shuffled
from hf_tripletclip.training import checkpointing, pushing
from hf_tripletclip.training.checkpointing import COMPLETE_MARKER, CheckpointNotWritten, is_complete
from hf_tripletclip.training.resume_settings import RESUME_FILE, Course, differences
from hf_tripletclip.training.resuming import find_best_checkpoint, restore_callbacks
from hf_tripletclip.training.steps import TrainingStoppedError
from hf_tripletclip.training.trainer_setup import check_best_metric
from tests.objectives.test_distributed import in_two_processes
from tests.training import resume_worker
from tests.training.test_trainer import LORA, Rows, losses, make_trainer, tuned

SAVING = {"save_strategy": "steps", "save_steps": 2}


def stream(rows: int = 15, shards: int = 4, seed: int = 0) -> dict[str, Any]:
    """A stream of rows and what makes batches of them: `datasets` takes its time for pictures as lists of numbers."""
    table = Dataset.from_dict({"row": list(range(rows))})
    return {
        "train_dataset": shuffled(table.to_iterable_dataset(shards), seed, buffer_size=5),
        "data_collator": functools.partial(of_rows, Rows(rows).batch),
    }


def of_rows(batch: dict[str, torch.Tensor], rows: list[dict[str, int]]) -> dict[str, torch.Tensor]:
    return {name: values[[row["row"] for row in rows]] for name, values in batch.items()}


def interrupted(folder: Path, step: int, **kwargs: Any) -> Any:
    """A run that ends as if it had been killed after a step, with its checkpoints."""

    class Kill(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == step:
                raise KeyboardInterrupt

    trainer = make_trainer(folder, **kwargs)
    trainer.add_callback(Kill())
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    return trainer


@pytest.mark.parametrize(
    ("kwargs", "killed_at"),
    [
        ({}, 5),  # in the middle of the second pass
        ({"save_steps": 3}, 4),  # the checkpoint is of the first pass' last batch, before its end
        ({"gradient_accumulation_steps": 2}, 3),
        pytest.param({"dataloader_num_workers": 2}, 5, marks=pytest.mark.slow),
        pytest.param({"save_strategy": "epoch"}, 7, marks=pytest.mark.slow),
        pytest.param({"dataloader_drop_last": False}, 7, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_stream_goes_on_where_it_stopped(tmp_path, kwargs, killed_at):
    settings = {**SAVING, "max_steps": 8, "per_device_train_batch_size": 4, **kwargs}
    whole = make_trainer(tmp_path / "whole", **stream(), **settings)
    whole.train()
    assert whole.position.number >= 1
    interrupted(tmp_path / "killed", killed_at, **stream(), **settings)
    resumed = make_trainer(tmp_path / "killed", **stream(), **settings)
    resumed.train(resume_from_checkpoint=True)
    assert losses(resumed) == losses(whole)
    for ours, theirs in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_pass_of_a_stream_ends_for_all_processes_together(tmp_path, monkeypatch, caplog):
    trainer = make_trainer(tmp_path, **stream(), gradient_accumulation_steps=2)
    monkeypatch.setattr(type(trainer.args), "world_size", 2)
    others = iter([2, 2, 1])  # batches that the other process has left for each step
    trainer.accelerator.gather = lambda own: torch.tensor([int(own), next(others)])
    batches = iter([{"pixel_values": torch.zeros(6, 3, 4, 4)}] * 100)

    def take() -> list[Any]:
        if trainer.position.is_over(batches):
            return []
        return trainer.position.advance(batches, [next(batches), next(batches)], 2)

    steps = [len(take()) for _ in range(5)]
    assert steps == [2, 2, 0, 0, 0]
    assert "Pass 1 of the stream ends after 4 batches of each process: process 1 has no more rows" in caplog.text


def test_a_stream_without_a_whole_step_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"too few rows for a single step: the stream must have at least a batch of 6"
    ):
        make_trainer(tmp_path, **stream(5, shards=1)).train()
    with pytest.raises(ValueError, match=r"at least 2 batches of 6"):
        make_trainer(tmp_path, **stream(11, shards=1), gradient_accumulation_steps=2).train()


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A finished run with checkpoints of steps 2 and 4."""
    folder = tmp_path_factory.mktemp("run")
    make_trainer(folder, **SAVING).train()
    return folder


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    shutil.copytree(run, tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"learning_rate": 1e-2}, "`learning_rate` was 0.001 and is 0.01"),
        ({"seed": 7}, "`seed` was 42 and is 7"),
        ({"per_device_train_batch_size": 4}, "`per_device_train_batch_size` was 6 and is 4"),
        ({"gradient_accumulation_steps": 2}, "`gradient_accumulation_steps` was 1 and is 2"),
        ({"objective": "negclip"}, "`objective` was 'tripletclip' and is 'negclip'"),
        ({"logit_scale_max": 50.0}, "`logit_scale_max` was 100.0 and is 50.0"),
        ({"bf16": True}, "`bf16` was False and is True"),
        ({"adam_beta2": 0.9}, "`adam_beta2` was 0.999 and is 0.9"),
        ({"warmup_steps": 3}, "`warmup_steps` was 0 and is 3"),
        ({"max_grad_norm": 0.5}, "`max_grad_norm` was 1.0 and is 0.5"),
        ({"train_dataset": Rows(18)}, "the training data was 12 rows, "),
        (stream(), "the training data was 12 rows, "),
    ],
)
def test_other_settings_are_refused(run, change, named):
    with pytest.raises(ValueError, match="checkpoint-4 was trained with other settings") as caught:
        make_trainer(run, **{**SAVING, **change}).train(resume_from_checkpoint=True)
    assert named in str(caught.value)


def test_another_folder_with_the_same_data_is_no_difference():
    same = {"per_device_train_batch_size": 4, "world_size": 1, "train_data": "3 rows", "streaming": False}
    was = {**same, "dataset_name_or_path": "a", "images": "a/images"}
    now = {**same, "dataset_name_or_path": "b", "images": "b/images"}
    assert differences(was, now) == ([], [])
    of_stream = [{**one, "streaming": True} for one in (was, now)]  # whose pictures are not compared
    assert [one.name for one in differences(*of_stream)[0]] == ["images"]
    other = differences(was, {**now, "train_data": "4 rows"})[0]
    assert [one.name for one in other] == ["dataset_name_or_path", "train_data"]


def test_settings_without_effect_on_the_curve_may_change_and_more_steps_are_listed(copy):
    free = {"save_steps": 3, "logging_steps": 2, "eval_strategy": "steps", "eval_steps": 1, "eval_dataset": Rows(8)}
    trainer = make_trainer(copy, save_strategy="steps", max_steps=7, mini_batch_size=3, **free)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.resumption.changes == [{"step": 4, "changes": ["`max_steps` was 4 and is 7"]}]
    # the new interval counts, not the checkpoint's
    assert {path.name.split("-")[1] for path in copy.glob("checkpoint-*")} == {"2", "4", "6", "7"}
    trainer.create_model_card()
    assert "After step 4 it was resumed: `max_steps` was 4 and is 7." in (copy / "README.md").read_text()
    again = make_trainer(copy, save_strategy="steps", max_steps=7, **free)
    again.train(resume_from_checkpoint=True)
    assert again.resumption.changes == trainer.resumption.changes  # the checkpoint remembers


def test_allowed_changes_of_settings_are_listed(copy):
    allowed = make_trainer(copy, **SAVING, max_steps=6, seed=7, allow_changed_settings=True)
    allowed.train(resume_from_checkpoint=True)
    assert allowed.state.global_step == 6
    assert "`seed` was 42 and is 7" in allowed.resumption.changes[0]["changes"]
    with pytest.raises(ValueError, match="so this cannot change on the way"):
        make_trainer(copy, **SAVING, weight_decay=0.3, seed=7, allow_changed_settings=True).train(
            str(copy / "checkpoint-6")
        )


def test_adapters_are_compared_with_the_model_they_stand_on(tmp_path):
    make_trainer(tmp_path, model=tuned(**LORA), **SAVING).train()
    other = tuned(**LORA)
    with torch.no_grad():
        next(value for name, value in other.named_parameters() if "lora_" not in name).add_(0.1)
    with pytest.raises(ValueError, match="the model that training starts from was"):
        make_trainer(tmp_path, model=other, **SAVING).train(resume_from_checkpoint=True)


@pytest.mark.parametrize(
    "name",
    ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", COMPLETE_MARKER],
)
def test_a_damaged_checkpoint_is_passed_over(copy, name, caplog):
    file = copy / "checkpoint-4" / name
    file.write_bytes(bytes(file.stat().st_size))
    trainer = make_trainer(copy, **SAVING, save_total_limit=1)
    trainer.train(resume_from_checkpoint=True)
    assert f"Passed over in {copy}: checkpoint-4 ({name}" in caplog.text
    assert trainer._initial_global_step == 2
    assert trainer.state.global_step == 4
    assert is_complete(copy / "checkpoint-4")  # made again
    assert (copy / "_previous" / "checkpoint-4").is_dir()
    assert f"The checkpoints that were made after step 2 are now in {copy / '_previous'}" in caplog.text


def test_the_warning_says_which_checkpoints_were_set_aside(copy, caplog):
    make_trainer(copy, **SAVING).train(resume_from_checkpoint=str(copy / "checkpoint-2"))
    previous = copy / "_previous" / "checkpoint-4"
    assert f"The checkpoints that were made after step 2 are now in {previous.parent}." in caplog.text
    make_trainer(copy, **SAVING).train(resume_from_checkpoint=str(previous))
    assert f"The checkpoints that were in {copy} before this run are now in {copy / '_previous'}_2." in caplog.text


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", RESUME_FILE])
def test_damage_of_an_old_checkpoint_without_digests_is_reported(copy, name):
    folder = copy / "checkpoint-2"
    marker = json.loads((folder / COMPLETE_MARKER).read_text())
    (folder / COMPLETE_MARKER).write_text(json.dumps({"files": marker["files"]}))  # of an older version
    assert is_complete(folder)
    (folder / name).write_bytes(bytes((folder / name).stat().st_size))
    with pytest.raises(ValueError, match=r"checkpoint-2.* cannot be read"):
        make_trainer(copy, **SAVING).train(resume_from_checkpoint=str(folder))


def test_a_checkpoint_of_the_model_alone_does_not_go_on(tmp_path):
    make_trainer(tmp_path, **SAVING, save_only_model=True).train()
    with pytest.raises(ValueError, match="has the model alone"):
        make_trainer(tmp_path, **SAVING).train(resume_from_checkpoint=True)


def full_disk(*args: Any, **kwargs: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def full_disk_in_rust(*args: Any, **kwargs: Any) -> None:
    raise Exception("No space left on device (os error 28)")  # as tokenizers does


def test_a_full_disk_outside_of_a_checkpoint_is_an_error_of_the_system(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer._save = full_disk_in_rust
    with pytest.raises(OSError, match=r"The model could not be written: \[Errno 28\] No space left"):
        trainer.save_model()


@pytest.mark.parametrize("writer", ["optimizer", "weights", "marker", "tokenizer"])
def test_a_full_disk_leaves_the_last_checkpoint(tmp_path, writer, monkeypatch):
    trainer = make_trainer(tmp_path, **SAVING, save_total_limit=1)

    class Fill(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 3:
                if writer == "optimizer":
                    monkeypatch.setattr(transformers_trainer.torch, "save", full_disk)
                elif writer == "weights":
                    trainer._save = full_disk
                elif writer == "tokenizer":
                    trainer._save = full_disk_in_rust
                else:
                    monkeypatch.setattr(checkpointing, "mark_complete", full_disk)

    trainer.add_callback(Fill())
    with pytest.raises(CheckpointNotWritten, match=r"checkpoint-4 could not be written.*No space left.*checkpoint-2"):
        trainer.train()
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-2"]
    assert is_complete(tmp_path / "checkpoint-2")


def test_early_stopping_resumes_with_its_count(tmp_path):
    kwargs = {**SAVING, "eval_strategy": "steps", "eval_steps": 2, "eval_dataset": Rows(8), "max_steps": 20}
    kwargs |= {"metric_for_best_model": "accuracy", "load_best_model_at_end": True}

    def trainer(patience: int) -> Any:
        made = make_trainer(tmp_path, learning_rate=0.0, **kwargs)  # nothing improves
        made.add_callback(EarlyStoppingCallback(patience))
        return made

    first = trainer(2)
    first.train()
    assert first.state.global_step == 6
    again = trainer(2)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 6  # it had stopped
    before = trainer(2)
    before.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert before.state.global_step == 6  # one evaluation without improvement was counted before


@pytest.mark.parametrize("metric", ["acuracy", "eval_zeroshot_top1", "eval_x_loss"])
def test_an_unknown_metric_of_the_best_is_found_before_training(tmp_path, metric):
    kwargs = {"eval_strategy": "steps", "eval_steps": 1, "eval_dataset": Rows(8)}
    trainer = make_trainer(tmp_path, metric_for_best_model=metric, **kwargs)
    with pytest.raises(ValueError, match=rf"`metric_for_best_model` is '{metric.removeprefix('eval_')}', "):
        trainer.train()
    assert trainer.state.global_step == 0


def test_metrics_that_may_choose_the_best_model(tmp_path):
    kwargs = {"eval_strategy": "steps", "eval_steps": 1, "eval_dataset": {"x": Rows(8), "y": Rows(8)}}
    for metric in ("eval_x_loss", "y_group_score", "eval_y_accuracy_swap_obj"):
        check_best_metric(make_trainer(tmp_path, metric_for_best_model=metric, **kwargs))
    # one that these rows do not give is told by the first evaluation
    trainer = make_trainer(tmp_path, metric_for_best_model="eval_y_accuracy_swap_obj", **kwargs)
    with pytest.raises(TrainingStoppedError, match="which the evaluation did not give; there are eval_"):
        trainer.train()


def test_several_processes_do_not_evaluate_on_a_stream(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path)
    monkeypatch.setattr(type(trainer.args), "world_size", 2)
    with pytest.raises(ValueError, match="Several processes cannot evaluate on a stream"):
        trainer.get_eval_dataloader(stream()["train_dataset"])


@pytest.mark.slow
def test_two_processes_end_passes_together_resume_and_report_a_full_disk(tmp_path, pytestconfig):
    in_two_processes(pytestconfig.rootpath, resume_worker.__name__, str(tmp_path))
    found = torch.load(tmp_path / "results.pt")
    for case in resume_worker.CASES:
        assert found[case]["resumed"] == found[case]["whole"], case
    assert found["uneven shards"]["first"] == "checkpoint-4"  # 18 rows are four batches of 4
    assert found["uneven shards"]["pass"] == 1
    assert found["full"][0] == found["full"][1]
    assert "checkpoint-1 could not be written by process 0" in found["full"][0]


@pytest.mark.parametrize(
    ("steps", "position"),
    [(1, {"pass": 0, "batches": 1}), (2, {"pass": 1, "batches": 0}), (3, {"pass": 1, "batches": 1})],
)
def test_a_checkpoint_keeps_its_position_in_the_data(tmp_path, steps, position):
    trainer = make_trainer(
        tmp_path,
        train_dataset=Rows(12),
        max_steps=steps,
        save_strategy="epoch" if steps == 2 else "steps",
        save_steps=1,
    )
    trainer.train()
    assert Course.load(str(tmp_path / f"checkpoint-{steps}")).position == position


@pytest.mark.parametrize(
    ("streamed", "skip", "same_order", "position", "expected"),
    [
        (True, False, True, True, (3, 5)),
        (False, False, True, True, (3, 5)),
        (True, True, True, True, (3, 0)),
        (False, True, True, True, (3, 0)),
        (True, False, False, True, (3, 0)),
        (False, False, False, True, (7, 8)),  # passes have other lengths: by the number of steps
        (False, False, True, False, (7, 8)),
        (True, True, True, False, (7, 8)),
        (True, False, True, False, None),
    ],
)
def test_where_in_the_data_a_resumed_run_goes_on(
    tmp_path, monkeypatch, streamed, skip, same_order, position, expected
):
    trainer = make_trainer(tmp_path, ignore_data_skip=skip, **(stream() if streamed else {}))
    monkeypatch.setattr(transformers_trainer.Trainer, "_init_training_state", lambda *_: (7, 8))
    trainer.resumption.same_order = same_order
    trainer.resumption.course = Course({}, {"pass": 3, "batches": 5} if position else {})
    if expected is None:
        with pytest.raises(ValueError, match="c does not tell where in the stream it stopped"):
            trainer._init_training_state(4, 2, 2, "c", None)
        return
    assert trainer._init_training_state(4, 2, 2, "c", None) == expected
    assert trainer._init_training_state(4, 2, 2, None, None) == (7, 8)


def test_a_checkpoint_without_settings_is_resumed_with_a_warning(copy, caplog):
    (copy / "checkpoint-4" / RESUME_FILE).unlink()
    trainer = make_trainer(copy, **SAVING)
    assert trainer.resumption.compare(str(copy / "checkpoint-4")) == (None, [], True)
    assert "does not tell its settings" in caplog.text


def test_the_count_of_one_of_several_callbacks_is_restored(tmp_path):
    trainer = make_trainer(tmp_path)
    callback = EarlyStoppingCallback(9)
    trainer.add_callback(callback)
    trainer.state.stateful_callbacks = {
        "EarlyStoppingCallback": [{"attributes": {"early_stopping_patience_counter": 2}}, {}]
    }
    restore_callbacks(trainer, "c")
    assert callback.early_stopping_patience_counter == 2


@pytest.mark.parametrize(
    ("best", "known", "there", "found"),
    [
        (2, None, True, "checkpoint-2"),
        (2, "elsewhere", True, "elsewhere"),
        (2, None, False, None),
        (0, None, True, None),
        (None, None, True, None),
    ],
)
def test_the_best_checkpoint_of_a_folder_that_was_moved(tmp_path, best, known, there, found):
    trainer = make_trainer(tmp_path)
    if there:
        for step in (0, 2, None):
            (tmp_path / f"checkpoint-{step}").mkdir()
    trainer.state.best_global_step, trainer.state.best_model_checkpoint = best, known
    find_best_checkpoint(trainer)
    assert trainer.state.best_model_checkpoint == (str(tmp_path / found) if found == "checkpoint-2" else found)


def test_a_run_that_is_stopped_at_its_start_takes_no_step(tmp_path):
    class Stop(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_training_stop = True

    trainer = make_trainer(tmp_path)
    trainer.add_callback(Stop())
    trainer.train()
    assert trainer.state.global_step == 0


def test_all_processes_name_the_one_that_could_not_write(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path)
    monkeypatch.setattr(type(trainer.args), "world_size", 2)
    monkeypatch.setattr(checkpointing, "gather_object", lambda own: [*own, "OSError: full\nmore"])
    (tmp_path / "checkpoint-4").mkdir()
    with pytest.raises(CheckpointNotWritten, match=r"by process 1, and .* is removed: OSError: full \(.*no other yet"):
        checkpointing.report_together(str(tmp_path / "checkpoint-4"), [], trainer)
    assert not (tmp_path / "checkpoint-4").exists()
    monkeypatch.setattr(checkpointing, "gather_object", lambda own: [*own, None])
    checkpointing.report_together(str(tmp_path / "checkpoint-4"), [], trainer)


@pytest.mark.parametrize(("errors", "pushed"), [([], 1), ([OSError("full")], 0), (None, 1)])
def test_a_checkpoint_that_is_not_whole_is_not_uploaded(tmp_path, monkeypatch, errors, pushed):
    trainer = make_trainer(tmp_path)
    calls: list[str] = []
    monkeypatch.setattr(pushing, "push_checkpoint", lambda trainer, folder: calls.append(folder))
    trainer.write_errors.kept = errors
    trainer._push_from_checkpoint("c")
    assert len(calls) == pushed

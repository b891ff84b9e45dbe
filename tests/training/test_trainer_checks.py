# SPDX-License-Identifier: Apache-2.0
"""What the trainer checks, and what it does among several processes, whose answers are made up."""

from __future__ import annotations

import contextlib
import math
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset

from hf_tripletclip import AutoTripletModel, TripletCLIPModel, TripletCLIPTrainer, TripletCLIPTrainingArguments
from hf_tripletclip.training import overlap, trainer_setup
from hf_tripletclip.training import trainer as trainer_module
from hf_tripletclip.training.evaluation import evaluation_loss, own_rows
from hf_tripletclip.training.trainer_setup import check_processors, check_trainer, refuse_stream, set_up_model
from hf_tripletclip.training.training_batches import columns_of
from tests.families import write_family
from tests.tiny import negatives, positives, tiny_config
from tests.training.test_trainer import Rows, make_trainer


@pytest.mark.parametrize(
    ("end", "remainder", "index", "own"),
    [
        (False, 5, 0, [True] * 4),
        (True, 0, 0, [True] * 4),
        (True, -1, 1, [True] * 4),
        (True, 5, 0, [True] * 4),
        (True, 5, 1, [True, False, False, False]),
        (True, 4, 1, [False] * 4),
        (True, 3, 0, [True, True, True, False]),
    ],
)
def test_rows_that_fill_up_the_last_batch_do_not_count(tmp_path, monkeypatch, end, remainder, index, own):
    trainer = make_trainer(tmp_path)
    monkeypatch.setattr(type(trainer.args), "process_index", index)
    trainer.accelerator.gradient_state = SimpleNamespace(end_of_dataloader=end, remainder=remainder)
    assert own_rows(trainer, 4).tolist() == own


@pytest.mark.parametrize("across", [True, False])
def test_the_loss_of_an_evaluation_is_that_of_all_processes(tmp_path, monkeypatch, across):
    trainer = make_trainer(tmp_path, negatives_across_devices=across)
    monkeypatch.setattr(type(trainer.args), "world_size", 2)
    # the other process has 2 rows with a loss of 1, or the mean loss of shared rows
    monkeypatch.setattr(trainer, "compute_loss", lambda *_, **__: (torch.tensor(4.0), "outputs"))
    weight = 1.0 if across else 2.0
    trainer.accelerator.reduce = lambda own, how: own + (2 if own.ndim == 0 else torch.tensor([weight, weight]))
    loss, outputs = evaluation_loss(trainer, trainer.model, positives(6))
    assert outputs == "outputs"
    assert loss.item() == pytest.approx((4 + 1) / 2 if across else (6 * 4 + 2 * 1) / 8)
    trainer.accelerator.reduce = lambda own, how: own * 0
    loss, outputs = evaluation_loss(trainer, trainer.model, positives(6))
    assert math.isnan(loss)
    assert len(outputs.image_embeds) == 6


@pytest.mark.parametrize(
    ("world_size", "rows", "batch", "drop_last", "refused"),
    [
        (2, 13, 3, False, True),  # one row is left for two processes
        (2, 14, 3, False, False),
        (2, 12, 3, False, False),
        (2, 13, 3, True, False),
        (1, 13, 3, False, False),
        (4, 14, 3, False, True),
    ],
)
def test_a_last_batch_with_fewer_rows_than_processes(
    tmp_path, monkeypatch, world_size, rows, batch, drop_last, refused
):
    trainer = make_trainer(tmp_path, per_device_train_batch_size=batch, dataloader_drop_last=drop_last)
    monkeypatch.setattr(type(trainer.args), "world_size", world_size)
    trainer.train_dataset = Rows(rows)
    if refused:
        with pytest.raises(
            ValueError, match=rf"has {rows % (batch * world_size)} of its {rows} rows, too few for {world_size}"
        ):
            check_trainer(trainer)
    else:
        check_trainer(trainer)


@pytest.mark.parametrize(("across", "world_size", "refused"), [(True, 1, True), (True, 2, False), (False, 2, True)])
def test_a_batch_of_one_row_needs_those_of_other_processes(tmp_path, monkeypatch, across, world_size, refused):
    trainer = make_trainer(tmp_path, per_device_train_batch_size=2, negatives_across_devices=across)
    monkeypatch.setattr(type(trainer.args), "world_size", world_size)
    monkeypatch.setattr(type(trainer.args), "train_batch_size", 1)
    with pytest.raises(ValueError, match="at least two rows") if refused else contextlib.nullcontext():
        check_trainer(trainer)


@pytest.mark.parametrize(("rows", "refused"), [(12, False), (11, True)])
def test_a_whole_batch_must_be_there(tmp_path, monkeypatch, rows, refused):
    trainer = make_trainer(tmp_path)
    monkeypatch.setattr(type(trainer.args), "world_size", 2)
    trainer.train_dataset = Rows(rows)
    with (
        pytest.raises(ValueError, match="11 rows, fewer than one batch of 12") if refused else contextlib.nullcontext()
    ):
        check_trainer(trainer)


def test_one_process_may_evaluate_on_a_stream_and_several_on_rows(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path)
    stream = Dataset.from_dict({"row": [1]}).to_iterable_dataset()
    refuse_stream(stream, trainer.args)
    monkeypatch.setattr(type(trainer.args), "world_size", 2)
    refuse_stream(Rows(3), trainer.args)
    with pytest.raises(ValueError, match="cannot evaluate on a stream"):
        refuse_stream(stream, trainer.args)


@pytest.mark.parametrize(("across", "batch"), [(True, 12), (False, 6)])
def test_the_data_is_looked_up_once_with_the_batches_of_all_processes(tmp_path, monkeypatch, caplog, across, batch):
    asked: list[object] = []
    monkeypatch.setattr(overlap, "find_overlap", lambda train, evaluated: asked.append(list(evaluated)) or ["some"])
    monkeypatch.setattr(overlap, "describe_twins", lambda train, rows: asked.append(rows) or "twins")
    trainer = make_trainer(tmp_path, negatives_across_devices=across, eval_dataset={"x": Rows(8), "y": Rows(8)})
    trainer.look_at_data(test=Rows(3))
    assert (asked, trainer.overlap) == ([], [])  # of tensors nothing is known
    monkeypatch.setattr(type(trainer.args), "world_size", 2)
    monkeypatch.setattr(trainer_module, "TripletCollator", object)
    trainer.overlap = None
    trainer.look_at_data(test=Rows(3))
    trainer.look_at_data(other=Rows(3))
    assert asked == [["x", "y", "test"], batch]
    assert trainer.overlap == ["some"]
    assert "Evaluated on training data: some" in caplog.text
    assert "twins" in caplog.text
    trainer.core.set_objective("clip", repeats="mask")
    trainer.overlap = None
    trainer.look_at_data()
    assert asked == [["x", "y", "test"], batch, ["x", "y"]]  # what stands twice is no wrong answer
    asked.pop()
    trainer.overlap = None
    monkeypatch.setattr(trainer, "is_world_process_zero", lambda: False)
    trainer.look_at_data()
    assert (len(asked), trainer.overlap) == (2, [])


@pytest.mark.parametrize(
    ("dataset", "columns"),
    [
        (None, None),
        ([], None),
        ([{"a": 1, "b": 2}], ["a", "b"]),
        ({"x": [{"a": 1}], "y": [{"b": 1}]}, ["a"]),
        ({}, None),
        (iter([{"a": 1}]), None),
        (Dataset.from_dict({"c": [1]}), ["c"]),
        (Dataset.from_dict({"c": []}), ["c"]),
    ],
)
def test_columns_are_known_without_reading_a_stream(dataset, columns):
    assert columns_of(dataset) == columns


def test_arguments_for_other_trainers_are_refused(tmp_path):
    with pytest.raises(ValueError, match="The loss is the objective's"):
        TripletCLIPTrainer(TripletCLIPModel(tiny_config()), make_trainer(tmp_path).args, compute_loss_func=max)
    with pytest.raises(ValueError, match="need the model's processor"):
        make_trainer(tmp_path, eval_benchmarks={"triplets": {"data": "scenes", "max_rows": 8}})
    trainer = make_trainer(tmp_path)
    trainer.is_deepspeed_enabled = True
    check_trainer(trainer)
    trainer.args.mini_batch_size = 2
    with pytest.raises(ValueError, match="not with DeepSpeed"):
        check_trainer(trainer)


@pytest.mark.parametrize(("at", "end"), [(98, 98), (2, None), (None, None)])
def test_where_captions_end_without_a_processor(at, end):
    """Id 2 is what old configs have, whatever the tokenizer's is."""
    model = SimpleNamespace(text_model=SimpleNamespace(eos_token_id=at))
    assert check_processors(model) == end


@pytest.mark.parametrize(("gpus", "said"), [(0, False), (1, False), (2, True)])
def test_idle_gpus_of_a_single_process_give_a_warning(tmp_path, monkeypatch, caplog, gpus, said):
    monkeypatch.setattr(TripletCLIPTrainingArguments, "n_gpu", gpus)
    make_trainer(tmp_path)
    assert (f"{gpus} GPUs are visible but this is one process" in caplog.text) == said


def test_the_data_of_an_evaluation_must_fit_too(tmp_path):
    lacking = Rows(8, drop=("negative_input_ids",))
    with pytest.raises(ValueError, match=r"needs \['negative_input_ids'\] in `eval_dataset`, whose"):
        make_trainer(tmp_path, eval_dataset=lacking)
    with pytest.raises(ValueError, match=r"in `eval_dataset\['y'\]`, whose"):
        make_trainer(tmp_path, eval_dataset={"x": Rows(8), "y": lacking})


def test_the_objective_of_the_model_keeps_its_settings_and_another_has_its_own(tmp_path):
    kwargs = {"chunk_size": 3, "negatives_across_devices": False}
    kept = make_trainer(tmp_path, TripletCLIPModel(tiny_config(objective="clip", objective_kwargs=dict(kwargs))))
    assert kept.core.config.objective_kwargs == {"chunk_size": 3}  # how processes train is for the arguments to say
    other = TripletCLIPModel(tiny_config(objective="clip", objective_kwargs=dict(kwargs)))
    assert not make_trainer(tmp_path, other, objective="negclip").core.config.objective_kwargs


def test_the_arguments_say_how_keys_are_shared(tmp_path):
    assert make_trainer(tmp_path, key_exchange="ring").core.objective.key_exchange == "ring"
    own = TripletCLIPModel(tiny_config(objective="clip", objective_kwargs={"key_exchange": "auto"}))
    assert make_trainer(tmp_path, own).core.objective.key_exchange == "auto"
    assert make_trainer(tmp_path, own, key_exchange="gather").core.objective.key_exchange == "gather"


def test_metrics_are_of_pairs_if_rows_have_several_negatives(tmp_path):
    trainer = make_trainer(tmp_path, objective="negclip")
    batch = {**positives(3), **{name: value for name, value in negatives(6).items() if "pixel" not in name}}
    _, found, labels = trainer.prediction_step(trainer.model, batch, False)
    assert (set(found), labels.shape) == ({"image", "text"}, (3, 3))


@pytest.mark.parametrize(
    ("width", "has_it", "given", "expected"),
    [
        (512, True, {}, True),
        (256, True, {}, False),  # where it does not pay
        (512, False, {}, False),
        (512, True, {"bf16": False}, False),
        (512, True, {"weights_dtype": "bfloat16"}, False),
        (256, True, {"bf16": True}, True),
    ],
)
def test_a_cpu_that_computes_in_bfloat16_does(tmp_path, monkeypatch, width, has_it, given, expected):
    monkeypatch.setattr(trainer_setup, "computes_in_bfloat16", lambda: has_it)
    args = TripletCLIPTrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none", **given)
    config = tiny_config()
    config.text_config.hidden_size = width
    trainer_setup.choose_precision(SimpleNamespace(config=config), args)
    assert args.bf16 is expected
    assert args.mixed_precision == ("bf16" if expected else "no")


def test_a_bias_rests_only_while_the_objective_does_not_use_it(tmp_path, caplog):
    model = AutoTripletModel.from_pretrained(write_family("siglip", tmp_path / "model"))
    for objective, trains in (("clip", False), ("siglip_triplet", True), ("tripletclip", False), ("siglip", True)):
        set_up_model(model, TripletCLIPTrainingArguments(output_dir=str(tmp_path), objective=objective, use_cpu=True))
        assert model.logit_bias.requires_grad is trains
        assert ("`--objective siglip_triplet` goes on so" in caplog.text) is not trains
        caplog.clear()
    model.logit_bias.requires_grad_(False)  # a person's choice
    set_up_model(model, TripletCLIPTrainingArguments(output_dir=str(tmp_path), objective="siglip", use_cpu=True))
    assert not model.logit_bias.requires_grad

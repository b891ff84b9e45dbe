# SPDX-License-Identifier: Apache-2.0
"""What a step learns from, and when training stops; two processes are in test_processes.py."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from datasets import Dataset
from safetensors.torch import load_file
from transformers import CLIPTextModel, TrainerCallback

from hf_tripletclip import TripletCLIPConfig, TripletCLIPModel
from hf_tripletclip.data import BrokenRows, TripletCollator
from hf_tripletclip.objectives.contents import digests
from hf_tripletclip.training import last_complete_checkpoint, steps
from hf_tripletclip.training.callbacks import ClampLogitScale
from hf_tripletclip.training.steps import Means, TrainingStoppedError
from hf_tripletclip.training.training_batches import KEYS, SharedBatches, first_rows, row_names, share_last_batch
from tests.tiny import captions, images, tiny_config
from tests.training import test_evaluation
from tests.training.test_evaluation import processor  # noqa: F401
from tests.training.test_trainer import Rows, losses, make_trainer

SAVING = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 1}


# ---- Weights in half precision ----


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_precision_weights_are_trained_and_saved_in_float32(tmp_path, half):
    torch.manual_seed(0)
    trainer = make_trainer(
        tmp_path, model=TripletCLIPModel(tiny_config()).to(half), max_steps=10, learning_rate=1e-5, max_grad_norm=0.0
    )
    before = {name: value.clone() for name, value in trainer.model.named_parameters()}
    trainer.train()
    trainer.save_model()
    saved = load_file(tmp_path / "model.safetensors")
    assert {value.dtype for value in saved.values()} == {torch.float32}
    changed = sum(int((saved[name] != value).sum()) for name, value in before.items())
    assert changed > 0.6 * sum(value.numel() for value in before.values())
    assert TripletCLIPModel.from_pretrained(tmp_path).dtype == torch.float32


def test_a_towers_config_has_the_dtype_of_the_weights(tmp_path):
    TripletCLIPModel(tiny_config()).half().save_pretrained(tmp_path / "half")
    trainer = make_trainer(tmp_path / "out", model=TripletCLIPModel.from_pretrained(tmp_path / "half"), max_steps=1)
    trainer.train()
    trainer.save_model()
    for folder, dtype in (("half", torch.float16), ("out", torch.float32)):
        config = json.loads((tmp_path / folder / "config.json").read_text())
        towers = (config, config["text_config"], config["vision_config"])
        assert {part["dtype"] for part in towers} == {str(dtype).removeprefix("torch.")}
        assert CLIPTextModel.from_pretrained(tmp_path / folder).dtype == dtype


def test_half_precision_can_be_asked_for(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=1, weights_dtype="bfloat16")
    trainer.train()
    trainer.save_model()
    assert {value.dtype for value in load_file(tmp_path / "model.safetensors").values()} == {torch.bfloat16}


def test_a_model_that_was_halved_after_the_trainer_was_made(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=1)
    trainer.model.half()
    trainer.train()
    assert {value.dtype for value in trainer.model.parameters()} == {torch.float32}


# ---- What is not finite ----


@pytest.mark.parametrize("mini_batch_size", [None, 4])
@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"gradient_accumulation_steps": 2, "max_grad_norm": 0.0},
        {"logging_nan_inf_filter": False, "logging_steps": 3, "save_strategy": "epoch"},
        {"save_strategy": "no"},
        {"save_strategy": "no", "max_steps": 1},
    ],
)
def test_a_run_that_diverges_stops_and_saves_nothing_of_it(tmp_path, mini_batch_size, kwargs):
    trainer = make_trainer(tmp_path, learning_rate=1e20, mini_batch_size=mini_batch_size, **{**SAVING, **kwargs})
    with pytest.raises(TrainingStoppedError, match=r"^Training stops (at|after) step \d, at .*: the .* nan\."):
        trainer.train()
    assert last_complete_checkpoint(tmp_path) is None


class Poisoned(Rows):
    """The second batch has a row of which one pixel is not finite."""

    def __init__(self) -> None:
        super().__init__(12)
        self.batch["pixel_values"][8, 0, 3, 3] = math.inf


@pytest.mark.parametrize("kwargs", [{}, {"mini_batch_size": 4}, {"max_grad_norm": 0.0}])
def test_the_last_good_checkpoint_stays_and_the_row_is_named(tmp_path, kwargs):
    trainer = make_trainer(
        tmp_path, train_dataset=Poisoned(), train_sampling_strategy="sequential", **SAVING, **kwargs
    )
    with pytest.raises(TrainingStoppedError, match=r"at step 2, .*checkpoint-1\..*number 2 of a batch"):
        trainer.train()
    assert last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-1")
    weights = load_file(tmp_path / "checkpoint-1" / "model.safetensors")
    assert all(value.isfinite().all() for value in weights.values())
    assert all(parameter.isfinite().all() for parameter in trainer.model.parameters())


def test_a_scaler_of_fp16_may_leave_steps_out(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=6)
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=3e38, growth_interval=1000)
    trainer.train()
    assert trainer.accelerator.scaler.get_scale() < 3e38  # gradients overflowed, and that is normal
    assert all(math.isfinite(loss) for loss in losses(trainer))

    trainer = make_trainer(tmp_path, train_dataset=Poisoned(), train_sampling_strategy="sequential")
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    with pytest.raises(TrainingStoppedError, match="the loss is nan"):
        trainer.train()


@pytest.mark.parametrize("maximum", [math.nan, math.inf, 0.5])
def test_the_bound_of_a_config_is_checked_too(tmp_path, maximum):
    with pytest.raises(ValueError, match="`logit_scale_max` is"):
        ClampLogitScale(maximum)


# ---- Batches without rows ----


@pytest.fixture
def make(tmp_path, processor):  # noqa: F811
    """A trainer of raw rows, three a batch in their order, of which some are broken."""

    def make(broken: tuple[int, ...] = (), rows: int = 12, **kwargs):
        base = tiny_config().to_dict()
        base["text_config"] |= {"vocab_size": len(processor.tokenizer), "max_position_embeddings": 20}
        base["text_config"] |= {"eos_token_id": processor.tokenizer.eos_token_id}
        torch.manual_seed(0)
        return make_trainer(
            tmp_path / "run",
            model=TripletCLIPModel(TripletCLIPConfig(**base)),
            train_dataset=Dataset.from_list(test_evaluation.rows(rows, broken=broken)),
            data_collator=TripletCollator(processor, broken_rows=BrokenRows(tmp_path / "broken_rows.jsonl")),
            **{"per_device_train_batch_size": 3, "train_sampling_strategy": "sequential", **kwargs},
        )

    return make


@pytest.mark.parametrize("mini_batch_size", [None, 2])
def test_a_batch_without_rows_changes_nothing_and_is_counted(make, mini_batch_size):
    kwargs = {"mini_batch_size": mini_batch_size, "lr_scheduler_type": "constant"}
    whole, some = make(max_steps=2, **kwargs), make((3, 4, 5), max_steps=3, **kwargs)
    whole.train_dataset = whole.train_dataset.select([0, 1, 2, 6, 7, 8])
    whole.train()
    some.train()
    assert losses(some) == losses(whole)
    assert some.state.global_step == 3
    assert some.steps.batches_without_rows == 1
    assert [entry.get("batches_without_rows") for entry in some.state.log_history[:-1]] == [None, 1, None]
    for ours, theirs in zip(some.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_batch_without_rows_among_those_of_a_step(make):
    """The gradients of a step are averaged over the batches that have rows."""
    kwargs = {"max_steps": 1, "max_grad_norm": 0.0, "optim": "sgd", "learning_rate": 0.1}
    one, three = make(**kwargs), make((3, 4, 5, 6, 7, 8), gradient_accumulation_steps=3, **kwargs)
    one.train()
    three.train()
    assert losses(three) == losses(one)
    for ours, theirs in zip(three.model.parameters(), one.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_batch_without_rows_under_a_scaler(make):
    trainer = make((0, 1, 2), max_steps=3)
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    trainer.train()
    assert trainer.state.global_step == 3


def test_data_without_a_usable_row_ends_training_in_one_line(make, monkeypatch):
    with pytest.raises(TrainingStoppedError, match=r"of this pass over the data are broken.*12 × empty"):
        make(tuple(range(12))).train()
    monkeypatch.setattr("hf_tripletclip.training.steps.MAX_BATCHES_WITHOUT_ROWS", 2)
    with pytest.raises(TrainingStoppedError, match=r"after step 2: all rows of the last 2 batches are broken"):
        make(tuple(range(3, 12))).train()


# ---- The last batch of a pass ----


@pytest.mark.parametrize(("rows", "last"), [(16, 8), (14, 6), (10, 2), (9, 1), (3, 3)])
def test_a_short_last_batch_is_shared_evenly(rows, last):
    batches = torch.utils.data.BatchSampler(range(rows), 4, drop_last=False)
    parts = [list(SharedBatches(batches, 2, index)) for index in range(2)]
    assert len(parts[0]) == len(parts[1]) == len(SharedBatches(batches, 2, 0))
    together = [first + second for first, second in zip(*parts, strict=True)]
    assert [row for batch in together for row in batch] == list(range(rows))
    assert len(together[-1]) == last
    assert abs(len(parts[0][-1]) - len(parts[1][-1])) <= 1


def test_a_part_of_shared_batches_drops_none():
    assert SharedBatches(torch.utils.data.BatchSampler(range(9), 4, drop_last=True), 2, 0).drop_last is False


@pytest.mark.parametrize(("processes", "drop_last", "shared"), [(2, False, True), (2, True, False), (1, False, False)])
def test_loaders_of_several_processes_share_the_last_batch(processes, drop_last, shared):
    batches = torch.utils.data.BatchSampler(range(11), 4, drop_last=drop_last)
    shard = BatchSamplerShard(batches, processes, processes - 1, even_batches=True)
    loader = share_last_batch(SimpleNamespace(batch_sampler=shard))
    assert isinstance(loader.batch_sampler.batch_sampler, SharedBatches) == shared
    assert (shard.num_processes == processes) != shared
    if shared:
        assert list(loader.batch_sampler) == [[4, 5, 6, 7], [9, 10]]
    untouched = SimpleNamespace(batch_sampler=batches)
    assert share_last_batch(untouched).batch_sampler is batches


# ---- How a step is taken ----


@pytest.mark.parametrize("size", [None, 4])
def test_mini_batches_are_of_the_size_asked_for_and_the_optimizer_is_in_its_mode(tmp_path, monkeypatch, size):
    sizes, modes = [], []
    cached = steps.cached_backward
    monkeypatch.setattr(
        steps, "cached_backward", lambda *a, **kw: sizes.append(kw["mini_batch_size"]) or cached(*a, **kw)
    )

    class Modes(TrainerCallback):
        def on_step_begin(self, args, state, control, optimizer, **_):
            optimizer.optimizer.train = lambda: modes.append("train")  # of schedule-free ones

    trainer = make_trainer(tmp_path, max_steps=1, mini_batch_size=size)
    trainer.add_callback(Modes())
    trainer.train()
    assert sizes == ([] if size is None else [size])
    assert modes == ["train"]


def test_gradients_are_clipped(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=1, max_grad_norm=1e-2, optim="sgd", learning_rate=1.0)
    trainer.args.lr_scheduler_type = "constant"
    before = [value.detach().clone() for value in trainer.model.parameters()]
    trainer.train()
    moved = [(now - was).square().sum() for now, was in zip(trainer.model.parameters(), before, strict=True)]
    assert sum(moved).sqrt().item() == pytest.approx(1e-2, rel=1e-2)


def test_a_batch_without_rows_has_no_loss_and_one_with_rows_elsewhere_a_loss_of_zero(tmp_path):
    trainer = make_trainer(tmp_path)
    batch = {name: value[:0] for name, value in Rows(4).batch.items()}
    assert trainer.training_step(trainer.model, {**batch, steps.EVERYONE: 0}).item() == 0
    assert trainer.steps.batches == []
    loss, outputs = trainer.compute_loss(trainer.model, batch, return_outputs=True)
    assert loss.item() == 0
    assert len(outputs.image_embeds) == 0
    trainer.compute_loss(trainer.model, batch).backward()
    assert all(not value.grad.any() for value in trainer.model.parameters())  # all have one, for DDP
    assert trainer.steps.loss_again(batch) == 0.0
    one = {name: value[:1].clone() for name, value in Rows(4).batch.items()}
    one["pixel_values"][0, 0, 0, 0] = math.inf
    assert math.isnan(trainer.steps.loss_again(one))


# ---- The same thing twice ----


def test_digests_tell_contents_apart_and_do_not_see_padding():
    pixels = images(40, 1)
    pixels[7] = pixels[3]
    changed = pixels.clone()
    changed[3, 2, 5, 5] += 1e-6
    assert len(digests(pixels).unique()) == 39
    assert (digests(pixels) != digests(changed)).nonzero().flatten().tolist() == [3]
    short, long = (captions(6, 10, 0, lengths=[4] * 6) for _ in range(2))
    long = {name: torch.nn.functional.pad(values, (0, 5)) for name, values in long.items()}
    of_short, of_long = (digests(part["input_ids"], part["attention_mask"]) for part in (short, long))
    assert torch.equal(of_short, of_long)
    assert len(of_short.unique()) == 6
    assert digests(pixels[:0]).shape == (0,)


@pytest.mark.parametrize(
    ("objective", "pictures", "of_captions"), [("clip", 2.0, 3.0), ("negclip", 2.0, 4.0), ("tripletclip", 2.0, 6.0)]
)
def test_repeated_rows_of_a_batch_are_counted_in_the_log(tmp_path, objective, pictures, of_captions):
    dataset, batch = Rows(6), Rows(6).batch
    batch["pixel_values"][1] = batch["pixel_values"][0]
    for name in ("input_ids", "attention_mask"):
        batch[name][1] = batch[name][2] = batch[name][0]  # three rows with one caption
        batch[f"negative_{name}"] = batch[f"negative_{name}"][:, : batch[name].shape[1]].clone()
        batch[f"negative_{name}"][:, -1] = batch[name][0, -1]  # the end of the text
        batch[f"negative_{name}"][4] = batch[f"negative_{name}"][5]  # wrong answers for the negative pictures only
        batch[f"negative_{name}"][0] = batch[name][3]  # row 3's caption is row 0's hard negative
    dataset.batch = batch
    trainer = make_trainer(tmp_path, objective=objective, train_dataset=dataset, max_steps=1)
    trainer.train()
    first = trainer.state.log_history[0]
    found = {name: first.get(name) for name in ("repeated_images", "repeated_captions")}
    assert found == {"repeated_images": pictures, "repeated_captions": of_captions + 1 * (objective == "tripletclip")}


# ---- Means over processes ----


def test_means_over_processes_weigh_each_value_once(monkeypatch):
    means = Means()
    for value in (1.0, 2.0):
        means.add({"a": torch.tensor(value), "b": torch.tensor(3 * value)})
    # one process has had no rows, and so no names, and one has counted four, of which two had a term of their own
    answers = [{}, {"a": (9.0, 4), "b": (1.0, 4), "c": (5.0, 2)}]
    monkeypatch.setattr(steps, "gather_object", lambda mine: [answers[0], *mine, answers[1]])
    assert means.means(3) == {"a": (3.0 + 9.0) / 6, "b": (9.0 + 1.0) / 6, "c": 2.5}
    means.add({"a": torch.tensor(5.0)})
    assert means.means(1) == {"a": 5.0}  # anew, and alone without asking
    assert means.means(1) == {}


@pytest.mark.parametrize(("number", "shown"), [(8, ""), (9, " and 1 more"), (11, " and 3 more")])
def test_eight_rows_are_named_when_training_stops(tmp_path, monkeypatch, number, shown):
    trainer = make_trainer(tmp_path)
    monkeypatch.setattr(trainer, "_get_learning_rate", lambda: 0.25)
    monkeypatch.setattr(type(trainer.args), "world_size", 2)
    trainer.accelerator.gather = lambda flag: torch.cat([torch.zeros_like(flag), flag])
    other = ({"loss": math.inf, "gradient norm": math.nan}, [f"row {n}" for n in range(number)])
    monkeypatch.setattr(steps, "gather_object", lambda mine: [*mine, other])
    trainer.steps.stop_together({}, "at step 1")  # all is well
    trainer.accelerator.gather = lambda flag: torch.cat([flag, torch.ones_like(flag)])
    with pytest.raises(TrainingStoppedError) as caught:
        trainer.steps.stop_together({}, "at step 1")
    text = str(caught.value)
    assert "at the learning rate 0.25: the loss is inf and the gradient norm is nan. Nothing of it" in text
    assert text.endswith(f" The rows: {', '.join(f'row {n}' for n in range(8))}{shown}")


def test_broken_rows_are_named_first():
    pixels = torch.zeros(3, 3, 2, 2)
    pixels[1, 0, 0, 0] = math.nan
    assert row_names({"pixel_values": pixels}) == ["number 1 of a batch (its pixels are not finite)"]
    named = row_names({"pixel_values": pixels, KEYS: ["a", "b", "c"]})
    assert named == ["b (its pixels are not finite)", "a", "c"]


def test_a_batch_is_cut_with_its_negatives():
    batch = {"a": torch.arange(4), "b": torch.arange(8), "c": None}
    cut = first_rows(batch, 3, 4)
    assert {name: values.tolist() for name, values in cut.items()} == {"a": [0, 1, 2], "b": [0, 1, 2, 3, 4, 5]}
    assert first_rows(batch, 4, 4) == batch


@pytest.mark.parametrize("bits", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64])
def test_digests_of_every_type(bits):
    values = torch.arange(12).reshape(4, 3).to(bits)
    values[3] = values[1]
    found = digests(values)
    assert found[3] == found[1]
    assert len(found.unique()) == 3


@pytest.mark.parametrize("across", [True, False])
def test_repeated_rows_of_all_processes_are_counted(tmp_path, monkeypatch, across):
    trainer = make_trainer(tmp_path, objective="clip", negatives_across_devices=across)
    monkeypatch.setattr(type(trainer.args), "world_size", 2)
    trainer.accelerator.pad_across_processes = lambda own, dim, pad_index: torch.nn.functional.pad(
        own, (0, 0, 0, 1), value=pad_index
    )
    trainer.accelerator.gather = lambda own: torch.cat([own, own])  # the other has the same three rows
    trainer.steps.count_repeated(Rows(3).batch)
    expected = (
        {"repeated_images": 6.0, "repeated_captions": 6.0}
        if across
        else dict.fromkeys(("repeated_images", "repeated_captions"), 0.0)
    )
    assert trainer.steps.repeated.means(1) == expected

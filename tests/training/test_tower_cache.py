# SPDX-License-Identifier: Apache-2.0
"""Locked towers run once for each input, and training is what it was without; two processes are in test_locked.py."""

from __future__ import annotations

import io

import pytest
import torch
from datasets import Dataset
from PIL import Image

from hf_tripletclip import TripletCLIPModel
from hf_tripletclip.data import BrokenRows, TripletCollator
from hf_tripletclip.objectives import get_objective
from hf_tripletclip.training import tower_cache
from hf_tripletclip.training.towers import TowerArguments, prepare_towers
from tests.tiny import tiny_config
from tests.training.cached import BOTH, LORA, TEXT, TOWERS, VISION, make_cached  # noqa: F401
from tests.training.test_evaluation import processor, rows  # noqa: F401
from tests.training.test_trainer import DISTILLED, losses, make_trainer


@pytest.fixture
def nothing_is_decoded(monkeypatch):
    def forbid() -> None:
        def decode(*_: object) -> None:
            raise AssertionError("an image was decoded")

        monkeypatch.setattr(tower_cache, "decode_image", decode)

    return forbid


def in_files(table: list[dict]) -> list[dict]:
    """The rows with their pictures as the contents of files, as datasets hold them."""

    def encoded(image: Image.Image) -> dict:
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        return {"bytes": buffer.getvalue(), "path": None}

    return [{**row, "image": encoded(row["image"]), "neg_image": encoded(row["neg_image"])} for row in table]


@pytest.mark.parametrize(
    "kwargs",
    [{"gradient_accumulation_steps": 2}, {"mini_batch_size": 4}, DISTILLED, {**DISTILLED, "mini_batch_size": 4}],
    ids=["accumulated", "mini-batches", "distilled", "distilled mini-batches"],
)
@pytest.mark.parametrize("towers", TOWERS)
def test_training_is_equal_without_the_cache_and_another_run_computes_nothing(make, towers, kwargs):
    plain, first, second = (make(TOWERS[towers], cached, **kwargs) for cached in (False, True, True))
    for trainer in (plain, first, second):
        trainer.train()
    assert losses(first) == pytest.approx(losses(plain), abs=1e-5)
    assert losses(second) == pytest.approx(losses(plain), abs=1e-5)
    counts = [[entry.get("repeated_images") for entry in one.state.log_history] for one in (plain, first, second)]
    assert counts[0] == counts[1] == counts[2]
    locked = [tower for tower in ("text", "vision") if TOWERS[towers].get(f"train_{tower}") == "frozen"]
    assert first.tower_cache.computed == dict.fromkeys(locked, 5)
    assert second.tower_cache.computed == dict.fromkeys(locked, 0)
    if first.teacher is not None:  # its locked towers are the model's own
        others = {tower: 0 if tower in locked else 5 for tower in ("text", "vision")}
        assert first.teacher.towers.computed == others
        assert second.teacher.towers.computed == {"text": 0, "vision": 0}
    for ours, theirs in zip(first.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize("mini_batch_size", [None, 4])
@pytest.mark.parametrize("objective", ["tsvlc", "degla", "negclip"])
def test_any_number_per_row_and_masked_repeats(make, processor, objective, mini_batch_size):  # noqa: F811
    table = [
        {**row, "neg_caption": ["a white cat", "a black cat"][: number % 3], "paraphrase": ["a cat", "a red cat"]}
        for number, row in enumerate(rows(18))
    ]
    kwargs = {"objective": objective, "mini_batch_size": mini_batch_size, "eval_strategy": "epoch"}
    columns = get_objective(objective).columns
    kwargs |= {"objective_kwargs": {"repeats": "mask"}, "eval_dataset": Dataset.from_list(table[:7])}
    kwargs |= {"train_dataset": Dataset.from_list(table), "per_device_eval_batch_size": 4, "max_steps": 6}
    kwargs |= {"data_collator": TripletCollator(processor, columns=columns)}
    for towers in (VISION, TEXT):
        plain, first, second = (make(towers, cached, **kwargs) for cached in (False, True, True))
        for trainer in (plain, first, second):
            trainer.train()
        for trainer in (first, second):
            assert losses(trainer) == pytest.approx(losses(plain), abs=1e-5)
            evaluated = [
                [entry["eval_loss"] for entry in one.state.log_history if "eval_loss" in entry]
                for one in (trainer, plain)
            ]
            assert evaluated[0] == pytest.approx(evaluated[1], abs=1e-5)
        assert set(second.tower_cache.computed.values()) == {0}


def test_a_teacher_of_towers_that_train_is_cached_too(make):
    plain, first, second = (make({}, cached, **DISTILLED) for cached in (False, True, True))
    for trainer in (plain, first, second):
        trainer.train()
    assert losses(second) == pytest.approx(losses(plain), abs=1e-5)
    assert first.teacher.towers.computed == {"text": 5, "vision": 5}
    assert second.teacher.towers.computed == {"text": 0, "vision": 0}


@pytest.mark.parametrize("towers", ["vision", "both"])
def test_runs_with_other_seeds_objectives_and_batches_decode_nothing(make, nothing_is_decoded, towers):
    given = {"train_dataset": Dataset.from_list(in_files(rows(18))), "max_steps": 6}
    make(TOWERS[towers], **given).train()
    nothing_is_decoded()
    changes = {"seed": 5, "per_device_train_batch_size": 4, "objective": "negclip_image"}
    again = make(TOWERS[towers], **given, **changes)
    again.train()
    assert set(again.tower_cache.computed.values()) == {0}
    with pytest.raises(AssertionError, match="an image was decoded"):
        make(TOWERS[towers], **given, cache_locked_towers=str(again.args.output_dir) + "/other").train()


def test_workers_know_images_that_were_seen_before_they_started(make):
    kwargs = {"dataloader_num_workers": 2, "max_steps": 6, "dataloader_persistent_workers": True}
    plain, first = (make(VISION, cached, **kwargs) for cached in (False, True))
    for trainer in (plain, first):
        trainer.train()
    assert losses(first) == pytest.approx(losses(plain), abs=1e-5)
    assert first.tower_cache.computed == {"vision": 5}


@pytest.mark.parametrize("towers", TOWERS)
@pytest.mark.parametrize("mini_batch_size", [None, 4])
def test_rows_of_tensors(tmp_path, towers, mini_batch_size):
    curves = []
    for folder in (None, tmp_path / "cache", tmp_path / "cache"):
        torch.manual_seed(0)
        model = prepare_towers(TripletCLIPModel(tiny_config()), TowerArguments(**TOWERS[towers]))
        kwargs = {} if folder is None else {"cache_locked_towers": str(folder)}
        trainer = make_trainer(tmp_path / "run", model=model, mini_batch_size=mini_batch_size, **kwargs)
        trainer.train()
        curves.append(losses(trainer))
    assert curves[1] == pytest.approx(curves[0], abs=1e-5)
    assert curves[2] == curves[1]
    assert set(trainer.tower_cache.computed.values()) == {0}


@pytest.mark.parametrize("towers", ["vision", "both"])
def test_evaluation_is_the_same_and_computes_nothing_twice(make, towers):
    found = []
    table = rows(9)
    table[4]["caption"] = " "
    for cached in (False, True, True):
        trainer = make(TOWERS[towers], cached, eval_dataset=Dataset.from_list(table), per_device_eval_batch_size=4)
        metrics = trainer.evaluate()
        timed = ("time", "per_second")
        found.append({name: value for name, value in metrics.items() if not name.endswith(timed)})
    assert found[1] == pytest.approx(found[0], abs=1e-5)
    assert found[2] == found[1]
    assert set(trainer.tower_cache.computed.values()) == {0}


def test_the_cache_can_be_filled_beforehand(make, nothing_is_decoded):
    table = in_files(rows(18))
    trainer = make(BOTH, train_dataset=Dataset.from_list(table), **DISTILLED)
    assert trainer.fill_tower_cache() == 10
    assert trainer.fill_tower_cache() == 0
    nothing_is_decoded()
    trainer.train()
    assert trainer.tower_cache.computed == {"text": 5, "vision": 5}


def test_broken_rows_are_left_out_and_reported_as_without_the_cache(make, processor, tmp_path):  # noqa: F811
    reports, curves = [], []
    table = in_files(rows(18))
    table[3]["image"], table[7]["caption"] = {"bytes": b"no image", "path": None}, ""
    for name, cached in (("plain", False), ("first", True), ("second", True)):
        report = BrokenRows(tmp_path / f"{name}.jsonl")
        collator = TripletCollator(processor, broken_rows=report)
        trainer = make(
            VISION, cached, train_dataset=Dataset.from_list(table), data_collator=collator, num_train_epochs=1
        )
        trainer.train()
        curves.append(losses(trainer))
        reports.append([(entry["key"], entry["reason"]) for entry in report])
    assert reports[0] == reports[1] == reports[2]
    assert {key for key, _ in reports[0]} == {"row-3", "row-7"}
    assert curves[1] == pytest.approx(curves[0], abs=1e-5)
    assert curves[2] == pytest.approx(curves[0], abs=1e-5)


@pytest.mark.parametrize("kwargs", [{}, DISTILLED], ids=["plain", "distilled"])
@pytest.mark.parametrize("towers", ["vision", "both", "lora"])
def test_a_resumed_run_has_the_same_losses(make, tmp_path, towers, kwargs):
    kwargs = {"save_strategy": "steps", "save_steps": 2, "max_steps": 6, **kwargs}
    whole = make(TOWERS[towers], **kwargs)
    whole.train()
    checkpoint = str(tmp_path / "run" / "checkpoint-4")
    resumed = make(TOWERS[towers], **kwargs)
    resumed.train(resume_from_checkpoint=checkpoint)
    assert losses(resumed) == losses(whole)
    assert set(resumed.tower_cache.computed.values()) == {0}
    without = make(TOWERS[towers], False, **kwargs)  # where outputs are kept is no setting of the curve
    without.train(resume_from_checkpoint=checkpoint)
    assert losses(without) == pytest.approx(losses(whole), abs=1e-5)


@pytest.mark.parametrize("change", ["cut", "flipped", "gone"])
def test_a_damaged_file_changes_no_number(make, tmp_path, change):
    first = make(VISION)
    first.train()
    for path in (tmp_path / "cache").rglob("*.safetensors"):
        content = bytearray(path.read_bytes())
        content[-200] ^= 1
        path.write_bytes(content[:-7] if change == "cut" else content)
        if change == "gone":
            path.unlink()
    second = make(VISION)
    second.train()
    assert losses(second) == pytest.approx(losses(first), abs=1e-5)
    assert second.tower_cache.computed["vision"] > 0
    third = make(VISION)
    third.train()
    assert third.tower_cache.computed == {"vision": 0}


def test_without_room_training_goes_on(make, tmp_path, caplog):
    plain, bounded = make(VISION, False), make(VISION, cache_limit_gb=900e-9)
    for trainer in (plain, bounded):
        trainer.train()
    assert losses(bounded) == pytest.approx(losses(plain), abs=1e-5)
    assert bounded.tower_cache.computed["vision"] >= 5
    assert sum(path.stat().st_size for path in (tmp_path / "cache").rglob("*") if path.is_file()) <= 900
    assert caplog.text.count("`cache_limit_gb` allows") == 1


def test_filling_keeps_a_peft_teachers_outputs_without_adapters(make):
    filled, seen = (make(LORA, **DISTILLED) for _ in range(2))
    for trainer in (filled, seen):
        with torch.no_grad():
            for name, value in trainer.model.named_parameters():
                if "lora_B" in name:
                    value.add_(1)
    filled.fill_tower_cache()
    caches = [trainer.teacher.towers for trainer in (filled, seen)]
    batch = {"input_ids": torch.tensor([filled.data_collator(rows(2))["input_ids"][0].tolist()])}
    with seen.model.disable_adapter():
        module = seen.core.text_model
        expected = module(**batch, attention_mask=torch.ones_like(batch["input_ids"])).pooler_output
    found = caches[1].inputs({**batch, "attention_mask": torch.ones_like(batch["input_ids"])})["input_ids"]
    assert caches[1].computed["text"] == 0
    torch.testing.assert_close(found, expected)

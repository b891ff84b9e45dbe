# SPDX-License-Identifier: Apache-2.0
"""`max_negatives` and `max_positives`: drawn anew in each pass, the same when a run goes on."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset

from hf_tripletclip.data import TripletCollator, build_processor
from hf_tripletclip.data.draws import SeveralDraw
from hf_tripletclip.objectives import get_objective
from hf_tripletclip.training.draws import unused_limits
from hf_tripletclip.training.towers import TowerArguments, prepare_towers
from tests.training.test_methods import COLOURS, make_model, rows
from tests.training.test_trainer import losses, make_trainer

LIMITS = {"max_negatives": 2, "max_positives": 1}


@pytest.fixture(scope="module")
def processor():
    return build_processor([f"a {colour} cat on the left of one dog" for colour in COLOURS], image_size=16)


def data() -> Dataset:
    """Five negatives, three paraphrases and three dense captions of each row."""
    found = rows()
    for number, row in enumerate(found):
        others = [COLOURS[(number + step) % len(COLOURS)] for step in range(1, 6)]
        row["neg_caption"] = [f"a {other} cat" for other in others]
        row["paraphrase"] = [f"{word} {COLOURS[number]} cat" for word in ("one", "the", "cat")]
        row["dense_caption"] = ["one cat", "the dog", "a cat on the left"]
    return Dataset.from_list(found)


def trainer_of(tmp_path, processor, objective="pairwise", model=None, **arguments):
    unused = unused_limits(get_objective(objective, **arguments.get("objective_kwargs", {})))
    limits = {name: number for name, number in LIMITS.items() if name not in unused}
    settings = {"max_steps": 6, "per_device_train_batch_size": 4, "remove_unused_columns": False, **limits}
    return make_trainer(
        tmp_path,
        make_model(processor) if model is None else model,
        objective=objective,
        train_dataset=data(),
        processing_class=processor,
        **{**settings, **arguments},
    )


def curve(trainer, **how) -> list[float]:
    trainer.train(**how)
    return losses(trainer)


@pytest.mark.parametrize("objective", ["pairwise", "negclip"])
def test_resumed_runs_and_runs_with_workers_draw_the_same(tmp_path, processor, objective):
    whole = trainer_of(tmp_path / "a", processor, objective, save_steps=3, save_strategy="steps")
    expected = curve(whole)
    resumed = trainer_of(tmp_path / "b", processor, objective)
    assert curve(resumed, resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-3")) == expected
    assert curve(trainer_of(tmp_path / "c", processor, objective, dataloader_num_workers=2)) == expected
    # gradient caching and another seed of what is drawn
    cached = curve(trainer_of(tmp_path / "d", processor, objective, mini_batch_size=3))
    assert cached == pytest.approx(expected, rel=1e-4)
    assert curve(trainer_of(tmp_path / "e", processor, objective, data_seed=1)) != expected
    changed = trainer_of(tmp_path / "f", processor, objective, max_negatives=3)
    with pytest.raises(ValueError, match="`max_negatives` was 2 and is 3"):
        changed.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-3"))


def test_training_batches_keep_the_limit_and_evaluation_has_all_negatives(tmp_path, processor):
    trainer = trainer_of(tmp_path, processor, objective_kwargs={"others": "dense_caption"}, eval_dataset=data())
    (batch, *_) = trainer.get_train_dataloader()
    assert batch["negative_mask"].sum(dim=1).tolist() == [2] * 4
    assert batch["dense_mask"].sum(dim=1).tolist() == [1] * 4
    (batch, *_) = trainer.get_eval_dataloader()
    assert batch["dense_mask"].sum(dim=1).tolist() == [3] * len(batch["input_ids"])


def test_the_cache_is_filled_with_everything_that_a_pass_may_draw(tmp_path, processor):
    model = prepare_towers(make_model(processor), TowerArguments(train_text="frozen"))
    trainer = trainer_of(
        tmp_path / "run", processor, "negclip", model, cache_locked_towers=str(tmp_path / "towers"), max_steps=12
    )
    texts = {row["caption"] for row in data()} | {text for row in data() for text in row["neg_caption"]}
    assert trainer.fill_tower_cache() == len(texts)
    trainer.train()
    assert trainer.tower_cache.computed["text"] == len(texts)


def test_rows_of_tensors_are_refused(tmp_path):
    for name in LIMITS:
        with pytest.raises(ValueError, match=f"`{name}` draws some of each row's texts .*not rows that are tensors"):
            make_trainer(tmp_path, objective="pairwise", objective_kwargs={"others": "dense_caption"}, **{name: 1})
        with pytest.raises(ValueError, match=f"`{name}` is 0: give at least 1"):
            make_trainer(tmp_path, objective="negclip", **{name: 0})


def test_a_collator_and_arguments_must_not_both_set_the_limit(tmp_path, processor):
    draws = TripletCollator(processor, columns=("image", "caption", "neg_caption"), draw_several=SeveralDraw({}))
    with pytest.raises(ValueError, match="`max_negatives` and the collator's `draw_several` both say how many"):
        trainer_of(tmp_path, processor, "negclip", data_collator=draws)
    without = dict.fromkeys(LIMITS)
    assert trainer_of(tmp_path, processor, "negclip", data_collator=draws, **without).data_collator is draws


def test_rows_without_another_caption_are_left_out_and_counted(tmp_path, processor):
    trainer = make_trainer(
        tmp_path,
        make_model(processor),
        objective="pairwise",
        train_dataset=Dataset.from_list(rows()),
        processing_class=processor,
        max_steps=1,
        per_device_train_batch_size=8,
        remove_unused_columns=False,
        **LIMITS,
    )
    trainer.train()
    log = trainer.state.log_history
    assert log[0]["rows_without_negative_text"] == 3
    assert log[0]["rows_without_paraphrase"] == sum(row["paraphrase"] is None for row in rows())
    assert log[0]["text_prior"] == pytest.approx(0, abs=1e-6)  # nothing has moved yet
    assert torch.isfinite(torch.tensor(log[0]["loss"]))


@pytest.mark.parametrize("limit", LIMITS)
def test_a_limit_that_the_objective_has_no_use_for_is_refused(tmp_path, processor, limit):
    with pytest.raises(
        ValueError, match=rf"`{limit}` bounds the columns .*, which the objective 'clip' does not read"
    ):
        trainer_of(tmp_path, processor, "clip", **{limit: 1})

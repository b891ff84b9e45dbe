# SPDX-License-Identifier: Apache-2.0
"""Batches of neighbours: what is in them, and that resumed runs and several processes see the same."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from transformers import TrainerCallback, default_data_collator

from hf_tripletclip.mining.neighbours import Neighbours, captions_digest
from hf_tripletclip.training import TripletCLIPTrainingArguments
from hf_tripletclip.training.neighbour_sampler import NeighbourSampler
from tests.objectives.test_distributed import in_two_processes
from tests.training import neighbours_worker
from tests.training.neighbours_worker import ROWS, in_pairs, trainer_of
from tests.training.test_trainer import Rows, losses, make_trainer


@pytest.fixture
def mined(tmp_path):
    in_pairs().save(tmp_path / "mined/neighbours/train.parquet")
    in_pairs(6).save(tmp_path / "mined/neighbours/validation.parquet")
    return tmp_path / "mined"


def random_neighbours(rows: int, images: int, seed: int) -> Neighbours:
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, images, rows)
    lists = [
        [other for other in rng.permutation(rows)[: rng.integers(0, 6)].tolist() if groups[other] != groups[row]]
        for row in range(rows)
    ]
    return Neighbours.of_lists(groups.tolist(), lists, "")


def batches_of(sampler: NeighbourSampler, size: int, epoch: int = 0) -> list[list[int]]:
    sampler.set_epoch(epoch)
    rows = list(sampler)
    return [rows[at : at + size] for at in range(0, len(rows), size)]


@pytest.mark.parametrize(
    ("rows", "images", "size", "per_row"), [(50, 50, 8, 1), (97, 30, 10, 3), (12, 2, 5, 1), (9, 9, 16, 20)]
)
@pytest.mark.parametrize("seed", range(3))
def test_each_row_comes_once_in_every_pass_in_an_order_by_the_seed(rows, images, size, per_row, seed):
    neighbours = random_neighbours(rows, images, seed)
    orders = set()
    for epoch in range(4):
        order = list(itertools.chain(*batches_of(NeighbourSampler(neighbours, size, per_row, seed), size, epoch)))
        assert sorted(order) == list(range(rows))
        assert order == list(
            itertools.chain(*batches_of(NeighbourSampler(neighbours, size, per_row, seed), size, epoch))
        )
        orders.add(tuple(order))
    assert len(orders) == 4
    assert tuple(batches_of(NeighbourSampler(neighbours, size, per_row, seed + 1), size)[0]) not in orders


def test_neighbours_are_in_one_batch():
    for epoch in range(5):
        for batch in batches_of(NeighbourSampler(in_pairs(40), 10, 1, 0), 10, epoch):
            assert {row ^ 1 for row in batch} == set(batch)


@pytest.mark.parametrize("per_row", [1, 2, 4])
def test_each_drawn_row_gets_the_number_of_neighbours(per_row):
    """Families of five: a batch of ten begins with a row and the right number of its family."""
    lists = [[other for other in range(row // 5 * 5, row // 5 * 5 + 5) if other != row] for row in range(100)]
    neighbours = Neighbours.of_lists(range(100), lists, "")
    first = batches_of(NeighbourSampler(neighbours, 10, per_row, 0), 10)[0]
    families = [len(list(group)) for _, group in itertools.groupby(first, key=lambda row: row // 5)]
    assert all(size % (per_row + 1) == 0 for size in families[:-1])
    assert sum(row // 5 == first[0] // 5 for row in first) >= per_row + 1


def test_rows_of_one_image_are_kept_apart_while_others_are_left():
    """40 images of three rows, and each row's neighbours are the rows of two other images."""
    groups = [row // 3 for row in range(120)]
    lists = [[3 * ((row // 3 + step) % 40) + place for step in (1, 2) for place in range(3)] for row in range(120)]
    neighbours = Neighbours.of_lists(groups, lists, "")
    for epoch in range(3):
        for batch in batches_of(NeighbourSampler(neighbours, 12, 1, 0), 12, epoch)[:8]:
            assert len({groups[row] for row in batch}) == 12
    alone = Neighbours.of_lists([0] * 7, [[] for _ in range(7)], "")
    assert sorted(NeighbourSampler(alone, 3, 1, 0)) == list(range(7))


@pytest.mark.parametrize(
    "kwargs",
    [{}, {"gradient_accumulation_steps": 2, "max_steps": 5}, {"mini_batch_size": 2}, {"dataloader_num_workers": 1}],
    ids=str,
)
@pytest.mark.parametrize("killed_at", [2, 4])
def test_a_resumed_run_sees_the_same_batches(tmp_path, mined, kwargs, killed_at):
    class Kill(TrainerCallback):
        def on_step_begin(self, args, state, control, **_):
            if state.global_step == killed_at:
                raise KeyboardInterrupt

    settings = {"per_device_train_batch_size": 6, **kwargs}
    whole, batches = trainer_of(tmp_path / "whole", mined, **settings)
    whole.train()
    if not kwargs.get("dataloader_num_workers"):
        assert all({row ^ 1 for row in batch} == set(batch) for batch in batches)
        assert len({row for batch in batches[:4] for row in batch}) == 24
    killed, _ = trainer_of(tmp_path / "killed", mined, **settings)
    killed.add_callback(Kill())
    with pytest.raises(KeyboardInterrupt):
        killed.train()
    resumed, _ = trainer_of(tmp_path / "killed", mined, **settings)
    resumed.train(resume_from_checkpoint=True)
    assert losses(resumed) == losses(whole)


def test_a_resumed_run_with_other_neighbours_is_refused(tmp_path, mined):
    trainer_of(tmp_path / "run", mined, max_steps=2)[0].train()
    moved = tmp_path / "moved"
    mined.rename(moved)
    trainer_of(tmp_path / "run", moved, max_steps=2)[0].resumption.check(str(tmp_path / "run/checkpoint-1"))
    other = in_pairs()
    other.rows = other.rows[::-1].copy()
    other.save(moved / "neighbours/train.parquet")
    with pytest.raises(ValueError, match="the neighbours of the rows was"):
        trainer_of(tmp_path / "run", moved, max_steps=2)[0].train(resume_from_checkpoint=True)
    with pytest.raises(ValueError, match="`batch_neighbours` was 1 and is 2"):
        trainer_of(tmp_path / "run", moved, max_steps=2, batch_neighbours=2)[0].train(resume_from_checkpoint=True)


def test_neighbours_of_other_rows_or_none_are_refused(tmp_path, mined):
    def refused(error, said, dataset=None, neighbours=str(mined)):
        dataset = neighbours_worker.table(10) if dataset is None else dataset
        given = {"data_collator": default_data_collator, "batch_neighbours": 1, "neighbours": neighbours}
        with pytest.raises(error, match=said):
            make_trainer(tmp_path, train_dataset=dataset, **given)

    refused(ValueError, r"those of train \(28 rows\), validation \(6 rows\), and not of the 10 rows")
    refused(FileNotFoundError, "has no folder `neighbours`", neighbours=str(tmp_path))
    refused(OSError, "is neither a folder that `tripletclip mine` wrote", neighbours=str(tmp_path / "no/where"))
    refused(ValueError, "name what `tripletclip mine` wrote", neighbours=None)
    refused(ValueError, "with a column 'caption'", Rows())
    refused(ValueError, "without streaming", neighbours_worker.table().to_iterable_dataset())


def test_of_several_splits_the_right_one(tmp_path, mined):
    six = neighbours_worker.table(6)
    given = {"data_collator": default_data_collator, "batch_neighbours": 1, "neighbours": str(mined)}
    trainer = make_trainer(tmp_path, train_dataset=six, **given)
    assert trainer.neighbours.captions == captions_digest(six["caption"])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"neighbours": "mined"}, "add `batch_neighbours`"),
        ({"batch_neighbours": -1}, "`batch_neighbours` is -1"),
        ({"batch_neighbours": 1, "train_sampling_strategy": "sequential"}, "leave out `train_sampling_strategy`"),
    ],
)
def test_arguments_that_contradict_each_other_are_refused(tmp_path, given, said):
    with pytest.raises(ValueError, match=said):
        TripletCLIPTrainingArguments(output_dir=str(tmp_path), **given)


@pytest.mark.slow
def test_two_processes_train_and_resume_like_one(tmp_path, mined, pytestconfig):
    in_two_processes(pytestconfig.rootpath, neighbours_worker.__name__, str(tmp_path))
    found = torch.load(tmp_path / "results.pt")
    one, _ = trainer_of(tmp_path / "one", mined, per_device_train_batch_size=6)
    one.train()
    assert found["whole"] == pytest.approx(losses(one), rel=1e-4)
    assert len(found["whole"]) == 8 > ROWS // 6
    for step in (2, 6):
        assert found[f"from {step}"] == found["whole"]

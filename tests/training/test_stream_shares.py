# SPDX-License-Identifier: Apache-2.0
"""Which rows of a stream each of many processes gets, as a run's loader deals them out; without any process."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import skip_first_batches
from accelerate.data_loader import prepare_data_loader
from datasets import Dataset

from hf_tripletclip.data import shuffled
from hf_tripletclip.training import training_batches
from hf_tripletclip.training.training_batches import stream_loader, too_few_files

ROWS, BATCH = 6, 2  # of each file


def loader_of(rank: int, world: int, files: int, epoch: int = 0) -> Any:
    """The loader of one of `world` processes."""
    stream = shuffled(
        Dataset.from_dict({"row": list(range(files * ROWS))}).to_iterable_dataset(files), seed=0, buffer_size=4
    )

    def prepare(loader: Any) -> Any:
        given = {"put_on_device": False, "dispatch_batches": False}  # as the arguments here ask for
        return prepare_data_loader(loader, num_processes=world, process_index=rank, **given)

    args = SimpleNamespace(
        world_size=world, dataloader_num_workers=0, dataloader_pin_memory=False, dataloader_persistent_workers=False,
        dataloader_multiprocessing_context=None, dataloader_prefetch_factor=None, dataloader_in_order=True,
    )  # fmt: skip
    trainer = SimpleNamespace(
        args=args, train_dataset=stream, _train_batch_size=BATCH, data_collator=None,
        _get_collator_with_removed_columns=lambda *_, **__: lambda rows: torch.tensor([row["row"] for row in rows]),
        is_world_process_zero=lambda: rank == 0, accelerator=SimpleNamespace(prepare=prepare),
    )  # fmt: skip
    loader: Any = stream_loader(trainer)
    loader.set_epoch(epoch)
    return loader


def batches_of(world: int, files: int, epoch: int = 0) -> list[list[list[int]]]:
    return [[batch.tolist() for batch in loader_of(rank, world, files, epoch)] for rank in range(world)]


@pytest.mark.parametrize(("world", "files"), [(8, 8), (8, 24), (64, 64)])
def test_files_that_divide_evenly_give_equal_steps_and_lose_no_row(world, files):
    parts = batches_of(world, files)
    assert {len(part) for part in parts} == {files // world * ROWS // BATCH}
    assert sorted(row for part in parts for batch in part for row in batch) == list(range(files * ROWS))
    owners = [{row // ROWS for batch in part for row in batch} for part in parts]
    assert sum(map(len, owners)) == files  # each file is read by one process


@pytest.mark.parametrize("world", [8, 12])
def test_other_numbers_of_files_are_dealt_out_as_evenly_as_possible(world):
    parts = batches_of(world, 19)
    rows = [row for part in parts for batch in part for row in batch]
    assert sorted(rows) == list(range(19 * ROWS))
    lengths = {len(part) for part in parts}
    assert lengths == {19 // world * ROWS // BATCH, (19 // world + 1) * ROWS // BATCH}


@pytest.mark.parametrize(("world", "files"), [(8, 5), (16, 3), (8, 1)])
def test_with_fewer_files_than_processes_rows_are_dealt_out(world, files, caplog, monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(training_batches.logger, "warning", said.append)
    parts = batches_of(world, files)
    (length,) = {len(part) for part in parts}
    assert length == files * ROWS // (world * BATCH)
    rows = [row for part in parts for batch in part for row in batch]
    assert len(set(rows)) == len(rows) == length * world * BATCH
    assert said == [too_few_files(files, world)]  # the first process says it once
    assert f"for {world} processes, so each process reads all rows" in said[0]


def test_nothing_is_said_of_files_that_suffice():
    assert too_few_files(8, 8) is too_few_files(9, 8) is too_few_files(None, 8) is None


@pytest.mark.parametrize(("world", "files"), [(8, 24), (8, 19), (8, 5)])
@pytest.mark.parametrize("epoch", [0, 1])
def test_each_process_goes_on_where_it_was(world, files, epoch):
    whole = batches_of(world, files, epoch)
    for rank in range(world):
        rest: Any = skip_first_batches(loader_of(rank, world, files, epoch), 1)
        rest.set_epoch(epoch)
        assert [batch.tolist() for batch in rest] == whole[rank][1:]
    assert whole != batches_of(world, files, epoch + 1)

# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools
import warnings
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, IterableDataset, load_dataset
from datasets.distributed import split_dataset_by_node
from torch.utils.data import DataLoader

from hf_tripletclip.data import load_tripletdata, shuffled
from hf_tripletclip.data.loading import undecoded
from tests.data.test_tars import write_tar

ROWS, SHARDS = 13, 5
ALL = [f"{shard * 100 + row:06d}" for shard in range(SHARDS) for row in range(ROWS)]

stateful = pytest.importorskip("torchdata.stateful_dataloader", reason="torchdata keeps the state of workers")


@pytest.fixture(scope="module")
def tars(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tars")
    for shard in range(SHARDS):
        write_tar(folder / f"shard-{shard}.tar", ROWS, first=100 * shard)
    return folder


@pytest.fixture(scope="module")
def parquet(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parquet")
    for shard in range(SHARDS):
        keys = ALL[shard * ROWS : (shard + 1) * ROWS]
        Dataset.from_dict({"__key__": keys, "caption": keys}).to_parquet(folder / f"{shard}.parquet")
    return folder


def make(folder: Path, epoch: int = 0, buffer_size: int = 8, seed: int = 0) -> IterableDataset:
    data = undecoded(load_tripletdata(folder, split="train", streaming=True))
    data = shuffled(data, seed, buffer_size)
    data.set_epoch(epoch)
    return data


def keys(rows: Any) -> list[str]:
    return [row["__key__"] for row in rows]


def collate(rows: list[dict[str, Any]]) -> list[str]:
    return keys(rows)


def loaded(loader: Any) -> list[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # more workers than cores
        return [key for batch in loader for key in batch]


@pytest.mark.parametrize("kind", ["tars", "parquet"])
def test_every_epoch_has_all_rows_in_another_order(kind, request):
    folder = request.getfixturevalue(kind)
    epochs = [keys(make(folder, epoch)) for epoch in range(3)]
    assert all(sorted(epoch) == ALL for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert keys(make(folder, 1)) == epochs[1]  # the same again
    assert keys(make(folder, seed=1)) != epochs[0]
    assert epochs[0][:8] != sorted(epochs[0][:8])


@pytest.mark.parametrize("kind", ["tars", "parquet"])
@pytest.mark.parametrize("stop", [0, 1, 7, 8, 9, 30, 65])
def test_resuming_inside_an_epoch(kind, request, stop):
    folder = request.getfixturevalue(kind)
    whole = keys(make(folder, 1))
    data = make(folder, 1)
    before = keys(itertools.islice(data, stop))
    state = data.state_dict()
    resumed = make(folder, 1)
    resumed.load_state_dict(state)
    more = keys(itertools.islice(resumed, 3))
    assert before + more == whole[: stop + 3]
    again = make(folder, 1)  # a run that was interrupted twice
    again.load_state_dict(resumed.state_dict())
    assert before + more + keys(again) == whole


def test_the_shuffle_of_datasets_would_lose_rows(tars):
    """The reason for our own shuffle; if this test fails, it is no longer needed."""
    data = load_dataset("webdataset", data_files=str(tars / "*.tar"), split="train", streaming=True)
    data = data.shuffle(seed=0, buffer_size=8)
    before = keys(itertools.islice(data, 20))
    data.load_state_dict(data.state_dict())
    assert set(before + keys(data)) != set(ALL)


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("workers", [0, 2])
def test_ranks_and_workers_share_the_rows_and_resume(tars, world, workers):
    seen = []
    for rank in range(world):

        def loader(rank: int = rank) -> Any:
            data = split_dataset_by_node(make(tars), rank, world)
            return stateful.StatefulDataLoader(data, batch_size=4, num_workers=workers, collate_fn=collate)

        whole = loaded(loader())
        first = loader()
        before = loaded(itertools.islice(first, 2))
        second = loader()
        second.load_state_dict(first.state_dict())
        assert before + loaded(second) == whole
        seen += whole
    assert sorted(seen) == ALL


def test_fewer_shards_than_ranks_or_workers(tars):
    assert sorted(loaded(DataLoader(make(tars), batch_size=4, num_workers=7, collate_fn=collate))) == ALL
    seen = []
    for rank in range(7):
        data = split_dataset_by_node(make(tars), rank, 7)
        seen += loaded(DataLoader(data, batch_size=4, collate_fn=collate))
    assert sorted(seen) == ALL


def test_map_style_and_bad_settings(tars):
    data = load_tripletdata(tars, split="train")
    assert sorted(shuffled(data, 0)["__key__"]) == ALL
    with pytest.raises(ValueError, match="`buffer_size` is 0"):
        make(tars, buffer_size=0)


def test_the_first_rows_of_a_stream(tars):
    data = undecoded(load_tripletdata(tars, split="train", streaming=True)).take(20)
    epochs = []
    for epoch in range(2):
        shuffled_rows = shuffled(data, 0, 8)
        shuffled_rows.set_epoch(epoch)
        epochs.append(keys(shuffled_rows))
    assert [sorted(epoch) for epoch in epochs] == [ALL[:20]] * 2
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize(
    ("epoch", "seed", "expected"),
    [
        (0, 0, "203 207 200 202 204 206 201 205 208 400"),
        (0, 2, "207 204 205 206 201 203 202 200 211 401"),
        (3, 1, "306 307 305 302 303 304 301 300 101 100"),
        (3, 2, "103 100 101 105 102 107 106 104 112 110"),
    ],
)
def test_the_order_is_the_same_in_every_version(parquet, epoch, seed, expected):
    """A run that resumes where an older version stopped sees exactly the remaining rows."""
    assert " ".join(key[3:] for key in keys(itertools.islice(make(parquet, epoch, seed=seed), 10))) == expected


@pytest.mark.parametrize("size", [0, -1])
def test_a_block_has_at_least_one_row(tars, size):
    with pytest.raises(ValueError, match=f"`buffer_size` is {size}; give at least 1"):
        make(tars, buffer_size=size)
    assert sorted(keys(make(tars, buffer_size=1))) == ALL

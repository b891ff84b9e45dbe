# SPDX-License-Identifier: Apache-2.0
"""Shuffle a stream so that a run that resumes inside an epoch sees exactly the remaining rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from copy import deepcopy
from itertools import islice
from typing import Any

import numpy as np
from datasets import Dataset, Features, IterableDataset, iterable_dataset

# Private, but all transformations of streams are built on them; there is no public way to add one with a state.
from datasets.iterable_dataset import BufferShuffledExamplesIterable, _BaseExamplesIterable

# Raised if `take` or `skip` fix the order of the shards. Older versions leave the shards in order without an error.
FIXED_ORDER: type[Exception] = getattr(iterable_dataset, "DataSourcesShufflingDisallowed", NotImplementedError)


def shuffled(dataset: Any, seed: int | None = None, buffer_size: int = 1000) -> Dataset | IterableDataset:
    """
    The dataset in random order, which changes in each epoch (`set_epoch`).

    A stream is read in blocks of `buffer_size` rows, from its shards in random order; each block is shuffled in
    memory. `IterableDataset.shuffle` mixes several shards at a time, but its `state_dict` omits the rows in its
    buffer: a resumed run loses up to `buffer_size` rows per worker. Here the state is the start of the block and the
    number of its rows that were returned, so no row is lost or repeated. Set the epoch before `load_state_dict`, which
    accepts only states of the same epoch. torchdata's `StatefulDataLoader` keeps the states of DataLoader workers.

    If there are enough shards, ranks and DataLoader workers read different shards (`split_dataset_by_node`,
    `IterableDataset`'s own division by workers). If not, they read different rows of the same shard.

    Args:
        dataset (`Dataset` or `IterableDataset`): The dataset to shuffle.
        seed (`int`, *optional*): Must be the same on all ranks. Random by default.
        buffer_size (`int`, defaults to 1000): Rows per block. Each worker holds one undecoded block in memory.

    Raises:
        ValueError: `buffer_size` is not positive.
    """
    if buffer_size < 1:
        raise ValueError(f"`buffer_size` is {buffer_size}; give at least 1.")
    if not isinstance(dataset, IterableDataset):
        return dataset.shuffle(seed=seed)
    generator = np.random.default_rng(seed)
    shards = dataset._ex_iterable
    with suppress(FIXED_ORDER):
        shards = shards.shuffle_data_sources(generator)
    return _with_rows(dataset, _ShuffledBlocks(shards, buffer_size, generator))


def unshuffled(dataset: IterableDataset) -> IterableDataset:
    """A stream from its beginning, without the shuffling that reads a whole buffer before the first row."""
    rows = dataset._ex_iterable
    while isinstance(rows, (_ShuffledBlocks, BufferShuffledExamplesIterable)):
        rows = rows.ex_iterable
    return _with_rows(dataset, rows)


def _with_rows(dataset: IterableDataset, rows: _BaseExamplesIterable) -> IterableDataset:
    return IterableDataset(
        rows,
        info=dataset.info.copy(),
        split=dataset.split,
        formatting=dataset._formatting,
        distributed=deepcopy(dataset._distributed),
        token_per_repo_id=dataset._token_per_repo_id,
    )


class _ShuffledBlocks(_BaseExamplesIterable):
    """Blocks of rows, each in a random order that follows from the generator and the block's number."""

    def __init__(self, ex_iterable: _BaseExamplesIterable, size: int, generator: np.random.Generator) -> None:
        super().__init__()
        self.ex_iterable = ex_iterable
        self.size = size
        self.generator = generator

    def _with(self, ex_iterable: _BaseExamplesIterable) -> _ShuffledBlocks:
        return _ShuffledBlocks(ex_iterable, self.size, self.generator)

    def shift_rngs(self, value: int) -> _ShuffledBlocks:
        """Another order for each epoch and worker."""
        seed = [int(deepcopy(self.generator).integers(0, 1 << 63)), value]
        return _ShuffledBlocks(self.ex_iterable, self.size, np.random.default_rng(seed))

    @property
    def is_typed(self) -> bool:
        return self.ex_iterable.is_typed

    @property
    def features(self) -> Features | None:
        return self.ex_iterable.features

    @property
    def num_shards(self) -> int:
        return self.ex_iterable.num_shards

    def shuffle_data_sources(self, generator: np.random.Generator) -> _ShuffledBlocks:
        return self._with(self.ex_iterable.shuffle_data_sources(generator))

    def shard_data_sources(self, num_shards: int, index: int, contiguous: bool = True) -> _ShuffledBlocks:
        return self._with(self.ex_iterable.shard_data_sources(num_shards, index, contiguous=contiguous))

    def reshard_data_sources(self) -> _ShuffledBlocks:
        return self._with(self.ex_iterable.reshard_data_sources())

    def _init_state_dict(self) -> dict[str, Any]:
        self._state_dict = {
            "examples_iterable": self.ex_iterable._init_state_dict(),
            "start_of_block": None,  # the state before the rows of the block were read
            "block": 0,
            "handed_out": 0,  # rows of the block that were returned
            "type": type(self).__name__,
        }
        return self._state_dict

    def __iter__(self) -> Iterator[tuple[Any, dict[str, Any]]]:
        state: dict[str, Any] = self._state_dict or {"start_of_block": None, "block": 0, "handed_out": 0}
        tracked = self._state_dict is not None
        if state["start_of_block"] is not None:
            self.ex_iterable.load_state_dict(state["start_of_block"])
        rows = iter(self.ex_iterable)
        seed = int(deepcopy(self.generator).integers(0, 1 << 63))
        while True:
            if tracked:
                state["start_of_block"] = self.ex_iterable.state_dict()
            block = list(islice(rows, self.size))
            if not block:
                return
            order = np.random.default_rng([seed, state["block"]]).permutation(len(block))
            for number in order[state["handed_out"] :]:
                state["handed_out"] += 1
                yield block[number]
            state["block"] += 1
            state["handed_out"] = 0

# SPDX-License-Identifier: Apache-2.0
"""Batches that are filled with nearest neighbours: hard negatives among the rows of a batch, as NegCLIP has them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
from datasets import Dataset
from torch.utils.data import Sampler
from transformers.utils import logging

from hf_tripletclip.data.schema import CAPTION
from hf_tripletclip.mining.neighbours import Neighbours, captions_digest, find_neighbours
from hf_tripletclip.training.arguments import TripletCLIPTrainingArguments
from hf_tripletclip.training.pushing import PushingTrainer

logger = logging.get_logger(__name__)


class NeighbourSampler(Sampler[int]):
    """
    Rows in an order in which each batch has drawn rows and neighbours of theirs (Yuksekgonul et al. 2023, arXiv
    2210.01936, section 4: one of the three nearest images of each row is put into its batch).

    Each row comes once in a pass. A row whose neighbours have all come is alone, so the last batches of a pass have
    fewer neighbours. Rows of one image are kept out of a batch as long as others are left.

    Args:
        neighbours ([`~hf_tripletclip.mining.Neighbours`]): Of the rows.
        batch_size (`int`): Rows that are each other's negatives: those of all processes when they share them.
        per_row (`int`): How many neighbours are put beside each drawn row, drawn among those that have not come.
        seed (`int`): With the number of the pass, it determines the order.
    """

    def __init__(self, neighbours: Neighbours, batch_size: int, per_row: int, seed: int) -> None:
        self.neighbours, self.batch_size, self.per_row, self.seed = neighbours, batch_size, per_row, seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.neighbours)

    def set_epoch(self, epoch: int) -> None:
        """Say which pass comes next."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng([self.seed, self.epoch])
        order = iter(rng.permutation(len(self)).tolist())
        came = np.zeros(len(self), dtype=bool)
        waiting: deque[int] = deque()  # rows that were drawn while a row of their image was in the batch
        while batch := self._batch(order, waiting, came, rng):
            yield from batch

    def _batch(
        self, order: Iterator[int], waiting: deque[int], came: np.ndarray, rng: np.random.Generator
    ) -> list[int]:
        batch: list[int] = []
        groups: set[int] = set()
        group_of = self.neighbours.groups

        def take(row: int) -> None:
            came[row] = True
            batch.append(row)
            groups.add(int(group_of[row]))

        postponed: deque[int] = deque()
        while len(batch) < self.batch_size:
            row = waiting.popleft() if waiting else next(order, None)
            if row is None:
                break
            if came[row]:
                continue
            if int(group_of[row]) in groups:
                postponed.append(row)
                continue
            take(row)
            near = self.neighbours.of(row)
            near = near[~came[near]]
            added = 0
            for one in near[rng.permutation(len(near))].tolist():
                if added == self.per_row or len(batch) == self.batch_size:
                    break
                if not came[one] and int(group_of[one]) not in groups:
                    take(one)
                    added += 1
        while postponed and len(batch) < self.batch_size:  # nothing else is left
            take(postponed.popleft())
        waiting.extendleft(reversed(postponed))
        return batch


class NeighbourTrainer(PushingTrainer):
    """A trainer whose batches are filled with neighbours when its arguments ask for it (`batch_neighbours`)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.neighbours = None if self.train_dataset is None else neighbours_of(self.args, self.train_dataset)
        self._neighbour_sampler: NeighbourSampler | None = None

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if self.neighbours is None:
            return super()._get_train_sampler(train_dataset)
        args = self.args
        shared = args.world_size if args.negatives_across_devices else 1
        seed = args.seed if args.data_seed is None else args.data_seed
        self._neighbour_sampler = NeighbourSampler(
            self.neighbours, args.train_batch_size * shared, args.batch_neighbours, seed
        )
        return self._neighbour_sampler

    def _run_epoch(self, *, epoch: int, **kwargs: Any) -> None:  # type: ignore[override]
        if self._neighbour_sampler is not None:  # accelerate reaches it not through all its wrappers
            self._neighbour_sampler.set_epoch(epoch)
        super()._run_epoch(epoch=epoch, **kwargs)


def neighbours_of(args: TripletCLIPTrainingArguments, dataset: Any) -> Neighbours | None:
    """
    The neighbours of a training dataset's rows; `None` when none are asked for.

    Raises:
        OSError: There are none in the folder.
        ValueError: They are of other rows, or the rows are a stream.
    """
    if not args.batch_neighbours:
        return None
    if args.neighbours is None:
        raise ValueError(
            "`batch_neighbours` needs neighbours of the rows: name what `tripletclip mine` wrote (`neighbours`)."
        )
    if not isinstance(dataset, Dataset) or CAPTION not in dataset.column_names:
        raise ValueError(
            f"`batch_neighbours` needs a `datasets.Dataset` with a column {CAPTION!r}, whose rows it can look up: "
            "read the data without streaming."
        )
    return find_neighbours(args.neighbours, captions_digest(dataset[CAPTION]), len(dataset))

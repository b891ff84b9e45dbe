# SPDX-License-Identifier: Apache-2.0
"""Batches filled with nearest neighbours: hard negatives among the rows of a batch, as in NegCLIP."""

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

logger = logging.get_logger(__name__)


class NeighbourSampler(Sampler[int]):
    """
    Rows in an order in which each batch has drawn rows and some of their neighbours (Yuksekgonul et al. 2023, arXiv
    2210.01936, section 4: one of the three nearest images of each row is put into its batch).

    Each row comes once in a pass. A row whose neighbours have all come before it gets none, so the last batches of a
    pass have fewer neighbours. Two rows of one image come into one batch only when no other rows are left.

    Args:
        neighbours ([`~hf_tripletclip.mining.Neighbours`]): Of the rows.
        batch_size (`int`): Rows that are each other's negatives; the rows of all processes, if they share them.
        per_row (`int`): How many neighbours each drawn row gets, drawn among those that have not come yet.
        seed (`int`): Determines the order, together with the number of the pass.
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


def neighbour_sampler(neighbours: Neighbours, args: TripletCLIPTrainingArguments) -> NeighbourSampler:
    """The sampler of a run with these arguments."""
    shared = args.world_size if args.negatives_across_devices else 1
    seed = args.seed if args.data_seed is None else args.data_seed
    return NeighbourSampler(neighbours, args.train_batch_size * shared, args.batch_neighbours, seed)


def neighbours_of(args: TripletCLIPTrainingArguments, dataset: Any) -> Neighbours | None:
    """
    The neighbours of a training dataset's rows; `None` without `batch_neighbours`.

    Raises:
        OSError: The folder has none.
        ValueError: They are those of other rows, or the dataset is a stream.
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

# SPDX-License-Identifier: Apache-2.0
"""Training batches: how they are loaded, which rows they have, and what stands in them more than once.

A batch may be without a usable row, and the last batch of a pass may be short.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.data_loader import BatchSamplerShard
from PIL import Image
from torch.utils.data import BatchSampler, DataLoader
from transformers.trainer_utils import has_length
from transformers.utils import logging

from hf_tripletclip.data import TripletCollator
from hf_tripletclip.data.schema import CAPTION, IMAGE_COLUMNS, KEY_COLUMNS, NEGATIVE_TYPE
from hf_tripletclip.objectives import Objective
from hf_tripletclip.objectives.contents import input_contents
from hf_tripletclip.roles import MASKS, ROLES, TRIPLET, TRIPLET_IMAGES, TRIPLET_TEXTS

logger = logging.get_logger(__name__)

KEYS = "row_keys"  # in a batch: the names of its rows
EVERYONE = "rows_of_all"  # in a batch: how many rows all processes have of it
CONTENTS = "contents"  # in a batch, by role: see `input_contents`

BLANK_IMAGE = Image.new("RGB", (32, 32))
MODALITIES = {"image": TRIPLET_IMAGES, "caption": TRIPLET_TEXTS}  # -> roles


def model_inputs(batch: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a batch that the model takes."""
    beside = (NEGATIVE_TYPE, KEYS, EVERYONE, "return_loss")
    return {name: value for name, value in batch.items() if name not in beside}


def rows_in(batch: Mapping[str, Any]) -> int:
    """Number of rows of a batch."""
    return len(batch["pixel_values"])


def row_names(batch: Mapping[str, Any]) -> list[str]:
    """The names of a batch's rows, as far as they are known; rows with broken pixels first."""
    finite = batch["pixel_values"].flatten(1).isfinite().all(dim=1).tolist()
    keys = batch.get(KEYS) or [None if fine else f"number {row} of a batch" for row, fine in enumerate(finite)]
    broken = [f"{key} (its pixels are not finite)" for key, fine in zip(keys, finite, strict=True) if not fine]
    return broken + [key for key, fine in zip(keys, finite, strict=True) if fine and key is not None]


def first_rows(batch: Mapping[str, Any], kept: int, rows: int) -> dict[str, Any]:
    """A batch cut to `kept` of its `rows` rows, with what belongs to them."""
    if kept == rows:
        return dict(batch)
    numbers = {role.name: int(batch[mask][:kept].sum()) for mask, role in MASKS.items() if batch.get(mask) is not None}
    cut: dict[str, Any] = {}
    for name, value in batch.items():
        if value is None:
            continue
        if name == CONTENTS:
            cut[name] = {one: all_of[: numbers.get(one, kept * len(all_of) // rows)] for one, all_of in value.items()}
            continue
        role = next((one for one in ROLES.values() if name in one.model_inputs), None)
        number = numbers.get(role.name) if role is not None and name not in MASKS else None
        # Without a mask rows may have several negatives each, as many as one another.
        cut[name] = value[: kept * len(value) // rows if number is None else number]
    return cut


def empty_batch(collator: TripletCollator) -> dict[str, torch.Tensor]:
    """A batch of no rows, whose tensors have the shapes of others."""
    blank: dict[str, Any] = {name: BLANK_IMAGE if name in IMAGE_COLUMNS else "blank" for name in collator.columns}
    batch, _ = collator.collate([blank])
    return {name: values[:0] for name, values in batch.items()}


@dataclass
class TrainingCollator:
    """
    A [`TripletCollator`] whose batches name their rows (`KEYS`) and may be without rows, because one process cannot
    leave out a batch alone.
    """

    collator: TripletCollator

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        batch, usable = self.collator.collate(rows) if rows else ({}, [])
        return {**(batch if usable else empty_batch(self.collator)), KEYS: [_name(row) for row in usable]}


def _name(row: Mapping[str, Any]) -> str:
    key = next((row[name] for name in KEY_COLUMNS if row.get(name) is not None), None)
    return repr(str(row.get(CAPTION))[:60]) if key is None else str(key)


class SharedBatches(BatchSampler):
    """
    One process's part of batches of `processes` times `batch_size` rows. If the last of a pass is shorter, it is
    shared evenly: accelerate would fill it up with rows of the first.

    Args:
        batches (`BatchSampler`): Batches of `batch_size` rows, the same on all processes; the last may be shorter.
        processes, index (`int`): Number of processes, and which this is.
    """

    def __init__(self, batches: BatchSampler, processes: int, index: int) -> None:
        self.batches, self.processes, self.index = batches, processes, index
        self.sampler, self.batch_size, self.drop_last = batches.sampler, batches.batch_size, False

    def __len__(self) -> int:
        return -(-len(self.batches) // self.processes)

    def __iter__(self) -> Iterator[list[int]]:
        group: list[list[int]] = []
        for batch in self.batches:
            group.append(batch)
            if len(group) == self.processes and len(batch) == self.batch_size:
                yield group[self.index]
                group = []
        if group:
            rows = [row for batch in group for row in batch]
            first, end = (len(rows) * number // self.processes for number in (self.index, self.index + 1))
            yield rows[first:end]


def share_last_batch(loader: DataLoader[Any]) -> DataLoader[Any]:
    """Let several processes share the last batch of a prepared loader evenly, see [`SharedBatches`]."""
    shard: Any = getattr(loader, "batch_sampler", None)
    if isinstance(shard, BatchSamplerShard) and shard.num_processes > 1 and not shard.drop_last:
        shard.batch_sampler = SharedBatches(shard.batch_sampler, shard.num_processes, shard.process_index)
        # Nothing is left to do for accelerate's own wrapper. `None` allows batches of any size.
        shard.num_processes, shard.process_index, shard.even_batches, shard.batch_size = 1, 0, False, None
    return loader


def stream_loader(trainer: Any) -> DataLoader[Any]:
    """A loader of a stream that drops a short last batch: `Trainer` does so only for datasets with a length."""
    args = trainer.args
    files = getattr(trainer.train_dataset, "num_shards", None)
    if trainer.is_world_process_zero() and (told := too_few_files(files, args.world_size)):
        logger.warning(told)
    loader: DataLoader[Any] = DataLoader(
        trainer.train_dataset,
        batch_size=trainer._train_batch_size,
        collate_fn=trainer._get_collator_with_removed_columns(trainer.data_collator, description="training"),
        num_workers=args.dataloader_num_workers,
        pin_memory=args.dataloader_pin_memory,
        persistent_workers=args.dataloader_persistent_workers,
        multiprocessing_context=args.dataloader_multiprocessing_context,
        prefetch_factor=args.dataloader_prefetch_factor,
        in_order=args.dataloader_in_order,
        drop_last=True,
    )
    return trainer.accelerator.prepare(loader)


def too_few_files(files: int | None, processes: int) -> str | None:
    """
    What to say of a stream whose files are fewer than the processes, `None` if there is nothing to say. With as many
    files or more each process reads files of its own (accelerate's `prepare_data_loader`).
    """
    if files is None or files >= processes:
        return None
    return (
        f"The stream has {files} {'file' if files == 1 else 'files'} for {processes} processes, so each process reads "
        f"all rows and keeps its own: the data is read {processes} times. Write a multiple of {processes} files."
    )


def columns_of(dataset: Any) -> list[str] | None:
    """Column names of a dataset, from its first row if need be; `None` if only reading a stream would tell them."""
    if isinstance(dataset, dict):
        dataset = next(iter(dataset.values()), None)
    if (names := getattr(dataset, "column_names", None)) is not None:
        return list(names)
    if dataset is None or not has_length(dataset) or len(dataset) == 0:
        return None
    return list(dataset[0])  # type: ignore[index]


# ---- The same caption or picture in more than one row ----


def batch_digests(batch: Mapping[str, Any], objective: Objective) -> torch.Tensor:
    """
    The digests of the pictures and captions of a batch that an objective uses, without paraphrases and parts.

    Returns:
        `torch.Tensor` of shape `(entries, 2)`, int64: the number of the role in `objective.roles`, and the digest.
    """
    roles = [role for role in objective.roles if role in TRIPLET]
    contents = input_contents(batch, roles)
    return torch.cat(
        [
            torch.stack([torch.full_like(contents[role], objective.roles.index(role)), contents[role]], dim=1)
            for role in roles
        ]
    )


def count_repeated(found: torch.Tensor, objective: Objective) -> dict[str, torch.Tensor]:
    """
    How many captions and pictures of a batch stand in more than one row of it. There each is a wrong answer to its own
    partner. A hard negative without a partner in the objective counts only if it is also the caption of a row.

    Args:
        found (`torch.Tensor` of shape `(entries, 2)`): From [`batch_digests`], of all processes that share rows.

    Returns:
        `dict[str, torch.Tensor]`: `repeated_images` and `repeated_captions`, scalars.
    """
    paired = {role for term in objective.terms for role in term.pairs}
    counts = {}
    for modality, roles in MODALITIES.items():
        used = [number for number, role in enumerate(objective.roles) if role in roles]
        of_pairs = [number for number in used if objective.roles[number] in paired]
        pool = found[torch.isin(found[:, 0], found.new_tensor(used))]
        _, index, times = pool[:, 1].unique(return_inverse=True, return_counts=True)
        asked = torch.isin(pool[:, 0], found.new_tensor(of_pairs))
        counts[f"repeated_{modality}s"] = ((times[index] > 1) & asked).sum().float()
    return counts

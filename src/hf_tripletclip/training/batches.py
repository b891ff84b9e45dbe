# SPDX-License-Identifier: Apache-2.0
"""Training batches: some may be without a usable row, the last of a pass may be short, and some hold a row twice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.data_loader import BatchSamplerShard
from PIL import Image
from torch.utils.data import BatchSampler, DataLoader

from hf_tripletclip.data import TripletCollator
from hf_tripletclip.data.schema import CAPTION, IMAGE_COLUMNS, KEY_COLUMNS, NEGATIVE_TYPE
from hf_tripletclip.objectives import Objective
from hf_tripletclip.objectives.contents import input_contents
from hf_tripletclip.roles import MASKS, ROLES, TRIPLET, TRIPLET_IMAGES, TRIPLET_TEXTS

KEYS = "row_keys"  # in a batch: what the rows are called
EVERYONE = "rows_of_all"  # in a batch: how many rows all processes have of it
CONTENTS = "contents"  # in a batch, by role: see `input_contents`

BLANK_IMAGE = Image.new("RGB", (32, 32))
MODALITIES = {"image": TRIPLET_IMAGES, "caption": TRIPLET_TEXTS}  # -> roles


def model_inputs(batch: Mapping[str, Any]) -> dict[str, Any]:
    """What of a batch the model takes."""
    beside = (NEGATIVE_TYPE, KEYS, EVERYONE, "return_loss")
    return {name: value for name, value in batch.items() if name not in beside}


def rows_in(batch: Mapping[str, Any]) -> int:
    """Number of rows of a batch."""
    return len(batch["pixel_values"])


def row_names(batch: Mapping[str, Any]) -> list[str]:
    """What the rows of a batch are called, as far as that is known; those with broken pixels first."""
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
    A [`TripletCollator`] whose batches may be without rows, for a process cannot leave one out alone, and tell what
    their rows are called (`KEYS`).
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
    One process's part of batches of `processes` times `batch_size` rows. The last of a pass, where it is shorter, is
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
    """Let a prepared loader of one of several processes share the last batch evenly, see [`SharedBatches`]."""
    shard: Any = getattr(loader, "batch_sampler", None)
    if isinstance(shard, BatchSamplerShard) and shard.num_processes > 1 and not shard.drop_last:
        shard.batch_sampler = SharedBatches(shard.batch_sampler, shard.num_processes, shard.process_index)
        # What is left to accelerate's own wrapper: nothing. `None` allows batches of any size.
        shard.num_processes, shard.process_index, shard.even_batches, shard.batch_size = 1, 0, False, None
    return loader


# ---- The same caption or picture in more than one row ----


def batch_digests(batch: Mapping[str, Any], objective: Objective) -> torch.Tensor:
    """
    The digests of the pictures and captions that an objective uses of a batch, paraphrases and parts left out.

    Returns:
        `torch.Tensor` of shape `(entries, 2)`, int64: which of `objective.roles`, and the digest.
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
    How many captions and pictures of a batch stand in more than one row of it. Each is a wrong answer there for what
    it belongs to. A hard negative that an objective has no partner for counts only where it is some row's caption.

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

# SPDX-License-Identifier: Apache-2.0
"""Embeddings of a triplet dataset by a CLIP-like model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, Subset
from tqdm.auto import tqdm

from hf_tripletclip.data.broken import BrokenRows
from hf_tripletclip.data.collator import TripletCollator
from hf_tripletclip.data.loading import undecoded
from hf_tripletclip.data.schema import COLUMNS

NUMBER = "number"  # the row's index in the dataset, in the batches of this module


@contextlib.contextmanager
def evaluation_mode(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; each module is put back into the mode that it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:  # not `model.train(...)`: a frozen tower stays in evaluation mode
            module.training = training


def embed_triplets(
    model: Any,
    processor: Any,
    dataset: Any,
    *,
    batch_size: int,
    device: Any,
    num_workers: int,
    progress: bool,
    broken_rows: BrokenRows | None = None,
) -> tuple[dict[str, torch.Tensor], list[int]]:
    """
    L2-normalised float32 embeddings of shape `(N, dim)` by role, on the CPU, and the numbers of the N rows of the
    dataset that they belong to: broken rows are missing. In a distributed job each process embeds its share of the
    rows, and all get all.

    Raises:
        ValueError: All rows are broken.
    """
    columns = tuple(name for name in COLUMNS if name in dataset.column_names)
    length = model.config.text_config.max_position_embeddings
    collator = TripletCollator(processor, columns=columns, max_length=length, broken_rows=broken_rows or BrokenRows())
    distributed = dist.is_available() and dist.is_initialized()
    rank, processes = (dist.get_rank(), dist.get_world_size()) if distributed else (0, 1)
    share = Subset(_Numbered(undecoded(dataset)), range(rank, len(dataset), processes))
    loader = DataLoader(share, batch_size, collate_fn=_CollateNumbered(collator), num_workers=num_workers)
    pieces: dict[str, list[torch.Tensor]] = {}
    numbers: list[int] = []
    with evaluation_mode(model):
        for batch in tqdm(loader, desc="Evaluating", disable=not progress or rank != 0, leave=False):
            numbers.extend(batch.pop(NUMBER).tolist())
            batch = {name: value.to(device) for name, value in batch.items()}
            for prefix in ("", "negative_"):
                if (pixels := batch.get(f"{prefix}pixel_values")) is not None:
                    features = model.get_image_features(pixel_values=pixels).pooler_output
                    pieces.setdefault(f"{prefix}image", []).append(features)
                if (ids := batch.get(f"{prefix}input_ids")) is not None:
                    mask = batch[f"{prefix}attention_mask"]
                    features = model.get_text_features(input_ids=ids, attention_mask=mask).pooler_output
                    pieces.setdefault(f"{prefix}text", []).append(features)
    embeddings = {
        role: torch.nn.functional.normalize(torch.cat(parts).float(), dim=-1).cpu() for role, parts in pieces.items()
    }
    if processes > 1:
        embeddings, numbers = _of_all_processes(embeddings, numbers, processes)
    if not numbers:
        raise ValueError(
            f"None of the {len(dataset)} rows can be used: {collator.broken_rows.counts()}. "
            f"They are listed in {collator.broken_rows.path}"
        )
    return embeddings, numbers


def _of_all_processes(
    embeddings: dict[str, torch.Tensor], numbers: list[int], processes: int
) -> tuple[dict[str, torch.Tensor], list[int]]:
    """The embeddings and numbers of all processes, in the order of the dataset."""
    shares: list[Any] = [None] * processes
    dist.all_gather_object(shares, (embeddings, numbers))
    numbers = [number for _, theirs in shares for number in theirs]
    order = sorted(range(len(numbers)), key=numbers.__getitem__)
    roles = dict.fromkeys(role for theirs, _ in shares for role in theirs)
    whole = {role: torch.cat([theirs[role] for theirs, _ in shares if role in theirs])[order] for role in roles}
    return whole, [numbers[place] for place in order]


class _Numbered(torch.utils.data.Dataset):
    """Rows with their number, so that predictions find their row when broken ones are left out."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.dataset[index], NUMBER: index}


class _CollateNumbered:
    def __init__(self, collator: TripletCollator) -> None:
        self.collator = collator

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        # A small last batch may well be broken as a whole, which is no reason to lose the evaluation.
        batch, usable = self.collator.collate(rows)
        return {**batch, NUMBER: torch.tensor([row[NUMBER] for row in usable], dtype=torch.long)}

# SPDX-License-Identifier: Apache-2.0
"""Started by test_neighbours.py in two processes: batches of neighbours, whole and resumed.

Usage: neighbours_worker.py FOLDER
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from datasets import Dataset

from hf_tripletclip.mining.neighbours import Neighbours, captions_digest
from tests.training.test_trainer import Rows, losses, make_trainer

ROWS = 28
SETTINGS = {"batch_neighbours": 1, "max_steps": 8, "save_strategy": "steps", "save_steps": 1}


def table(rows: int = ROWS) -> Dataset:
    return Dataset.from_dict({"row": list(range(rows)), "caption": [f"caption {row}" for row in range(rows)]})


def of_rows(batch: dict[str, torch.Tensor], seen: list[list[int]], rows: list[dict[str, Any]]) -> dict[str, Any]:
    numbers = [row["row"] for row in rows]
    seen.append(numbers)
    return {name: values[numbers] for name, values in batch.items()}


def in_pairs(rows: int = ROWS) -> Neighbours:
    """Rows 0 and 1 are each other's only neighbours, 2 and 3, ..."""
    return Neighbours.of_lists(
        range(rows), [[row ^ 1] for row in range(rows)], captions_digest(table(rows)["caption"])
    )


def trainer_of(folder: Path, mined: Path, **kwargs: Any) -> tuple[Any, list[list[int]]]:
    """A trainer on the rows, and the batches that it will have seen."""
    seen: list[list[int]] = []
    collate = functools.partial(of_rows, Rows(ROWS).batch, seen)
    given = {**SETTINGS, "neighbours": str(mined), **kwargs}
    return make_trainer(folder, train_dataset=table(), data_collator=collate, **given), seen


def main(folder: Path) -> None:
    whole, batches = trainer_of(folder / "whole", folder / "mined", per_device_train_batch_size=3)
    whole.train()
    results = {"whole": losses(whole), "batches": batches}
    for step in (2, 6):  # in the first pass and in the second
        resumed, _ = trainer_of(folder / f"from-{step}", folder / "mined", per_device_train_batch_size=3)
        resumed.train(resume_from_checkpoint=str(folder / "whole" / f"checkpoint-{step}"))
        results[f"from {step}"] = losses(resumed)
    if dist.get_rank() == 0:
        torch.save(results, folder / "results.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))

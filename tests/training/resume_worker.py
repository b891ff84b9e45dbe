# SPDX-License-Identifier: Apache-2.0
"""Started by test_resuming.py in two processes: uneven streams, resumed runs, and a disk that is full for one of them.

Usage: resume_worker.py FOLDER
"""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from datasets import Dataset, load_dataset

from hf_tripletclip.data import shuffled
from hf_tripletclip.training.checkpointing import CheckpointNotWritten
from tests.training.test_trainer import Rows, losses, make_trainer

SHARDS = (18, 46)
CASES: dict[str, dict[str, Any]] = {
    "uneven shards": {"save_strategy": "epoch", "max_steps": 7, "streaming": True},
    "one shard": {"save_strategy": "steps", "save_steps": 3, "max_steps": 9, "streaming": True, "shards": (40,)},
    "map-style": {"save_strategy": "steps", "save_steps": 3, "max_steps": 7, "streaming": False},
}


def data(folder: Path, streaming: bool, shards: tuple[int, ...]) -> Any:
    if dist.get_rank() == 0:
        folder.mkdir(parents=True)
        batch = Rows(sum(shards)).batch
        start = 0
        for number, rows in enumerate(shards):
            table = {name: value[start : start + rows].tolist() for name, value in batch.items()}
            Dataset.from_dict(table).to_parquet(folder / f"train-{number}.parquet")
            start += rows
        load_dataset(str(folder), split="train")  # one process makes the cache
    dist.barrier()
    loaded = load_dataset(str(folder), split="train", streaming=streaming).with_format("torch")
    return shuffled(loaded, 0, buffer_size=7) if streaming else loaded


def run(case: str, folder: Path) -> dict[str, Any]:
    kwargs = dict(CASES[case])
    rows = data(folder / "data", kwargs.pop("streaming"), kwargs.pop("shards", SHARDS))
    kwargs = {"train_dataset": rows, "per_device_train_batch_size": 4, **kwargs}
    whole = make_trainer(folder / "run", **kwargs)
    whole.train()
    first = min((folder / "run").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    dist.barrier()
    resumed = make_trainer(folder / "run", **kwargs)
    resumed.train(resume_from_checkpoint=str(first))
    return {"whole": losses(whole), "resumed": losses(resumed), "first": first.name, "pass": whole.position.number}


def full_disk(folder: Path) -> str:
    """What each process says where the main one cannot write."""
    trainer = make_trainer(folder, save_strategy="steps", save_steps=1)
    if dist.get_rank() == 0:

        def write(*_: Any, **__: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        trainer._save = write  # type: ignore[method-assign]
    try:
        trainer.train()
    except CheckpointNotWritten as error:
        return str(error)
    return "nothing"


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    make_trainer(folder / "first", max_steps=1)  # which starts the process group
    results: dict[str, Any] = {case: run(case, folder / case) for case in CASES}
    messages: list[Any] = [None, None]
    dist.all_gather_object(messages, full_disk(folder / "full"))
    if dist.get_rank() == 0:
        torch.save({**results, "full": messages}, folder / "results.pt")
    dist.barrier()
    dist.destroy_process_group()

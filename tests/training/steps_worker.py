# SPDX-License-Identifier: Apache-2.0
"""Started by test_processes.py in two processes: short trainings, each as one process with the doubled batch has it.

Usage: steps_worker.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from datasets import Dataset

from hf_tripletclip import TripletCLIPConfig, TripletCLIPModel
from hf_tripletclip.data import BrokenRows, TripletCollator, build_processor
from hf_tripletclip.training.steps import TrainingStoppedError
from hf_tripletclip.training.trainer import TripletCLIPTrainer
from tests.tiny import tiny_config
from tests.training.test_evaluation import COLOURS, rows
from tests.training.test_trainer import make_trainer

EVALUATED = {"eval_strategy": "epoch", "per_device_eval_batch_size": 4}
OPEN_END = {"dataloader_drop_last": False, "num_train_epochs": 2, "max_steps": -1, **EVALUATED}
MOVING: dict[str, Any] = {"objective_kwargs": {"teacher_decay": 0.5, "teacher_weight": 1.0}}
# Name -> rows, those that are broken, and arguments; a batch is 4 rows of each of two processes.
CASES: dict[str, tuple[int, tuple[int, ...], dict[str, Any]]] = {
    "a short last batch": (14, (), OPEN_END),
    "a short last batch, gradient caching": (14, (), {**OPEN_END, "mini_batch_size": 3}),
    "gradient caching, unused weights looked for": (
        16,
        (),
        {"max_steps": 2, "mini_batch_size": 3, "ddp_find_unused_parameters": True},
    ),
    "one row for two processes": (9, (), OPEN_END),
    "a process whose rows are all broken": (16, (5, 4, 6, 7, 9), EVALUATED | {"max_steps": 2}),
    "the same, gradient caching": (16, (5, 4, 6, 7, 9), EVALUATED | {"max_steps": 2, "mini_batch_size": 3}),
    "a batch that is all broken": (24, tuple(range(8, 16)), {"max_steps": 3, "gradient_accumulation_steps": 1}),
    "the last of a step's batches is broken": (
        24,
        tuple(range(8, 16)),
        {"max_steps": 1, "gradient_accumulation_steps": 2},
    ),
    "a short last batch, keys in a ring": (14, (), {**OPEN_END, "key_exchange": "ring"}),
    "a process whose rows are all broken, keys in a ring": (
        16,
        (5, 4, 6, 7, 9),
        EVALUATED | {"max_steps": 2, "key_exchange": "ring", "mini_batch_size": 3},
    ),
    "a teacher that moves": (16, (), {"max_steps": 4, "objective": "degla", **MOVING}),
    "the same by mini-batches": (16, (), {"max_steps": 4, "objective": "degla", "mini_batch_size": 3, **MOVING}),
}
STOPPED: dict[str, tuple[int, tuple[int, ...], dict[str, Any]]] = {
    "diverged": (16, (), {"learning_rate": 1e20, "save_strategy": "steps", "save_steps": 1}),
    "no usable row": (16, tuple(range(16)), {}),
}


def trainer_of(case: str, folder: Path, batch: int) -> TripletCLIPTrainer:
    number, broken, kwargs = (CASES | STOPPED)[case]
    processor = build_processor([f"a {colour} cat" for colour in COLOURS], image_size=16)
    base = tiny_config().to_dict()
    base["text_config"] |= {"vocab_size": len(processor.tokenizer), "max_position_embeddings": 20}
    base["text_config"] |= {"eos_token_id": processor.tokenizer.eos_token_id}
    torch.manual_seed(0)
    data = Dataset.from_list(rows(number, broken=broken))
    sizes = dict.fromkeys(("per_device_train_batch_size", "per_device_eval_batch_size"), batch)
    return make_trainer(
        folder,
        model=TripletCLIPModel(TripletCLIPConfig(**base)),
        train_dataset=data,
        eval_dataset=data.select(range(min(number, 11))),
        data_collator=TripletCollator(processor, broken_rows=BrokenRows(folder / "broken_rows.jsonl")),
        **{"optim": "sgd", "learning_rate": 0.1, "train_sampling_strategy": "sequential", **kwargs, **sizes},
    )


def run(case: str, folder: Path, batch: int) -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
    """The log and the weights after it."""
    trainer = trainer_of(case, folder, batch)
    trainer.train()
    timings = ("runtime", "per_second", "preparation_time")
    log = [{k: v for k, v in entry.items() if not k.endswith(timings)} for entry in trainer.state.log_history[:-1]]
    return log, {name: value.detach().clone() for name, value in trainer.model.named_parameters()}


def stopped(case: str, folder: Path, batch: int) -> str:
    try:
        trainer_of(case, folder, batch).train()
    except TrainingStoppedError as error:
        return str(error)
    return "it was not stopped"


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    results: dict[str, Any] = {case: run(case, folder / "two", 4) for case in CASES}
    results |= {case: stopped(case, folder / "two", 4) for case in STOPPED}
    messages: list[Any] = [None, None]
    dist.all_gather_object(messages, {case: results[case] for case in STOPPED})
    if dist.get_rank() == 0:
        torch.save({**results, "messages": messages, "world_size": dist.get_world_size()}, folder / "results.pt")
    dist.barrier()
    dist.destroy_process_group()

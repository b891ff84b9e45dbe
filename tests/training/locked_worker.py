# SPDX-License-Identifier: Apache-2.0
"""Started by test_locked.py in two processes: trainings on one folder of what locked towers put out.

Usage: locked_worker.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from datasets import Dataset

from hf_tripletclip import TripletCLIPConfig, TripletCLIPModel
from hf_tripletclip.data import TripletCollator, build_processor
from hf_tripletclip.training.towers import TowerArguments, prepare_towers
from tests.tiny import tiny_config
from tests.training.test_evaluation import COLOURS, rows
from tests.training.test_trainer import DISTILLED, losses, make_trainer

CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "image tower": ({"train_vision": "frozen"}, {}),
    "both, gradient caching": (
        {"train_vision": "frozen", "train_text": "frozen", "train_projections": True},
        {"mini_batch_size": 3},
    ),
    "image tower, LoRA, distilled": ({"train_vision": "frozen", "train_text": "lora", "lora_r": 4}, DISTILLED),
}


def run(case: str, folder: Path, batch: int, cache: Path | None) -> dict[str, Any]:
    """The losses, and what went through the towers in this process."""
    towers, kwargs = CASES[case]
    processor = build_processor([f"a {colour} cat" for colour in COLOURS], image_size=16)
    base = tiny_config().to_dict()
    base["text_config"] |= {"vocab_size": len(processor.tokenizer), "max_position_embeddings": 20}
    base["text_config"] |= {"eos_token_id": processor.tokenizer.eos_token_id}
    torch.manual_seed(0)
    table = rows(14, broken=(3, 8, 9))
    trainer = make_trainer(
        folder,
        model=prepare_towers(TripletCLIPModel(TripletCLIPConfig(**base)), TowerArguments(**towers)),
        train_dataset=Dataset.from_list(table),
        eval_dataset=Dataset.from_list(rows(5)),
        data_collator=TripletCollator(processor),
        cache_locked_towers=None if cache is None else str(cache),
        per_device_train_batch_size=batch,
        dataloader_drop_last=False,
        num_train_epochs=3,
        max_steps=-1,
        eval_strategy="epoch",
        train_sampling_strategy="sequential",
        **{"optim": "sgd", "learning_rate": 0.1, **kwargs},
    )
    trainer.train()
    evaluated = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    computed = {} if trainer.tower_cache is None else trainer.tower_cache.computed
    repeated = [entry.get("repeated_images") for entry in trainer.state.log_history if "loss" in entry]
    return {"losses": losses(trainer), "evaluated": evaluated, "computed": computed, "repeated": repeated}


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    results: dict[str, Any] = {}
    for case in CASES:
        for time in ("first", "again"):
            results[case, time] = run(case, folder / "two", 4, folder / case)
            dist.barrier()
    computed: list[Any] = [None, None]
    dist.all_gather_object(computed, {name: result["computed"] for name, result in results.items()})
    if dist.get_rank() == 0:
        torch.save({**results, "computed": computed, "world_size": dist.get_world_size()}, folder / "results.pt")
    dist.barrier()
    dist.destroy_process_group()

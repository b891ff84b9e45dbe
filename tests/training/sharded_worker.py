# SPDX-License-Identifier: Apache-2.0
"""Started by test_sharding.py in two processes: short trainings with FSDP2, each as one process with the doubled batch
has it.

Usage: sharded_worker.py FOLDER
"""

from __future__ import annotations

import functools
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from peft import LoraConfig, get_peft_model
from torch.distributed.tensor import DTensor
from transformers.trainer_utils import unwrap_peft_model

from hf_tripletclip import AutoTripletModel, TripletCLIPTrainer
from hf_tripletclip.layouts.adapters import scale_of
from hf_tripletclip.training.sharding import USE_FSDP
from tests.families import LENGTH, write_family
from tests.training.test_trainer import make_trainer

ROWS, STEPS = 16, 4
FSDP = {"fsdp": True, "fsdp_config": {"version": 2}}
SHARDED = {"fsdp": True, "fsdp_config": {"version": 2, "state_dict_type": "SHARDED_STATE_DICT"}}
OPEN_END = {"dataloader_drop_last": False, "num_train_epochs": 2, "max_steps": -1, "rows": 11}
# Name -> family, objective, and arguments.
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "clip": ("clip", "tripletclip", {"max_grad_norm": 0.5}),
    "clip, gradients not clipped": ("clip", "tripletclip", {"max_grad_norm": 0.0}),
    "clip, accumulated": ("clip", "tripletclip", {"gradient_accumulation_steps": 2}),
    "clip, bounded": ("clip", "tripletclip", {"logit_scale_max": 10}),
    "clip, LoRA": ("clip", "tripletclip", {"lora": True}),
    # Without this epsilon Adam makes steps of full size from gradients that are nothing but rounding.
    "siglip": ("siglip", "siglip_triplet", {"optim": "adamw_torch", "adam_epsilon": 1e-2, "weight_decay": 0.1}),
    "dual encoder": ("dual_encoder", "tripletclip", {}),
    "clip, gradient caching": ("clip", "tripletclip", {"mini_batch_size": 3, "gradient_accumulation_steps": 2}),
    "siglip, gradient caching": ("siglip", "siglip_triplet", {"mini_batch_size": 3}),
    # The last batch of a pass has three rows: two for one process, and one for the other.
    "short last batch": ("clip", "tripletclip", OPEN_END),
    "short last batch, gradient caching": ("clip", "tripletclip", {"mini_batch_size": 1, **OPEN_END}),
    "clip, bf16": ("clip", "tripletclip", {"bf16": True}),
}


RESUMED: dict[str, tuple[str, dict[str, Any]]] = {
    "whole state": ("clip", FSDP),
    "state in parts": ("clip", SHARDED),
    "LoRA, state in parts": ("clip, LoRA", SHARDED),
}


class Rows(torch.utils.data.Dataset):
    """Random pictures and captions with negatives, of the size that tiny families take."""

    def __init__(self, end: int | None, rows: int = ROWS) -> None:
        generator = torch.Generator().manual_seed(3)

        def images() -> torch.Tensor:
            return torch.randn(rows, 3, 16, 16, generator=generator)

        def texts() -> dict[str, torch.Tensor]:
            ids = torch.randint(5, 18, (rows, LENGTH), generator=generator)
            if end is not None:
                ids[:, -1] = end
            return {"input_ids": ids}

        self.batch = {"pixel_values": images(), **texts(), "negative_pixel_values": images()}
        self.batch |= {f"negative_{name}": value for name, value in texts().items()}

    def __len__(self) -> int:
        return len(self.batch["input_ids"])

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {name: value[index] for name, value in self.batch.items()}


def write_models(folder: Path) -> None:
    """Before the processes start: of several, only one of a machine may write."""
    for family in {family for family, *_ in CASES.values()}:
        write_family(family, folder / family)


def model_of(family: str, folder: Path, lora: bool = False) -> Any:
    model = AutoTripletModel.from_pretrained(folder / family)
    if not lora:
        return model
    torch.manual_seed(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft reads an attribute that transformers has renamed
        adapted = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    model.logit_scale.requires_grad_(True)
    return adapted


def trainer_of(case: str, folder: Path, batch: int, **further: Any) -> TripletCLIPTrainer:
    """`folder` has the models; the run is in a folder in it."""
    family, objective, kwargs = CASES[case]
    arguments = {"optim": "sgd", "learning_rate": 0.05, "train_sampling_strategy": "sequential", **kwargs, **further}
    model = model_of(family, folder, arguments.pop("lora", False))
    os.environ.pop(USE_FSDP, None)  # accelerate sets it for all trainers to come
    sizes = dict.fromkeys(("per_device_train_batch_size", "per_device_eval_batch_size"), batch)
    end = unwrap_peft_model(model).config.text_config.eos_token_id if family == "clip" else None
    data = Rows(end, arguments.pop("rows", ROWS))
    given = {"max_steps": STEPS, "objective": objective, "train_dataset": data, "eval_dataset": data, **arguments}
    return make_trainer(folder / f"run {os.environ.get('WORLD_SIZE', 1)}", model=model, **given, **sizes)


OF_ZERO = (  # the cases that DeepSpeed trains too
    *("clip", "clip, gradients not clipped", "clip, accumulated", "clip, bounded", "clip, LoRA"),
    *("siglip", "dual encoder", "short last batch", "clip, bf16"),
)


def log_of(trainer: TripletCLIPTrainer) -> list[dict[str, float]]:
    timings = ("runtime", "per_second", "preparation_time")
    return [{k: v for k, v in entry.items() if not k.endswith(timings)} for entry in trainer.state.log_history[:-1]]


def whole_weights(trainer: TripletCLIPTrainer) -> dict[str, torch.Tensor]:
    return {
        name: (value.full_tensor() if isinstance(value, DTensor) else value).detach().clone()
        for name, value in trainer.model.named_parameters()
    }


def run(case: str, folder: Path, batch: int, **further: Any) -> dict[str, Any]:
    trainer = trainer_of(case, folder, batch, eval_strategy="steps", eval_steps=2, **further)
    trainer.train()
    trainer.save_model(str(folder / f"{case} {trainer.args.world_size}"))
    return {
        "log": log_of(trainer),
        "weights": whole_weights(trainer),
        "sharded": sum(isinstance(value, DTensor) for value in trainer.model.parameters()),
        "scales": {name: (tuple(v.shape), isinstance(v, DTensor)) for name, v in scale_of(trainer.core).items()},
    }


def resumed(name: str, folder: Path) -> dict[str, Any]:
    """A whole run, and one that goes on from its second step."""
    case, further = RESUMED[name]
    kwargs = {"save_strategy": "steps", "save_steps": 2, "optim": "adamw_torch", **further}
    kwargs["output_dir"] = str(folder / name)
    whole = trainer_of(case, folder, 4, **kwargs)
    whole.train()
    dist.barrier()
    again = trainer_of(case, folder, 4, **kwargs)
    again.train(resume_from_checkpoint=str(folder / name / "checkpoint-2"))
    return {"whole": (log_of(whole), whole_weights(whole)), "again": (log_of(again), whole_weights(again))}


def best(folder: Path) -> dict[str, Any]:
    """Weights after a run whose second step counts as the best one: its loss is higher."""
    kept = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2, **SHARDED}
    kept |= {"load_best_model_at_end": True, "output_dir": str(folder / "best")}
    trainer = trainer_of("clip", folder, 4, **kept, metric_for_best_model="loss", greater_is_better=True)
    trainer.train()
    return {"best": trainer.state.best_model_checkpoint, "weights": whole_weights(trainer)}


def refused(folder: Path) -> str:
    """What is said if a run with DDP is to go on from a checkpoint of FSDP2."""
    trainer = trainer_of("clip", folder, 4, output_dir=str(folder / "whole state"), optim="adamw_torch")
    try:
        trainer.train(resume_from_checkpoint=str(folder / "whole state" / "checkpoint-2"))
    except ValueError as error:
        return str(error)
    return "nothing"


def run_jobs(jobs: Mapping[str, Callable[[], Any]], folder: Path, wanted: Sequence[str]) -> None:
    """Run the wanted jobs, or all if none is named, in all processes; the first one writes what they return."""
    results = {name: job() for name, job in jobs.items() if not wanted or name in wanted}
    if dist.get_rank() == 0:
        torch.save({**results, "world_size": dist.get_world_size()}, folder / "results.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    wanted = sys.argv[2:]  # all by default
    jobs: dict[str, Callable[[], Any]] = {
        **{case: functools.partial(run, case, folder, 4, **FSDP) for case in CASES},
        **{name: functools.partial(resumed, name, folder) for name in RESUMED},
        "best": functools.partial(best, folder),
        "refused": functools.partial(refused, folder),
    }
    run_jobs(jobs, folder, wanted)

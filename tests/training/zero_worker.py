# SPDX-License-Identifier: Apache-2.0
"""Started by test_zero.py in two processes: short trainings with DeepSpeed, each as one process with the doubled batch
has it.

Usage: zero_worker.py FOLDER [NAME ...]
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from accelerate import DistributedType, PartialState
from deepspeed.utils import safe_get_full_fp32_param
from transformers import training_args
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

from hf_tripletclip import TripletCLIPTrainer
from hf_tripletclip.layouts.adapters import scale_of
from tests.training.sharded_worker import OF_ZERO, log_of, run_jobs, trainer_of

CASES = [(stage, name) for stage in (2, 3) for name in OF_ZERO] + [(1, "clip, bounded")]


def config(stage: int, *, bf16: bool = False) -> dict[str, Any]:
    zero = {"stage": stage, "stage3_gather_16bit_weights_on_model_save": True, "stage3_param_persistence_threshold": 0}
    names = ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")
    return {"zero_optimization": zero, "bf16": {"enabled": bf16}, **dict.fromkeys(names, "auto")}


def with_zero(stage: int, name: str, folder: Path, **further: Any) -> TripletCLIPTrainer:
    kwargs = {"deepspeed": config(stage, bf16="bf16" in name), "use_cpu": False}
    return trainer_of(name, folder, 4, **kwargs, **further)


def whole_weights(trainer: TripletCLIPTrainer) -> dict[str, torch.Tensor]:
    with deepspeed.zero.GatheredParameters(list(trainer.model.parameters())):
        return {name: value.detach().cpu().clone() for name, value in trainer.model.named_parameters()}


def scales(trainer: TripletCLIPTrainer) -> dict[str, Any]:
    """The scale and the bias as the model has them, and as the optimizer does."""
    whole = whole_weights(trainer)
    return {
        name: (whole[name], safe_get_full_fp32_param(value) if value.requires_grad else None)
        for name, value in trainer.model.named_parameters()
        if any(value is own for own in scale_of(trainer.core).values())
    }


def run(stage: int, name: str, folder: Path) -> dict[str, Any]:
    trainer = with_zero(stage, name, folder, eval_strategy="steps", eval_steps=2)
    assert not is_deepspeed_zero3_enabled()  # so that models that are loaded now are whole
    trainer.train()
    trainer.save_model(str(folder / f"{name} zero{stage}"))
    cut = [value.numel() for value in trainer.model.parameters() if hasattr(value, "ds_id")]
    return {
        "log": log_of(trainer),
        "weights": whole_weights(trainer),
        "scales": scales(trainer),
        "held": (len(cut), sum(cut)),
    }


def resumed(stage: int, name: str, folder: Path) -> dict[str, Any]:
    """A whole run, and one that goes on from its second step."""
    out = str(folder / f"resumed, {name} zero{stage}")
    kwargs = {"save_strategy": "steps", "save_steps": 2, "optim": "adamw_torch", "output_dir": out}
    kwargs |= {"logit_scale_max": 10}
    whole = with_zero(stage, name, folder, **kwargs)
    whole.train()
    dist.barrier()
    again = with_zero(stage, name, folder, **kwargs)
    again.train(resume_from_checkpoint=f"{out}/checkpoint-2")
    return {"whole": (log_of(whole), whole_weights(whole)), "again": (log_of(again), whole_weights(again))}


def best(stage: int, folder: Path) -> dict[str, Any]:
    """Weights after a run whose second step counts as the best one: its loss is higher."""
    kept = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2}
    kept |= {"load_best_model_at_end": True, "output_dir": str(folder / f"best zero{stage}")}
    trainer = with_zero(stage, "clip", folder, **kept, metric_for_best_model="loss", greater_is_better=True)
    trainer.train()
    return {"best": trainer.state.best_model_checkpoint, "weights": whole_weights(trainer)}


def bounded_in_bf16(stage: int, folder: Path) -> dict[str, Any]:
    """The scale after a run whose bound is no number of bfloat16, and whose nearest one is above it."""
    trainer = with_zero(stage, "clip, bf16", folder, logit_scale_max=13.5)
    trainer.train()
    trainer.save_model(str(folder / f"bounded in bf16 zero{stage}"))
    return scales(trainer)


def evaluated_before(stage: int, folder: Path) -> str:
    """What is said if a trainer is to evaluate before it trains."""
    try:
        with_zero(stage, "clip", folder).evaluate()
    except ValueError as error:
        return str(error)
    return "nothing"


def diverged(stage: int, folder: Path) -> str:
    """What is said if a weight is not finite when a checkpoint is due, in the part that one process holds."""
    trainer = with_zero(stage, "clip", folder, save_strategy="steps", save_steps=1)
    original = trainer._save_checkpoint

    def broken(*given: Any) -> None:
        value = trainer.core.text_projection.weight
        if dist.get_rank() == 1:
            getattr(value, "ds_tensor", value).data.fill_(float("nan"))
        original(*given)

    trainer._save_checkpoint = broken  # type: ignore[method-assign]
    try:
        trainer.train()
    except ValueError as error:
        return str(error)
    return "nothing"


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    wanted = sys.argv[2:]  # all by default
    if not torch.cuda.is_available():  # accelerate (1.15) would take each process for the only one
        PartialState._prepare_backend = lambda *_, **__: ("gloo", DistributedType.MULTI_CPU)  # type: ignore
        training_args.is_torch_bf16_gpu_available = lambda: True
    jobs: dict[str, Callable[[], Any]] = {
        **{f"{name} zero{stage}": functools.partial(run, stage, name, folder) for stage, name in CASES},
        **{
            f"resumed, {name} zero{stage}": functools.partial(resumed, stage, name, folder)
            for name in ("clip", "clip, LoRA")
            for stage in (2, 3)
        },
        **{
            f"{name} zero{stage}": functools.partial(job, stage, folder)
            for name, job in (
                ("best", best),
                ("bounded in bf16", bounded_in_bf16),
                ("diverged", diverged),
                ("evaluated before", evaluated_before),
            )
            for stage in (2, 3)
        },
    }
    run_jobs(jobs, folder, wanted)

# SPDX-License-Identifier: Apache-2.0
"""
DeepSpeed's ZeRO: each process holds a part of the optimizer state and of the gradients (stage 2), and of the weights
too (stage 3).

DeepSpeed cannot send a parameter without dimensions, such as CLIP's `logit_scale`: while it trains it has one element,
and it is saved in its own shape. The optimizer changes float32 copies of the weights, which it writes over them after
each step, so a bound has to hold for both.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from transformers.integrations.deepspeed import is_deepspeed_available, unset_hf_deepspeed_config

from hf_tripletclip.layouts.adapters import scale_of


def check_package(args: Any) -> None:
    """
    Check, before arguments are completed, that there is a DeepSpeed if they name its settings.

    Args:
        args ([`TripletCLIPTrainingArguments`]): The arguments.

    Raises:
        ImportError: There is none.
    """
    if args.deepspeed and not is_deepspeed_available():
        raise ImportError(
            "`deepspeed` is set, and the package is not installed: pip install deepspeed", name="deepspeed"
        )


def load_whole_models() -> None:
    """
    Let models that are loaded from now on be whole on each process. With ZeRO-3 transformers would cut them, and a
    model that is only evaluated could not run.
    """
    unset_hf_deepspeed_config()


def stage_of(trainer: Any) -> int:
    """ZeRO's stage in a trainer with DeepSpeed."""
    return int(trainer.accelerator.state.deepspeed_plugin.deepspeed_config["zero_optimization"].get("stage", 0))


def check_zero(trainer: Any) -> None:
    """
    Check that a trainer can train with DeepSpeed, if it is to.

    Args:
        trainer ([`TripletCLIPTrainer`]): Before it trains.

    Raises:
        ValueError: It cannot; the message says why, and what to do.
    """
    args = trainer.args
    if args.deepspeed_plugin is None:
        return
    if trainer.is_deepspeed_enabled and not dist.is_initialized():
        raise ValueError(
            "DeepSpeed trains in processes that a launcher has started, and this is none: use `--accelerate_config "
            "zero2` or `zero3`, or `accelerate launch`."
        )
    # On CPUs accelerate (1.15) leaves DeepSpeed out, or takes each process for the only one.
    if not trainer.is_deepspeed_enabled or dist.get_world_size() != args.world_size:
        raise ValueError(
            "DeepSpeed is asked for, and trains on GPUs only, but none is found or `use_cpu` is set: train on GPUs, "
            "or leave DeepSpeed out (`--accelerate_config fsdp2` shards on CPUs too)."
        )
    config = trainer.accelerator.state.deepspeed_plugin.deepspeed_config
    stage, of_zero = stage_of(trainer), config["zero_optimization"]
    if stage not in (1, 2, 3):
        raise ValueError(f"DeepSpeed's ZeRO stage is {stage}: give 1, 2 or 3 (`zero_stage`), or use DDP.")
    if stage == 3 and of_zero.get("stage3_gather_16bit_weights_on_model_save") is not True:  # "auto" is false
        raise ValueError(
            "With ZeRO-3 the saved model would have no weights: set `zero3_save_16bit_model` in accelerate's file, or "
            "`stage3_gather_16bit_weights_on_model_save` in DeepSpeed's, to true."
        )
    if args.fp16 or config.get("fp16", {}).get("enabled") is True:
        raise ValueError("DeepSpeed trains in float32 or with `bf16` here, not with `fp16`: its first steps overflow.")
    if any(hasattr(parameter, "ds_id") for parameter in trainer.model.parameters()):
        raise ValueError(
            "ZeRO-3 has cut the model's weights already: load the model outside `deepspeed.zero.Init`, and without an "
            "`HfDeepSpeedConfig`."
        )
    unsupported = {
        "a teacher (distillation)": trainer.teacher is not None,
        "`retention_metric`": args.retention_metric is not None,
        "`load_in_4bit`": any(hasattr(parameter, "quant_state") for parameter in trainer.model.parameters()),
        "ZeRO-3 and `eval_benchmarks`": stage == 3 and bool(args.benchmark_settings),
    }
    for name, used in unsupported.items():
        if used:
            raise ValueError(
                f"DeepSpeed does not work with {name}, because no process has the whole weights in the precision that "
                "they train in: use DDP or FSDP2, or leave it out."
            )


def check_evaluation(trainer: Any) -> None:
    """
    Check that a trainer can evaluate now.

    Args:
        trainer ([`TripletCLIPTrainer`]): With its model.

    Raises:
        ValueError: It is to evaluate with DeepSpeed before it trains.
    """
    if trainer.is_deepspeed_enabled and trainer.deepspeed is None:
        raise ValueError(
            "DeepSpeed takes the model when training starts, and cannot evaluate before: set `eval_on_start`, or "
            "evaluate the model without the trainer (`evaluate_triplets`)."
        )


@torch.no_grad()
def give_dimensions(model: nn.Module) -> list[str]:
    """
    Give each parameter that has no dimension the shape `(1,)`, in place.

    Args:
        model (`nn.Module`): Before DeepSpeed has it.

    Returns:
        `list[str]`: The names of those parameters.
    """
    found = [name for name, parameter in model.named_parameters() if parameter.ndim == 0]
    for name in found:
        parameter = model.get_parameter(name)
        parameter.data = parameter.data.reshape(1)
    return found


@contextlib.contextmanager
def scale_as_saved(trainer: Any) -> Iterator[None]:
    """
    A context in which a trainer's scale and bias are whole, in the shapes of the base class, to be written beside an
    adapter. All processes enter and leave it together.

    Args:
        trainer ([`TripletCLIPTrainer`]): It may use DeepSpeed or not.
    """
    if not trainer.is_deepspeed_enabled:
        yield
        return
    import deepspeed

    own = list(scale_of(trainer.core).values())
    scalars = {id(trainer.model.get_parameter(name)) for name in trainer.without_dimensions}
    with deepspeed.zero.GatheredParameters(own):
        held = [parameter.data for parameter in own]
        for parameter in own:
            if id(parameter) in scalars:
                parameter.data = parameter.data.reshape(())
        try:
            yield
        finally:
            for parameter, data in zip(own, held, strict=True):
                parameter.data = data


def take_dimensions(trainer: Any) -> None:
    """Give the parameters that `give_dimensions` named their shape again, unless ZeRO-3 has cut them."""
    for name in trainer.without_dimensions:
        parameter = trainer.model.get_parameter(name)
        if not hasattr(parameter, "ds_id"):
            parameter.data = parameter.data.reshape(())


@torch.no_grad()
def clamp(parameter: nn.Parameter, low: float, high: float) -> None:
    """
    Keep a parameter within bounds, and the float32 copy that DeepSpeed's optimizer goes on from. All processes call
    this together.

    Args:
        parameter (`nn.Parameter`): Held by DeepSpeed, at ZeRO's stage 1, 2 or 3.
        low, high (`float`): The bounds; in half precision, the nearest numbers between them.

    Raises:
        ValueError: It trains, and DeepSpeed does not give its copy.
    """
    import deepspeed

    cut = hasattr(parameter, "ds_id")  # ZeRO-3
    high = _at_most(high, parameter.dtype)
    if parameter.requires_grad:
        utils = deepspeed.utils
        copy = utils.safe_get_local_fp32_param(parameter) if cut else utils.safe_get_full_fp32_param(parameter)
        if copy is None:
            raise ValueError("DeepSpeed does not give its float32 copy of `logit_scale`, which cannot be bounded.")
        put = utils.safe_set_local_fp32_param if cut else utils.safe_set_full_fp32_param
        put(parameter, copy.clamp(low, high))
    with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
        parameter.clamp_(low, high)


def _at_most(value: float, dtype: torch.dtype) -> float:
    """The largest number of a dtype that is not above a value."""
    found = torch.tensor(value, dtype=dtype)
    return float(found if float(found) <= value else torch.nextafter(found, torch.zeros_like(found)))

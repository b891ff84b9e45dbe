# SPDX-License-Identifier: Apache-2.0
"""
FSDP2: each process holds a part of every weight, and of its gradient and optimizer state.

`logit_scale` and `logit_bias` stay whole on every process: a tensor without dimensions cannot be cut, FSDP2 would
round the scale with `bf16` (a factor of 100 by 1.6 percent at most), and the loss needs both outside the model's
forward. So their gradients are averaged here, as FSDP2 does with the others.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from accelerate import DistributedType, PartialState
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.fsdp_utils import get_parameters_from_modules
from torch import nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, StateDictType
from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel
from transformers.trainer_utils import unwrap_peft_model

from hf_tripletclip.layouts.adapters import scale_of

USE_FSDP = "ACCELERATE_USE_FSDP"  # what `accelerate launch` sets


# ---- Before a run ----


def check_processes(args: Any) -> None:
    """
    Check, before a trainer is made, that there are processes to shard a model over.

    Args:
        args ([`TripletCLIPTrainingArguments`]): The arguments.

    Raises:
        ValueError: FSDP is asked for in one process.
    """
    asked = bool(args.fsdp) or os.environ.get(USE_FSDP, "").lower() == "true"
    if asked and args.world_size == 1:
        raise ValueError(
            "FSDP shards a model over several processes, and this is one: start them with `--accelerate_config fsdp2` "
            "or `--num_processes N`, or leave `fsdp` out."
        )


def use_on_cpus(trainer: Any) -> None:
    """
    Let a trainer shard on CPUs too. accelerate (1.15) knows FSDP on accelerators only, and would train with DDP
    without a word.

    Args:
        trainer ([`TripletCLIPTrainer`]): With its new accelerator.
    """
    state, args = trainer.accelerator.state, trainer.args
    asked = args.fsdp_plugin_args is not None or os.environ.get(USE_FSDP, "").lower() == "true"
    if not asked or state.distributed_type != DistributedType.MULTI_CPU:
        return
    plugin = FullyShardedDataParallelPlugin(**(args.fsdp_plugin_args or {}))
    if trainer.accelerator.mixed_precision != "no":
        plugin.set_mixed_precision(trainer.accelerator.mixed_precision)
    state.distributed_type, state.fsdp_plugin = DistributedType.FSDP, plugin
    PartialState._shared_state["distributed_type"] = DistributedType.FSDP  # as accelerate does on accelerators
    trainer.is_fsdp_enabled = True


def check_sharding(trainer: Any) -> None:
    """
    Check that a trainer can train with FSDP, if it is to.

    Args:
        trainer ([`TripletCLIPTrainer`]): Before it trains.

    Raises:
        ValueError: It cannot; the message says why, and what to do.
    """
    if not trainer.is_fsdp_enabled:
        return
    args, core, plugin = trainer.args, trainer.core, trainer.accelerator.state.fsdp_plugin
    if plugin.fsdp_version != 2:
        raise ValueError(
            "FSDP1 cannot keep the scalar `logit_scale` whole: use FSDP2 (`--accelerate_config fsdp2`, or "
            "`fsdp_version: 2` in your file, or `--fsdp_config '{\"version\": 2}'`)."
        )
    if plugin.cpu_ram_efficient_loading:
        raise ValueError(
            "`cpu_ram_efficient_loading` of FSDP leaves the processes but one without the scalar `logit_scale`: set "
            "it to false."
        )
    if trainer.accelerator.mixed_precision == "fp16":
        raise ValueError("FSDP2 trains in float32 or with `bf16` here, not with `fp16`: its loss scaling is for DDP.")
    if args.mini_batch_size is not None and not core.objective.negatives_across_devices:
        raise ValueError(
            "Gradient caching (`mini_batch_size`) needs `negatives_across_devices` with FSDP2: leave one of them out."
        )
    needs_whole_weights = {
        "a teacher (distillation)": trainer.teacher is not None,
        "a decoder": bool(core.objective.state_roles),
        "`cache_locked_towers`": args.cache_locked_towers is not None,
        "`retention_metric`": args.retention_metric is not None,
        "`load_in_4bit`": any(hasattr(parameter, "quant_state") for parameter in trainer.model.parameters()),
    }
    for name, used in needs_whole_weights.items():
        if used:
            raise ValueError(f"FSDP2 does not work with {name}, which needs whole weights: use DDP, or leave it out.")


def check_evaluation(trainer: Any) -> None:
    """
    Check that a trainer can evaluate now.

    Args:
        trainer ([`TripletCLIPTrainer`]): With its model.

    Raises:
        ValueError: It is to evaluate with FSDP before it trains.
    """
    if trainer.is_fsdp_enabled and not is_sharded(trainer.model):
        raise ValueError(
            "FSDP2 shards the model when training starts, and cannot evaluate before: set `eval_on_start`, or "
            "evaluate the model without the trainer (`evaluate_triplets`)."
        )


def layers_of(model: nn.Module) -> list[str]:
    """
    The classes of a model's modules that are gathered one by one, such as `CLIPEncoderLayer`: transformers names them
    in `_no_split_modules`, of two towers that were put together in each tower.

    Args:
        model (`nn.Module`): The model, also inside a `PeftModel`.
    """
    named = [
        name
        for module in model.modules()
        if isinstance(module, PreTrainedModel)
        for name in sorted(module._no_split_modules or ())
    ]
    there = {type(module).__name__ for module in model.modules()}
    return [name for name in dict.fromkeys(named) if name in there]


def kept_whole(model: Any) -> list[nn.Parameter]:
    """The parameters of a model that are not sharded: its scale and bias, and what else has no dimension."""
    of_core = {id(value) for value in scale_of(unwrap_peft_model(model)).values()}
    return [value for value in model.parameters() if id(value) in of_core or value.ndim == 0]


# ---- A model, its optimizer and its gradients ----


@contextlib.contextmanager
def being_sharded(trainer: Any) -> Iterator[None]:
    """
    The context in which `accelerate` shards a trainer's model. It tells accelerate what to gather together and what to
    leave whole, and gives all processes the weights of the first one, as DDP does.

    Args:
        trainer ([`TripletCLIPTrainer`]): With its model.
    """
    model, plugin = trainer.model, trainer.accelerator.state.fsdp_plugin if trainer.is_fsdp_enabled else None
    if plugin is None or is_sharded(model):
        yield
        return
    if plugin.auto_wrap_policy is transformer_auto_wrap_policy and plugin.transformer_cls_names_to_wrap is None:
        plugin.transformer_cls_names_to_wrap = layers_of(model)
    device = trainer.accelerator.device
    ignored = get_parameters_from_modules(plugin.ignored_modules, model, device)
    whole = [parameter for parameter in kept_whole(model) if parameter not in ignored]
    plugin.ignored_modules = [nn.ParameterList([*whole, *ignored]).to(device)]
    _share_weights(model, device)
    half = trainer.accelerator.mixed_precision == "bf16"
    if half:  # accelerate would add up the gradients of all processes in bfloat16, and round the loss
        plugin.mixed_precision_policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    # A CLIP has two towers, and transformers does not know which embeddings to give (`NotImplementedError`).
    vars(model)["get_input_embeddings"] = lambda: None
    try:
        yield
    finally:
        del vars(model)["get_input_embeddings"]
    if half:  # what DDP computes in float32, such as norms, stays so
        vars(model)["forward"] = torch.autocast(device.type, torch.bfloat16)(model.forward)


@torch.no_grad()
def _share_weights(model: nn.Module, device: torch.device) -> None:
    for tensor in (*model.parameters(), *model.buffers()):
        sent = tensor.detach().to(device).contiguous()
        dist.broadcast(sent, src=0)
        tensor.copy_(sent)


def own_groups(optimizer: torch.optim.Optimizer, whole: list[nn.Parameter]) -> None:
    """
    Put parameters that are not sharded into groups of their own: one kernel cannot take them with the others.

    Args:
        optimizer (`torch.optim.Optimizer`): Before its first step; its groups are changed.
        whole (`list[nn.Parameter]`): From `kept_whole`.
    """
    apart = {id(parameter) for parameter in whole}
    groups = []
    for group in optimizer.param_groups:
        for wanted in (False, True):
            params = [value for value in group["params"] if (id(value) in apart) is wanted]
            if params:
                groups.append({**group, "params": params})
    optimizer.param_groups[:] = groups


def average_gradients(model: nn.Module) -> None:
    """Average the gradients of the parameters that are not sharded over all processes, which call this together."""
    for parameter in model.parameters():
        if parameter.requires_grad and not isinstance(parameter, DTensor) and parameter.grad is not None:
            dist.all_reduce(parameter.grad)
            parameter.grad /= dist.get_world_size()


def saves_whole_weights(trainer: Any) -> bool:
    """Whether `Trainer` itself saves the whole weights of a sharded model (`state_dict_type` `FULL_STATE_DICT`)."""
    return trainer.accelerator.state.fsdp_plugin.state_dict_type == StateDictType.FULL_STATE_DICT


def is_sharded(model: Any) -> bool:
    """Whether FSDP2 has sharded a model."""
    return isinstance(model, FSDPModule)


@contextlib.contextmanager
def gathered(trainer: Any) -> Iterator[nn.Module]:
    """
    A context in which each process holds the whole weights of a trainer's model, in the precision that it computes in,
    to evaluate it by itself: the processes may call different methods of it, and as often as they like. All processes
    enter and leave it together. It gives the model, with its adapters.

    Args:
        trainer ([`TripletCLIPTrainer`]): Its model may be sharded or not.
    """
    model: Any = trainer.bare(trainer.model)
    if not is_sharded(model):
        yield model
        return
    parts = [module for module in model.modules() if isinstance(module, FSDPModule)]
    model.set_reshard_after_forward(False)
    for part in parts:
        part.unshard()

    def state_dict() -> dict[str, torch.Tensor]:
        whole = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        # A tensor on the CPU may come into numpy, and FSDP2 could not give back its memory.
        return {name: value.detach().clone() if value.device.type == "cpu" else value for name, value in whole.items()}

    # Both would give back the other processes' parts.
    replaced = {"state_dict": state_dict, "to": lambda *_, **__: model}
    vars(model).update(replaced)
    try:
        yield model
    finally:
        for name in replaced:
            del vars(model)[name]
        for part in parts:
            part.reshard()
        model.set_reshard_after_forward(trainer.accelerator.state.fsdp_plugin.reshard_after_forward)
        model.set_reshard_after_forward(False, recurse=False)  # of the root, as accelerate leaves it

# SPDX-License-Identifier: Apache-2.0
"""Which parameters train: each tower in full, by LoRA or not at all, the projections and `logit_scale`."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.utils import logging

from hf_tripletclip.layouts.adapters import scale_of
from hf_tripletclip.layouts.architectures import supported
from hf_tripletclip.layouts.files import ADAPTER_CONFIG, Layout, detect
from hf_tripletclip.modeling import TripletMixin

logger = logging.get_logger(__name__)

MODES = ("full", "lora", "frozen")
# Tower -> the module with its transformer, and its projection into the common space.
TOWERS = {"text": ("text_model", "text_projection"), "vision": ("vision_model", "visual_projection")}
# Words for sets of linear layers; the first is the default.
ATTENTION, ALL_LINEAR = "attention", "all-linear"
# The projections of an attention, as towers of transformers name them.
OF_ATTENTION = (
    *("q_proj", "k_proj", "v_proj", "out_proj", "o_proj"),  # CLIP, SigLIP, DINOv2
    *("query", "key", "value", "attention.output.dense"),  # BERT, ViT
)
KINDS = ("use_dora", "use_rslora")  # of LoRA; the other flags of it begin with `lora_`
HALF = {torch.float16, torch.bfloat16}


@dataclass
class TowerArguments:
    """Which parts of the model train."""

    train_text: str = field(default="full", metadata={"help": "The text tower: full, lora or frozen."})
    train_vision: str = field(default="full", metadata={"help": "The image tower: full, lora or frozen."})
    train_projections: bool | None = field(
        default=None,
        metadata={"help": "Train the two projections in full. Default: that of a tower that trains in full."},
    )
    train_logit_scale: bool | None = field(
        default=None, metadata={"help": "Train `logit_scale`. Default: yes, unless a tower trains by LoRA."}
    )
    lora_r: int = field(default=16, metadata={"help": "Rank of the adapters."})
    lora_alpha: int = field(default=32, metadata={"help": "Their scale is lora_alpha / lora_r."})
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout before the adapters."})
    lora_target_modules: list[str] = field(
        default_factory=lambda: [ATTENTION],
        metadata={
            "help": "Names of the linear layers that get an adapter; attention, the projections of the attention; or "
            "all-linear."
        },
    )
    use_dora: bool = field(default=False, metadata={"help": "DoRA: learn the weights' magnitude apart."})
    use_rslora: bool = field(default=False, metadata={"help": "rsLoRA: scale by lora_alpha / sqrt(lora_r)."})
    load_in_4bit: bool = field(
        default=False, metadata={"help": "QLoRA: keep the frozen weights in 4 bits; needs bitsandbytes."}
    )

    @property
    def modes(self) -> dict[str, str]:
        """Tower -> how it trains."""
        return {"text": self.train_text, "vision": self.train_vision}

    @property
    def has_lora(self) -> bool:
        """Whether a tower trains by LoRA."""
        return "lora" in self.modes.values()

    def check(self) -> None:
        """
        Check the settings, as far as that is possible without a model.

        Raises:
            ValueError: A setting is out of range, or nothing is left to train.
            ImportError: A library that the settings need is not installed.
        """
        for tower, mode in self.modes.items():
            if mode not in MODES:
                raise ValueError(f"`train_{tower}` is {mode!r}; give {', '.join(MODES)}.")
        if set(self.modes.values()) == {"frozen"} and not self.train_projections:
            raise ValueError(
                "Nothing is left to train: both towers are frozen and so are the projections. Give `--train_text` or "
                "`--train_vision` full or lora, or `--train_projections true`."
            )
        if self.lora_r < 1:
            raise ValueError(f"`lora_r` is {self.lora_r}; give at least 1.")
        if self.lora_alpha <= 0:
            raise ValueError(f"`lora_alpha` is {self.lora_alpha}; give at least 1: adapters are scaled by it.")
        if not 0 <= self.lora_dropout < 1:
            raise ValueError(f"`lora_dropout` is {self.lora_dropout}; give 0 or more and less than 1.")
        if self.has_lora and importlib.util.find_spec("peft") is None:
            raise ImportError('LoRA needs peft: pip install "hf_tripletclip[peft]"')
        if self.load_in_4bit:
            if not self.has_lora:
                raise ValueError("`load_in_4bit` is for LoRA: weights of 4 bits do not train themselves.")
            if importlib.util.find_spec("bitsandbytes") is None:
                raise ImportError("`load_in_4bit` needs bitsandbytes: pip install bitsandbytes")

    def loading_arguments(self) -> dict[str, Any]:
        """Further arguments of `from_pretrained`, for weights of 4 bits."""
        if not self.load_in_4bit:
            return {}
        from transformers import BitsAndBytesConfig

        return {
            "quantization_config": BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_compute_dtype=torch.bfloat16,
                # What trains in full must have real weights.
                llm_int8_skip_modules=[
                    name for tower, pair in TOWERS.items() for name in pair[0 if self.modes[tower] == "full" else 1 :]
                ],
            )
        }


def check_lora_is_used(argv: Sequence[str], runs: Sequence[TowerArguments]) -> None:
    """
    Check that some run trains by LoRA if the command line or a file sets LoRA's options. If the command line says how
    the towers train, the file's options do not matter.

    Raises:
        ValueError: No run does: training in full cannot be meant.
    """
    if any(run.has_lora for run in runs):
        return
    of_lora = [entry.name for entry in fields(TowerArguments) if entry.name.startswith("lora_") or entry.name in KINDS]
    flags = [flag.lstrip("-").split("=")[0].replace("-", "_") for flag in argv if flag.startswith("--")]
    given = [flag for flag in flags if flag in of_lora]
    if not {"train_text", "train_vision", "variants"} & set(flags):
        plain = TowerArguments()
        given += [name for name in of_lora if any(getattr(run, name) != getattr(plain, name) for run in runs)]
    if given:
        raise ValueError(
            f"`{given[0]}` is given, but no tower trains by LoRA: give `--train_text lora` or `--train_vision lora`."
        )


def check_fits(model: Any, args: TowerArguments) -> None:
    """
    Check, without changing it, that a model can be trained with these settings.

    Raises:
        ValueError: It is of a type that cannot be trained here, it has no projections that should train, or a LoRA
            target matches none of its layers.
    """
    if not isinstance(model, TripletMixin):
        raise ValueError(
            f"The model is a {type(model).__name__}, which cannot be trained here. The types are {supported()}."
        )
    if args.train_projections and not _projections(model):
        raise ValueError(
            f"`train_projections` is set, but a {type(model).__name__} has no projections behind its towers: leave it "
            "out, and give `--train_text` or `--train_vision` full or lora."
        )
    if args.has_lora:
        _target_pattern(model, args)


def check_no_adapter(source: str) -> None:
    """Raise `ValueError` if a model to start from is a PEFT adapter, which is no whole model."""
    if detect(source) is Layout.PEFT:
        raise ValueError(
            f"{source} is a PEFT adapter, and training starts from a whole model. Merge it into one first: "
            f"tripletclip convert {source} TARGET"
        )


def check_same_towers(checkpoint: str | os.PathLike[str], model: Any) -> None:
    """
    Raise `ValueError` if only one of a checkpoint and this run trains by LoRA, or if their adapters or base models
    differ: peft would load the weights that fit by name.

    Args:
        checkpoint (`str` or `os.PathLike`): A checkpoint folder.
        model: The model from `prepare_towers`.
    """
    path = Path(checkpoint) / ADAPTER_CONFIG
    config = getattr(model, "peft_config", {}).get("default")
    if path.is_file() is not (config is not None):
        there, here = ("by LoRA", "in full") if config is None else ("in full", "by LoRA")
        raise ValueError(f"{checkpoint} is of another run: it was trained {there}, and this run trains {here}.")
    if config is None:
        return
    saved = json.loads(path.read_text(encoding="utf-8"))
    for name, flag in ADAPTER_FIELDS.items():
        there, here = (_comparable(value) for value in (saved.get(name), getattr(config, name)))
        if there != here:
            raise ValueError(
                f"{checkpoint} is of another run: `{flag}` is {there!r} there, not {here!r}. Resume with its "
                "settings, or start another run."
            )


# Field of an adapter's config -> our flag.
ADAPTER_FIELDS = {
    "base_model_name_or_path": "model_name_or_path",
    "r": "lora_r",
    "lora_alpha": "lora_alpha",
    "lora_dropout": "lora_dropout",
    "target_modules": "lora_target_modules",
    "modules_to_save": "train_projections",
    "use_dora": "use_dora",
    "use_rslora": "use_rslora",
}


def _comparable(value: Any) -> Any:
    return sorted(value) if isinstance(value, (list, tuple, set)) else value


def prepare_towers(model: TripletMixin, args: TowerArguments, *, gradient_checkpointing: bool = False) -> Any:
    """
    Let only the parameters require gradients that should train, and add adapters if LoRA is asked for. A frozen tower
    keeps no activations for the backward pass.

    Args:
        model ([`TripletCLIPModel`]): The model; it is changed in place.
        args ([`TowerArguments`]): Which parts train.
        gradient_checkpointing (`bool`, defaults to `False`): Whether the trainer will use it: inside frozen weights
            it needs inputs that require gradients.

    Returns:
        The model, or a [`TripletCLIPPeftModel`] around it if a tower trains by LoRA.

    Raises:
        ValueError: A setting is out of range, nothing is left to train, or a LoRA target matches no layer.
        ImportError: peft or bitsandbytes is not installed.
    """
    args.check()
    check_fits(model, args)
    there = (*(module for module, _ in TOWERS.values()), *_projections(model))
    whole = [name for tower, mode in args.modes.items() for name in _in_full(tower, mode, args) if name in there]
    model.requires_grad_(False)
    trained: Any = model
    if args.has_lora:
        from peft import LoraConfig, prepare_model_for_kbit_training

        from hf_tripletclip.checkpoints.peft_model import TripletCLIPPeftModel

        if args.load_in_4bit:
            prepare_model_for_kbit_training(model, use_gradient_checkpointing=gradient_checkpointing)
            _keep_differentiable(model)
        config = LoraConfig(
            r=args.lora_r,
            lora_alpha=args.lora_alpha,
            lora_dropout=args.lora_dropout,
            target_modules=_target_pattern(model, args),
            modules_to_save=whole or None,
            use_dora=args.use_dora,
            use_rslora=args.use_rslora,
        )
        with warnings.catch_warnings():
            # peft asks for an attribute that transformers has renamed.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            trained = TripletCLIPPeftModel(model, config)
        if gradient_checkpointing:
            trained.enable_input_require_grads()
    else:
        for name in whole:
            model.get_submodule(name).requires_grad_(True)
    scale = not args.has_lora if args.train_logit_scale is None else args.train_logit_scale
    for value in scale_of(model).values():
        value.requires_grad_(scale)
    return trained


def hold_weights_in(model: nn.Module, dtype: str) -> None:
    """
    Hold a model's weights in a dtype, in place. In half precision an optimizer's small steps are lost, because most
    weights do not change (94 of 100, from a checkpoint in bfloat16 at a learning rate of 1e-5). Weights of 4 or 8 bits
    stay as they are.

    Args:
        model (`nn.Module`): The model, also with adapters.
        dtype (`str`): `float32`, `bfloat16` or `float16`; the latter two give a warning.
    """
    wanted: torch.dtype = getattr(torch, dtype)
    others = HALF if wanted == torch.float32 else {*HALF, torch.float32, torch.float64}
    replaced = set()
    for parameter in model.parameters():
        if parameter.dtype in others - {wanted} and not hasattr(parameter, "quant_state"):
            replaced.add(str(parameter.dtype).removeprefix("torch."))
            parameter.data = parameter.data.to(wanted)
            parameter.grad = None
    if wanted != torch.float32:
        logger.warning_once(
            f"The weights are trained in {dtype}, as `weights_dtype` asks: steps that are small beside a weight are "
            "lost. `--weights_dtype float32 --bf16` computes as fast and keeps them."
        )
    elif replaced:
        logger.warning(
            f"The model's weights are {' and '.join(sorted(replaced))}. They are trained and saved in float32: "
            "small steps are lost in half precision (`bf16` still computes in it; `weights_dtype` keeps it)."
        )


def _keep_differentiable(model: Any) -> None:
    """
    On some CPUs bitsandbytes (0.50) packs the weights at the first evaluation for a kernel without a backward pass, so
    that training cannot go on. This turns it off.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def _projections(model: Any) -> list[str]:
    """The names of the projections behind the towers; a SigLIP has none."""
    return [projection for _, projection in TOWERS.values() if hasattr(model, projection)]


def _in_full(tower: str, mode: str, args: TowerArguments) -> list[str]:
    transformer, projection = TOWERS[tower]
    with_projection = mode == "full" if args.train_projections is None else args.train_projections
    return [transformer] * (mode == "full") + [projection] * with_projection


def _target_pattern(model: nn.Module, args: TowerArguments) -> str:
    """A pattern of the linear layers that get an adapter, in the towers that train by LoRA."""
    towers = [TOWERS[tower][0] for tower, mode in args.modes.items() if mode == "lora"]
    # `nn.MultiheadAttention` reads the weights of its layer itself: an adapter around that would never train.
    closed = [name for name, module in model.named_modules() if isinstance(module, nn.MultiheadAttention)]
    linear = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.split(".")[0] in towers and name.rpartition(".")[0] not in closed
    ]
    last = list(dict.fromkeys(name.rpartition(".")[2] for name in linear))
    wanted = [name for target in args.lora_target_modules for name in _named(target, linear, last)]
    if unknown := [name for name in wanted if not any(_is(one, [name]) for one in linear)]:
        raise ValueError(
            f"`lora_target_modules` names {', '.join(unknown)}, which matches no linear layer of "
            f"{' and '.join(towers)}; there are {', '.join(last)}, {ATTENTION}, or {ALL_LINEAR}."
        )
    for tower in towers:
        of_tower = [name for name in linear if name.split(".")[0] == tower]
        if not any(_is(name, wanted) for name in of_tower):
            listed = ", ".join(dict.fromkeys(name.rpartition(".")[2] for name in of_tower))
            raise ValueError(
                f"`lora_target_modules` ({', '.join(args.lora_target_modules)}) matches no linear layer of {tower}, "
                f"which is to train by LoRA: also name some of {listed}, or give {ALL_LINEAR}."
            )
    pattern = rf"({'|'.join(towers)})\..*\.({'|'.join(map(re.escape, wanted))})"
    hit = [name for name in closed if re.fullmatch(pattern, f"{name}.out_proj")]
    return rf"(?!({'|'.join(map(re.escape, hit))})\.){pattern}" if hit else pattern


def _named(target: str, linear: Sequence[str], last: Sequence[str]) -> Sequence[str]:
    """The names of layers that one of `lora_target_modules` means."""
    if target == ALL_LINEAR:
        return last
    if target == ATTENTION:
        return [name for name in OF_ATTENTION if any(_is(one, [name]) for one in linear)]
    return [target]


def _is(name: str, wanted: Sequence[str]) -> bool:
    """Whether a layer's full name ends with one of these names."""
    return any(name.endswith(f".{one}") for one in wanted)


def describe_towers(model: Any, args: TowerArguments) -> str:
    """A line such as `Text tower lora, image tower frozen (rank 16): 300,000 of 151,300,000 parameters train`."""
    total, trained = (model.num_parameters(only_trainable=only) for only in (False, True))  # knows weights of 4 bits
    rank = f" (rank {args.lora_r})" if args.has_lora else ""
    return (
        f"Text tower {args.train_text}, image tower {args.train_vision}{rank}: "
        f"{trained:,} of {total:,} parameters train"
    )

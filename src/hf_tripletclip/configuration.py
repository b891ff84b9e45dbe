# SPDX-License-Identifier: Apache-2.0
"""The configuration of a TripletCLIP model: CLIP's own, plus how it is trained."""

from __future__ import annotations

import math
import os
import re
from typing import Any, Self

import torch
from huggingface_hub.dataclasses import strict
from transformers import CLIPConfig
from transformers.activations import ACT2FN

# Which code computes attention or experts is for whoever loads a model to say: the name of a Hub repository in a
# foreign file would make transformers fetch and run code from there.
IMPLEMENTATION = re.compile(r"_*(attn|experts)_implementation(_\w+)?")
SIZES = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "projection_dim",
    "vocab_size", "max_position_embeddings", "num_channels", "image_size", "patch_size",
)  # fmt: skip
NUMBERS = ("layer_norm_eps", "attention_dropout", "initializer_range", "initializer_factor", "logit_scale_init_value")
MAX_SIZE = 2**24  # of anything in a CLIP; the largest vocabularies have 2**18 tokens
MAX_LAYERS = 1_000  # a wrong number of layers would be built for hours
MAX_LABELS = 100_000
REMEDY = "Correct the file, or download it again."


@strict
class TripletCLIPConfig(CLIPConfig):
    r"""
    Configuration of a [`TripletCLIPModel`].

    It keeps `model_type = "clip"`, so a saved model opens in plain `transformers` (`AutoModel`, `CLIPModel`,
    `pipeline("zero-shot-image-classification")`) with no custom code, and every CLIP checkpoint opens as a
    [`TripletCLIPModel`]. The fields below are additional and optional; plain `transformers` keeps and ignores them.

    Args:
        objective (`str`, defaults to `"tripletclip"`):
            Name of the training objective; [`~hf_tripletclip.objectives.available_objectives`] lists them. Only
            `forward(..., return_loss=True)` uses it.
        objective_kwargs (`dict`, *optional*):
            Keyword arguments of the objective, as [`~hf_tripletclip.objectives.get_objective`] takes them.
        logit_scale_max (`float`, *optional*, defaults to 100.0):
            Upper bound of `exp(logit_scale)`, which the trainer enforces after every optimizer step
            (Radford et al. 2021, section 2.5). `None` means no bound. `forward` itself never clamps.
        **kwargs:
            Everything [`~transformers.CLIPConfig`] takes.

    Example:

    ```python
    >>> from hf_tripletclip import TripletCLIPConfig, TripletCLIPModel

    >>> config = TripletCLIPConfig(objective="negclip")
    >>> model = TripletCLIPModel(config)  # ViT-B/32 with random weights
    ```"""

    objective: str = "tripletclip"
    objective_kwargs: dict[str, Any] | None = None
    logit_scale_max: float | int | None = 100.0

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any
    ) -> Self:
        """
        Read a `config.json` as [`~transformers.PreTrainedConfig.from_pretrained`] does, but for what it says of the
        implementation of attention: that is given as the argument `attn_implementation`, or chosen by transformers.

        Raises:
            OSError: There is no such file, or it is no JSON.
            ValueError: It is of another kind of model, quantized, or a field has no value that makes a CLIP.
        """
        source = os.fspath(pretrained_model_name_or_path)
        try:
            found: Any = super().from_pretrained(source, **kwargs)
        except (OSError, ImportError, MemoryError, ConfigError):
            raise
        except Exception as error:  # what transformers meets with, wherever it first uses a value
            raise ConfigError(f"{_shown(source)} describes no CLIP: {one_line(error)}. {REMEDY}") from error
        if problem := problem_of(found[0] if isinstance(found, tuple) else found):
            raise ConfigError(f"{_shown(source)} describes no CLIP: {problem}. {REMEDY}")
        return found

    @classmethod
    def get_config_dict(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The fields of a `config.json` without what names an implementation, and the arguments that are left."""
        fields, kwargs = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        shown = _shown(os.fspath(pretrained_model_name_or_path))
        if not isinstance(fields, dict):
            raise ConfigError(f"{shown} must hold a JSON object. {REMEDY}")
        kind = fields.get("model_type", cls.model_type)
        if kind != cls.model_type:
            raise ConfigError(
                f"{shown} is of a model of the type {kind!r}; loaded here are CLIP models, of the type "
                f"{cls.model_type!r}. `tripletclip evaluate` and `tripletclip demo` take SigLIP and others too."
            )
        if fields.get("quantization_config"):
            raise ConfigError(
                f"{shown} is of a quantized model (`quantization_config`), whose weights are no floating numbers: "
                "load the model that it was made from."
            )
        for part in (fields, *(value for value in fields.values() if isinstance(value, dict))):
            if problem := _early_problem(part):
                raise ConfigError(f"{shown} describes no CLIP: {problem}. {REMEDY}")
        return without_implementations(fields), kwargs


class ConfigError(ValueError):
    """A `config.json` that describes no model which can be loaded; its message is one line."""


def without_implementations(fields: Any) -> Any:
    """Fields of a config without those that name an implementation of attention or experts, at any depth."""
    if isinstance(fields, dict):
        return {
            name: without_implementations(value)
            for name, value in fields.items()
            if not IMPLEMENTATION.fullmatch(str(name))
        }
    return [without_implementations(value) for value in fields] if isinstance(fields, list) else fields


def _early_problem(fields: dict[str, Any]) -> str | None:
    """Of the fields of a file, what transformers would meet with before it has a config to look at."""
    for name, most in (("num_labels", MAX_LABELS), ("num_attention_heads", MAX_SIZE)):  # it names each label at once
        value = fields.get(name)
        if value is not None and not (isinstance(value, int) and 1 <= value <= most):
            return f"`{name}` is {_short(value)}, a whole number from 1 to {most:,} is needed"
    for name in ("dtype", "torch_dtype"):
        value = fields.get(name)
        found = getattr(torch, value, None) if isinstance(value, str) else None
        if value is not None and not isinstance(found, torch.dtype):
            return f"`{name}` is {_short(value)}, which is no type of torch"
    return None


def problem_of(config: Any) -> str | None:
    """What makes no CLIP of a config whose fields have the right types; `None` where nothing does."""
    for where, part in (("", config), ("text_config.", config.text_config), ("vision_config.", config.vision_config)):
        for name in SIZES:
            value = getattr(part, name, 1)
            most = MAX_LAYERS if name == "num_hidden_layers" else MAX_SIZE
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
                return f"`{where}{name}` is {_short(value)}, a whole number from 1 to {most:,} is needed"
        for name in NUMBERS:
            value = getattr(part, name, 0)
            if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value) or value < 0:
                return f"`{where}{name}` is {_short(value)}, a finite number that is not negative is needed"
        act = getattr(part, "hidden_act", "gelu")
        if act not in ACT2FN:
            return f"`{where}hidden_act` is {_short(act)}, which is no activation that transformers knows"
        if part.dtype is not None and not (isinstance(part.dtype, torch.dtype) and part.dtype.is_floating_point):
            return f"`{where}dtype` is {_short(part.dtype)}, which is no floating point type"
    kwargs = getattr(config, "objective_kwargs", None)
    if kwargs is not None and not isinstance(kwargs, dict):
        return f"`objective_kwargs` is {_short(kwargs)}, an object with the objective's arguments is needed"
    vision = config.vision_config
    if vision.image_size < vision.patch_size:
        return f"`vision_config.patch_size` is {vision.patch_size}, more than the `image_size` of {vision.image_size}"
    return None


def one_line(error: BaseException, length: int = 300) -> str:
    """What an error says, on one line, without a full stop."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return _short(" ".join(str(error).split()) or type(error).__name__, length).rstrip(".")


def _short(value: object, length: int = 60) -> str:
    shown = value if isinstance(value, str) and value.isprintable() else repr(value)
    return shown if len(shown) <= length else f"{shown[: length - 1]}…"


def _shown(source: str) -> str:
    return source if source.endswith(".json") else f"the config.json of {source}"

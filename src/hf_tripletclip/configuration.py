# SPDX-License-Identifier: Apache-2.0
"""The configuration of a model: that of transformers, plus how it is trained."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from huggingface_hub.dataclasses import strict
from transformers import CLIPConfig
from transformers.activations import ACT2FN

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    _Config = PreTrainedConfig  # what the mixin is mixed into
else:
    _Config = object

# Which code computes attention or experts is for whoever loads a model to say: the name of a Hub repository in a
# foreign file would make transformers fetch and run code from there.
IMPLEMENTATION = re.compile(r"_*(attn|experts)_implementation(_\w+)?")
MAX_SIZE = 2**24  # of anything in a CLIP; the largest vocabularies have 2**18 tokens
SIZES = dict.fromkeys(
    ("hidden_size", "intermediate_size", "num_attention_heads", "projection_dim", "vocab_size",
     "max_position_embeddings", "num_channels", "image_size", "patch_size"),
    MAX_SIZE,
) | {"num_hidden_layers": 1_000, "num_labels": 100_000}  # fmt: skip
# With the largest that makes sense; of a logarithm, whose power float32 can hold.
NUMBERS = {
    "layer_norm_eps": 1, "attention_dropout": 1, "initializer_range": 1_000, "initializer_factor": 1_000,
    "logit_scale_init_value": 80,
}  # fmt: skip
TOWERS = ("text_config", "vision_config", "text_config_dict", "vision_config_dict")  # the latter of old checkpoints
MAX_BOUND = 1e30  # of the logit scale
REMEDY = "Correct the file, or download it again."


@dataclass(kw_only=True)
class TripletConfigMixin(_Config):
    """
    The fields that a model's training adds to a config of transformers, and a `from_pretrained` with errors of one
    line. They are those of [`TripletCLIPConfig`]; `model_type` stays that of transformers.
    """

    # The `model_type` of towers begins with this; `None` stands for the model's own, "" for any type.
    tower_types: ClassVar[str | None] = None
    pools_at_end: ClassVar[bool] = False  # whether the text tower pools at the end-of-text token

    objective: str = "tripletclip"
    objective_kwargs: dict[str, Any] | None = None
    logit_scale_max: float | int | None = 100.0

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any
    ) -> Self:
        """
        Read a `config.json` as [`~transformers.PreTrainedConfig.from_pretrained`] does, without the implementation of
        attention that it names: that is the argument `attn_implementation`, or transformers chooses it.

        Raises:
            OSError: There is no such file, or it is no JSON.
            ValueError: It is of another kind of model, quantized, or a field has no value that makes a model.
        """
        source = os.fspath(pretrained_model_name_or_path)
        kind: Any = cls
        try:
            found: Any = super().from_pretrained(source, **kwargs)
        except (OSError, ImportError, MemoryError, ConfigError):
            raise
        except Exception as error:  # raised by whatever in transformers first uses a value
            raise ConfigError(
                f"{_shown(source)} describes no {name_of(kind)}: {reason_of(error)}. {REMEDY}"
            ) from error
        if problem := problem_of(found[0] if isinstance(found, tuple) else found):
            raise ConfigError(f"{_shown(source)} describes no {name_of(kind)}: {problem}. {REMEDY}")
        return found

    @classmethod
    def get_config_dict(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The fields of a `config.json` without what names an implementation, and the arguments that are left."""
        fields, kwargs = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        shown = _shown(os.fspath(pretrained_model_name_or_path))
        own: Any = cls
        if not isinstance(fields, dict):
            raise ConfigError(f"{shown} must hold a JSON object. {REMEDY}")
        kind = fields.get("model_type", own.model_type)
        if kind != own.model_type:
            raise ConfigError(
                f"{shown} is of a model of the type {kind!r:.60}, and {own.__name__} is for the type "
                f"{own.model_type!r}. `AutoTripletModel` loads every type that can be trained; `tripletclip evaluate` "
                "and `tripletclip demo` take others too."
            )
        if fields.get("quantization_config"):
            raise ConfigError(
                f"{shown} is of a quantized model (`quantization_config`), whose weights are no floating numbers: "
                "load the model that it was made from."
            )
        prefix = own.model_type if cls.tower_types is None else cls.tower_types
        towers = [(name, fields[name]) for name in TOWERS if isinstance(fields.get(name), dict)]
        for name, part in (("", fields), *towers):  # other objects in it may be anybody's notes
            expected = prefix if name else own.model_type
            if problem := _early_problem(part, f"{name}." if name else "", expected, name_of(own)):
                raise ConfigError(f"{shown} describes no {name_of(own)}: {problem}. {REMEDY}")
            part.pop("auto_map", None)  # which names code in the repository
        return without_implementations(fields), kwargs


@strict
class TripletCLIPConfig(TripletConfigMixin, CLIPConfig):
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

    pools_at_end: ClassVar[bool] = True

    def __post_init__(self, **kwargs: Any) -> None:
        if type(self.logit_scale_init_value) is int:  # of which transformers would make a parameter of integers
            self.logit_scale_init_value = float(self.logit_scale_init_value)
        super().__post_init__(**kwargs)


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


def name_of(config: Any) -> str:
    """The name of an architecture in messages, of a config or its class: `CLIP`, or its `model_type`."""
    return "CLIP" if config.model_type == "clip" else f"model of the type {config.model_type!r}"


def _early_problem(fields: Mapping[str, Any], where: str, expected: str, name: str) -> str | None:
    """
    What is wrong in the fields of a file that transformers fails on before there is a config, or ignores. The
    `model_type`, if there is one, must begin as `expected`.
    """
    kind = fields.get("model_type")
    if kind is not None and not (isinstance(kind, str) and kind.startswith(expected)):
        return f"`{where}model_type` is {_short(kind)}, which is no part of a {name}"
    for name in ("dtype", "torch_dtype"):
        value = fields.get(name)
        found = getattr(torch, value, None) if isinstance(value, str) else None
        if value is not None and not isinstance(found, torch.dtype):
            return f"`{where}{name}` is {_short(value)}, which is no type of torch"
    return _problem_of_numbers(fields, where, any_tower=expected == "")


def _problem_of_numbers(fields: Mapping[str, Any], where: str, *, any_tower: bool = False) -> str | None:
    """What is wrong in the numbers of a config; towers of any type may have a size per side or per stage."""
    for name, most in SIZES.items():
        value = fields.get(name, 1)
        sides = value if any_tower and isinstance(value, (list, tuple)) else [value]
        if not sides or any(type(side) is not int or not 1 <= side <= most for side in sides):
            return f"`{where}{name}` is {_short(value)}, a whole number from 1 to {most:,} is needed"
    for name, most in NUMBERS.items():
        value = fields.get(name, 0)
        if not _is_number(value) or not 0 <= value <= most:
            return f"`{where}{name}` is {_short(value)}, a number from 0 to {most:,} is needed"
    return None


def problem_of(config: Any) -> str | None:
    """Why a config whose fields have the right types describes no dual encoder; `None` if it describes one."""
    text, vision = config.text_config, config.vision_config
    for where, part in (("", config), ("text_config.", text), ("vision_config.", vision)):
        if problem := _problem_of_numbers(vars(part), where, any_tower=config.tower_types == ""):
            return problem
        act = getattr(part, "hidden_act", "gelu")
        if act not in ACT2FN:
            return f"`{where}hidden_act` is {_short(act)}, which is no activation that transformers knows"
        if part.dtype is not None and not (isinstance(part.dtype, torch.dtype) and part.dtype.is_floating_point):
            return f"`{where}dtype` is {_short(part.dtype)}, which is no floating point type"
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        value = getattr(text, name, None)
        missing = value is None and (name != "eos_token_id" or not config.pools_at_end)
        if not missing and (type(value) is not int or not 0 <= value <= MAX_SIZE):
            return f"`text_config.{name}` is {_short(value)}, the id of a token is needed"
    bound = getattr(config, "logit_scale_max", None)
    if bound is not None and not (_is_number(bound) and 0 < bound <= MAX_BOUND):
        return f"`logit_scale_max` is {_short(bound)}, a number above 0 is needed, or null"
    objective, kwargs = getattr(config, "objective", ""), getattr(config, "objective_kwargs", None)
    if not isinstance(objective, str):
        return f"`objective` is {_short(objective)}, the name of an objective is needed"
    if kwargs is not None and not isinstance(kwargs, dict):
        return f"`objective_kwargs` is {_short(kwargs)}, an object with the objective's arguments is needed"
    image, patch = getattr(vision, "image_size", None), getattr(vision, "patch_size", None)
    if isinstance(image, int) and isinstance(patch, int) and image < patch:
        return f"`vision_config.patch_size` is {patch}, more than the `image_size` of {image}"
    return None


def _is_number(value: object) -> bool:
    return type(value) is int or (isinstance(value, float) and math.isfinite(value))


def reason_of(error: BaseException, length: int = 300) -> str:
    """What an error says, on one line, without a full stop."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return _short(" ".join(str(error).split()) or type(error).__name__, length).rstrip(".")


def _short(value: object, length: int = 60) -> str:
    shown = value if isinstance(value, str) and value.isprintable() else repr(value)
    return shown if len(shown) <= length else f"{shown[: length - 1]}…"


def _shown(source: str) -> str:
    return source if source.endswith(".json") else f"the config.json of {source}"

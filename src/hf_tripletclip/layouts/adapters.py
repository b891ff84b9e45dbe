# SPDX-License-Identifier: Apache-2.0
"""PEFT adapters: the model that one adapts, its weights, and the learned scale beside it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.trainer_utils import unwrap_peft_model

from hf_tripletclip.layouts.files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, CONFIG_FILE, LOGIT_SCALE_FILE, find_file
from hf_tripletclip.layouts.weights import check_kind_of_file, check_weights, damaged
from hf_tripletclip.utils.files import read_json_object

LOGIT_SCALE, LOGIT_BIAS = "logit_scale", "logit_bias"  # the tensors in `LOGIT_SCALE_FILE`


def read_base(source: str | os.PathLike[str], **kwargs: Any) -> tuple[str, str | None]:
    """
    The model that an adapter adapts, a directory or Hub id, and its revision.

    Args:
        source (`str` or `os.PathLike`): The adapter, a directory or Hub id.
        kwargs: The arguments of `from_pretrained`; those about the Hub are used.

    Raises:
        OSError: There is no `adapter_config.json`, or it cannot be reached.
        ValueError: The file is not valid JSON, or names no model, or the adapter itself.
    """
    config_file = find_file(source, ADAPTER_CONFIG, kwargs)
    if config_file is None:
        raise OSError(f"{source} has no {ADAPTER_CONFIG}.")
    config = read_json_object(config_file)
    base, revision = config.get("base_model_name_or_path"), config.get("revision")
    for name, value in (("base_model_name_or_path", base), ("revision", revision)):
        if value is not None and not isinstance(value, str):
            raise ValueError(f"{config_file}: `{name}` is {value!r:.60}, a text is needed.")
    if not base:
        raise ValueError(
            f"{source} is a PEFT adapter whose {ADAPTER_CONFIG} does not say of which model: set "
            "`base_model_name_or_path` in it to a directory or Hub id."
        )
    if base == os.fspath(source) or (os.path.isdir(base) and os.path.isdir(source) and os.path.samefile(base, source)):
        raise ValueError(f"{source} is a PEFT adapter that names itself as the model that it adapts.")
    return base, revision


def check_base(source: str | os.PathLike[str], base: str, **kwargs: Any) -> None:
    """
    Check that what an adapter adapts is no adapter.

    Args:
        source (`str` or `os.PathLike`): The adapter, for messages.
        base (`str`): What it adapts, a directory or Hub id.
        kwargs: The arguments of `from_pretrained`; those about the Hub are used.

    Raises:
        ValueError: It is an adapter, perhaps this one itself.
        OSError: It cannot be reached.
    """
    try:
        of_base = find_file(base, ADAPTER_CONFIG, kwargs)
    except OSError as error:
        raise OSError(cannot_load(source, base, error)) from error
    if of_base and not find_file(base, CONFIG_FILE, kwargs):
        raise ValueError(
            f"{source} is a PEFT adapter of {base}, which is itself an adapter: write that as a whole model first "
            f"(`tripletclip convert {base} MODEL`), and set `base_model_name_or_path` in the {ADAPTER_CONFIG} to it."
        )


def check_adapter_weights(source: str | os.PathLike[str], kwargs: Mapping[str, Any]) -> None:
    """
    Check the weights of an adapter, see [`~hf_tripletclip.layouts.weights.check_weights`].

    Raises:
        OSError: There are none.
        ValueError: They cannot be read without running code, or are not finite.
    """
    hub = {**kwargs, **(kwargs.get("adapter_kwargs") or {})}
    path = next((path for name in ADAPTER_WEIGHTS if (path := find_file(source, name, hub))), None)
    if path is None:
        raise OSError(f"{source} has an {ADAPTER_CONFIG} but no {' or '.join(ADAPTER_WEIGHTS)}.")
    try:
        check_weights([Path(path)])
    except ValueError as error:
        raise ValueError(f"the weights of the PEFT adapter {source} cannot be read: {error}") from error


def cannot_load(source: str | os.PathLike[str], base: str, error: Exception) -> str:
    """What to say of an adapter whose base cannot be loaded."""
    told = f"{source} is a PEFT adapter of {base}, which cannot be loaded: {error}"
    if os.path.isabs(base) or os.path.exists(base):
        return told
    return (
        f"{told} If {base!r} is a folder, its path was stored relative to the working directory of the training run: "
        f"run the command there, or set `base_model_name_or_path` in the {ADAPTER_CONFIG} to the folder."
    )


def write_scale(model: Any, folder: str | os.PathLike[str]) -> None:
    """Write a model's scale, and its bias if it has one, beside an adapter."""
    write_tensors(scale_of(model), folder)


def write_tensors(tensors: Mapping[str, torch.Tensor], folder: str | os.PathLike[str]) -> None:
    """Write what `scale_of` gave beside an adapter."""
    save_file({name: value.detach().cpu().clone() for name, value in tensors.items()}, Path(folder) / LOGIT_SCALE_FILE)


def scale_of(model: Any) -> dict[str, torch.Tensor]:
    """The parameters of a model that peft does not save because they are no modules: its scale and its bias."""
    found = {name: getattr(model, name, None) for name in (LOGIT_SCALE, LOGIT_BIAS)}
    return {name: value for name, value in found.items() if value is not None}


def read_scale(source: str | os.PathLike[str], **kwargs: Any) -> dict[str, torch.Tensor] | None:
    """
    The scale beside an adapter, and the bias if the model has one; `None` if there is none.

    Args:
        source (`str` or `os.PathLike`): The adapter, a directory or Hub id.
        kwargs: The arguments of `from_pretrained`; those about the Hub are used.

    Raises:
        OSError: The Hub refuses access or answers with an error.
        ValueError: The file holds no scale.
    """
    path = find_file(source, LOGIT_SCALE_FILE, kwargs)
    if path is None:
        return None
    check_kind_of_file(Path(path))
    try:
        found = load_file(path)
    except SafetensorError as error:
        raise ValueError(damaged(Path(path), error)) from error
    for name, value in {LOGIT_SCALE: found.get(LOGIT_SCALE), **found}.items():
        if value is None or value.numel() != 1 or not value.isfinite().all():
            raise ValueError(f"{path} must hold `{name}`, one finite number.")
    return found


@torch.no_grad()
def set_scale(model: Any, scale: Mapping[str, torch.Tensor] | None) -> None:
    """Give a model the scale, and the bias, that were read beside an adapter, if there are any."""
    own = scale_of(model)
    for name, value in (scale or {}).items():
        if name in own:
            own[name].copy_(value.reshape(own[name].shape))


def save_logit_scale(model: nn.Module, folder: str | os.PathLike[str]) -> None:
    """
    Write `logit_scale` beside the adapter of a `PeftModel` of peft's own class if it was trained: peft saves modules,
    and `logit_scale` is a bare parameter. [`TripletCLIPPeftModel`] does that itself.
    """
    core: Any = unwrap_peft_model(model)
    if core is not model and not _keeps_scale(model) and core.logit_scale.requires_grad:
        write_scale(core, folder)


def load_logit_scale(model: nn.Module, folder: str | os.PathLike[str]) -> None:
    """Read what `save_logit_scale` wrote, if it did. [`TripletCLIPPeftModel`] does that itself."""
    core: Any = unwrap_peft_model(model)
    if core is not model and not _keeps_scale(model):
        set_scale(core, read_scale(folder))


def _keeps_scale(model: nn.Module) -> bool:
    return bool(getattr(model, "keeps_logit_scale", False))

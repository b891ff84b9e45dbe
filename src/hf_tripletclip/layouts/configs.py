# SPDX-License-Identifier: Apache-2.0
"""Configs of others: read with errors of one line, and without what would make transformers fetch code."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig
from transformers.utils import CONFIG_NAME

from hf_tripletclip.configuration import ConfigError, reason_of, without_implementations

MAX_TEXT_LENGTH = 512  # tokens, of a text tower whose config names no limit


def read_config(source: str | os.PathLike[str], **options: Any) -> PreTrainedConfig:
    """
    The config of a model of any kind that transformers knows, as [`~transformers.AutoConfig`] reads it, but for the
    implementations of attention and experts that it names, see [`TripletCLIPConfig.from_pretrained`].

    Args:
        source (`str` or `os.PathLike`): A directory or the id of a Hub repository.
        options: `revision`, `token`, ... as in `from_pretrained`. Code in the repository is never run.

    Raises:
        OSError: A repository has no config, or it cannot be reached.
        ValueError: It describes no model that transformers knows, or a directory has none.
    """
    options["trust_remote_code"] = False
    folder = Path(source, options.get("subfolder") or "")
    if folder.is_dir() and not (folder / CONFIG_NAME).is_file():
        raise ConfigError(f"{folder} holds no model: it has no {CONFIG_NAME}.")
    try:
        config = AutoConfig.from_pretrained(source, **options)
    except (OSError, ImportError, MemoryError):
        raise
    except (Exception, StrictDataclassError) as error:  # what a config of any kind meets with
        raise ConfigError(
            f"the config.json of {source} describes no model that can be loaded: {reason_of(error)}."
        ) from error
    forget_implementations(config)
    return config


def forget_implementations(config: PreTrainedConfig) -> None:
    """Let a config that was read name no implementation, in any of its parts; transformers chooses one then."""
    config._attn_implementation_internal = "eager" if config.output_attentions else None
    config._experts_implementation_internal = None
    for name, value in list(vars(config).items()):
        if isinstance(value, PreTrainedConfig):
            forget_implementations(value)
        elif isinstance(value, dict | list):  # a part that is made into a config later
            setattr(config, name, without_implementations(value))


def text_positions(text_model: nn.Module, text_config: Any) -> int:
    """
    How many tokens a text tower takes, special tokens included.

    Args:
        text_model (`torch.nn.Module`): The tower; its weights are not looked at.
        text_config ([`~transformers.PreTrainedConfig`]): Its config.
    """
    positions = getattr(text_config, "max_position_embeddings", MAX_TEXT_LENGTH)
    for name, module in text_model.named_modules():
        # Towers of RoBERTa's kind number positions from behind the padding's id.
        if "position_embedding" in name and getattr(module, "padding_idx", None) is not None:
            positions -= module.padding_idx + 1
    return int(positions)


def without_weights(config: PreTrainedConfig) -> Any:
    """The model of a config on the device `meta`: its shapes, and no memory."""
    with torch.device("meta"):
        return AutoModel.from_config(config)

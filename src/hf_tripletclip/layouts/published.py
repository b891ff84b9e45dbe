# SPDX-License-Identifier: Apache-2.0
"""The layout of the published TripletCLIP checkpoints: two encoders in two folders.

```
text-encoder/config.json       vision-encoder/config.json
text-encoder/model.safetensors vision-encoder/model.safetensors
```

Each file holds a `CLIPTextModelWithProjection` or `CLIPVisionModelWithProjection` whose tensor names start with
`model.`. Beside them lie Python files, which are never run.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPVisionConfig, CLIPVisionModelWithProjection
from transformers.utils import cached_file, logging

from hf_tripletclip.configuration import TripletCLIPConfig, problem_of, reason_of, without_implementations
from hf_tripletclip.layouts.files import (
    CONFIG_FILE,
    HUB_ARGUMENTS,
    TEXT_FOLDER,
    VISION_FOLDER,
    WEIGHTS_FILE,
    hub_arguments,
)
from hf_tripletclip.layouts.weights import check_kind_of_file, check_tensors
from hf_tripletclip.utils.files import read_json_object

logger = logging.get_logger(__name__)

# All are ViT-B/32 in float32.
PUBLISHED_CHECKPOINTS = tuple(
    f"TripletCLIP/{name}_ViTB12"
    for name in (
        "CC3M_LaCLIP",
        "CC3M_LaCLIP_Real_HN",
        "CC3M_NegCLIP",
        "CC3M_NegCLIPPP",
        "CC3M_TripletCLIP",
        "CC12M_LaCLIP",
        "CC12M_NegCLIP",
        "CC12M_NegCLIPPP",
        "CC12M_TripletCLIP",
    )
)

PREFIX = "model."
DEFAULT_LOGIT_SCALE = math.log(100.0)

# Arguments that choose among files or allow code, of which this layout has only one answer.
MEANINGLESS_ARGUMENTS = ("trust_remote_code", "code_revision", "use_safetensors", "weights_only", "adapter_kwargs")


def text_encoder_config(source: str | os.PathLike[str], **kwargs: Any) -> dict[str, Any]:
    """The fields of `text-encoder/config.json`, among them `model_name`, the model that brings the processor."""
    return _read_config(source, TEXT_FOLDER, hub_arguments(kwargs))


def load_split_encoders(
    source: str | os.PathLike[str], logit_scale: float | None = None, **kwargs: Any
) -> tuple[TripletCLIPConfig, dict[str, torch.Tensor], dict[str, Any]]:
    """
    Read the published layout, from a directory or through the Hub's cache; only its four files are downloaded.

    Args:
        source (`str` or `os.PathLike`): A directory or the id of a Hub repository.
        logit_scale (`float`, *optional*):
            Value of the parameter `logit_scale`, which the files do not hold. Defaults to ln(100), CLIP's bound, with
            a warning.
        kwargs: The arguments of `from_pretrained`.

    Returns:
        The config, the state dict under `CLIPModel`'s names, and the arguments that `from_pretrained` has yet to use.

    Raises:
        OSError: A file is missing or cannot be reached.
        ValueError: A tensor is missing, extra, misshaped, not floating or not finite, a weights file is corrupt, a
            config does not describe a CLIP encoder, or `logit_scale` is not finite.
    """
    hub = {name: value for name in HUB_ARGUMENTS if (value := kwargs.pop(name, None)) is not None}
    for name in MEANINGLESS_ARGUMENTS:
        kwargs.pop(name, None)
    config = kwargs.pop("config", None)
    if config is None:
        config = _config(source, hub)
    elif not isinstance(config, TripletCLIPConfig):
        raise ValueError("The published layout takes a `TripletCLIPConfig` as `config`, or none: it has its own.")
    for name in [name for name in kwargs if hasattr(config, name) and name != "dtype"]:
        setattr(config, name, kwargs.pop(name))  # as `from_pretrained` does with fields of the config

    state_dict = {
        **_read_weights(source, TEXT_FOLDER, CLIPTextModelWithProjection, config.text_config, hub),
        **_read_weights(source, VISION_FOLDER, CLIPVisionModelWithProjection, config.vision_config, hub),
    }
    if logit_scale is None:
        logit_scale = DEFAULT_LOGIT_SCALE
        logger.warning(
            f"{source} holds no `logit_scale`: it is set to ln(100). Rankings do not depend on it, probabilities do; "
            "`from_pretrained(..., logit_scale=...)` sets another value."
        )
    elif not math.isfinite(logit_scale):
        raise ValueError(f"`logit_scale` must be finite, it is {logit_scale}.")
    state_dict["logit_scale"] = torch.tensor(float(logit_scale))
    return config, state_dict, kwargs


def _get(source: str | os.PathLike[str], folder: str, name: str, hub: dict[str, Any]) -> str:
    hub = dict(hub)
    subfolder = "/".join(part for part in (hub.pop("subfolder", ""), folder) if part)
    path = cached_file(source, name, subfolder=subfolder, **hub)
    if path is None:  # it raises for other missing files, but not for a config.json
        raise OSError(f"{source} does not have a file named {subfolder}/{name}.")
    return path


def _read_config(source: str | os.PathLike[str], folder: str, hub: dict[str, Any]) -> dict[str, Any]:
    return read_json_object(_get(source, folder, CONFIG_FILE, hub))


def _config(source: str | os.PathLike[str], hub: dict[str, Any]) -> TripletCLIPConfig:
    """The config of both encoders; what their files leave out has CLIP's default, ViT-B/32."""
    towers = {}
    for folder, config_class in ((TEXT_FOLDER, CLIPTextConfig), (VISION_FOLDER, CLIPVisionConfig)):
        known = config_class().to_dict().keys() - {"model_type", "architectures", "transformers_version"}
        fields = without_implementations(_read_config(source, folder, hub))
        try:
            towers[folder] = config_class(**{name: value for name, value in fields.items() if name in known})
        except (StrictDataclassError, ArithmeticError, AttributeError, TypeError, ValueError) as error:
            raise ValueError(
                f"{folder}/{CONFIG_FILE} of {source} does not describe an encoder: {reason_of(error)}."
            ) from error
    text, vision = towers[TEXT_FOLDER], towers[VISION_FOLDER]
    if text.projection_dim != vision.projection_dim:
        raise ValueError(
            f"{source}: the encoders do not fit each other, `projection_dim` is {text.projection_dim} in "
            f"{TEXT_FOLDER} and {vision.projection_dim} in {VISION_FOLDER}."
        )
    config = TripletCLIPConfig(
        text_config=text.to_dict(),
        vision_config=vision.to_dict(),
        projection_dim=text.projection_dim,
        architectures=["TripletCLIPModel"],
    )
    if problem := problem_of(config):
        raise ValueError(f"{source} does not describe two encoders: {problem}.")
    return config


def _read_weights(
    source: str | os.PathLike[str], folder: str, model_class: type, config: Any, hub: dict[str, Any]
) -> dict[str, torch.Tensor]:
    """The tensors of one encoder under `CLIPModel`'s names, each checked against the encoder that the config says."""
    path = _get(source, folder, WEIGHTS_FILE, hub)
    where = f"{folder}/{WEIGHTS_FILE} of {source}"
    check_kind_of_file(Path(path))
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{where} is not a readable safetensors file: {error}. Download it again.") from error
    with torch.device("meta"):
        expected = {PREFIX + name: tensor for name, tensor in model_class(config).state_dict().items()}
    # A buffer that old versions of transformers wrote.
    tensors = {name: tensor for name, tensor in tensors.items() if not name.endswith("embeddings.position_ids")}
    check_tensors(tensors, expected, where)
    return {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}

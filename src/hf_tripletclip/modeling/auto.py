# SPDX-License-Identifier: Apache-2.0
"""`AutoTripletModel`: the class for a checkpoint, by its config."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from typing import Any

from hf_tripletclip.layouts.adapters import cannot_load, check_base, read_base
from hf_tripletclip.layouts.architectures import ARCHITECTURES, Architecture, architecture_of, supported
from hf_tripletclip.layouts.files import CONFIG_FILE, CONNECTION_ARGUMENTS, Layout, detect, find_file
from hf_tripletclip.modeling.forward import TripletMixin
from hf_tripletclip.utils.files import read_json_object


class AutoTripletModel:
    """
    Loads any dual encoder that can be trained here, by the `model_type` of its config: CLIP, SigLIP, SigLIP 2 of fixed
    resolution, MetaCLIP 2, Chinese-CLIP, AltCLIP, and `VisionTextDualEncoderModel` with towers of any kind.

    It cannot be instantiated: use [`AutoTripletModel.from_pretrained`] or [`AutoTripletModel.from_config`].

    Example:

    ```python
    >>> from hf_tripletclip import AutoTripletModel

    >>> model = AutoTripletModel.from_pretrained("google/siglip2-base-patch16-224")
    >>> type(model).__name__
    'TripletSiglipModel'
    ```"""

    def __init__(self) -> None:
        raise TypeError("AutoTripletModel has no instances: use `from_pretrained` or `from_config`.")

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any) -> Any:
        """
        Load a model, see [`TripletCLIPModel.from_pretrained`].

        Args:
            pretrained_model_name_or_path (`str` or `os.PathLike`): A directory or the id of a Hub repository: a model,
                one in the layout of the published TripletCLIP checkpoints, or a PEFT adapter.
            kwargs: As of [`~transformers.PreTrainedModel.from_pretrained`].

        Raises:
            OSError: There is no model, or it cannot be reached.
            ValueError: It is of a type that cannot be trained here, or its files are damaged.
        """
        loading = architecture_at(pretrained_model_name_or_path, **kwargs)
        return model_class(loading).from_pretrained(pretrained_model_name_or_path, **kwargs)

    @classmethod
    def from_config(cls, config: Any, **kwargs: Any) -> Any:
        """
        A model with random weights.

        Args:
            config ([`~transformers.PreTrainedConfig`]): Of one of the supported types.
            kwargs: `attn_implementation` and `dtype`.

        Raises:
            ValueError: The type is not supported.
        """
        return model_class(checked(architecture_of(config), config, "the config"))._from_config(config, **kwargs)


def model_class(architecture: Architecture) -> type[TripletMixin]:
    """The class of this package for an architecture."""
    module, _, name = architecture.model.partition(":")
    found: type[TripletMixin] = getattr(importlib.import_module(f"hf_tripletclip.modeling.{module}"), name)
    return found


def architecture_at(source: str | os.PathLike[str], **kwargs: Any) -> Architecture:
    """
    The architecture of a checkpoint: what its `config.json` says, or that of the model that an adapter adapts.

    Args:
        source (`str` or `os.PathLike`): A directory or the id of a Hub repository.
        kwargs: The arguments of `from_pretrained`; those about the Hub are used.

    Raises:
        OSError: The Hub cannot be reached, or an adapter's base.
        ValueError: It is of a type that cannot be trained here.
    """
    layout = detect(source, **kwargs)
    if layout is Layout.PEFT:
        base, revision = read_base(source, **kwargs)
        of_base = {name: value for name, value in kwargs.items() if name in CONNECTION_ARGUMENTS}
        check_base(source, base, revision=revision, **of_base)
        try:
            return architecture_at(base, revision=revision, **of_base)
        except OSError as error:
            raise OSError(cannot_load(source, base, error)) from error
    path = find_file(source, CONFIG_FILE, kwargs) if layout is Layout.TRANSFORMERS else None
    if path is None:  # another layout, or none: both are those of CLIP to say
        return ARCHITECTURES["clip"]
    config = read_json_object(path, f"the {CONFIG_FILE} of {os.fspath(source)}")
    return checked(architecture_of(config), config, os.fspath(source))


def default_objective(source: str | os.PathLike[str] | None) -> str:
    """
    The objective that a model of this architecture is trained with by default.

    Args:
        source (`str` or `os.PathLike`, *optional*): A checkpoint, see `architecture_at`; `None` for a new CLIP.
    """
    architecture = ARCHITECTURES["clip"] if source is None else architecture_at(source)
    return str(model_class(architecture).config_class.objective)


def checked(architecture: Architecture | None, config: Any, shown: str) -> Architecture:
    """An architecture; raises `ValueError` if there is none for the config."""
    if architecture is not None:
        return architecture
    kind = config.get("model_type") if isinstance(config, Mapping) else getattr(config, "model_type", None)
    further = (
        " SigLIP 2 of flexible resolution (NaFlex) has images of different shapes: take a checkpoint of fixed "
        "resolution, such as google/siglip2-base-patch16-224."
        if kind == "siglip2"
        else ""
    )
    raise ValueError(
        f"{shown} is of a model of the type {kind!r:.60}, which cannot be trained here. The types are {supported()}."
        f"{further}"
    )

# SPDX-License-Identifier: Apache-2.0
"""The files of a checkpoint: their names, where they are, and which layout they make."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

from huggingface_hub import _CACHED_NO_EXIST, try_to_load_from_cache
from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from huggingface_hub.file_download import repo_folder_name
from transformers.utils import cached_file

from hf_tripletclip.utils.registry import load_class

# A model of transformers.
CONFIG_FILE, WEIGHTS_FILE, WEIGHTS_INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
# The published TripletCLIP checkpoints: each encoder has a `config.json` and a `model.safetensors` in its folder.
TEXT_FOLDER, VISION_FOLDER = "text-encoder", "vision-encoder"
TEXT_CONFIG = f"{TEXT_FOLDER}/{CONFIG_FILE}"
# A PEFT adapter, and the scale beside it: an adapter itself holds modules only.
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
LOGIT_SCALE_FILE = "logit_scale.safetensors"
# A model of OpenCLIP; the weights in the order in which OpenCLIP looks for them.
OPENCLIP_CONFIG = "open_clip_config.json"
OPENCLIP_WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
)
# What `save_pretrained` of a processor writes, by today's and by older versions of transformers.
PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")
TOKENIZER_FILES = ("tokenizer.json", "vocab.json")
VOCABULARY_FILES = (*TOKENIZER_FILES, "vocab.txt", "spiece.model")  # also of BERT's and SigLIP's tokenizers

# Where files come from; the rest of `from_pretrained`'s arguments say what is made of them.
CONNECTION_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "proxies", "token")
HUB_ARGUMENTS = (*CONNECTION_ARGUMENTS, "revision", "subfolder")


class Layout(StrEnum):
    """The layout of a checkpoint. The value is the Hub's `library_name`, if the Hub knows the layout."""

    TRANSFORMERS = "transformers"
    PEFT = "peft"
    OPENCLIP = "open_clip"
    PUBLISHED = "published"


# File -> the layout that it makes; of several the first counts.
LAYOUT_FILES = {
    CONFIG_FILE: Layout.TRANSFORMERS,
    TEXT_CONFIG: Layout.PUBLISHED,
    ADAPTER_CONFIG: Layout.PEFT,
    OPENCLIP_CONFIG: Layout.OPENCLIP,
}
# Layouts that `from_pretrained` reads and transformers does not -> the function that does, by its module in `layouts`.
READERS: dict[str, str] = {Layout.PUBLISHED: "published:load_split_encoders"}


def reader_of(layout: Layout | None) -> Callable[..., tuple[Any, dict[str, Any], dict[str, Any]]] | None:
    """
    The function that reads a layout; `None` if transformers or `tripletclip convert` does.

    The function gets the source and the arguments of `from_pretrained`, and returns a `TripletCLIPConfig`, the tensors
    under `CLIPModel`'s names, and the arguments that are yet to use.
    """
    return (
        None
        if layout is None or layout not in READERS
        else load_class("layout", layout, READERS, "hf_tripletclip.layouts")
    )


def layout_of(has_file: Callable[[str], Any]) -> Layout | None:
    """
    The layout of a checkpoint, by its files. An adapter beside a model counts as an adapter, as for transformers, and
    a model of transformers in the layout of OpenCLIP, too, as one of transformers.

    Args:
        has_file (`Callable[[str], Any]`): Tells whether the checkpoint has a file of this name.

    Returns:
        [`Layout`], or `None` if the checkpoint has none of the layouts.
    """
    layout = next((layout for name, layout in LAYOUT_FILES.items() if has_file(name)), None)
    return Layout.PEFT if layout is Layout.TRANSFORMERS and has_file(ADAPTER_CONFIG) else layout


def detect(source: str | os.PathLike[str], **kwargs: Any) -> Layout | None:
    """
    The layout of a directory or Hub repository; of the Hub, only the files that tell the layout are downloaded.

    Args:
        source (`str` or `os.PathLike`): A directory or the id of a Hub repository.
        kwargs: The arguments of `from_pretrained`; those about the Hub are used.

    Returns:
        [`Layout`], or `None` if it has none of the layouts.

    Raises:
        OSError: The repository is gated or does not exist, or the Hub cannot be reached.
    """
    return layout_of(lambda name: find_file(source, name, kwargs))


def folder_layout(folder: Path) -> Layout | None:
    """The layout of a directory; `None` if it has none of the layouts, or does not exist."""
    return layout_of(lambda name: (folder / name).is_file())


def hub_arguments(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `from_pretrained`'s arguments that say where files come from, without those that are `None`."""
    return {name: kwargs[name] for name in HUB_ARGUMENTS if kwargs.get(name) is not None}


def find_file(source: str | os.PathLike[str], name: str, kwargs: Mapping[str, Any]) -> str | None:
    """
    The local path of a file, downloaded if need be; `None` if the file is missing. Without a connection the cache
    decides, and whoever cannot do without the file reports it.

    Args:
        source (`str` or `os.PathLike`): A directory or the id of a Hub repository.
        name (`str`): The file, relative to the source.
        kwargs (`Mapping[str, Any]`): The arguments of `from_pretrained`; those about the Hub are used.

    Raises:
        OSError: The Hub refuses access or answers with an error. Then nobody knows whether the file is missing, and
            a guess would load the weights of another layout or the processor of another model.
    """
    hub = hub_arguments(kwargs)
    try:
        return cached_file(source, name, **hub)
    except OSError as error:
        cause = error.__cause__
        if cause is None and error.errno is None:
            return None  # `cached_file`'s own error for a missing file
        if not isinstance(cause, LocalEntryNotFoundError):
            raise
        if isinstance(cause.__cause__, HfHubHTTPError) and not _known_to_be_missing(source, name, hub):
            raise
        if not _is_cached(source, hub):  # each further file would take the client's retries
            raise OSError(f"There is no directory {source}, and the Hub cannot be reached to find it.") from error
        return None


def _is_cached(source: str | os.PathLike[str], hub: dict[str, Any]) -> bool:
    """Whether anything of a repository is in the cache."""
    folder = repo_folder_name(repo_id=os.fspath(source), repo_type="model")
    return Path(hub.get("cache_dir") or HF_HUB_CACHE, folder).exists()


def _known_to_be_missing(source: str | os.PathLike[str], name: str, hub: dict[str, Any]) -> bool:
    """Whether the cache remembers that the Hub does not have the file."""
    path = "/".join(part for part in (hub.get("subfolder"), name) if part)
    cached = try_to_load_from_cache(str(source), path, cache_dir=hub.get("cache_dir"), revision=hub.get("revision"))
    return cached is _CACHED_NO_EXIST

# SPDX-License-Identifier: Apache-2.0
"""The processor of a checkpoint, also of one that was published without."""

from __future__ import annotations

import os
from typing import Any

from transformers import CLIPProcessor

from hf_tripletclip.checkpoints.published import find_file, is_split_encoder_layout, text_encoder_config

# What `save_pretrained` of a processor writes, by today's and by older versions of transformers.
PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")


def load_processor(source: str | os.PathLike[str], **kwargs: Any) -> CLIPProcessor:
    """
    Load the processor (image processor and tokenizer) that belongs to a checkpoint.

    The published TripletCLIP checkpoints have none of their own; where none was put beside them it is that of the
    model which `text-encoder/config.json` names, `openai/clip-vit-base-patch32`. Code in a repository is never run,
    with `trust_remote_code=True` neither.

    Args:
        source (`str` or `os.PathLike`): A directory or the id of a Hub repository.
        kwargs: `revision`, `token`, `cache_dir`, `local_files_only`, ... as in `from_pretrained`. For the processor of
            another repository, `revision` and `subfolder` do not apply and are left out.

    Raises:
        OSError: There is no processor, or it cannot be reached.
        ValueError: A published checkpoint does not name the model that it is based on, or its processor is custom code
            only.

    Example:

    ```python
    >>> from hf_tripletclip import load_processor

    >>> processor = load_processor("TripletCLIP/CC12M_TripletCLIP_ViTB12")
    >>> inputs = processor(text=["a black dog chasing a white cat"], return_tensors="pt", padding=True)
    ```"""
    kwargs["trust_remote_code"] = False  # an explicit no: without it, transformers asks at a terminal
    if not is_split_encoder_layout(source, **kwargs) or any(
        find_file(source, name, kwargs) for name in PROCESSOR_FILES
    ):
        return CLIPProcessor.from_pretrained(source, **kwargs)
    base = text_encoder_config(source, **kwargs).get("model_name")
    if not base:
        raise ValueError(
            f"{source} has no processor and its text-encoder/config.json has no `model_name` that would say whose it "
            'uses: load one by name, such as `load_processor("openai/clip-vit-base-patch32")`.'
        )
    elsewhere = {name: value for name, value in kwargs.items() if name not in ("revision", "subfolder")}
    try:
        return CLIPProcessor.from_pretrained(base, **elsewhere)
    except OSError as error:
        raise OSError(
            f"{source} uses the processor of {base}, which cannot be loaded: {error}\nDownload it once with "
            f"`hf download {base}`, or load another with `load_processor(DIRECTORY)`."
        ) from error

# SPDX-License-Identifier: Apache-2.0
"""Any CLIP-like model: loading it, and its features of images and captions."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError, HTTPError
from huggingface_hub.utils import get_session, validate_repo_id
from transformers import AutoModel, AutoProcessor
from transformers.utils import logging

from hf_tripletclip.configuration import ConfigError, reason_of
from hf_tripletclip.data.tokenizer import end_token_id, misread, tokenize_captions
from hf_tripletclip.layouts.adapters import cannot_load, check_adapter_weights, check_base, read_base
from hf_tripletclip.layouts.architectures import ARCHITECTURES, architecture_of
from hf_tripletclip.layouts.configs import read_config
from hf_tripletclip.layouts.files import (
    CONFIG_FILE,
    LAYOUT_FILES,
    PROCESSOR_FILES,
    Layout,
    detect,
    find_file,
    reader_of,
)
from hf_tripletclip.layouts.processor import check_processor, load_processor, read_processor
from hf_tripletclip.layouts.weights import check_weights, find_weights, load_fitting, no_report_of_what_is_refused
from hf_tripletclip.modeling import AutoTripletModel, TripletCLIPModel, TripletMixin
from hf_tripletclip.modeling.auto import model_class
from hf_tripletclip.utils.files import read_json_object

logger = logging.get_logger(__name__)

DEFAULT_LIMIT = 512  # tokens, if neither model nor tokenizer names a limit


def load_clip_like(
    source: str | os.PathLike[str], *, revision: str | None = None, dtype: torch.dtype = torch.float32
) -> tuple[Any, Any]:
    """
    Load a model that embeds images and captions, and its processor.

    Args:
        source (`str` or `os.PathLike`): A directory or the id of a Hub repository: a CLIP, one in the published
            TripletCLIP layout, any model with `get_image_features` and `get_text_features` that `AutoModel` opens,
            such as SigLIP, or a PEFT adapter of one of them, which says what it adapts.
        revision (`str`, *optional*): Branch, tag or commit of the repository.
        dtype (`torch.dtype`, defaults to `torch.float32`): Of the weights.

    Returns:
        `tuple`: The model, on the CPU, and its processor.

    Raises:
        OSError: There is no model, or it cannot be reached.
        ValueError: The model does not embed images and captions, weights are missing, or an adapter or the processor
            does not fit.
        ImportError: It is an adapter, and `peft` is not installed.
    """
    source = os.fspath(source)
    options: dict[str, Any] = {"trust_remote_code": False} | ({} if revision is None else {"revision": revision})
    if os.path.isfile(source):
        raise FileNotFoundError(f"{source} is a file: give the directory of a model, or the id of a Hub repository")
    if not os.path.isdir(source):
        try:
            validate_repo_id(source)
        except HFValidationError as error:
            raise FileNotFoundError(
                f"{source} is neither a directory that exists nor the id of a Hub repository"
            ) from error
        _check_reachable(source, revision)
    layout = detect(source, **options)
    if layout is Layout.PEFT:
        return _load_adapter(source, options, dtype)
    if reader_of(layout) is not None:
        # The published layout has no scale, which cosines do not need; given one, it does not warn.
        scale = {"logit_scale": math.log(100)} if layout is Layout.PUBLISHED else {}
        model: Any = TripletCLIPModel.from_pretrained(source, dtype=dtype, **scale, **options)
        processor: Any = load_processor(source, **options)
        check_processor(model, processor)
        return model, processor
    config_file = find_file(source, CONFIG_FILE, options)
    # Without a config, a CLIP says what is missing.
    known = ARCHITECTURES["clip"] if config_file is None else architecture_of(read_json_object(config_file))
    with no_report_of_what_is_refused():
        load: Any = _load_other if known is None else model_class(known).from_pretrained
        model, info = load(source, dtype=dtype, output_loading_info=True, **options)
        check_two_towers(model, source)
        check_whole(info, source, "scores would be random")
    processor = load_processor(source, **options)
    check_processor(model, processor)
    return model, processor


def load_trainable(source: str | os.PathLike[str], consequence: str, **options: Any) -> Any:
    """
    A model of [`AutoTripletModel`], all of whose weights are in its files.

    Args:
        source (`str` or `os.PathLike`): A directory or the id of a Hub repository.
        consequence (`str`): What would happen without some of the weights, for the message.
        options: As of [`AutoTripletModel.from_pretrained`].

    Raises:
        OSError, ValueError: As there.
        ValueError: Weights are missing.
    """
    with no_report_of_what_is_refused():
        model, info = AutoTripletModel.from_pretrained(source, output_loading_info=True, **options)
        check_whole(info, source, consequence)
    return model


def check_whole(info: Mapping[str, Any], source: str | os.PathLike[str], consequence: str) -> None:
    """
    Check that transformers, which would draw missing weights at random, found all of a model.

    Raises:
        ValueError: It did not.
    """
    if missing := sorted(info["missing_keys"]):
        raise ValueError(
            f"{source} lacks weights, so that {consequence}: {', '.join(missing[:5])}. It is incomplete or of another "
            "model: download it again."
        )


def _load_other(source: str, *, dtype: torch.dtype, output_loading_info: bool, **options: Any) -> Any:
    """A model of another kind; what stands in its config must not make transformers fetch code."""
    config = read_config(source, **options)
    check_weights(find_weights(source, options, getattr(config, "transformers_weights", None)))
    try:
        load = partial(
            AutoModel.from_pretrained, source, config=config, dtype=dtype, output_loading_info=output_loading_info
        )
        return load_fitting(load, source, **options)
    except (OSError, ImportError, MemoryError, ConfigError):
        raise
    except Exception as error:  # of all kinds of models
        raise ValueError(
            f"{source}, a model of the type {config.model_type!r}, cannot be loaded: {reason_of(error)}."
        ) from error


def _check_reachable(source: str, revision: str | None) -> None:
    """Ask the Hub for a sign of life before its client asks for file after file, with retries each time."""
    cached = (try_to_load_from_cache(source, name, revision=revision) for name in LAYOUT_FILES)
    if constants.HF_HUB_OFFLINE or any(isinstance(path, str) for path in cached):
        return
    try:
        get_session().head(constants.ENDPOINT, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except HTTPError as error:
        raise OSError(
            f"{source} is no directory here, and the Hub ({constants.ENDPOINT}) cannot be reached to look for it "
            f"there: {error}"
        ) from error


def _load_adapter(source: str, options: dict[str, Any], dtype: torch.dtype) -> tuple[Any, Any]:
    """The adapted model, and the adapter's processor, or else that of the model that it adapts."""
    try:
        from peft import PeftConfig, PeftModel

        from hf_tripletclip.checkpoints.peft_model import TripletCLIPPeftModel
    except ImportError as error:
        raise ImportError(
            f"{source} is a PEFT adapter: install `peft` (pip install 'hf_tripletclip[peft]')"
        ) from error

    base, revision = read_base(source, **options)
    check_base(source, base, revision=revision)
    try:
        model, processor = load_clip_like(base, revision=revision, dtype=dtype)
    except OSError as error:
        raise OSError(cannot_load(source, base, error)) from error
    check_adapter_weights(source, options)
    hub = {name: value for name, value in options.items() if name == "revision"}
    model_class = TripletCLIPPeftModel if isinstance(model, TripletMixin) else PeftModel
    try:
        config = PeftConfig.from_pretrained(source, **hub)
        config.inference_mode = True
        with warnings.catch_warnings():
            # peft asks for an attribute that transformers has renamed.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            adapted = model_class(model, config)
        # Not `from_pretrained`, which only warns of weights that do not fit.
        loaded = adapted.load_adapter(source, "default", torch_device="cpu", **hub)
    except (OSError, ImportError, MemoryError):
        raise
    except Exception as error:  # modules or shapes that the model does not have, a config that is none
        raise ValueError(f"{source} is a PEFT adapter that does not fit {base}: {reason_of(error)}.") from error
    if strange := [*loaded.missing_keys, *loaded.unexpected_keys]:
        raise ValueError(
            f"{source} is a PEFT adapter that does not fit {base}: {len(strange)} weights are missing or of another "
            f"model: {', '.join(strange[:3])}"
        )
    if any(find_file(source, name, options) for name in PROCESSOR_FILES):
        processor = read_processor(AutoProcessor, source, **options)
        check_processor(adapted, processor)
    return adapted, processor


def check_two_towers(model: Any, source: str = "the model") -> None:
    """
    Check that a model embeds both images and captions.

    Raises:
        ValueError: It does not.
    """
    for kind, method in (("images", "get_image_features"), ("captions", "get_text_features")):
        if not hasattr(model, method):
            raise ValueError(
                f"{source} is a {type(model).__name__}, which does not embed {kind}: give a CLIP-like model, with an "
                "image tower and a text tower."
            )


def image_features(model: Any, **inputs: Any) -> torch.Tensor:
    """Embeddings of shape `(N, dim)`, not normalised, of what the processor made of images."""
    return _pooled(model.get_image_features(**inputs))


def text_features(model: Any, **inputs: Any) -> torch.Tensor:
    """Embeddings of shape `(N, dim)`, not normalised, of what `tokenize` made of captions."""
    return _pooled(model.get_text_features(**inputs))


def _pooled(output: Any) -> torch.Tensor:
    return output if isinstance(output, torch.Tensor) else output.pooler_output


def max_text_length(model: Any, processor: Any) -> int:
    """Tokens that the text tower takes."""
    config = getattr(model.config, "text_config", model.config)
    limit = getattr(model, "max_text_length", None) or getattr(config, "max_position_embeddings", DEFAULT_LIMIT)
    return min(limit, processor.tokenizer.model_max_length)


def tokenize(model: Any, processor: Any, captions: Sequence[str]) -> Any:
    """
    Captions as the text tower takes them, cut at its limit: padded to the limit for SigLIP, which has learned captions
    that are padded so and without a mask, and for models that are not known here; to the longest for others.
    """
    known = architecture_of(model.config)
    fixed = known is None or known.fixed_length
    inputs = tokenize_captions(  # by the tokenizer itself: a processor does not pass on how special tokens are read
        processor.tokenizer,
        captions,
        padding="max_length" if fixed else "longest",
        truncation=True,
        max_length=max_text_length(model, processor),
        return_tensors="pt",
    )
    if known is not None and fixed:
        inputs.pop("attention_mask", None)
    if hasattr(getattr(model, "text_model", None), "eos_token_id"):
        _warn_of_misread(processor.tokenizer, captions, inputs)
    return inputs


def _warn_of_misread(tokenizer: Any, captions: Sequence[str], inputs: Any) -> None:
    end = end_token_id(tokenizer)
    masks = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"]))
    found = [
        f"{caption!r}: {reason}"
        for caption, ids, mask in zip(captions, inputs["input_ids"], masks, strict=True)
        if end is not None and (reason := misread(ids[mask.bool()].tolist(), end))
    ]
    if found:
        logger.warning(f"{len(found)} captions are not embedded whole, such as {'; '.join(found[:3])}")

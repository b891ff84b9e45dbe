# SPDX-License-Identifier: Apache-2.0
"""What a training run starts from, as its arguments name it: the splits of the data, the processor and the model."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, IterableDataset
from huggingface_hub.errors import StrictDataclassError
from transformers import CLIPTextConfig, CLIPVisionConfig
from transformers.utils import logging

from hf_tripletclip.checkpoints.load import load_trainable
from hf_tripletclip.configuration import TripletCLIPConfig
from hf_tripletclip.data import build_processor, load_scenes, load_tripletdata
from hf_tripletclip.data.decoding import BrokenValue, decode_caption, is_several
from hf_tripletclip.data.loading import undecoded
from hf_tripletclip.data.schema import DENSE_CAPTION, PARAPHRASE, TEXT_COLUMNS
from hf_tripletclip.data.streaming import shuffled
from hf_tripletclip.generation.filters import filter_dataset, filters_of
from hf_tripletclip.layouts import load_processor
from hf_tripletclip.layouts.files import PROCESSOR_FILES
from hf_tripletclip.layouts.processor import check_processor
from hf_tripletclip.modeling import TripletCLIPModel
from hf_tripletclip.modeling.positions import MOST, stretch_positions
from hf_tripletclip.objectives import Objective
from hf_tripletclip.training.script_arguments import DataArguments, ModelArguments
from hf_tripletclip.training.towers import (
    check_no_adapter,
)
from hf_tripletclip.utils.cli_arguments import as_mapping
from hf_tripletclip.utils.processes import from_first_process

logger = logging.get_logger(__name__)

CONVERT_FIRST = (
    "`max_text_length` is given, and {}: make the model that takes longer captions first, "
    "`tripletclip convert MODEL TARGET --max_text_length {}`, and start from that."
)

TRAIN_TOKENIZER = "train"  # instead of a processor's name
DEFAULT_PROCESSOR = "openai/clip-vit-base-patch32"
LEAST = 3  # tokens of a caption, two of which are special
SHUFFLE_BUFFER = 10_000  # rows of a stream among which the next one is drawn


def takes_further_texts(objective: Objective) -> bool:
    """Whether an objective learns from paraphrases or dense captions, which `scenes` writes only if asked to."""
    return objective.draws_captions or not {PARAPHRASE, DENSE_CAPTION}.isdisjoint(objective.columns)


def scenes_options(data_args: DataArguments, model_args: ModelArguments) -> dict[str, Any]:
    """The arguments of `load_scenes` for the training rows."""
    options: dict[str, Any] = {"nouns": _nouns(data_args.scenes_nouns), "seed": data_args.scenes_seed}
    if data_args.scenes_further_texts:
        options["further_texts"] = True
    if (size := model_args.image_size) is not None:
        options["image_size"] = size
    for size_of in ("train_size", "validation_size", "test_size"):
        if (rows := getattr(data_args, f"scenes_{size_of}")) is not None:
            options[size_of] = rows
    return options


def load_splits(
    data_args: DataArguments, model_args: ModelArguments, required_columns: Sequence[str], seed: int = 0
) -> dict[str, Any]:
    """
    Those of the splits `train`, `validation` and `test` that exist, limited to the rows that were asked for.

    Raises:
        FileNotFoundError: The dataset path does not exist.
        ValueError: The training split is missing, empty or lacks a column.
    """
    name = data_args.dataset_name_or_path
    if name == "scenes":
        options = scenes_options(data_args, model_args)
        loaded = load_scenes(**options)
        if data_args.scenes_test_nouns is not None:
            others = load_scenes(**{**options, "nouns": _nouns(data_args.scenes_test_nouns)})
            loaded = DatasetDict({name: (loaded if name == "train" else others)[name] for name in loaded})
    else:
        loaded = load_tripletdata(
            name,
            streaming=data_args.streaming,
            columns=data_args.columns,
            images=data_args.images,
            required_columns=required_columns,
        )
    if data_args.train_split not in loaded:
        raise ValueError(
            f"{name!r} has no split {data_args.train_split!r} to train on; it has {sorted(loaded)}: name one with "
            "`--train_split`."
        )
    wanted = {
        "train": (data_args.train_split, data_args.max_train_samples),
        "validation": (data_args.validation_split, data_args.max_eval_samples),
        "test": (data_args.test_split, data_args.max_eval_samples),
    }
    for role, (split, _) in wanted.items():
        if split not in loaded and split != role:
            raise ValueError(f"{name!r} has no split {split!r}, which `{role}_split` names; it has {sorted(loaded)}.")
    splits = {}
    for role, (split, limit) in wanted.items():
        if split in loaded:
            dataset = loaded[split]
            if role == "train" and data_args.filters:
                dataset = _within_filters(dataset, data_args)
            if limit is not None:
                dataset = dataset.take(limit)
            if isinstance(dataset, IterableDataset):
                if role == "train":
                    dataset = shuffled(dataset, seed, SHUFFLE_BUFFER)
                else:  # it is read again and again, which is worth a copy
                    dataset = Dataset.from_generator(
                        functools.partial(iter, undecoded(dataset)), features=dataset.features
                    )
            splits[role] = dataset
    return splits


def _within_filters(train: Any, data_args: DataArguments) -> Dataset:
    """The training rows within the bounds of their scores."""
    if isinstance(train, IterableDataset):
        raise ValueError("`filters` look at the scores of all rows first: leave out `--streaming`.")
    kept, reasons = filter_dataset(train, filters_of(as_mapping(data_args, "filters")))
    said = ", ".join(f"{reason}: {rows}" for reason, rows in reasons.items())
    if not len(kept):
        raise ValueError(f"`filters` leave none of the {len(train)} training rows ({said}): widen them.")
    logger.info(f"Filters keep {len(kept)} of {len(train)} training rows ({said or 'all'}).")
    return kept


def make_processor(
    model_args: ModelArguments, data_args: DataArguments, splits: dict[str, Any], checkpoint: str | None = None
) -> Any:
    """
    The processor of a run: that of the checkpoint that training goes on from, or else the one that the arguments name,
    or else the starting model's. `train`, the default on `scenes`, makes one whose tokenizer is trained on the
    captions: in one process, which shares it with the others.

    Raises:
        ValueError: A tokenizer should be trained on a stream.
    """
    processor = _processor(model_args, data_args, splits, checkpoint)
    if model_args.max_text_length is not None:
        processor.tokenizer.model_max_length = model_args.max_text_length
    return processor


def _processor(model_args: ModelArguments, data_args: DataArguments, splits: dict[str, Any], checkpoint: Any) -> Any:
    if checkpoint is not None and any((Path(checkpoint) / name).is_file() for name in PROCESSOR_FILES):
        return load_processor(checkpoint)
    source = model_args.processor_name_or_path or model_args.model_name_or_path
    if source is None:
        source = TRAIN_TOKENIZER if data_args.dataset_name_or_path == "scenes" else DEFAULT_PROCESSOR
    if source != TRAIN_TOKENIZER:
        return load_processor(source)
    train = splits["train"]
    if isinstance(train, IterableDataset):
        raise ValueError(
            f"`--processor_name_or_path {TRAIN_TOKENIZER}` reads all captions first: leave out `--streaming`, or "
            "name a processor."
        )
    image_size = model_args.image_size or 224
    return from_first_process(lambda: build_processor(_captions(train), image_size=image_size))


def _nouns(value: object) -> Any:
    text = str(value)  # YAML reads a number
    return int(text) if text.isdigit() else text


def _captions(dataset: Dataset) -> Iterator[str]:
    """All readable captions, with hard negatives, paraphrases and dense captions."""
    for name in TEXT_COLUMNS:
        for value in dataset[name] if name in dataset.column_names else ():
            for caption in value if is_several(value) else [value]:
                with contextlib.suppress(BrokenValue):
                    yield decode_caption(caption)


def make_model(model_args: ModelArguments, processor: Any) -> Any:
    """
    The model that training starts from: a checkpoint, or random weights of the sizes that the arguments give.

    Raises:
        ValueError: The checkpoint lacks weights; `model_config` has an unknown field or sizes that do not fit each
            other, or the text tower does not read captions as the tokenizer writes them.
    """
    kwargs: dict[str, Any] = dict(model_args.loading_arguments())
    if model_args.attn_implementation is not None:
        kwargs["attn_implementation"] = model_args.attn_implementation
    tokenizer = processor.tokenizer
    if model_args.model_name_or_path is not None:
        if model_args.model_config:
            raise ValueError("`model_config` is for random weights: leave it out beside `model_name_or_path`.")
        check_no_adapter(model_args.model_name_or_path)
        start = model_args.model_name_or_path
        model = load_trainable(start, "training would start from random ones", **kwargs)
        if model_args.max_text_length is not None:
            stretch_positions(model, model_args.max_text_length)
        check_processor(model, processor)
        return model
    settings = dict(model_args.config_fields)
    length = model_args.max_text_length
    if length is not None and not LEAST <= length <= MOST:
        raise ValueError(f"`max_text_length` is {length}; give {LEAST} to {MOST:,}: a caption has a start and an end.")
    text = {
        "vocab_size": len(tokenizer),
        # A tokenizer that names no length has a huge one.
        "max_position_embeddings": length or min(tokenizer.model_max_length, CLIPTextConfig.max_position_embeddings),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **_mapping(settings, "text_config"),
    }
    vision = _mapping(settings, "vision_config")
    parts = (("", TripletCLIPConfig, settings), ("text_config", CLIPTextConfig, text))
    for part, config_class, values in (*parts, ("vision_config", CLIPVisionConfig, vision)):
        if unknown := [name for name in values if name not in {field.name for field in fields(config_class)}]:
            raise ValueError(f"`model_config` has unknown fields {unknown}{f' in {part!r}' if part else ''}.")
    if "projection_dim" in settings:
        text.setdefault("projection_dim", settings["projection_dim"])
        vision.setdefault("projection_dim", settings["projection_dim"])
    try:
        config = TripletCLIPConfig(text_config=text, vision_config=vision, **settings)
        image: Any = config.vision_config
        if image.patch_size > image.image_size:
            raise ValueError("an image is smaller than a patch")
        model = TripletCLIPModel._from_config(config, **kwargs)
    except (StrictDataclassError, ValueError, TypeError, KeyError, ArithmeticError, RuntimeError) as error:
        raise ValueError(f"`model_config` describes no CLIP: {error}") from error
    check_processor(model, processor)
    return model


def _mapping(settings: dict[str, Any], name: str) -> dict[str, Any]:
    part = settings.pop(name, None) or {}
    if not isinstance(part, dict):
        raise ValueError(f"`model_config` has {part!r} as {name!r}: give fields and their values.")
    return part

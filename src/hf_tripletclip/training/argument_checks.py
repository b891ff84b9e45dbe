# SPDX-License-Identifier: Apache-2.0
"""Checks of arguments: numbers that cannot be meant, and settings of `TrainingArguments` that have no effect here.

`Trainer` is for all kinds of models: it would pass over such settings in silence."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import numbers
from collections.abc import Mapping
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

# Setting of `TrainingArguments` -> why every value but its default is refused.
WITHOUT_MEANING = {
    "label_smoothing_factor": "a contrastive loss has no labels to smooth",
    "label_names": "a contrastive loss has no labels",
    "average_tokens_across_devices": "the loss is a mean over rows, not over tokens",
    "include_num_input_tokens_seen": "only the tokens of the positive captions would be counted",
    "use_liger_kernel": "Liger has no kernels for CLIP",
    "liger_kernel_config": "Liger has no kernels for CLIP",
    "use_cache": "it is for models that generate text",
    "parallelism_config": "processes share rows here, not parts of the model: start several with `accelerate launch`",
    "eval_use_gather_object": "it would mix up the embeddings of several processes",
    "eval_do_concat_batches": "the metrics are of all rows together",
    "batch_eval_metrics": "the metrics are of all rows together",
    "auto_find_batch_size": (
        "it halves the batch, and with it the negatives of each row: lower `mini_batch_size`, which needs less memory "
        "and changes nothing of the result"
    ),
    "fp16_full_eval": "the weights themselves would be rounded; `fp16` evaluates in half precision too",
    "bf16_full_eval": "the weights themselves would be rounded; `bf16` evaluates in half precision too",
    "do_predict": "nothing is predicted here: `tripletclip evaluate` measures a model",
}
SAMPLING = ("random", "sequential", "group_by_length")

POSITIVE = {  # whole numbers of 1 or more
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "gradient_accumulation_steps",
    "mini_batch_size",
    "torch_empty_cache_steps",
    "eval_accumulation_steps",
    "dataloader_prefetch_factor",
    "ddp_timeout",
    "ddp_bucket_cap_mb",
    "max_negatives",
    "max_positives",
    "max_train_samples",
    "max_eval_samples",
    "scenes_train_size",
    "scenes_validation_size",
    "scenes_test_size",
}
NOT_NEGATIVE = {
    "learning_rate",
    "weight_decay",
    "adam_epsilon",
    "max_grad_norm",
    "warmup_steps",
    "num_train_epochs",
    "logging_steps",
    "eval_steps",
    "save_steps",
    "eval_delay",
    "save_total_limit",
    "neftune_noise_alpha",
    "dataloader_num_workers",
    "seed",
    "data_seed",
    "scenes_seed",
    "max_retention_loss",
    "max_loss",
    "batch_neighbours",
}
BETAS = ("adam_beta1", "adam_beta2")
MAY_BE_INFINITE = ("max_grad_norm",)  # the norm is looked at, and nothing is clipped


def check_numbers(arguments: Any) -> None:
    """
    Check the numbers of a dataclass of arguments, also those inside its mappings.

    Raises:
        ValueError: A value is no number, not finite, or out of range.
    """
    hints = _types(type(arguments))
    for field in dataclasses.fields(arguments):
        name, value = field.name, getattr(arguments, field.name)
        if isinstance(value, Mapping):
            _check_inside(name, value)
        _check_type(name, value, hints.get(name))
        is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
        if not is_number:
            continue
        if not math.isfinite(value) and not (name in MAY_BE_INFINITE and value > 0):
            raise ValueError(f"`{name}` is {value}: give a finite number.")
        if name in POSITIVE and value < 1:
            open_too = " or leave it out" if field.default is None else ""
            raise ValueError(f"`{name}` is {value}: give at least 1{open_too}.")
        if name in NOT_NEGATIVE and value < 0:
            raise ValueError(f"`{name}` is {value}: give 0 or more.")
        if name in BETAS and not 0 <= value < 1:
            raise ValueError(f"`{name}` is {value}: give 0 or more and less than 1.")


def _types(kind: type) -> dict[str, Any]:
    """The types of a dataclass's fields; if Python cannot resolve one of them, those of its base class."""
    for one in kind.__mro__:
        with contextlib.suppress(NameError):  # imported for type checkers only, or local to a function
            return get_type_hints(one)
    return {}


def _check_type(name: str, value: Any, hint: Any) -> None:
    """Check the type of a number that was given in Python; flags and files are read by their types."""
    kinds = set(get_args(hint)) if get_origin(hint) in (Union, UnionType) else {hint}
    if not kinds <= {int, float, type(None)} or (value is None and type(None) in kinds):
        return
    kind = numbers.Real if float in kinds else numbers.Integral
    if isinstance(value, bool) or not isinstance(value, kind):
        raise ValueError(f"`{name}` is {value!r}: give a {'' if float in kinds else 'whole '}number.")


def _check_inside(name: str, values: Mapping[Any, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, Mapping):
            _check_inside(f"{name}.{key}", value)
        elif isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"`{name}` has {value} as {key!r}: give a finite number.")


def check_settings(args: Any) -> None:
    """
    Check that no setting of a `TrainingArguments` is without effect.

    Raises:
        ValueError: A setting is; the message says which, and why.
    """
    for field in dataclasses.fields(args):
        value = getattr(args, field.name)
        if field.name in WITHOUT_MEANING and value != field.default and value not in (None, []):
            raise ValueError(
                f"`{field.name}` is {value!r}, which has no place here: {WITHOUT_MEANING[field.name]}. Leave it out."
            )
    if args.do_train is False:
        raise ValueError("`do_train` is false, but training is all that this does: use `tripletclip evaluate`.")
    if args.train_sampling_strategy not in SAMPLING:
        raise ValueError(
            f"`train_sampling_strategy` is {args.train_sampling_strategy!r}: give {', '.join(SAMPLING)}. Batches of "
            "different sizes would give rows different numbers of negatives."
        )
    if args.length_column_name != "length" and args.train_sampling_strategy != "group_by_length":
        raise ValueError("`length_column_name` is for `--train_sampling_strategy group_by_length`.")
    if args.neighbours is not None and not args.batch_neighbours:
        raise ValueError("`neighbours` are for batches of neighbours: add `batch_neighbours`, such as 1.")
    if args.batch_neighbours and args.train_sampling_strategy != "random":
        raise ValueError("`batch_neighbours` orders the rows itself: leave out `train_sampling_strategy`.")
    if args.max_steps == 0 or args.max_steps < -1:
        raise ValueError(f"`max_steps` is {args.max_steps}: give at least 1, or leave it out to count epochs.")
    if args.max_steps < 0 and args.num_train_epochs == 0:
        raise ValueError("`num_train_epochs` is 0: give more than 0, or `max_steps`.")
    config: Any = args.accelerator_config
    for name in ("split_batches", "dispatch_batches"):
        if getattr(config, name):
            raise ValueError(
                f"`accelerator_config` has `{name}`: each process makes batches of its own here, of "
                "`per_device_train_batch_size` rows. Leave it out."
            )
    if not config.even_batches:
        raise ValueError(
            "`accelerator_config` turns `even_batches` off. Processes with different numbers of batches would wait "
            "for each other for ever: leave it out. A last batch is shared evenly anyway."
        )


def check_data(data_args: Any) -> None:
    """
    Check that no argument of [`~hf_tripletclip.training.script_arguments.DataArguments`] is without effect.

    Raises:
        ValueError: One is, or a number is out of range.
    """
    check_numbers(data_args)
    scenes = data_args.dataset_name_or_path == "scenes"
    for field in dataclasses.fields(data_args):
        name = field.name
        if getattr(data_args, name) == field.default:
            continue
        if scenes and name in ("columns", "images", "streaming"):
            raise ValueError(f"`{name}` is for other data than `scenes`, which is drawn here: leave it out.")
        if not scenes and name.startswith("scenes_"):
            raise ValueError(
                f"`{name}` is for `scenes`, but the data is {data_args.dataset_name_or_path!r}: leave it out."
            )

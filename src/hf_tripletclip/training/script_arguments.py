# SPDX-License-Identifier: Apache-2.0
"""The arguments of a training run: one definition for the command line and for YAML files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers.utils import logging

from hf_tripletclip.data.scenes.start import START, start_folder
from hf_tripletclip.generation.filters import filters_of
from hf_tripletclip.objectives import get_objective
from hf_tripletclip.training.argument_checks import check_data, check_numbers
from hf_tripletclip.training.arguments import TripletCLIPTrainingArguments
from hf_tripletclip.training.draws import LIMITS, unused_limits
from hf_tripletclip.training.launch import LaunchArguments
from hf_tripletclip.training.towers import TowerArguments
from hf_tripletclip.utils.cli_arguments import (
    Exclusion,
    as_columns,
    as_mapping,
    config_values,
    given_flags,
    parse_with_config,
)

logger = logging.get_logger(__name__)


@dataclass
class ModelArguments(TowerArguments):
    """Which model is trained, and what of it."""

    model_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Checkpoint to start from: a directory or Hub id of any CLIP, or `scenes`, the small model beside "
            "the built-in data. Default: random weights."
        },
    )
    model_config: dict[str, Any] | str | None = field(
        default=None,
        metadata={"help": "Fields of `TripletCLIPConfig` for random weights, as JSON. Default: ViT-B/32."},
    )
    processor_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Directory or Hub id of the processor, or `train`: a tokenizer trained on the captions. Default: "
            "the starting checkpoint's; on `scenes` train; otherwise openai/clip-vit-base-patch32."
        },
    )
    attn_implementation: str | None = field(
        default=None, metadata={"help": "eager, sdpa or flash_attention_2. Default: what transformers chooses."}
    )

    max_text_length: int | None = field(
        default=None,
        metadata={
            "help": "Let the text tower take captions of up to N tokens: position embeddings beyond the 20th are "
            "interpolated, as in Long-CLIP. Before LoRA and `tripletclip finetune`, `tripletclip convert` does it. "
            "Default: as many as the model has."
        },
    )

    @property
    def config_fields(self) -> dict[str, Any]:
        """`model_config` as a dict."""
        return self.model_config if isinstance(self.model_config, dict) else {}

    @property
    def image_size(self) -> int | None:
        """The image size that `model_config` asks for."""
        return (self.config_fields.get("vision_config") or {}).get("image_size")


@dataclass
class DataArguments:
    """What it is trained on."""

    dataset_name_or_path: str = field(
        default="scenes",
        metadata={
            "help": "`scenes` (the built-in data), a local folder or file, or the id of a Hub dataset. Name it "
            "beside a model of your own."
        },
    )
    columns: dict[str, str] | str | None = field(
        default=None,
        metadata={
            "help": "The dataset's own column names: a preset (bivlc, trohn-img, winoground, colorswap), or JSON: "
            '{"image": "img", "neg_caption": "foil", ...}.'
        },
    )
    images: str | None = field(
        default=None, metadata={"help": "A folder of images that paths in the dataset's rows may lead to."}
    )
    streaming: bool = field(default=False, metadata={"help": "Read the dataset while training, without a copy."})
    fast_decode: bool = field(
        default=True,
        metadata={"help": "Decode JPEG images for training at a reduced scale, no smaller than the model's images."},
    )
    train_split: str = field(default="train", metadata={"help": "Split to train on."})
    validation_split: str = field(default="validation", metadata={"help": "Split that is evaluated during training."})
    test_split: str = field(default="test", metadata={"help": "Split that is evaluated before and after training."})
    max_train_samples: int | None = field(default=None, metadata={"help": "Train on the first N rows only."})
    filters: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": "Train on the rows within these bounds of their scores, as JSON; as those of `tripletclip "
            'generate`: {"min_neg_clip_score": 0.25, "best": 1000}.'
        },
    )
    max_eval_samples: int | None = field(default=None, metadata={"help": "Evaluate on the first N rows only."})
    license: str | None = field(
        default=None, metadata={"help": "The trained weights' license, for the model card: an identifier of the Hub."}
    )
    scenes_nouns: str = field(default="24", metadata={"help": "Nouns that `scenes` draws: 24, 48 or all."})
    scenes_test_nouns: str | None = field(
        default=None, metadata={"help": "Nouns of its validation and test rows. Default: those of the training rows."}
    )
    scenes_seed: int = field(default=0, metadata={"help": "Seed of `scenes`."})
    scenes_further_texts: bool = field(
        default=False, metadata={"help": "Give `scenes` paraphrases and captions of each object."}
    )
    scenes_train_size: int | None = field(default=None, metadata={"help": "Training rows of `scenes`."})
    scenes_validation_size: int | None = field(default=None, metadata={"help": "Validation rows of `scenes`."})
    scenes_test_size: int | None = field(default=None, metadata={"help": "Test rows of `scenes`."})


def _other_data(given: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    """Whether the command line names other data than the configuration does."""
    own = config.get("dataset_name_or_path")
    return own is not None and Path(str(own)) != Path(given["dataset_name_or_path"])


def _other_model(given: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    """Whether the command line names another model than the one that the configuration describes."""
    start = config.get("model_name_or_path")
    own = bool(config.get("model_config")) or start == START
    return own and given["model_name_or_path"] != start


def _wrong_arguments(given: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    """Whether the objective on the command line does not take the arguments of the configuration's."""
    kwargs = config.get("objective_kwargs")
    if not isinstance(kwargs, dict) or given["objective"] == config.get("objective"):
        return False
    try:
        get_objective(given["objective"])
    except (ValueError, TypeError):
        return False  # an unknown objective, or one that needs arguments: that is said later
    try:
        get_objective(given["objective"], **kwargs)
    except (ValueError, TypeError):
        return True
    return False


def _unused(limit: str) -> Callable[[Mapping[str, Any], Mapping[str, Any]], bool]:
    """Whether the objective on the command line has no use for a limit of the configuration."""

    def unused(given: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
        kwargs = None if _wrong_arguments(given, config) else config.get("objective_kwargs")
        try:
            return limit in unused_limits(get_objective(given["objective"], **(kwargs or {})))
        except (ValueError, TypeError):
            return False  # said later

    return unused


def _nothing_locked(given: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    modes = (given.get(name, config.get(name)) for name in ("train_text", "train_vision"))
    return "frozen" not in modes


# What the command line asks for wins over these settings of a configuration, which exclude it.
EXCLUSIONS = (
    Exclusion(
        "dataset_name_or_path",
        tuple(name for name in DataArguments.__dataclass_fields__ if name.startswith("scenes_")),
        when=lambda given, config: given["dataset_name_or_path"] != "scenes",
    ),
    Exclusion(
        "dataset_name_or_path",
        ("columns", "images", "streaming"),
        when=lambda given, config: given["dataset_name_or_path"] == "scenes",
    ),
    Exclusion(
        "dataset_name_or_path",
        ("license",),
        when=_other_data,
        note="The license is that of a model of the configuration's own data: the model card names none without "
        "`--license`.",
    ),
    Exclusion("model_name_or_path", ("model_config",)),
    Exclusion("model_name_or_path", ("processor_name_or_path",), when=_other_model),
    Exclusion(
        "model_name_or_path",
        ("license",),
        when=_other_model,
        note="The license is that of the configuration's own model: the model card names none without `--license`.",
    ),
    Exclusion(
        "model_config",
        ("model_name_or_path", "processor_name_or_path"),
        when=lambda given, config: config.get("model_name_or_path") is not None,
    ),
    Exclusion("objective", ("objective_kwargs",), when=_wrong_arguments),
    *(Exclusion("objective", (limit,), when=_unused(limit)) for limit in LIMITS),
    Exclusion("num_train_epochs", ("max_steps",)),
    Exclusion("bf16", ("fp16",), when=lambda given, config: given["bf16"]),
    Exclusion("fp16", ("bf16",), when=lambda given, config: given["fp16"]),
    Exclusion("weights_dtype", ("fp16",), when=lambda given, config: given["weights_dtype"] == "float16"),
    Exclusion("do_eval", ("eval_strategy", "retention_metric"), when=lambda given, config: given["do_eval"] is False),
    Exclusion(
        "eval_strategy",
        ("retention_metric", "max_retention_loss", "load_best_model_at_end"),
        when=lambda given, config: given["eval_strategy"] == "no",
    ),
    Exclusion("train_sampling_strategy", ("batch_neighbours", "neighbours")),
    Exclusion("batch_neighbours", ("train_sampling_strategy",)),
    *(
        Exclusion(name, ("cache_locked_towers", "cache_limit_gb"), when=_nothing_locked)
        for name in ("train_text", "train_vision")
    ),
)


def parse_arguments(
    argv: Sequence[str],
    default_config: str | Path | None = None,
    *,
    further: Sequence[type] = (),
    exclusions: Sequence[Exclusion] = (),
    description: str = "Train a CLIP on hard negative pairs.",
    prog: str | None = None,
) -> tuple[Any, ...]:
    """
    Read a training run's arguments from the command line and, below it, from a configuration.

    Args:
        argv (`Sequence[str]`):
            Command-line arguments, see [`~hf_tripletclip.utils.cli_arguments.parse_with_config`].
            `--resume_from_checkpoint` without a value means the newest complete checkpoint.
        default_config (`str` or `Path`, *optional*):
            The configuration to use without `--config`: a name or a YAML file.
        further (`Sequence[type]`): Dataclasses of further arguments that a script has.
        exclusions (`Sequence[Exclusion]`): What its flags exclude, beside [`EXCLUSIONS`].
        description (`str`): For `--help`.
        prog (`str`, *optional*): What `--help` calls the program; defaults to the script's name.

    Returns:
        [`ModelArguments`], [`DataArguments`], [`TripletCLIPTrainingArguments`], and one of each of `further`.

    Raises:
        FileNotFoundError: There is no such configuration.
        ValueError: A flag or a key of the file is unknown, or a value is not allowed or would be without effect.
    """
    *arguments, _ = parse_with_config(
        (ModelArguments, DataArguments, TripletCLIPTrainingArguments, *further, LaunchArguments),
        argv,
        default_config,
        description=description,
        prog=prog,
        bare={"resume_from_checkpoint": "true", "do_train": True, "do_eval": True},
        exclusions=(*EXCLUSIONS, *exclusions),
    )
    as_mapping(arguments[0], "model_config")
    as_columns(arguments[1])
    filters_of(as_mapping(arguments[1], "filters"))
    for part in arguments:
        check_numbers(part)
    model_args, data_args, args = arguments[:3]
    if args.should_log and "config" not in given_flags(argv):
        _say_which_default_model(model_args, data_args, argv, default_config)
    check_data(data_args)
    if model_args.model_name_or_path == START:
        model_args.model_name_or_path = str(start_folder())
    return tuple(arguments)


def check_data_is_named(
    model_args: ModelArguments, argv: Sequence[str], default_config: str | Path | None = None
) -> None:
    """
    The built-in data is the default for its own model only: icons are not what another model is meant to learn.

    Args:
        model_args ([`ModelArguments`]): From [`parse_arguments`].
        argv, default_config: As in [`parse_arguments`].

    Raises:
        ValueError: A model is named, and neither the command line nor the configuration names data.
    """
    model = model_args.model_name_or_path
    named = given_flags(argv) | config_values(argv, default_config).keys()
    says_which = any(name == "dataset_name_or_path" or name.startswith("scenes_") for name in named)
    if model not in (None, START, str(start_folder())) and not says_which:
        raise ValueError(
            f"Nothing says what {model} is trained on: give `--data`, a folder, a file or the id of a Hub dataset; "
            "`--data scenes` is the built-in data."
        )


def _say_which_default_model(
    model_args: ModelArguments, data_args: DataArguments, argv: Sequence[str], default_config: str | Path | None
) -> None:
    """Tell what is trained if other data meets the model of the default configuration, which nobody has named."""
    own, data = config_values([], default_config), data_args.dataset_name_or_path
    chosen = {"model_name_or_path", "model_config"} & given_flags(argv)
    if chosen or not _other_data({"dataset_name_or_path": data}, own):
        return
    if (start := model_args.model_name_or_path) is not None:
        sentence = (
            f"No `--config` is given, so what is trained on {data!r} is {start}, the model of the configuration "
            f"{default_config}: name another with `--model_name_or_path`."
        )
        if start == START:
            sentence += (
                " That one knows the words and the icons of `scenes` alone, and spells other words letter by letter. "
                "`--config cc3m_vit_b32` trains a ViT-B/32 from random weights, `--config scenes_scratch` a small "
                "model."
            )
        logger.warning_once(sentence)
    elif model_args.config_fields:
        logger.warning_once(
            f"No `--config` is given, so what is trained on {data!r} is the small model of the configuration "
            f"{default_config}: pictures of {model_args.image_size or 224} px, random weights. "
            "`--config cc3m_vit_b32` trains a ViT-B/32 from random weights, `--model_config` gives other sizes, and "
            "`tripletclip finetune` starts from a model that has learned."
        )

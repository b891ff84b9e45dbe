# SPDX-License-Identifier: Apache-2.0
"""What a pretraining run can be told: one definition for the command line and for YAML files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers.utils import logging

from hf_tripletclip.data.scenes.start import START, start_folder
from hf_tripletclip.generation.filters import filters_of
from hf_tripletclip.training.argument_checks import check_data, check_numbers, settings_of_other_data
from hf_tripletclip.training.arguments import TripletCLIPTrainingArguments
from hf_tripletclip.training.towers import TowerArguments
from hf_tripletclip.utils.cli_arguments import as_columns, as_mapping, config_values, given_flags, parse_with_config

logger = logging.get_logger(__name__)


@dataclass
class ModelArguments(TowerArguments):
    """Which model is trained, and what of it."""

    model_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Checkpoint to start from: a directory or Hub id of any CLIP, or `scenes`, the small model beside "
            "the embedded data. Default: random weights."
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
        metadata={"help": "`scenes` (the embedded data), a local folder or file, or the id of a Hub dataset."},
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


def parse_arguments(
    argv: Sequence[str],
    default_config: str | Path | None = None,
    *,
    further: Sequence[type] = (),
    description: str = "Pretrain a CLIP on hard negative pairs.",
    prog: str | None = None,
) -> tuple[Any, ...]:
    """
    Read a pretraining run's arguments from the command line and, below it, from a YAML file.

    Args:
        argv (`Sequence[str]`):
            Command-line arguments, see [`~hf_tripletclip.utils.cli_arguments.parse_with_config`].
            `--resume_from_checkpoint` without a value means the newest complete checkpoint.
        default_config (`str` or `Path`, *optional*):
            The YAML file to use without `--config`.
        further (`Sequence[type]`): Dataclasses of further arguments that a script has.
        description (`str`): For `--help`.
        prog (`str`, *optional*): What `--help` calls the program; defaults to the script's name.

    Returns:
        [`ModelArguments`], [`DataArguments`], [`TripletCLIPTrainingArguments`], and one of each of `further`.

    Raises:
        FileNotFoundError: The YAML file does not exist.
        ValueError: A flag or a key of the file is unknown, or a value is not allowed or would be without effect.
    """
    arguments = parse_with_config(
        (ModelArguments, DataArguments, TripletCLIPTrainingArguments, *further),
        argv,
        default_config,
        description=description,
        prog=prog,
        bare={"resume_from_checkpoint": "true", "do_train": True, "do_eval": True},
    )
    as_mapping(arguments[0], "model_config")
    as_columns(arguments[1])
    filters_of(as_mapping(arguments[1], "filters"))
    for part in arguments:
        check_numbers(part)
    model_args, data_args, args = arguments[:3]
    said = _leave_settings_of_other_data(data_args, argv, default_config)
    said += _leave_the_default_model(model_args, data_args, argv, default_config)
    if args.should_log:
        if "config" not in given_flags(argv):
            said += _of_the_default_model(model_args, data_args, argv, default_config)
        for sentence in said:
            logger.warning_once(sentence)
    check_data(data_args)
    if model_args.model_name_or_path == START:
        model_args.model_name_or_path = str(start_folder())
    return arguments


def _leave_settings_of_other_data(
    data_args: DataArguments, argv: Sequence[str], default_config: str | Path | None
) -> list[str]:
    """
    Reset what the YAML file says of its own data if a flag names other data: `--dataset_name_or_path DIR` beside the
    default file, which has the nouns of `scenes`, means DIR. What stands among the flags is left for the check.
    Returns what is to be said of it.
    """
    given = given_flags(argv)
    if "dataset_name_or_path" not in given:
        return []
    for name in set(settings_of_other_data(data_args)) - given:
        setattr(data_args, name, DataArguments.__dataclass_fields__[name].default)
    own = _other_data_of_the_file(data_args, argv, default_config)
    if own is None or data_args.license is None or "license" in given:
        return []
    license, data_args.license = data_args.license, None
    return [
        f"The license {license} of the configuration is of what is trained on its own data, {own!r}: the model card "
        f"names none. `--license` gives that of a model of {data_args.dataset_name_or_path!r}."
    ]


def _leave_the_default_model(
    model_args: ModelArguments, data_args: DataArguments, argv: Sequence[str], default_config: str | Path | None
) -> list[str]:
    """
    Reset what the default file says of its own model if a flag names another: `--model_name_or_path M` means M, and
    `--model_config` random weights. What stands among the flags or in a file that was named is left for the check.
    Returns what is to be said of it.
    """
    given = given_flags(argv)
    own = config_values([], default_config)
    if "config" in given:
        return []
    if "model_config" in given and own.get("model_name_or_path"):
        for name in {"model_name_or_path", "processor_name_or_path"} - given:
            setattr(model_args, name, None)
        return []
    start = own.get("model_name_or_path")
    if "model_name_or_path" not in given or model_args.model_name_or_path == start:
        return []
    if not own.get("model_config") and start != START:
        return []
    for name in {"model_config", "processor_name_or_path"} - given:
        setattr(model_args, name, None)
    if data_args.license is None or "license" in given:
        return []
    license, data_args.license = data_args.license, None
    return [
        f"The license {license} of {default_config} is of its own model: the model card names none. `--license` "
        f"gives that of a model that starts from {model_args.model_name_or_path}."
    ]


def _other_data_of_the_file(
    data_args: DataArguments, argv: Sequence[str], default_config: str | Path | None
) -> str | None:
    """The data that the YAML file names, if a flag names other data."""
    own = config_values(argv, default_config).get("dataset_name_or_path")
    return None if own is None or Path(str(own)) == Path(data_args.dataset_name_or_path) else str(own)


def _of_the_default_model(
    model_args: ModelArguments, data_args: DataArguments, argv: Sequence[str], default_config: str | Path | None
) -> list[str]:
    """What is to be said where other data than its own is trained on with the model of the default file."""
    chosen = {"model_name_or_path", "model_config"} & given_flags(argv)
    if default_config is None or chosen or _other_data_of_the_file(data_args, argv, default_config) is None:
        return []
    file, data = Path(default_config), data_args.dataset_name_or_path
    large, small = file.with_name("cc3m_vit_b32.yaml"), file.with_name("scenes_scratch.yaml")
    if (start := model_args.model_name_or_path) is not None:
        sentence = (
            f"No `--config` is given, so what is trained on {data!r} is {start}, the model that {file} names: name "
            "another with `--model_name_or_path`."
        )
        if start == START:
            sentence += (
                f" That one knows the words and the icons of `scenes` alone, and spells other words letter by letter. "
                f"`--config {large}` trains a ViT-B/32 from random weights, `--config {small}` a small model."
            )
        return [sentence]
    if not model_args.config_fields:
        return []
    return [
        f"No `--config` is given, so what is trained on {data!r} is the small model of {file}: pictures of "
        f"{model_args.image_size or 224} px, random weights. `--config {large}` trains a ViT-B/32 from random ones, "
        "`--model_config` gives other sizes, and `examples/finetune_lora.py` starts from a model that has learned."
    ]

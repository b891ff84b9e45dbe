# SPDX-License-Identifier: Apache-2.0
"""What a pretraining run can be told: one definition for the command line and for YAML files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_tripletclip.config_parser import as_columns, as_mapping, parse_with_config
from hf_tripletclip.training.argument_checks import check_data, check_numbers, settings_of_other_data
from hf_tripletclip.training.arguments import TripletCLIPTrainingArguments
from hf_tripletclip.training.towers import TowerArguments


@dataclass
class ModelArguments(TowerArguments):
    """Which model is trained, and what of it."""

    model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "Checkpoint to start from: a directory or Hub id of any CLIP. Default: random weights."},
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
    max_eval_samples: int | None = field(default=None, metadata={"help": "Evaluate on the first N rows only."})
    license: str | None = field(
        default=None, metadata={"help": "The trained weights' license, for the model card: an identifier of the Hub."}
    )
    scenes_nouns: str = field(default="24", metadata={"help": "Nouns that `scenes` draws: 24, 48 or all."})
    scenes_seed: int = field(default=0, metadata={"help": "Seed of `scenes`."})
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
            Command-line arguments, see [`~hf_tripletclip.config_parser.parse_with_config`].
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
    for part in arguments:
        check_numbers(part)
    _leave_settings_of_other_data(arguments[1], argv)
    check_data(arguments[1])
    return arguments


def _leave_settings_of_other_data(data_args: DataArguments, argv: Sequence[str]) -> None:
    """
    Reset what the YAML file says of its own data if a flag names other data: `--dataset_name_or_path DIR` beside the
    default file, which has the nouns of `scenes`, means DIR. What stands among the flags is left for the check.
    """
    given = {part.lstrip("-").partition("=")[0] for part in argv if part.startswith("--")}
    if "dataset_name_or_path" in given:
        for name in set(settings_of_other_data(data_args)) - given:
            setattr(data_args, name, DataArguments.__dataclass_fields__[name].default)

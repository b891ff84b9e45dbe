# SPDX-License-Identifier: Apache-2.0
"""What a pretraining run can be told: one definition for the command line and for YAML files."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser

from hf_tripletclip.training.arguments import TripletCLIPTrainingArguments


@dataclass
class ModelArguments:
    """Which model is trained."""

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
            "help": "Directory or Hub id of the processor. Default: the starting checkpoint's; on `scenes` one with a "
            "tokenizer trained on its captions; otherwise openai/clip-vit-base-patch32."
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
        metadata={"help": 'The dataset\'s own column names, as JSON: {"image": "img", "neg_caption": "foil", ...}.'},
    )
    streaming: bool = field(default=False, metadata={"help": "Read the dataset while training, without a copy."})
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

    @property
    def renames(self) -> dict[str, str]:
        """`columns` as a dict."""
        return self.columns if isinstance(self.columns, dict) else {}


Arguments = tuple[ModelArguments, DataArguments, TripletCLIPTrainingArguments]


class _Parser(HfArgumentParser):
    def error(self, message: str) -> Any:
        # argparse would print the usage of some 150 flags before the one line that matters
        raise ValueError(f"{message}; --help lists the flags")


def parse_arguments(argv: Sequence[str], default_config: str | Path | None = None) -> Arguments:
    """
    Read a pretraining run's arguments from the command line and, below it, from a YAML file.

    Args:
        argv (`Sequence[str]`):
            Command-line arguments. `--config FILE.yaml` names a file with the same names as the flags; flags win.
            `--resume_from_checkpoint` without a value means the newest complete checkpoint.
        default_config (`str` or `Path`, *optional*):
            The YAML file to use without `--config`.

    Returns:
        [`ModelArguments`], [`DataArguments`] and [`TripletCLIPTrainingArguments`].

    Raises:
        FileNotFoundError: The YAML file does not exist.
        ValueError: A flag or a key of the file is unknown, or a value is not allowed.
    """
    parser = _Parser(
        [ModelArguments, DataArguments, TripletCLIPTrainingArguments],  # type: ignore[list-item]
        description="Pretrain a CLIP on hard negative pairs.",
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--config", metavar="FILE.yaml", default=default_config, help="YAML file with these names")
    for action in parser._actions:
        if action.dest == "resume_from_checkpoint":
            action.nargs, action.const = "?", "true"
    names = {action.dest for action in parser._actions} - {"help", "config"}

    config_file = _config_file(argv, default_config)
    if config_file is not None:
        parser.set_defaults(**_read_config(Path(config_file), names))
    *arguments, _, unknown = parser.parse_args_into_dataclasses(
        args=list(argv), look_for_args_file=False, return_remaining_strings=True
    )
    if unknown:
        raise ValueError(_unknown("flag", [flag for flag in unknown if flag.startswith("-")] or unknown, names))
    model_arguments, data_arguments, training_arguments = arguments
    for holder, name in ((model_arguments, "model_config"), (data_arguments, "columns")):
        value = getattr(holder, name)
        if isinstance(value, str):
            value = yaml.safe_load(value)  # JSON is YAML
        if value is not None and not isinstance(value, dict):
            raise ValueError(f"`{name}` must be a mapping, as JSON on the command line; got {value!r}.")
        setattr(holder, name, value)
    return model_arguments, data_arguments, training_arguments


def _config_file(argv: Sequence[str], default: str | Path | None) -> str | Path | None:
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--config", default=default)
    return finder.parse_known_args(list(argv))[0].config


def _read_config(path: Path, names: set[str]) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"The config file {path} does not exist.")
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} must hold `name: value` lines, not a {type(config).__name__}.")
    if unknown := sorted(str(key) for key in config if key not in names):
        raise ValueError(f"{path}: {_unknown('key', unknown, names)}")
    return config


def _unknown(what: str, unknown: list[str], names: set[str]) -> str:
    hints = []
    for name in unknown:
        close = difflib.get_close_matches(name.lstrip("-").split("=")[0], names, n=1)
        hints.append(f"{name}" + (f" (did you mean {close[0]}?)" if close else ""))
    return f"unknown {what}{'s' if len(unknown) > 1 else ''}: {', '.join(hints)}"

# SPDX-License-Identifier: Apache-2.0
"""The arguments that the commands share which read pairs and write a dataset: `mine` and `join`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from hf_tripletclip.utils.cli_arguments import Exclusion, as_columns, as_mapping, parse_with_config


@dataclass
class PairArguments:
    """The arguments of a run that reads the pairs of a dataset."""

    data: str | None = field(
        default=None,
        metadata={
            "help": "The image-caption pairs: `scenes`, a local folder or file, or the id of a Hub dataset. "
            "It may also stand first, without this flag."
        },
    )
    splits: list[str] | None = field(default=None, metadata={"help": "Splits that are read. Default: all."})
    columns: dict[str, str] | str | None = field(
        default=None,
        metadata={
            "help": 'The dataset\'s own column names: a preset, or JSON such as {"caption": "texts"}. A column of '
            "captions may hold one or a list."
        },
    )
    images: str | None = field(
        default=None, metadata={"help": "A folder of images that paths in the rows may lead to."}
    )
    revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of a Hub dataset."})
    scenes_options: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Settings of `scenes`, as JSON: nouns, seed, image_size, train_size, ..."}
    )
    rows_per_file: int = field(default=10_000, metadata={"help": "Rows of a parquet file of the dataset."})
    license: str | None = field(default=None, metadata={"help": "License of the dataset: an identifier of the Hub."})
    overwrite: bool = field(
        default=False, metadata={"help": "Start anew; the old dataset stays until the new one is whole."}
    )
    disable_tqdm: bool = field(default=False, metadata={"help": "Show no progress bars."})

    def for_run(self) -> dict[str, Any]:
        """These arguments as `mine` and `join` take them, but for the dataset."""
        revision = {"revision": self.revision} if self.revision else {}
        return {
            "splits": self.splits,
            "columns": self.columns,
            "images": self.images,
            "dataset_kwargs": {**as_mapping(self, "scenes_options"), **revision},
            "rows_per_file": self.rows_per_file,
            "license": self.license,
            "overwrite": self.overwrite,
            "progress": not self.disable_tqdm,
        }


# What the command line asks for wins over these settings of a configuration, which exclude it.
EXCLUSIONS = (
    Exclusion("data", ("scenes_options",), when=lambda given, config: given["data"] != "scenes"),
    Exclusion("data", ("columns", "revision", "images"), when=lambda given, config: given["data"] == "scenes"),
)

Arguments = TypeVar("Arguments", bound=PairArguments)


def parse_pair_arguments(
    kind: type[Arguments], argv: Sequence[str], *, command: str, needs: str, description: str
) -> Arguments:
    """
    Read the arguments of a command.

    Args:
        kind (`type`): The dataclass that they are.
        argv (`Sequence[str]`): The words after the command. The first may be the dataset.
        command (`str`): The command's name, such as `mine`.
        needs (`str`): The flags that must follow the dataset, as `--help` and errors show them.
        description (`str`): Of `--help`.

    Raises:
        FileNotFoundError: The config file does not exist.
        ValueError: A flag or a key is unknown, a value is not allowed, or there is no dataset.
    """
    first = [argv[0]] if argv and not argv[0].startswith("-") else []
    if first and any(argument.split("=")[0] == "--data" for argument in argv):
        raise ValueError("name the dataset in one place: as it is, or with --data")
    flags = [*(["--data", *first] if first else []), *argv[len(first) :]]
    (arguments,) = parse_with_config(
        (kind,), flags, description=description, prog=f"tripletclip {command} DATASET", exclusions=EXCLUSIONS
    )
    if arguments.data is None:
        raise ValueError(f"name a dataset: tripletclip {command} DATASET {needs}")
    if arguments.data == "scenes" and (arguments.revision or arguments.columns or arguments.images):
        raise ValueError("`scenes` has no revisions, other column names or folders of images: leave them out")
    if as_mapping(arguments, "scenes_options") and arguments.data != "scenes":
        raise ValueError("`scenes_options` are for `scenes`: leave them out")
    as_columns(arguments)
    return arguments

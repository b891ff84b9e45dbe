# SPDX-License-Identifier: Apache-2.0
"""What `tripletclip join` can be told, by flags or in a YAML file, and its main function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from hf_tripletclip.config_parser import as_columns, as_mapping, parse_with_config
from hf_tripletclip.joining.settings import JoinSettings


@dataclass
class JoinArguments:
    """The arguments of a run."""

    dataset: str | None = field(
        default=None,
        metadata={
            "help": "The image-caption pairs: `scenes`, a local folder or file, or the id of a Hub dataset. "
            "`tripletclip join` takes it without this flag, too."
        },
    )
    output: str = field(default="joined", metadata={"help": "Folder of the dataset that is made."})
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
        default=None, metadata={"help": "Of `scenes`, as JSON: nouns, seed, image_size, train_size, ..."}
    )
    size: int = field(default=224, metadata={"help": "Side of a joined picture in pixels: that of the model."})
    rounds: int = field(default=1, metadata={"help": "With how many others each pair is joined."})
    num_paraphrases: int = field(
        default=1,
        metadata={"help": "1: the other order; more: other captions of the two pictures, joined, if they have any."},
    )
    singles: bool = field(default=False, metadata={"help": "The pairs themselves are rows too, without negatives."})
    seed: int = field(default=0, metadata={"help": "Another seed draws other partners and words."})
    tries: int = field(default=20, metadata={"help": "Partners that are tried for a pair before it is left out."})
    format: str = field(default="jpeg", metadata={"help": "How joined pictures are stored: jpeg, webp or png."})
    quality: int = field(default=95, metadata={"help": "Of JPEG and WebP, 1 to 100."})
    rows_per_file: int = field(default=10_000, metadata={"help": "Rows of a parquet file of the dataset."})
    license: str | None = field(default=None, metadata={"help": "License of the dataset: an identifier of the Hub."})
    num_workers: int | None = field(
        default=None, metadata={"help": "Processes that join pictures; 0 for none beside this one. Default: the CPUs."}
    )
    overwrite: bool = field(
        default=False, metadata={"help": "Start anew; the old dataset stays until the new one is whole."}
    )
    disable_tqdm: bool = field(default=False, metadata={"help": "Show no progress bars."})


def parse_join_arguments(argv: Sequence[str]) -> tuple[JoinArguments, JoinSettings]:
    """
    Read the arguments, and what they ask for.

    Raises:
        FileNotFoundError: The config file does not exist.
        ValueError: A flag or a key is unknown, a value is not allowed, or there is no dataset.
    """
    first = [argv[0]] if argv and not argv[0].startswith("-") else []
    if first and any(argument.split("=")[0] == "--dataset" for argument in argv):
        raise ValueError("name the dataset in one place: as it is, or with --dataset")
    flags = [*(["--dataset", *first] if first else []), *argv[len(first) :]]
    (arguments,) = parse_with_config(
        (JoinArguments,),
        flags,
        description="Join two pictures and their captions in each row, with a word exchanged for the negative (CLIC).",
        prog="tripletclip join DATASET",
    )
    if arguments.dataset is None:
        raise ValueError("name a dataset: tripletclip join DATASET --output DIR")
    if arguments.dataset == "scenes" and (arguments.revision or arguments.columns or arguments.images):
        raise ValueError("`scenes` has no revisions, other column names or folders of images: leave them out")
    if as_mapping(arguments, "scenes_options") and arguments.dataset != "scenes":
        raise ValueError("`scenes_options` are for `scenes`: leave them out")
    as_columns(arguments)
    return arguments, JoinSettings(**{one.name: getattr(arguments, one.name) for one in fields(JoinSettings)})


def main(argv: Sequence[str]) -> None:
    """Join from command-line arguments; see [`parse_join_arguments`] and [`~hf_tripletclip.joining.join`]."""
    arguments, settings = parse_join_arguments(argv)
    from hf_tripletclip.joining.run import join

    assert arguments.dataset is not None  # it was looked at
    report = join(
        arguments.dataset,
        arguments.output,
        settings=settings,
        splits=arguments.splits,
        columns=arguments.columns,
        images=arguments.images,
        dataset_kwargs={
            **as_mapping(arguments, "scenes_options"),
            **({"revision": arguments.revision} if arguments.revision else {}),
        },
        rows_per_file=arguments.rows_per_file,
        license=arguments.license,
        num_workers=arguments.num_workers,
        overwrite=arguments.overwrite,
        progress=not arguments.disable_tqdm,
    )
    print(report.summary())
    if not report.seconds:
        print("It was finished already: nothing was made.")
    print(f"The dataset is in {arguments.output}: load_dataset({arguments.output!r})")

# SPDX-License-Identifier: Apache-2.0
"""What `tripletclip mine` can be told, by flags or in a YAML file, and its main function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from hf_tripletclip.config_parser import as_columns, as_mapping, parse_with_config
from hf_tripletclip.mining.settings import NEGATIVES, SIMILARITIES, MiningSettings


@dataclass
class MiningArguments:
    """The arguments of a run of mining."""

    dataset: str | None = field(
        default=None,
        metadata={
            "help": "The image-caption pairs: `scenes`, a local folder or file, or the id of a Hub dataset. "
            "`tripletclip mine` takes it without this flag, too."
        },
    )
    model: str | None = field(default=None, metadata={"help": "A CLIP-like model: a directory or the id on the Hub."})
    output: str = field(default="mined", metadata={"help": "Folder of the dataset that is made."})
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
    negatives: str = field(
        default="pairs",
        metadata={"help": f"What a row gets, {' or '.join(NEGATIVES)}: another image and its caption, or captions."},
    )
    similarity: str = field(
        default="image",
        metadata={
            "help": f"What is near, {', '.join(SIMILARITIES)}: images to the image, captions to the caption, captions "
            "to the image."
        },
    )
    num_negatives: int = field(default=1, metadata={"help": "Negatives of a row; 0 for the neighbours alone."})
    num_neighbours: int = field(
        default=10, metadata={"help": "Neighbours of a row that are kept for batches (`--batch_neighbours`)."}
    )
    range_min: int = field(default=0, metadata={"help": "So many of the nearest are passed over."})
    range_max: int = field(default=100, metadata={"help": "So many of the nearest are looked at."})
    max_score: float | None = field(default=None, metadata={"help": "Candidates that are nearer are refused."})
    min_score: float | None = field(default=None, metadata={"help": "Candidates that are less near are refused."})
    absolute_margin: float | None = field(
        default=None,
        metadata={"help": "A negative must score so much less with the row's image or caption than the own pair."},
    )
    relative_margin: float | None = field(
        default=0.05, metadata={"help": "The same as a share of the own pair's score; a negative number turns it off."}
    )
    batch_size: int = field(default=64, metadata={"help": "Images or captions at a time."})
    autocast: str | None = field(
        default=None, metadata={"help": "Encode in bfloat16 or float16. Default: the precision of the weights."}
    )
    device: str | None = field(default=None, metadata={"help": "Default: the machine's accelerator, or its CPU."})
    num_workers: int = field(default=0, metadata={"help": "Processes that read and preprocess images."})
    cache_dir: str | None = field(
        default=None,
        metadata={"help": "Keep embeddings in this folder. Default: in the output until the dataset is whole."},
    )
    rows_per_file: int = field(default=10_000, metadata={"help": "Rows of a parquet file of the dataset."})
    license: str | None = field(default=None, metadata={"help": "License of the dataset: an identifier of the Hub."})
    samples: int = field(default=60, metadata={"help": "Rows that the page shows."})
    overwrite: bool = field(
        default=False, metadata={"help": "Start anew; the old dataset stays until the new one is whole."}
    )
    disable_tqdm: bool = field(default=False, metadata={"help": "Show no progress bars."})


def parse_mining_arguments(argv: Sequence[str]) -> tuple[MiningArguments, MiningSettings]:
    """
    Read the arguments, and what they ask for.

    Raises:
        FileNotFoundError: The config file does not exist.
        ValueError: A flag or a key is unknown, a value is not allowed, or there is no dataset or model.
    """
    first = [argv[0]] if argv and not argv[0].startswith("-") else []
    if first and any(argument.split("=")[0] == "--dataset" for argument in argv):
        raise ValueError("name the dataset in one place: as it is, or with --dataset")
    flags = [*(["--dataset", *first] if first else []), *argv[len(first) :]]
    (arguments,) = parse_with_config(
        (MiningArguments,),
        flags,
        description="Mine a dataset for its own nearest images and captions as hard negatives.",
        prog="tripletclip mine DATASET",
    )
    if arguments.dataset is None:
        raise ValueError("name a dataset: tripletclip mine DATASET --model MODEL --output DIR")
    if arguments.model is None:
        raise ValueError("name a model that says what is near: --model MODEL, a directory or the id on the Hub")
    if arguments.dataset == "scenes" and (arguments.revision or arguments.columns or arguments.images):
        raise ValueError("`scenes` has no revisions, other column names or folders of images: leave them out")
    if as_mapping(arguments, "scenes_options") and arguments.dataset != "scenes":
        raise ValueError("`scenes_options` are for `scenes`: leave them out")
    as_columns(arguments)
    if arguments.relative_margin is not None and arguments.relative_margin < 0:
        arguments.relative_margin = None
    names = [one.name for one in fields(MiningSettings) if one.default is not MISSING]
    return arguments, MiningSettings(**{name: getattr(arguments, name) for name in names})


def main(argv: Sequence[str]) -> None:
    """Mine from command-line arguments; see [`parse_mining_arguments`] and [`~hf_tripletclip.mining.mine`]."""
    arguments, settings = parse_mining_arguments(argv)
    from hf_tripletclip.mining.run import mine

    assert arguments.dataset is not None  # it was looked at
    given = (("autocast", arguments.autocast), ("device", arguments.device))
    report = mine(
        arguments.dataset,
        arguments.model,
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
        samples=arguments.samples,
        overwrite=arguments.overwrite,
        progress=not arguments.disable_tqdm,
        cache_dir=arguments.cache_dir,
        encoder_kwargs={
            "batch_size": arguments.batch_size,
            "num_workers": arguments.num_workers,
            **{name: value for name, value in given if value is not None},
        },
    )
    print(report.summary())
    if not report.seconds:
        print("It was finished already: nothing was made.")
    print(
        f"The dataset is in {arguments.output}: load_dataset({arguments.output!r}); mining.html shows what was found"
    )

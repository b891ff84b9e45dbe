# SPDX-License-Identifier: Apache-2.0
"""The arguments of `tripletclip mine`, as flags or in a YAML file, and its main function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields

from hf_tripletclip.mining.pair_arguments import PairArguments, parse_pair_arguments
from hf_tripletclip.mining.settings import NEGATIVES, SIMILARITIES, MiningSettings


@dataclass
class MiningArguments(PairArguments):
    """The arguments of a run of mining."""

    model: str | None = field(default=None, metadata={"help": "A CLIP-like model: a directory or the id on the Hub."})
    output: str = field(default="mined", metadata={"help": "Folder of the dataset that is made."})
    negatives: str = field(
        default="pairs",
        metadata={
            "help": f"What a row gets: {' or '.join(NEGATIVES)}, another image with its caption or only captions."
        },
    )
    similarity: str = field(
        default="image",
        metadata={
            "help": f"What is near, {', '.join(SIMILARITIES)}: images to the image, captions to the caption, captions "
            "to the image."
        },
    )
    num_negatives: int = field(default=1, metadata={"help": "Negatives of a row; 0 writes the neighbours alone."})
    num_neighbours: int = field(
        default=10, metadata={"help": "Neighbours of a row that are kept for batches (`--batch_neighbours`)."}
    )
    range_min: int = field(default=0, metadata={"help": "How many of the nearest are passed over."})
    range_max: int = field(default=100, metadata={"help": "How many of the nearest are looked at."})
    max_score: float | None = field(default=None, metadata={"help": "Refuse candidates with a higher score."})
    min_score: float | None = field(default=None, metadata={"help": "Refuse candidates with a lower score."})
    absolute_margin: float | None = field(
        default=None,
        metadata={"help": "A negative's score must be lower than that of the row's own pair by this much."},
    )
    relative_margin: float | None = field(
        default=0.05, metadata={"help": "The same as a share of that score; a negative number turns it off."}
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
    samples: int = field(default=60, metadata={"help": "Rows that the page shows."})


def parse_mining_arguments(argv: Sequence[str]) -> tuple[MiningArguments, MiningSettings]:
    """
    Read the arguments, and make the settings of the run.

    Raises:
        FileNotFoundError: The config file does not exist.
        ValueError: A flag or a key is unknown, a value is not allowed, or there is no dataset or model.
    """
    arguments = parse_pair_arguments(
        MiningArguments,
        argv,
        command="mine",
        needs="--model MODEL --output DIR",
        description="Mine a dataset for its own nearest images and captions as hard negatives.",
    )
    if arguments.model is None:
        raise ValueError("name a model that says what is near: --model MODEL, a directory or the id on the Hub")
    if arguments.relative_margin is not None and arguments.relative_margin < 0:
        arguments.relative_margin = None
    names = [one.name for one in fields(MiningSettings) if one.default is not MISSING]
    return arguments, MiningSettings(**{name: getattr(arguments, name) for name in names})


def main(argv: Sequence[str]) -> None:
    """Mine from command-line arguments; see [`parse_mining_arguments`] and [`~hf_tripletclip.mining.mine`]."""
    arguments, settings = parse_mining_arguments(argv)
    from hf_tripletclip.mining.run import mine

    assert arguments.data is not None  # checked by `parse_pair_arguments`
    given = (("autocast", arguments.autocast), ("device", arguments.device))
    report = mine(
        arguments.data,
        arguments.model,
        arguments.output,
        settings=settings,
        samples=arguments.samples,
        cache_dir=arguments.cache_dir,
        encoder_kwargs={
            "batch_size": arguments.batch_size,
            "num_workers": arguments.num_workers,
            **{name: value for name, value in given if value is not None},
        },
        **arguments.for_run(),
    )
    print(report.summary())
    if not report.seconds:
        print("It was finished already: nothing was made.")
    print(
        f"The dataset is in {arguments.output}: load_dataset({arguments.output!r}); mining.html shows what was found"
    )

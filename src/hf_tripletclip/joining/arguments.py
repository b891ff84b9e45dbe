# SPDX-License-Identifier: Apache-2.0
"""The arguments of `tripletclip join`, as flags or in a YAML file, and its main function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

from hf_tripletclip.joining.settings import JoinSettings
from hf_tripletclip.mining.pair_arguments import PairArguments, parse_pair_arguments


@dataclass
class JoinArguments(PairArguments):
    """The arguments of a run."""

    output: str = field(default="joined", metadata={"help": "Folder of the dataset that is made."})
    size: int = field(default=224, metadata={"help": "Side of a joined picture in pixels; take the model's."})
    rounds: int = field(default=1, metadata={"help": "How many others each pair is joined with."})
    num_paraphrases: int = field(
        default=1,
        metadata={"help": "1: the other order; more: other captions of the two pictures, joined, if they have any."},
    )
    singles: bool = field(
        default=False, metadata={"help": "Also write the pairs themselves as rows, without negatives."}
    )
    seed: int = field(default=0, metadata={"help": "Seed of the partners and words that are drawn."})
    tries: int = field(default=20, metadata={"help": "Partners that are tried for a pair before it is left out."})
    format: str = field(default="jpeg", metadata={"help": "Format of joined pictures: jpeg, webp or png."})
    quality: int = field(default=95, metadata={"help": "Quality of JPEG and WebP, 1 to 100."})
    num_workers: int | None = field(
        default=None, metadata={"help": "Processes that join pictures; 0 for none beside this one. Default: the CPUs."}
    )


def parse_join_arguments(argv: Sequence[str]) -> tuple[JoinArguments, JoinSettings]:
    """
    Read the arguments, and make the settings of the run.

    Raises:
        FileNotFoundError: The config file does not exist.
        ValueError: A flag or a key is unknown, a value is not allowed, or there is no dataset.
    """
    arguments = parse_pair_arguments(
        JoinArguments,
        argv,
        command="join",
        needs="--output DIR",
        description="Join two pictures and their captions in each row, with a word exchanged for the negative (CLIC).",
    )
    return arguments, JoinSettings(**{one.name: getattr(arguments, one.name) for one in fields(JoinSettings)})


def main(argv: Sequence[str]) -> None:
    """Join from command-line arguments; see [`parse_join_arguments`] and [`~hf_tripletclip.joining.join`]."""
    arguments, settings = parse_join_arguments(argv)
    from hf_tripletclip.joining.run import join

    assert arguments.data is not None  # checked by `parse_pair_arguments`
    report = join(
        arguments.data,
        arguments.output,
        settings=settings,
        num_workers=arguments.num_workers,
        **arguments.for_run(),
    )
    print(report.summary())
    if not report.seconds:
        print("It was finished already: nothing was made.")
    print(f"The dataset is in {arguments.output}: load_dataset({arguments.output!r})")

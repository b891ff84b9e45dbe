# SPDX-License-Identifier: Apache-2.0
"""The command line: `tripletclip convert | train`. It parses and dispatches; the work is done elsewhere."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from hf_tripletclip.version import __version__


def run_reporting_errors(function: Callable[[], Any]) -> int:
    """
    Run a command; an error that its user can act on (`OSError`, `ValueError`, `ImportError`) becomes one message on
    standard error instead of a traceback. `TRIPLETCLIP_DEBUG=1` shows the traceback.

    Returns:
        `int`: The exit status, 0 or 1; 130 after Ctrl-C.
    """
    try:
        function()
    except (OSError, ValueError, ImportError) as error:
        if os.environ.get("TRIPLETCLIP_DEBUG") == "1":
            raise
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def _convert(options: argparse.Namespace) -> None:
    from hf_tripletclip.checkpoints import convert

    target = convert(
        options.source,
        options.target,
        processor=options.processor,
        with_processor=not options.no_processor,
        logit_scale=options.logit_scale,
        overwrite=options.overwrite,
        revision=options.revision,
    )
    print(f"wrote {target}")


def _train(options: argparse.Namespace) -> None:
    if not any(argument.split("=")[0] in ("--config", "--help", "-h") for argument in options.arguments):
        raise ValueError("name a configuration: tripletclip train --config FILE.yaml; examples/configs has some")
    from hf_tripletclip.training.pretraining import main as pretrain

    pretrain(options.arguments)


def make_parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = argparse.ArgumentParser(prog="tripletclip", description="CLIP models that understand composition.")
    parser.add_argument("--version", action="version", version=f"tripletclip {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    convert = commands.add_parser(
        "convert",
        help="write a checkpoint as a standard CLIP directory",
        description="Write a checkpoint, such as a published TripletCLIP one, as a standard CLIP directory that "
        "transformers opens. Private repositories use the token of `hf auth login` or HF_TOKEN.",
    )
    convert.add_argument("source", help="directory or Hub id")
    convert.add_argument("target", help="directory to write")
    convert.add_argument("--revision", help="branch, tag or commit of the source")
    which = convert.add_mutually_exclusive_group()
    which.add_argument("--processor", help="directory or Hub id of the processor (default: the source's)")
    which.add_argument("--no-processor", action="store_true", help="write the model only")
    convert.add_argument("--logit-scale", type=float, help="the parameter `logit_scale`, where the source has none")
    convert.add_argument("--overwrite", action="store_true", help="replace the target if it exists")
    convert.set_defaults(run=_convert)

    train = commands.add_parser(
        "train",
        help="pretrain a model; several processes: accelerate launch -m hf_tripletclip.cli train ...",
        description="Pretrain a model: the flags of examples/pretrain.py, `tripletclip train --help` lists them.",
        add_help=False,
    )
    train.set_defaults(run=_train, arguments=[])
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the console script; returns the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = make_parser()
    if argv[:1] == ["train"]:  # its flags are those of the training script
        options = parser.parse_args(argv[:1])
        options.arguments = argv[1:]
    else:
        options = parser.parse_args(argv)
    return run_reporting_errors(lambda: options.run(options))


if __name__ == "__main__":
    sys.exit(main())

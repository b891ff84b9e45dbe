# SPDX-License-Identifier: Apache-2.0
"""The flags of `tripletclip report`, and its main function."""

from __future__ import annotations

from collections.abc import Sequence

from hf_tripletclip.evaluation.report.writing import write_report
from hf_tripletclip.utils.flag_parser import FlagParser


def make_parser() -> FlagParser:
    """The parser of the command line."""
    parser = FlagParser(
        prog="tripletclip report",
        description="Compare evaluation results: write one HTML page, Markdown and PNG files. They show how each two "
        "models differ on the same rows, and the figures that others have published.",
    )
    parser.add_argument(
        "results", nargs="+", metavar="RESULT", help="a .json that `tripletclip evaluate` wrote, or a folder of them"
    )
    parser.add_argument("--output", default="report", help="the folder to write (default: report)")
    parser.add_argument(
        "--card",
        metavar="MODEL_FOLDER",
        help="also write the results of this model into its folder, in README.md (model-index) and .eval_results/, "
        "which the Hub shows",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """
    Write a report.

    Args:
        argv (`Sequence[str]`, *optional*): The flags; those of the process by default.

    Returns:
        `int`: The exit status.

    Raises:
        ImportError: matplotlib is not installed.
        OSError: A file does not exist, or cannot be written.
        ValueError: A file is no evaluation result, or none is of the model of `--card`.
    """
    options = make_parser().parse_args(argv)
    for path in write_report(options.results, options.output):
        print(f"wrote {path}")
    if options.card is not None:
        from hf_tripletclip.evaluation.report.reading import read_entries
        from hf_tripletclip.hub.eval_results import results_of_model, write_eval_results

        results = results_of_model([entry.result for entry in read_entries(options.results)], options.card)
        for path in write_eval_results(options.card, results):
            print(f"wrote {path}")
    return 0

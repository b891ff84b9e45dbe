# SPDX-License-Identifier: Apache-2.0
"""The table of models beside the one that they come from."""

from __future__ import annotations

from hf_tripletclip.results.curve import Curve, Point, format_gains
from hf_tripletclip.results.metrics import differences
from hf_tripletclip.results.result import EvaluationResult, Mean


def point(alpha: float, right: list[bool], known: float) -> Point:
    paired = EvaluationResult(
        "triplets",
        {"group_score": sum(right) / len(right)},
        predictions={"row": list(range(len(right))), "group_score": right},
        means={"group_score": Mean("group_score")},
    )
    alone = EvaluationResult(
        "retrieval", {"recall": known}, predictions={"row": [0], "x": [True]}, means={"other": Mean("x")}
    )
    return Point(alpha, paired.metrics["group_score"], known, {"triplets": paired, "retrieval": alone})


def test_differences_are_from_the_first_row_with_the_paired_interval():
    base = point(0, [True, False, False, False, False, True], 0.8)
    tuned = point(1, [True, True, True, True, False, False], 0.6)
    curve = Curve("triplets group_score", "retrieval recall", [base, tuned])
    lines = format_gains(curve, [("base", base), ("tuned", tuned)]).splitlines()
    assert lines[0] == "| model | triplets group_score | gained [95 %] | retrieval recall | lost [95 %] |"
    assert lines[2] == "| base | 0.333 |  | 0.800 |  |"
    expected = differences(base.results["triplets"], tuned.results["triplets"])["group_score"]
    interval = f"+0.333 [{expected.low:+.3f}, {expected.high:+.3f}]"
    assert lines[3] == f"| tuned | 0.667 | {interval} | 0.600 | +0.200 |"  # no mean over rows, no interval


def test_nothing_lost_is_no_negative_zero():
    base, tuned = point(0, [True, False], 0.5), point(1, [True, False], 0.5)
    curve = Curve("triplets group_score", "triplets group_score", [base, tuned])
    rows = [("base", Point(0, 0.5, 0.5, base.results)), ("tuned", Point(1, 0.5, 0.5, tuned.results))]
    assert "-0.000" not in format_gains(curve, rows)
    assert format_gains(curve, rows).count("+0.000 [n/a]") == 2


def test_the_base_may_be_chosen_again():
    base = point(0, [True, False], 0.5)
    lines = format_gains(Curve("triplets group_score", "retrieval recall", [base]), [("base", base), ("chosen", base)])
    assert lines.splitlines()[3] == "| chosen | 0.500 | +0.000 [n/a] | 0.500 | +0.000 |"

# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from hf_tripletclip.results import EvaluationResult
from hf_tripletclip.results.metrics import (
    best,
    category_metrics,
    differences,
    overall_metrics,
    show,
    why_not_paired,
)
from hf_tripletclip.results.result import Mean
from tests.evaluation.report.conftest import make_result


def test_which_metrics_are_shown_where():
    result = make_result([True, False, True, True])
    assert overall_metrics(result) == ["macro", "micro"]
    assert category_metrics(result) == {"swap_obj": "swap_obj", "add_att": "add_att"}
    directions = {f"{way}_recall@1": Mean("recall@1", where={"direction": way}) for way in ("to_text", "to_image")}
    retrieval = EvaluationResult("retrieval", dict.fromkeys(directions, 0.5), means=directions)
    assert overall_metrics(retrieval) == list(directions)
    one_set = EvaluationResult(
        "zeroshot", {"top1": 0.5}, primary="top1", means={"top1": Mean("top1", where={"set": "dtd"})}
    )
    assert overall_metrics(one_set) == ["top1"]
    assert category_metrics(one_set) == {}
    assert category_metrics(EvaluationResult("x", {"a": 1.0})) == {}


def test_differences_are_those_of_paired_draws():
    generator = np.random.default_rng(1)
    first = make_result([bool(value) for value in generator.random(60) < 0.5])
    second = make_result([bool(value) for value in generator.random(60) < 0.7], "/runs/b")
    found = differences(first, second)
    assert set(found) == {"macro", "micro"}
    assert found["micro"].value == pytest.approx(second.metrics["micro"] - first.metrics["micro"])
    # By hand: the same 2,000 draws of rows for both.
    gain = np.array(second.predictions["accuracy"], float) - np.array(first.predictions["accuracy"], float)
    weights = np.random.default_rng(0).multinomial(60, np.full(60, 1 / 60), size=2000)
    low, high = np.quantile(weights @ gain / 60, [0.025, 0.975])
    assert (found["micro"].low, found["micro"].high) == pytest.approx((low, high))
    back = differences(second, first)["micro"]
    assert (back.low, back.high) == pytest.approx((-high, -low))


def test_what_is_hard_for_both_cancels_out():
    common = [index % 2 == 0 for index in range(100)]
    better = [good or index in (1, 3, 5, 7, 9, 11, 13) for index, good in enumerate(common)]
    first, second = make_result(common), make_result(better, "/runs/b")
    low, high = first.intervals["micro"]
    assert low < second.metrics["micro"] < high  # each alone they could be equal
    assert differences(first, second)["micro"].is_clear
    assert not differences(second, make_result([*better[:-1], True], "/runs/c"))["micro"].is_clear


@pytest.mark.parametrize(
    ("first", "second", "value"),
    [
        ([False], [True], 1.0),  # one row
        ([True], [False], -1.0),
        ([True, False] * 5, [True, False] * 5, 0.0),
        ([False] * 9, [True] * 9, 1.0),  # by the same in all rows
    ],
)
def test_draws_that_are_all_alike_are_no_interval(first, second, value):
    found = differences(make_result(first), make_result(second, "/runs/b"))
    assert found.keys() == {"macro", "micro"}
    for one in found.values():
        assert (one.value, one.interval(str, " to "), one.is_clear) == (pytest.approx(value), "n/a", False)
    clear = differences(make_result([False] * 9), make_result([True] * 8 + [False], "/runs/b"))["micro"]
    assert (clear.interval("{:+.2f}".format, " to "), clear.is_clear) == ("+0.67 to +1.00", True)
    assert clear.interval("{:+.2f}".format, ", ", sign=-1) == "-1.00, -0.67"


def test_rows_that_are_not_the_same_are_not_compared():
    first = make_result([True, False, True, False])
    keys = {**first.predictions, "key": ["a", "b", "c", "d"]}
    clusters = {**first.predictions, "cluster": [0, 0, 1, 1]}
    unnamed = {name: values for name, values in first.predictions.items() if name != "key"}
    for changes, reason in (
        ({"benchmark": "aro"}, "one is of sugarcrepe, the other of aro"),
        ({"data": {"fingerprint": "other"}}, "their fingerprints differ"),
        ({"settings": {"protocol": "official"}}, "strict and official"),
        ({"means": {}}, "do not say how"),
        ({"predictions": {}}, ".parquet of predictions is missing"),
        ({"predictions": unnamed}, "do not name their rows"),
        ({"predictions": keys}, "their keys differ"),
        ({"predictions": clusters}, "their clusters differ"),
    ):
        second = make_result([True, False, True, False], "/runs/b", **changes)
        assert reason in why_not_paired(first, second)
        with pytest.raises(ValueError, match="cannot be compared row by row"):
            differences(first, second)
    assert why_not_paired(first, make_result([False] * 4, "/runs/b")) is None


def test_the_best_is_marked_where_values_differ_as_printed():
    assert best([0.5, 0.7, None]) == [False, True, False]
    assert best([0.5, 0.7, 0.7]) == [False, True, True]
    assert best([0.70001, 0.70002]) == [False, False]
    assert best([0.7]) == [False]
    assert show(0.7346) == "73.5"
    assert show(1.2346, raw=True) == "1.235"

# SPDX-License-Identifier: Apache-2.0
"""Results as JSON and as tables."""

from __future__ import annotations

import json

import pytest

from hf_tripletclip.evaluation import EvaluationResult, format_before_after
from hf_tripletclip.evaluation.result import main_metrics, table_rows

METRICS = {
    "accuracy": 0.5,
    "accuracy_swap_obj": 0.25,
    "accuracy_macro": 0.25,
    "text_score": 0.25,
    "text_score_swap_obj": 0.0,
    "image_score_swap_obj": 0.0,
    "group_score": 0.125,
    "group_score_swap_obj": 0.0,
    "tie_rate": 0.0,
    "image_to_text_recall@1": 0.75,
    "held_out_accuracy": 0.4,
    "held_out_text_score": 0.3,
    "held_out_group_score": 0.2,
    "held_out_tie_rate": 0.0,
}


def result(**changes) -> EvaluationResult:
    return EvaluationResult("triplets", {**METRICS, **changes}, chance={"accuracy": 0.5, "held_out_accuracy": 0.5})


def test_json_keeps_everything_but_the_predictions(tmp_path):
    before = EvaluationResult(
        "triplets", {"accuracy": 1 / 3}, {"accuracy": 0.5}, {"rows": 3}, {"torch": "2", "é": None}, {"row": [0, 1, 2]}
    )
    before.save_json(tmp_path / "result.json")
    text = (tmp_path / "result.json").read_text(encoding="utf-8")
    assert text.endswith("}\n")
    assert set(json.loads(text)) == {"benchmark", "metrics", "chance", "counts", "settings"}
    again = EvaluationResult.load_json(str(tmp_path / "result.json"))
    assert again == EvaluationResult("triplets", before.metrics, before.chance, before.counts, before.settings)
    assert again.metrics["accuracy"] == 1 / 3  # to the last bit
    assert again.predictions == {}
    assert EvaluationResult.from_dict(again.to_dict()) == again


def test_results_do_not_share_their_defaults():
    first, second = EvaluationResult("a", {}), EvaluationResult("b", {})
    first.counts["rows"] = 1
    first.to_dict()["counts"]["rows"] = 2
    assert (first.counts, second.counts) == ({"rows": 1}, {})
    assert "predictions" not in repr(first)


def test_tables_leave_out_what_is_only_detail():
    assert main_metrics(result()) == [
        "accuracy",
        "accuracy_swap_obj",
        "accuracy_macro",
        "text_score",
        "group_score",
        "image_to_text_recall@1",
        "held_out_accuracy",
        "held_out_group_score",
    ]


def test_rows_are_those_that_both_have():
    before = EvaluationResult("triplets", {"accuracy": 0.1, "group_score": 0.0, "other": 1.0})
    assert table_rows(before, result()) == [("accuracy", 0.1, 0.5, 0.5), ("group_score", 0.0, 0.125, None)]


def test_before_after_is_aligned_and_shows_chance_where_it_is_known():
    lines = format_before_after(result(accuracy=0.1), result(accuracy=0.9876)).splitlines()
    assert lines[0].split() == ["before", "after", "chance"]
    table = {line.split()[0]: line.split()[1:] for line in lines[1:]}
    assert table["accuracy"] == ["0.100", "0.988", "0.500"]
    assert table["group_score"] == ["0.125", "0.125"]
    assert table["held_out_accuracy"] == ["0.400", "0.400", "0.500"]
    assert list(table) == main_metrics(result())
    ends = {line.index(value) + len(value) for line in lines[1:] for value in line.split()[1:2]}
    assert ends == {lines[0].index("before") + len("before")}
    assert max(map(len, lines)) <= 80


def test_a_table_of_one_result():
    head, first, *_ = result(accuracy=0.75).format_table().splitlines()
    assert head.split() == ["result", "chance"]
    assert first.split() == ["accuracy", "0.750", "0.500"]
    assert len(head) == len(first)


@pytest.mark.parametrize("metrics", [{}, {"tie_rate": 1.0}])
def test_a_table_without_rows_is_its_head(metrics):
    assert EvaluationResult("triplets", metrics).format_table().split() == ["result", "chance"]


def test_other_json_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"\['extra'\] are unknown"):
        EvaluationResult.from_dict({**result().to_dict(), "extra": 1})
    for incomplete in ({"metrics": {}}, {"benchmark": "triplets"}):
        with pytest.raises(ValueError, match="has `benchmark`, `metrics`"):
            EvaluationResult.from_dict(incomplete)
    (tmp_path / "metrics.json").write_text('{"accuracy": 0.5}')
    with pytest.raises(ValueError, match=r"\['accuracy'\] are unknown"):
        EvaluationResult.load_json(tmp_path / "metrics.json")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ValueError, match="Expecting"):
        EvaluationResult.load_json(tmp_path / "broken.json")

# SPDX-License-Identifier: Apache-2.0
"""Results as JSON and as tables."""

from __future__ import annotations

import json
from dataclasses import fields, replace

import pytest

from hf_tripletclip.results import EvaluationResult, format_before_after
from hf_tripletclip.results.result import Mean, main_metrics, table_rows
from hf_tripletclip.results.scoring import tally

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


def whole() -> EvaluationResult:
    return EvaluationResult(
        benchmark="sugarcrepe",
        metrics={"macro": 1 / 3, "swap_obj": 0.25},
        chance={"macro": 0.5},
        counts={"rows": 3, "missing": 0},
        settings={"protocol": "strict", "é": None, "parts": ["a"]},
        predictions={
            "key": ["a", "b", "c"],
            "category": ["swap_obj", None, "add_att"],
            "score_i0c0": [1 / 3, 0.5, None],
            "accuracy": [True, False, None],
        },
        primary="macro",
        intervals={"macro": (0.25, 0.5)},
        baselines={"longest caption": {"macro": 0.5}},
        means={"macro": Mean("accuracy", by="category"), "swap_obj": Mean("accuracy", where={"category": "swap_obj"})},
        model={"name": "someone/clip", "fingerprint": "abc"},
        data={"source": "folder", "fingerprint": "def"},
        versions={"torch": "2"},
    )


def test_json_keeps_everything_but_the_predictions(tmp_path):
    before = whole()
    before.save_json(tmp_path / "result.json")
    text = (tmp_path / "result.json").read_text(encoding="utf-8")
    assert text.endswith("}\n")
    assert set(json.loads(text)) == {"format", *(field.name for field in fields(before))} - {"predictions"}
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]
    again = EvaluationResult.load_json(str(tmp_path / "result.json"))
    assert again == replace(before, predictions={})
    assert again.metrics["macro"] == 1 / 3  # to the last bit
    assert again.intervals["macro"] == (0.25, 0.5)
    assert again.means["swap_obj"] == Mean("accuracy", where={"category": "swap_obj"})
    assert EvaluationResult.from_dict(again.to_dict()) == again


def test_files_keep_the_predictions_too(tmp_path):
    target = tmp_path / "new" / "folder" / "sugarcrepe.json"
    whole().save(target)
    assert sorted(path.name for path in target.parent.iterdir()) == ["sugarcrepe.json", "sugarcrepe.parquet"]
    again = EvaluationResult.load(target)
    assert again == whole()
    assert tally(again.predictions, again.means["macro"]) == tally(whole().predictions, whole().means["macro"])

    replace(whole(), predictions={}).save(target)  # the predictions of the earlier result are none of this one's
    assert EvaluationResult.load(target).predictions == {}
    assert [path.name for path in target.parent.iterdir()] == ["sugarcrepe.json"]


def test_the_format_of_another_version_is_refused(tmp_path):
    (tmp_path / "future.json").write_text(json.dumps({**whole().to_dict(), "format": 2}))
    with pytest.raises(ValueError, match=r"future\.json .*is of format 2 and this version of hf_tripletclip reads 1"):
        EvaluationResult.load(tmp_path / "future.json")
    old = whole().to_dict()
    del old["format"]  # the first version did not say
    assert EvaluationResult.from_dict(old) == replace(whole(), predictions={})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "a JSON object, not a list"),
        ("", "Expecting value"),
        ('{"benchmark": "x", "metrics": [0.5]}', "metrics of an evaluation result must be a JSON object"),
        ('{"benchmark": "x", "metrics": {}, "tradeoff": "top1"}', "tradeoff of an evaluation result must be a list"),
        ('{"benchmark": "x", "metrics": {}, "intervals": {"a": [1]}}', "intervals or means"),
        ('{"benchmark": "x", "metrics": {}, "intervals": {"a": 1}}', "intervals or means"),
        ('{"benchmark": "x", "metrics": {}, "means": {"a": {"wrong": 1}}}', "intervals or means"),
        ('{"benchmark": "x", "metrics": {}, "means": {"a": 3}}', "intervals or means"),
    ],
)
def test_corrupt_files_are_named(tmp_path, content, message):
    (tmp_path / "corrupt.json").write_text(content)
    with pytest.raises(ValueError, match=r"corrupt\.json is no evaluation result that can be read: .*" + message):
        EvaluationResult.load(tmp_path / "corrupt.json")


def test_corrupt_predictions_and_absent_files_are_named(tmp_path):
    whole().save(tmp_path / "result.json")
    (tmp_path / "result.parquet").write_bytes(b"PAR1junk")
    with pytest.raises(ValueError, match=r"result\.parquet are no predictions that can be read"):
        EvaluationResult.load(tmp_path / "result.json")
    (tmp_path / "result.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"result\.json is no evaluation result that can be read"):
        EvaluationResult.load(tmp_path / "result.json")
    with pytest.raises(FileNotFoundError):
        EvaluationResult.load(tmp_path / "absent.json")


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


def test_a_table_with_intervals():
    lines = whole().format_table().splitlines()
    assert lines[0].split() == ["result", "95", "%", "interval", "chance"]
    assert lines[1].split() == ["macro", "0.333", "0.250", "-", "0.500", "0.500"]
    assert lines[2].split() == ["swap_obj", "0.250"]
    assert lines[1].index("0.250") == lines[0].index("95 %")
    assert len(lines[0]) == len(lines[1])


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


def test_its_representation_is_one_short_line():
    metrics = {f"kind_{number}": 0.5 for number in range(200)} | {"macro": 0.7371}
    result = EvaluationResult(
        "sugarcrepe",
        metrics,
        counts={"rows": 7511},
        primary="macro",
        intervals={"macro": (0.71, 0.76)},
        predictions={"key": ["x"] * 7511},
        model={"name": "m" * 300},
    )
    said = repr(result)
    assert said.startswith(
        "EvaluationResult('sugarcrepe', macro=0.737 [0.710, 0.760], 201 metrics, 7,511 rows, model='m"
    )
    assert len(said) < 200
    assert repr(EvaluationResult("x", {})) == "EvaluationResult('x', 0 metrics)"

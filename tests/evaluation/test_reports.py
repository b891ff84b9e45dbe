# SPDX-License-Identifier: Apache-2.0
"""Results, plots and the page of examples."""

from __future__ import annotations

import importlib.util
import json

import pytest
from PIL import Image

from hf_tripletclip.evaluation import EvaluationResult, format_before_after
from hf_tripletclip.evaluation.plots import plot_comparison, plot_evaluation, plot_loss_curve
from hf_tripletclip.evaluation.report import write_examples_page


def make_result(value: float) -> EvaluationResult:
    names = ("accuracy", "accuracy_swap_obj", "text_score", "text_score_swap_obj", "group_score", "tie_rate")
    return EvaluationResult(
        benchmark="triplets",
        metrics={**dict.fromkeys(names, value), "image_to_text_recall@1": value},
        chance={"accuracy": 0.5, "text_score": 0.25},
        counts={"rows": 2},
        settings={"torch": "2"},
        predictions={
            "row": [0, 1],
            "image_text": [0.5, 0.1],
            "image_negative_text": [0.1, 0.2],
            "negative_image_text": [0.1, 0.2],
            "negative_image_negative_text": [0.5, 0.1],
            "group_score": [True, False],
        },
    )


def test_json_round_trip(tmp_path):
    result = make_result(0.25)
    result.save_json(tmp_path / "result.json")
    assert "predictions" not in json.loads((tmp_path / "result.json").read_text())
    again = EvaluationResult.load_json(tmp_path / "result.json")
    assert again.to_dict() == result.to_dict()


def test_table_shows_the_main_metrics_beside_chance():
    lines = format_before_after(make_result(0.1), make_result(0.75)).splitlines()
    assert lines[0].split() == ["before", "after", "chance"]
    assert lines[1].split() == ["accuracy", "0.100", "0.750", "0.500"]
    listed = [line.split()[0] for line in lines[1:]]
    assert listed == ["accuracy", "accuracy_swap_obj", "text_score", "group_score", "image_to_text_recall@1"]
    assert max(map(len, lines)) <= 80


def test_plots_are_pictures(tmp_path):
    history = [{"step": step, "loss": 9.0 - step} for step in (1, 2, 3)]
    plot_loss_curve(history, tmp_path / "loss.png")
    history += [{"step": 3, "eval_loss": 5.0, "eval_accuracy": 0.6, "eval_group_score": 0.2}]
    plot_loss_curve(history, tmp_path / "both.png")
    plot_evaluation(make_result(0.1), make_result(0.75), tmp_path / "evaluation.png")
    plot_comparison(
        {"clip": {"group": (0.2, 0.01)}, "negclip": {"group": (0.3, 0.0), "text": (0.4, 0.1)}}, tmp_path / "c.png"
    )
    sizes = {path.name: Image.open(path).size for path in tmp_path.glob("*.png")}
    assert set(sizes) == {"loss.png", "both.png", "evaluation.png", "c.png"}
    assert sizes["both.png"][0] > sizes["loss.png"][0]


def test_missing_matplotlib_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "hf_tripletclip\[plots\]"'):
        plot_loss_curve([], tmp_path / "loss.png")


def test_page_shows_right_and_wrong_ones_and_escapes_captions(tmp_path):
    from datasets import Dataset

    picture = {"bytes": None, "path": None}
    Image.new("RGB", (8, 8), "red").save(tmp_path / "image.png")
    picture["path"] = str(tmp_path / "image.png")
    row = {"image": picture, "neg_image": picture, "caption": "<b>cat</b>", "neg_caption": "a & b"}
    dataset = Dataset.from_list([{**row, "negative_type": kind} for kind in ("swap_obj", "add_att")])
    write_examples_page(tmp_path / "page.html", dataset, make_result(0.5))
    page = (tmp_path / "page.html").read_text()
    assert "&lt;b&gt;cat&lt;/b&gt;" in page
    assert "a &amp; b" in page
    assert "<b>cat" not in page
    assert page.count("data:image/png;base64,") == 4
    assert page.index("add_att") < page.index("swap_obj")
    assert "✓ right" in page
    assert "✗ wrong" in page
    assert "0.500" in page
    assert "http" not in page

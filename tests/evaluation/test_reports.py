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


def test_a_file_that_is_no_result_is_refused(tmp_path):
    (tmp_path / "metrics.json").write_text('{"accuracy": 0.5}')
    with pytest.raises(ValueError, match=r"\['accuracy'\] are unknown"):
        EvaluationResult.load_json(tmp_path / "metrics.json")
    with pytest.raises(ValueError, match="has `benchmark`, `metrics`"):
        EvaluationResult.from_dict({"benchmark": "triplets"})


def test_table_of_one_result():
    lines = make_result(0.75).format_table().splitlines()
    assert lines[0].split() == ["result", "chance"]
    assert lines[1].split() == ["accuracy", "0.750", "0.500"]
    assert len({len(line) for line in lines[:2]}) == 1


def test_page_says_which_choice_was_wrong_and_takes_rows_without_a_kind(tmp_path):
    from datasets import Dataset

    picture = Image.new("RGB", (8, 8), "red")
    row = {"image": picture, "neg_image": picture, "caption": "a cat", "neg_caption": "a dog"}
    dataset = Dataset.from_list([{**row, "negative_type": kind} for kind in ("swap_obj", None)])
    result = make_result(0.5)
    result.predictions["image_text"][1], result.predictions["negative_image_negative_text"][1] = 0.3, 0.2
    write_examples_page(tmp_path / "page.html", dataset, result)
    page = (tmp_path / "page.html").read_text()
    # The second row: 0.3 0.2 / 0.2 0.2, the negative image and the negative caption are undecided.
    assert "triplet: " in page
    assert "✗ wrong about the caption of an image and the image of a caption" in page
    # The first row with only the choice of an image at fault: 0.5 0.6 / 0.1 0.7.
    result.predictions["negative_image_text"][0], result.predictions["negative_image_negative_text"][0] = 0.6, 0.7
    result.predictions["group_score"][0] = False
    write_examples_page(tmp_path / "page.html", dataset, result)
    assert (
        "swap_obj: " + '<span class="bad">✗ wrong about the image of a caption</span>'
        in (tmp_path / "page.html").read_text()
    )


def test_page_needs_predictions(tmp_path):
    from datasets import Dataset

    again = EvaluationResult.from_dict(make_result(0.5).to_dict())
    with pytest.raises(ValueError, match="A result read from JSON has no predictions"):
        write_examples_page(tmp_path / "page.html", Dataset.from_dict({}), again)


def test_the_legend_of_a_comparison_fits_into_the_picture(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **kwargs: figures.append(self))
    labels = ("clip", "negclip", "negclip_image", "clip_all", "tripletclip", "clip (2x steps)")
    plot_comparison({label: {"group": (0.5, 0.1)} for label in labels}, tmp_path / "c.png")
    (figure,) = figures
    figure.draw_without_rendering()
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.width

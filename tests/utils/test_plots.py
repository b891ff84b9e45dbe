# SPDX-License-Identifier: Apache-2.0
"""The plots: their contents, and that they need no display."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from hf_tripletclip.evaluation.triplets import chance_of
from hf_tripletclip.results import EvaluationResult
from hf_tripletclip.results.plots import plot_comparison, plot_evaluation
from hf_tripletclip.utils.plots import plot_loss_curve

HISTORY = [
    *({"step": step, "loss": 5.0 / step, "learning_rate": 1e-3} for step in range(1, 6)),
    {"step": 5, "eval_loss": 1.5, "eval_accuracy": 0.7, "eval_group_score": 0.3},
    {"step": 5, "train_runtime": 1.0},
]


def result(value: float, *names: str) -> EvaluationResult:
    metrics = dict.fromkeys(names or ("accuracy", "accuracy_swap_obj", "accuracy_macro", "group_score"), value)
    return EvaluationResult("triplets", metrics, chance_of(metrics, 100), {"rows": 100})


def opened(path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        image.load()
        return np.asarray(image.convert("RGB"), int)


def colours(image: np.ndarray) -> set[tuple[int, ...]]:
    return set(map(tuple, image.reshape(-1, 3)))


def evaluation_plot(tmp_path, before: EvaluationResult, after: EvaluationResult) -> np.ndarray:
    plot_evaluation(before, after, tmp_path / "evaluation.png")
    return opened(tmp_path / "evaluation.png")


def test_loss_curve(tmp_path):
    plot_loss_curve(HISTORY, tmp_path / "loss.png")
    image = opened(tmp_path / "loss.png")
    assert {(0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)} <= colours(image)  # training and validation
    plot_loss_curve(HISTORY[:5], str(tmp_path / "training.png"))
    assert opened(tmp_path / "training.png").shape[1] < image.shape[1]  # one panel
    assert (0xD5, 0x5E, 0x00) not in colours(opened(tmp_path / "training.png"))


def test_an_empty_history_is_an_empty_plot(tmp_path):
    plot_loss_curve([], tmp_path / "loss.png")
    assert opened(tmp_path / "loss.png").shape[2] == 3


def test_evaluation_has_bars_and_chance(tmp_path):
    image = evaluation_plot(tmp_path, result(0.3), result(0.8))
    assert {(0x99, 0x99, 0x99), (0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)} <= colours(image)
    higher = evaluation_plot(tmp_path, result(0.3), result(0.95))
    blue = [(picture == (0x00, 0x72, 0xB2)).all(axis=2).sum() for picture in (image, higher)]
    assert blue[1] > blue[0]


@pytest.mark.parametrize("names", [("image_accuracy",), ("image_to_text_recall@1",), ("tie_rate",)])
def test_any_metrics_can_be_plotted(tmp_path, names):
    assert evaluation_plot(tmp_path, result(0.2, *names), result(0.4, *names)).std() > 0


def test_comparison(tmp_path):
    plot_comparison(
        {"clip": {"accuracy": (0.5, 0.1)}, "tripletclip": {"accuracy": (0.9, 0.0), "group_score": (0.4, 0.2)}},
        tmp_path / "comparison.png",
    )
    assert {(0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)} <= colours(opened(tmp_path / "comparison.png"))


def test_the_legend_of_a_comparison_fits(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **kwargs: figures.append(self))
    labels = ("clip", "negclip", "negclip_image", "clip_all", "tripletclip", "clip (2x steps)")
    plot_comparison({label: {"group": (0.5, 0.1)} for label in labels}, tmp_path / "comparison.png")
    (figure,) = figures
    figure.draw_without_rendering()
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.width


@pytest.mark.parametrize(
    "plot",
    [
        lambda path: plot_loss_curve(HISTORY, path),
        lambda path: plot_evaluation(result(0.1), result(0.2), path),
        lambda path: plot_comparison({"clip": {"accuracy": (0.5, 0.1)}}, path),
    ],
    ids=["loss", "evaluation", "comparison"],
)
def test_without_matplotlib_each_plot_says_what_to_install(tmp_path, monkeypatch, plot):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "hf_tripletclip\[plots\]"'):
        plot(tmp_path / "plot.png")
    assert not (tmp_path / "plot.png").exists()


def test_matplotlib_is_imported_only_to_plot_and_without_a_display(tmp_path):
    code = (
        "import sys; from hf_tripletclip.utils import plots; assert 'matplotlib' not in sys.modules; "
        "plots.plot_loss_curve([], sys.argv[1]); assert 'matplotlib.pyplot' not in sys.modules"
    )
    environment = {name: value for name, value in os.environ.items() if name != "DISPLAY"} | {"MPLBACKEND": "tkagg"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "plot.png")], check=True, env=environment)
    assert opened(tmp_path / "plot.png").size > 0

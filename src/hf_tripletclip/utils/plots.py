# SPDX-License-Identifier: Apache-2.0
"""matplotlib figures without a display, and the plot of a training run."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping, Sequence
from typing import Any

# Okabe and Ito's palette, which colour-blind readers can distinguish.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999", "#000000")


def require_plots() -> None:
    """Raise `ImportError`, with the command that installs matplotlib, if it is missing."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ImportError('the plots need matplotlib: pip install "hf_tripletclip[plots]"')


def new_figure(width: float, height: float) -> Any:
    """An empty `matplotlib.figure.Figure` with this size in inches."""
    require_plots()
    from matplotlib.figure import Figure  # without pyplot there is no global state and no display

    return Figure(figsize=(width, height), layout="constrained")


def tidy(axes: Any) -> None:
    """Axes without a box, with horizontal lines behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)


def plot_loss_curve(log_history: Sequence[Mapping[str, Any]], path: str | os.PathLike[str]) -> None:
    """
    The losses over the steps and, in a second panel, the scores on the validation split.

    Args:
        log_history (`Sequence[Mapping[str, Any]]`): A trainer's `state.log_history`.
        path (`str` or `os.PathLike`): The PNG file to write.

    Raises:
        ImportError: matplotlib is not installed.
    """

    def series(name: str) -> tuple[list[float], list[float]]:
        entries = [entry for entry in log_history if name in entry]
        return [entry["step"] for entry in entries], [entry[name] for entry in entries]

    scores = {name: series(f"eval_{name}") for name in ("accuracy", "text_score", "image_score", "group_score")}
    scores = {name: values for name, values in scores.items() if values[0]}
    figure = new_figure(10 if scores else 5.5, 3.8)
    axes = figure.subplots(1, 2 if scores else 1, squeeze=False)[0]
    logged = series("loss")
    # A single point needs a marker, since it makes no line.
    axes[0].plot(*logged, color=PALETTE[0], marker="o" if len(logged[0]) == 1 else None, label="training")
    if series("eval_loss")[0]:
        axes[0].plot(*series("eval_loss"), color=PALETTE[1], marker="o", label="validation (its own batch size)")
        axes[0].legend(frameon=False)
    axes[0].set(xlabel="step", ylabel="loss", title="Loss")
    for (name, values), colour in zip(scores.items(), PALETTE, strict=False):
        axes[1].plot(*values, color=colour, marker="o", label=name.replace("_", " "))
    if scores:
        axes[1].set(xlabel="step", ylim=(0, 1), title="Validation scores")
        axes[1].legend(frameon=False)
    for panel in axes:
        tidy(panel)
    figure.savefig(path, dpi=150)

# SPDX-License-Identifier: Apache-2.0
"""Plots of results: before and after training, and several models side by side."""

from __future__ import annotations

import os
from collections.abc import Mapping

from hf_tripletclip.results.result import EvaluationResult, main_metrics
from hf_tripletclip.utils.plots import PALETTE, new_figure, tidy


def plot_evaluation(before: EvaluationResult, after: EvaluationResult, path: str | os.PathLike[str]) -> None:
    """
    Bars of the main metrics before and after training, with chance as a line across each.

    Args:
        before, after ([`EvaluationResult`]): The two evaluations.
        path (`str` or `os.PathLike`): The PNG file to write.

    Raises:
        ImportError: matplotlib is not installed.
    """
    last = ["accuracy", "image_accuracy", "text_score", "image_score", "group_score"]
    last += ["image_to_text_recall@1", "text_to_image_recall@1"]
    names = [name for name in main_metrics(after) if name.startswith("accuracy_") and name != "accuracy_macro"] + last
    names = [name for name in names if name in before.metrics and name in after.metrics]
    figure = new_figure(max(6.0, 0.85 * len(names) + 1.5), 4.2)
    axes = figure.subplots()
    for offset, (label, result) in zip((-0.2, 0.2), (("before", before), ("after", after)), strict=True):
        colour = PALETTE[6] if label == "before" else PALETTE[0]
        places = [place + offset for place in range(len(names))]
        axes.bar(places, [result.metrics[name] for name in names], width=0.4, color=colour, label=label)
    guesses = [(place, after.chance[name]) for place, name in enumerate(names) if name in after.chance]
    if guesses:
        starts, ends = [place - 0.42 for place, _ in guesses], [place + 0.42 for place, _ in guesses]
        axes.hlines([guess for _, guess in guesses], starts, ends, color=PALETTE[1], label="chance")
    labels = [name.removeprefix("accuracy_").replace("_recall", "\nrecall").replace("_to_", " to ") for name in names]
    axes.set_xticks(range(len(names)), labels, rotation=40, ha="right")
    axes.set(ylim=(0, 1), ylabel="fraction right", title=f"{after.counts.get('rows', '?')} test triplets")
    figure.legend(loc="outside lower center", frameon=False, ncols=3)  # below the bars, which may be high
    tidy(axes)
    figure.savefig(path, dpi=150)


def plot_comparison(rows: Mapping[str, Mapping[str, tuple[float, float]]], path: str | os.PathLike[str]) -> None:
    """
    Bars of several trained models side by side.

    Args:
        rows (`Mapping[str, Mapping[str, tuple[float, float]]]`): label -> metric -> (mean, standard deviation).
        path (`str` or `os.PathLike`): The PNG file to write.

    Raises:
        ImportError: matplotlib is not installed.
    """
    names = list(dict.fromkeys(name for metrics in rows.values() for name in metrics))
    inches = max(7.0, 0.95 * len(names) + 1.5)
    figure = new_figure(inches, 4.4)
    axes = figure.subplots()
    width = 0.85 / max(1, len(rows))
    for index, (label, metrics) in enumerate(rows.items()):
        places = [place - 0.425 + width * (index + 0.5) for place in range(len(names))]
        values = [metrics.get(name, (float("nan"), 0.0)) for name in names]
        axes.bar(
            places,
            [mean for mean, _ in values],
            width,
            yerr=[deviation for _, deviation in values],
            error_kw={"elinewidth": 1, "ecolor": "#444444"},
            color=PALETTE[index % len(PALETTE)],
            label=label,
        )
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right")
    axes.set(ylim=(0, 1), ylabel="fraction right", title="Mean and standard deviation over seeds")
    # The layout does not shrink a legend that is wider than the figure: a letter takes about a twelfth of an inch.
    columns = int(inches / (0.6 + max(map(len, rows), default=1) / 12))
    figure.legend(
        *axes.get_legend_handles_labels(),
        frameon=False,
        ncols=max(1, min(len(rows), columns)),
        loc="outside lower center",
    )
    tidy(axes)
    figure.savefig(path, dpi=150)

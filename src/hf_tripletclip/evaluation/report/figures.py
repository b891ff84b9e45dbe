# SPDX-License-Identifier: Apache-2.0
"""The charts of a report: bars of categories, histograms of similarities, composition against retention."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_tripletclip.evaluation.items import SCORE, places
from hf_tripletclip.evaluation.registry import BENCHMARKS, benchmark_class
from hf_tripletclip.evaluation.report.drawings import (
    Bar,
    Point,
    draw_bars,
    draw_histograms,
    draw_scatter,
    inline_svg,
)
from hf_tripletclip.evaluation.report.reading import Entry, Published, published_beside, title_of
from hf_tripletclip.evaluation.report.tables import Picture
from hf_tripletclip.results.metrics import category_metrics
from hf_tripletclip.results.result import EvaluationResult

MAX_CATEGORIES = 24


def save_picture(figure: Any, folder: str | os.PathLike[str], name: str, caption: str) -> Picture:
    """Write a figure as PNG into a folder, and return it with its SVG."""
    figure.savefig(Path(folder) / f"{name}.png", dpi=150)
    return Picture(name, inline_svg(figure, name, caption), caption)


def category_bars(
    entries: Sequence[Entry], folder: str | os.PathLike[str], where: str = "", number: int = 1
) -> list[Picture]:
    """Bars of the categories of a benchmark, if it has several. `where` and `number` distinguish data sets."""
    rows: dict[str, dict[str, Bar]] = {}
    sizes: Counter[str] = Counter()
    for entry in entries:
        result = entry.result
        bars = {
            category: Bar(result.metrics[name], result.intervals.get(name), result.chance.get(name))
            for category, name in category_metrics(result).items()
        }
        sizes |= Counter({category: result.counts.get(category, 0) for category in bars})
        if bars:
            rows[entry.label] = bars
    if len(sizes.keys() | {name for bars in rows.values() for name in bars}) < 2:
        return []
    everything = list(dict.fromkeys(name for bars in rows.values() for name in bars))
    kept = sorted(everything, key=lambda name: -sizes[name])[:MAX_CATEGORIES]
    rows = {
        label: {name: bars[name] for name in everything if name in bars and name in kept}
        for label, bars in rows.items()
    }
    benchmark = entries[0].result.benchmark
    some = f", the {MAX_CATEGORIES} of most rows" if len(everything) > MAX_CATEGORIES else ""
    caption = f"{' '.join(filter(None, (title_of(entries), where)))} by category{some}. Black lines: 95 % intervals."
    return [
        save_picture(
            draw_bars(rows, _outcome(next(entry.result for entry in entries if entry.label in rows))),
            folder,
            f"{benchmark}_categories" + (f"_{number}" if number > 1 else ""),
            caption,
        )
    ]


def _outcome(result: EvaluationResult) -> str:
    outcome = result.means[result.primary or ""].outcome
    return f"{outcome.replace('_', ' ')}, %"


def similarity_histograms(entries: Sequence[Entry], folder: str | os.PathLike[str]) -> list[Picture]:
    """Histograms of the scores of true and false pairs, for each model with predictions."""
    benchmark = entries[0].result.benchmark
    if entries[0].result.raw:
        return [
            picture
            for across, what in ((True, "of images with captions"), (False, "within a modality"))
            for picture in _histograms(
                {entry.label: _cosines(entry.result, across) for entry in entries},
                folder,
                f"{benchmark}_{'across' if across else 'within'}",
                f"Cosines {what}, of the pairs of triplets.",
            )
        ]
    panels = {entry.label: _scores(entry.result) for entry in entries}
    caption = f"{title_of(entries)}: cosines of pairs that belong together and of those that do not."
    return _histograms(panels, folder, f"{benchmark}_similarities", caption)


def _histograms(
    panels: Mapping[str, Mapping[str, list[float]]], folder: str | os.PathLike[str], name: str, caption: str
) -> list[Picture]:
    drawn = {label: series for label, series in panels.items() if series}
    return [save_picture(draw_histograms(drawn, "cosine"), folder, name, caption)] if drawn else []


def _cosines(result: EvaluationResult, across: bool) -> dict[str, list[float]]:
    """The cosines of two roles of a triplet: of an image and a caption if `across`, else of one modality."""
    found = {}
    for name, values in result.predictions.items():
        match = re.fullmatch(r"(neg_)?(image|caption)_(neg_)?(image|caption)", name)
        if match and (match[2] != match[4]) == across and (numbers := _numbers(values)):
            first, second = (f"{'negative ' if match[at] else ''}{match[at + 1]}" for at in (1, 3))
            found[f"{first} and {second}"] = numbers
    return found


def _scores(result: EvaluationResult) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for name, values in result.predictions.items():
        if not re.fullmatch(rf"{SCORE}i\d+c\d+", name):
            continue
        (_, image), (_, caption) = places(name.removeprefix(SCORE))
        true = image == caption or name.removeprefix(SCORE) in result.also_true
        found.setdefault("true pairs" if true else "false pairs", []).extend(_numbers(values))
    return {name: values for name, values in found.items() if values}


def _numbers(values: Sequence[Any]) -> list[float]:
    return [value for value in values if isinstance(value, float)]


def tradeoffs(benchmarks: Mapping[str, Sequence[Entry]], folder: str | os.PathLike[str]) -> list[Picture]:
    """Composition against retention, for each pair of benchmarks with results of one model."""
    pictures = []
    for composition, score in _tradeoff_metrics(benchmarks, "composition"):
        ups = {e.label: e.result for e in benchmarks[composition] if score in e.result.metrics}
        for retention, metric in _tradeoff_metrics(benchmarks, "retention"):
            parts = {entry.label: _tradeoff_part(entry.result) for entry in benchmarks[retention]}
            kept = {label: result for label, result in parts.items() if metric in result.metrics}
            both = [label for label in kept if label in ups]
            if not both:
                continue
            own = [
                Point(label, kept[label].metrics[metric], ups[label].metrics[score], 0, "models of this report")
                for label in both
            ]
            # Only figures of the same rows as all these models, in both benchmarks.
            beside = [published_beside([results[label] for label in both]) for results in (ups, kept)]
            others, data = _published(beside[0], score, beside[1], metric)
            caption = "Composition against what is left of everything else: up and to the right is better."
            if not others:
                caption += " No figures are published of this pair on the same data."
            drawing = draw_scatter(
                [*own, *others],
                f"{title_of(benchmarks[retention])}{f' ({data})' if data else ''}: {_words(metric)}, %",
                f"{title_of(benchmarks[composition])}: {_words(score)}, %",
            )
            name = f"tradeoff_{composition}_{re.sub('[^a-z0-9]+', '_', f'{retention}_{metric}')}"
            pictures.append(save_picture(drawing, folder, name, caption))
    return pictures


def _tradeoff_metrics(benchmarks: Mapping[str, Sequence[Entry]], family: str) -> list[tuple[str, str]]:
    """The benchmarks of a family with the metrics that they put into trade-off plots."""
    return [
        (name, metric)
        for name, entries in benchmarks.items()
        if entries[0].result.family == family
        for metric in entries[0].result.tradeoff
    ]


def _tradeoff_part(result: EvaluationResult) -> EvaluationResult:
    known = result.benchmark in BENCHMARKS
    return benchmark_class(result.benchmark).tradeoff_part(result) if known else result


def _words(metric: str) -> str:
    return metric.replace("_", " ")


def _published(
    composition: Sequence[Published], score: str, retention: Sequence[Published], metric: str
) -> tuple[list[Point], str]:
    """The points of models that are in both lists of figures, and the data of the second list."""
    ups = {(f.group, f.model, f.training): f.metrics[score] for f in composition if score in f.metrics}
    acrosses = {(f.group, f.model, f.training): (f.metrics[metric], f.data) for f in retention if metric in f.metrics}
    both = [name for name in ups if name in acrosses]
    groups = list(dict.fromkeys((group, training) for group, _, training in both))
    points = [
        Point(
            model,
            acrosses[group, model, training][0],
            ups[group, model, training],
            1 + groups.index((group, training)),
            f"{group}: {training}",
            False,
        )
        for group, model, training in both
    ]
    return points, acrosses[both[0]][1] if both else ""

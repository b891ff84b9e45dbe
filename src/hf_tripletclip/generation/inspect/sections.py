# SPDX-License-Identifier: Apache-2.0
"""The sections of the page, as HTML."""

from __future__ import annotations

import json
import math
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from statistics import mean, median

import numpy as np

from hf_tripletclip.data.schema import CLIP_SCORE, IMAGE, IMAGE_COLUMNS, NEG_CLIP_SCORE, NEG_IMAGE, SCORES
from hf_tripletclip.generation.inspect.measures import (
    NO_KIND,
    blind_scores,
    concepts,
    filter_effects,
    kinds_by_split,
    ticks,
    true_negatives,
)
from hf_tripletclip.generation.inspect.rows import Look, Row, SplitSample
from hf_tripletclip.utils.pages.markup import text
from hf_tripletclip.utils.pages.parts import controls, figure, grid, table
from hf_tripletclip.utils.pages.words import marked_captions

WIDTH, HEIGHT = 360, 210  # of the drawing; it is as wide as there is room
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 10, 36  # margins
BINS = 32


@dataclass(frozen=True)
class Series:
    """
    What is drawn in one colour.

    Args:
        label (`str`): Its name in the legend.
        style (`str`): Class of the style sheet: `positive`, `negative` or `single`.
        values (`Sequence[float]`): Of a histogram; or the heights of a curve.
        places (`Sequence[float]`): Of a curve: where the heights are.
    """

    label: str
    style: str
    values: Sequence[float]
    places: Sequence[float] = ()


def histogram(series: Sequence[Series], title: str) -> str:
    """
    Histograms over each other, with the same bins.

    Args:
        series (`Sequence[Series]`): With at least one value in all; values of whole numbers get bins of whole numbers.
        title (`str`): What is counted, for the axis and for readers that cannot see it.
    """
    edges = _edges(np.concatenate([np.asarray(one.values, dtype=float) for one in series]))
    counts = [np.histogram(one.values, bins=edges)[0] for one in series]
    frame = _Frame(edges[0], edges[-1], max(1, max(int(count.max()) for count in counts)))
    bars = []
    for one, count in zip(series, counts, strict=True):
        for low, high, number in zip(edges[:-1], edges[1:], count, strict=True):
            if number:
                left, right, top = frame.x(low), frame.x(high), frame.y(number)
                width = max(right - left - 0.6, 0.6)  # a gap between bars
                bars.append(
                    f'<rect class="bar {one.style}" x="{left:.1f}" y="{top:.1f}" width="{width:.1f}"'
                    f' height="{frame.bottom - top:.1f}"><title>{escape(one.label)}: {number:,} from {low:.4g} to '
                    f"{high:.4g}</title></rect>"
                )
    return frame.svg("".join(bars), title, f"Histogram of {title}", series)


def curve(series: Sequence[Series], title: str, total: int) -> str:
    """
    Numbers of rows over a threshold.

    Args:
        series (`Sequence[Series]`): With `places`.
        title (`str`): The quantity that the threshold is of.
        total (`int`): Number of all rows.
    """
    places = [place for one in series for place in one.places]
    frame = _Frame(min(places), max(places), max(total, 1))
    lines = []
    for one in series:
        points = " ".join(
            f"{frame.x(place):.1f},{frame.y(value):.1f}" for place, value in zip(one.places, one.values, strict=True)
        )
        lines.append(f'<polyline class="line {one.style}" points="{points}"/>')
    return frame.svg("".join(lines), title, f"Rows that remain over a threshold of {title}", series)


def _edges(values: np.ndarray) -> np.ndarray:
    low, high = float(values.min()), float(values.max())
    if np.array_equal(values, np.round(values)) and high - low < 10_000:
        step = max(1, math.ceil((high - low + 1) / BINS))
        return np.arange(low - 0.5, high + step, step)
    if high - low < 1e-6 * max(abs(low), abs(high), 1e-6):
        margin = 0.05 * max(abs(low), 1e-3)
        low, high = low - margin, high + margin
    return np.linspace(low, high, BINS + 1)


def _rounded(value: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if unit == 'k' else size):.4g}{unit}"
    return f"{value:.4g}"


class _Frame:
    """The axes, from `low` to `high` and from 0 to `most`."""

    def __init__(self, low: float, high: float, most: float) -> None:
        if not high > low:
            low, high = low - 0.5, high + 0.5
        self.low, self.high, self.most = low, high, most
        self.bottom = HEIGHT - BOTTOM

    def x(self, value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (value - self.low) / (self.high - self.low)

    def y(self, value: float) -> float:
        return self.bottom - (self.bottom - TOP) * value / self.most

    def svg(self, drawing: str, title: str, label: str, series: Sequence[Series]) -> str:
        grid = []
        for value in ticks(0, self.most, 4):
            if value == int(value):
                y = self.y(value)
                grid.append(f'<line class="rule" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
                grid.append(f'<text x="{LEFT - 5}" y="{y + 3.5:.1f}" text-anchor="end">{_rounded(value)}</text>')
        for value in ticks(self.low, self.high):
            x = self.x(value)
            grid.append(f'<line class="rule" x1="{x:.1f}" x2="{x:.1f}" y1="{self.bottom}" y2="{self.bottom + 4}"/>')
            grid.append(f'<text x="{x:.1f}" y="{self.bottom + 15}" text-anchor="middle">{_rounded(value)}</text>')
        middle = (LEFT + WIDTH - RIGHT) / 2
        grid.append(f'<text x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">{escape(title)}</text>')
        legend = "".join(f'<span class="key {one.style}">{escape(one.label)}</span>' for one in series)
        return (
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">'
            f"{''.join(grid)}{drawing}</svg>" + (f'<p class="legend">{legend}</p>' if len(series) > 1 else "")
        )


MAX_NEGATIVES = 8  # of a row


def choose(looks: Sequence[Look], number: int) -> list[Look]:
    """
    Rows to show: those without broken parts, the kinds and splits in turn so that rare ones are among them.
    """
    groups: dict[tuple[str, str], deque[Look]] = {}
    for look in looks:
        if look.row is not None and not look.problems:
            kind = next((kind for kind in look.row.kinds if kind), NO_KIND)
            groups.setdefault((kind, look.row.split), deque()).append(look)
    waiting = deque(groups[name] for name in sorted(groups))
    chosen: list[Look] = []
    while waiting and len(chosen) < number:
        group = waiting.popleft()
        chosen.append(group.popleft())
        if group:
            waiting.append(group)
    return chosen


def card(look: Look) -> str:
    """A row as HTML."""
    row = look.row
    assert row is not None  # `choose` takes no others
    own, others = marked_captions(row.caption, row.negatives)
    negatives = []
    several = len(row.negatives) > 1
    for words, kind in list(zip(others, row.kinds, strict=True))[:MAX_NEGATIVES]:
        tag = f' <span class="tag">{text(kind)}</span>' if several and kind else ""
        negatives.append(f'<p class="caption negative" dir="auto">{words}{tag}</p>')
    if len(row.negatives) > MAX_NEGATIVES:
        negatives.append(f'<p class="quiet">and {len(row.negatives) - MAX_NEGATIVES} more</p>')
    if not row.negatives:
        negatives.append('<p class="quiet">no hard negative caption</p>')
    kinds = list(dict.fromkeys(kind or NO_KIND for kind in row.kinds)) or [NO_KIND]
    tags = "" if several else "".join(f'<span class="tag">{text(kind)}</span>' for kind in kinds if kind != NO_KIND)
    tags += '<span class="tag">held out</span>' if row.held_out else ""
    return (
        f'<article class="card" data-kinds="{text(json.dumps(kinds))}" data-scores="{text(json.dumps(row.scores))}"'
        f' data-split="{text(row.split)}">{_pictures(look)}'
        f'<p class="caption positive" dir="auto">{own}</p>{"".join(negatives)}'
        f'<p class="tags">{tags}</p>{_scores(row)}<p class="quiet where">{_where(row)}</p></article>'
    )


def _pictures(look: Look) -> str:
    names = {IMAGE: ("positive", "image"), NEG_IMAGE: ("negative", "hard negative image")}
    shown = [name for name in IMAGE_COLUMNS if name in look.thumbnails]
    if not shown:
        return ""
    pictures = "".join(
        f'<img class="{names[name][0]}" src="{look.thumbnails[name]}" alt="{names[name][1]}" loading="lazy">'
        for name in shown
    )
    return f'<div class="pictures">{pictures}</div>'


def _scores(row: Row) -> str:
    if not row.scores:
        return ""
    pairs = "".join(
        f'<div title="{name}"><dt>{_score_name(name)}</dt><dd>{value:.3f}</dd></div>'
        for name, value in row.scores.items()
        for name, value in row.scores.items()
    )
    return f'<dl class="scores">{pairs}</dl>'


def _score_name(name: str) -> str:
    return name.removesuffix("_score").replace("similarity", "sim.").replace("_", " ")


def _where(row: Row) -> str:
    key = row.key if len(row.key) <= 80 else row.key[:79] + "…"
    return " · ".join(text(part) for part in (row.split, key, row.generator) if part)


MEANINGS = {
    "clip_score_mean": "mean of clip_score and neg_clip_score, by which the paper filters",
    "margin": "clip_score less cross_clip_score",
    "neg_margin": "neg_clip_score less neg_cross_clip_score",
    **{name: score.words.replace("`", "") for name, score in SCORES.items()},
}


def by_split(counts: Mapping[str, Counter[str]], first: str, splits: Sequence[str]) -> str:
    """A table of counts by name and split."""
    several = len(splits) > 1
    head = [first, *splits, *(["all"] if several else [])]
    return table(
        head,
        (
            [name, *(count[split] for split in splits), *([count.total()] if several else [])]
            for name, count in counts.items()
        ),
    )


def overview(samples: Sequence[SplitSample]) -> str:
    """What was read, and of what."""
    rows = [
        [
            sample.name,
            sample.total if sample.total is not None else "unknown",
            sample.read,
            len(sample.looks),
            _broken_rows(sample),
            sample.how,
        ]
        for sample in samples
    ]
    head = ["split", "rows", "read", "images decoded", "broken rows found", "which rows were read"]
    notes = []
    if not all(sample.whole for sample in samples):
        notes.append("Not all rows were read: the numbers below are of those that were.")
    if any(len(sample.looks) < sample.read for sample in samples):
        notes.append("Not all images were decoded: those that were are of rows chosen at random among those read.")
    note = f"<p class='note'>{' '.join(notes)} <code>tripletclip validate</code> reads everything.</p>"
    return (note if notes else "") + table(head, rows, words=head[-1:])


def _broken_rows(sample: SplitSample) -> int:
    unusable = sample.read - len(sample.rows)
    return unusable + sum(look.row is not None and bool(look.problems) for look in sample.looks)


def pairs(samples: Sequence[SplitSample], number: int) -> str:
    """The grid, with the controls that filter and sort it if scripts run."""
    looks = [look for sample in samples for look in sample.looks]
    shown = choose(looks, number)
    if not shown:
        return "<p>There is no row that can be shown.</p>"
    rows = [look.row for look in shown if look.row is not None]
    kinds = kinds_by_split(rows)
    scores = [name for name in SCORES if any(name in row.scores for row in rows)]
    splits = list(dict.fromkeys(row.split for row in rows))
    boxes = controls(
        {
            "kind": ("kinds", [("", "all kinds"), *((kind, kind) for kind in sorted(kinds))]),
            "split": ("split", [("", "all splits"), *((split, split) for split in splits)]),
        },
        [("", "kinds in turn"), *((f"{name} {way}", f"{name}, {label}") for name in scores for way, label in _WAYS)],
    )
    left = len([look for look in looks if look.row is not None and not look.problems])
    what = f"{len(shown):,} of the {left:,} whole rows whose images were decoded, every kind and split in turn."
    return f"<p class='note'>{what} Words in which the captions differ are marked.</p>{boxes}{grid(map(card, shown))}"


_WAYS = (("down", "highest first"), ("up", "lowest first"))


def scores(rows: Sequence[Row]) -> str:
    """Histograms of the scores."""
    columns = {name: [row.scores[name] for row in rows if name in row.scores] for name in SCORES}
    columns = {name: values for name, values in columns.items() if values}
    if not columns:
        return "<p>The rows have no scores; <code>tripletclip generate --checks clip</code> adds them.</p>"
    figures = []
    if CLIP_SCORE in columns and NEG_CLIP_SCORE in columns:
        both = [
            Series("positive pairs", "positive", columns[CLIP_SCORE]),
            Series("negative pairs", "negative", columns[NEG_CLIP_SCORE]),
        ]
        figures.append(figure(histogram(both, "CLIP score of a pair"), "clip_score and neg_clip_score"))
    figures += [
        figure(histogram([Series(name, "single", values)], name), text(MEANINGS[name]))
        for name, values in columns.items()
    ]
    head = ["score", "rows", "without", "lowest", "mean", "median", "highest"]
    lines = [
        [name, len(values), len(rows) - len(values)]
        + [f"{measure(values):.3f}" for measure in (min, mean, median, max)]
        for name, values in columns.items()
    ]
    return f'<div class="charts">{"".join(figures)}</div>{table(head, lines)}'


def filters(rows: Sequence[Row]) -> str:
    """What a bound on each quantity leaves."""
    effects = filter_effects(rows)
    if not effects:
        return "<p>Without scores there is nothing to filter by.</p>"
    figures = []
    for effect in effects:
        name, total = effect.quantity, effect.scored
        series = [Series(f"at least (min_{name})", "positive", effect.at_least, effect.places)]
        head = [name, "rows at least", "share"]
        if effect.at_most is not None:
            series.append(Series(f"at most (max_{name})", "negative", effect.at_most, effect.places))
            head += ["rows at most", "share"]
        lines = [
            [f"{place:.4g}", low, f"{low / total:.1%}", *([] if high is None else [high, f"{high / total:.1%}"])]
            for place, low, high in effect.table
        ]
        of = "" if total == len(rows) else f" {total:,} of {len(rows):,} rows have it."
        figures.append(
            figure(
                curve(series, name, total),
                f"Rows that <code>min_{name}</code>"
                + (f" or <code>max_{name}</code>" if effect.at_most is not None else "")
                + f" keeps: {text(MEANINGS[name])}.{of}"
                + f"<details><summary>counts</summary>{table(head, lines)}</details>",
            )
        )
    return (
        "<p class='note'>Each bound alone, for <code>tripletclip generate --filters '{\"min_…\": …}'</code> or "
        "<code>filter_dataset</code>.</p>"
        f'<div class="charts">{"".join(figures)}</div>'
    )


def captions(rows: Sequence[Row], splits: Sequence[str]) -> str:
    """Kinds, lengths, and what captions give away."""
    positives = [row.caption for row in rows]
    negatives = [negative for row in rows for negative in row.negatives]
    if not rows:
        return "<p>No row has usable captions.</p>"
    parts = ["<h3>Hard negative captions by kind</h3>", by_split(kinds_by_split(rows), "kind", splits)]
    sides = {"positive": positives, "negative": negatives}
    sides = {name: side for name, side in sides.items() if side}
    series = [Series(name, name, [len(caption.split()) for caption in side]) for name, side in sides.items()]
    lines = [
        [name, len(side), f"{mean(one.values):.2f}", f"{median(one.values):g}", max(one.values), _characters(side)]
        for one, (name, side) in zip(series, sides.items(), strict=True)
    ]
    head = ["captions", "number", "words, mean", "median", "most", "characters, mean"]
    most = max(max(one.values) for one in series)
    usual = max(math.ceil(np.percentile(one.values, 99.5)) for one in series)
    drawn, note = series, ""
    if most > 2 * usual:  # a few endless captions would leave no room for the others
        drawn = [Series(one.label, one.style, [min(words, usual) for words in one.values]) for one in series]
        note = f"Captions of more than {usual} words count as {usual}."
    chart = f'<div class="charts">{figure(histogram(drawn, "words of a caption"), note)}</div>'
    parts += ["<h3>Lengths</h3>", chart, table(head, lines)]
    without = sum(not row.negatives for row in rows)
    if without:
        parts.append(f"<p class='note'>{without:,} of {len(rows):,} rows have no hard negative caption.</p>")
    if alike := true_negatives(rows):
        note = (
            "They say what their caption says, or a part of it, and so are true of the same picture; "
            "<code>content_problem</code> finds them, in English."
        )
        parts += ["<h3>Negatives that are none</h3>", f"<p class='note'>{note}</p>", by_split(alike, "reason", splits)]
    parts += ["<h3>Blind check</h3>", _blind(rows)]
    return "".join(parts)


def _characters(side: Sequence[str]) -> str:
    return f"{mean(map(len, side)):.1f}"


def _blind(rows: Sequence[Row]) -> str:
    found = blind_scores(rows)
    if not found:
        return "<p>There are too few hard negative captions for it.</p>"
    lines = [
        [one.group, one.number, f"{one.score:.3f}", f"{one.low:.3f} to {one.high:.3f}", one.verdict] for one in found
    ]
    classes = {"captions give it away": "bad", "below chance": "odd", "at chance": ""}
    return (
        "<p class='note'>A classifier that sees only the two captions, as bags of words and lengths, guesses which is "
        "the positive. Above the interval of chance a model can learn the difference without looking at the images. "
        "Of fair groups one in twenty lies outside by chance.</p>"
        + table(
            ["rows of", "pairs", "right guesses", "chance ± two standard errors", "verdict"],
            lines,
            [classes[one.verdict] for one in found],
            words=["verdict"],
        )
    )


def coverage(rows: Sequence[Row]) -> str:
    """The paper's table 2 of these captions."""
    found = concepts(rows)
    if isinstance(found, str):
        return f"<p class='note'>Not counted. {text(found)}</p>"
    lines = [list(line.values()) for line in found.rows()]
    share = found.intersection / found.union if found.union else 0.0
    return (
        "<p class='note'>WordNet synsets that the words of the captions stand for, as in table 2 of the TripletCLIP "
        f"paper. {share:.1%} of them are in both the positive and the negative captions.</p>"
        + table(["captions", "unique synsets", "synsets in all"], lines)
    )


def broken(samples: Sequence[SplitSample], left_out: Mapping[str, Counter[str]] | None) -> str:
    """What cannot be used, and what generation left out."""
    splits = [sample.name for sample in samples]
    parts = []
    read, decoded = sum(sample.read for sample in samples), sum(len(sample.looks) for sample in samples)
    kinds = (
        (f"Captions of the {read:,} rows read", "captions", "rows"),
        (f"Images of the {decoded:,} rows whose images were decoded", "images", "rows"),
        ("Negative captions that are left out of their rows", "left_out", "captions"),
        ("Files", "files", "files"),
    )
    for title, attribute, of in kinds:
        counts: dict[str, Counter[str]] = {}
        for sample in samples:
            for label, number in getattr(sample, attribute).items():
                counts.setdefault(label, Counter())[sample.name] += number
        if not counts:
            continue
        keys = {label: [key for sample in samples for key in sample.keys.get(label, ())][:3] for label in counts}
        lines = [
            [label, count.total(), ", ".join(split for split in splits if count[split]), "; ".join(keys[label])]
            for label, count in sorted(counts.items(), key=lambda entry: -entry[1].total())
        ]
        parts.append(
            f"<h3>{title}</h3>" + table(["reason", of, "splits", "the first"], lines, words=["splits", "the first"])
        )
    if not parts:
        parts.append("<p>No broken row was found.</p>")
    if left_out is not None:
        names = list(dict.fromkeys(split for count in left_out.values() for split in count))
        parts.append("<h3>Left out when it was made</h3>")
        parts.append(by_split(left_out, "reason", names) if left_out else "<p>No row was left out.</p>")
    return "".join(parts)

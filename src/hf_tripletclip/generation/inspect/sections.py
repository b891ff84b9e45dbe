# SPDX-License-Identifier: Apache-2.0
"""The sections of the page, as HTML."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import mean, median

import numpy as np

from hf_tripletclip.data.schema import CLIP_SCORE, NEG_CLIP_SCORE, SCORES
from hf_tripletclip.generation.inspect.cards import card, choose
from hf_tripletclip.generation.inspect.charts import Series, curve, histogram
from hf_tripletclip.generation.inspect.measures import (
    blind_scores,
    concepts,
    filter_effects,
    kinds_by_split,
    true_negatives,
)
from hf_tripletclip.generation.inspect.sample import Row, SplitSample
from hf_tripletclip.utils.pages.markup import controls, figure, grid, table, text

MEANINGS = {
    "clip_score_mean": "mean of clip_score and neg_clip_score, by which the paper filters",
    "clip_score": "image and caption",
    "neg_clip_score": "negative image and negative caption",
    "cross_clip_score": "image and negative caption: should be lower than clip_score",
    "neg_cross_clip_score": "negative image and caption: should be lower than neg_clip_score",
    "image_similarity": "the two images",
    "caption_similarity": "the two captions",
    "vqa_score": "share of the questions about the negative caption that its image answers right",
    "margin": "clip_score less cross_clip_score",
    "neg_margin": "neg_clip_score less neg_cross_clip_score",
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
    """The grid, with the controls that filter and sort it where scripts run."""
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

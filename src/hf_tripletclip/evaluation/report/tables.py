# SPDX-License-Identifier: Apache-2.0
"""The blocks of a report, and its tables: scores beside baselines, categories, differences, published figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, groupby
from pathlib import Path
from typing import ClassVar

from hf_tripletclip.evaluation.report.reading import (
    Entry,
    Published,
    by_data,
    published_beside,
    published_of,
    rows_of,
    short_name,
    title_of,
)
from hf_tripletclip.results.metrics import (
    Draws,
    best,
    category_metrics,
    differences,
    different_settings,
    shared,
    show,
    why_not_paired,
)
from hf_tripletclip.utils.markdown import markdown_table
from hf_tripletclip.utils.pages.markup import escape_markdown
from hf_tripletclip.utils.pages.template import render

MAX_COLUMNS = 9  # the most metrics as columns; with more metrics, models are the columns
NAMED_COUNTS = ("rows", "missing", "broken", "images", "captions")
HOW_TO_COMPARE = (
    "In percentage points, by a paired bootstrap: each model is measured on the same resampled rows, and rows of "
    "one image are drawn together. A difference is clear if its interval leaves out zero. With a single row or "
    "image, or if the models differ by the same in all rows, there is no interval (n/a). The intervals are not "
    "widened for the number of comparisons: of twenty, one may be clear by chance."
)
ABOUT_PUBLISHED = (
    "As printed by others on the same data, not measured here. Their scripts may let a tie win, and the decoder and "
    "the resizing of images make small differences."
)


# ---- Blocks: `sections.html` and `report.md` show them ----


@dataclass(frozen=True)
class Value:
    """
    A number in a table.

    Args:
        shown (`str`): The number as text.
        detail (`str`): Small print beside it, such as its interval.
        best (`bool`): Whether it is the best of its kind.
    """

    shown: str
    detail: str = ""
    best: bool = False


CellValue = Value | str | int | None


@dataclass(frozen=True)
class Heading:
    """A heading inside a section."""

    words: str
    kind: ClassVar[str] = "heading"


@dataclass(frozen=True)
class Note:
    """A paragraph."""

    words: str
    kind: ClassVar[str] = "note"


@dataclass(frozen=True)
class Table:
    """
    A table. The first column and `words` hold words, the other columns hold numbers.

    Args:
        head (`Sequence[str]`): The names of the columns.
        rows (`Sequence[Sequence]`): The cells.
        quiet (`Sequence[bool]`): For each row, whether it is only there for comparison.
        words (`Sequence[str]`): The names of more columns of words.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[CellValue]]
    quiet: Sequence[bool] = ()
    words: Sequence[str] = ()
    kind: ClassVar[str] = "table"

    @property
    def classes(self) -> list[str]:
        """The class of each row in the style sheet."""
        return ["quiet" if flag else "" for flag in self.quiet]

    def markdown(self) -> str:
        """The table as Markdown."""
        head = [escape_markdown(name) for name in self.head]
        numbers = [shown for name, shown in zip(self.head[1:], head[1:], strict=True) if name not in self.words]
        return markdown_table(head, (map(_markdown, row) for row in self.rows), numbers=numbers)


def _markdown(value: CellValue) -> CellValue:
    if isinstance(value, Value):
        shown = f"**{value.shown}**" if value.best else value.shown
        return shown + (f" ({value.detail})" if value.detail else "")
    return escape_markdown(value) if isinstance(value, str) else value


@dataclass(frozen=True)
class Picture:
    """
    A chart.

    Args:
        name (`str`): The name of its PNG file, without the ending.
        svg (`str`): The chart as inline SVG.
        caption (`str`): What it shows.
    """

    name: str
    svg: str
    caption: str
    kind: ClassVar[str] = "picture"


@dataclass(frozen=True)
class Folded:
    """
    Details that the page shows after a click, and Markdown under a heading.

    Args:
        words (`str`): Their heading.
        blocks (`Sequence[Note | Table]`): The details.
    """

    words: str
    blocks: Sequence[Note | Table]
    kind: ClassVar[str] = "folded"


Block = Heading | Note | Table | Picture | Folded


@dataclass
class Section:
    """A part of the report under a heading."""

    title: str
    blocks: list[Block] = field(default_factory=list)

    def groups(self) -> list[tuple[str, list[Block]]]:
        """The kind and the blocks of each run of blocks of one kind: pictures in a row stand side by side."""
        return [(kind, list(blocks)) for kind, blocks in groupby(self.blocks, key=lambda block: block.kind)]

    def html(self) -> str:
        """The blocks as HTML, without the title."""
        return render(Path(__file__).with_name("sections.html"), section=self)


# ---- Tables ----


def summary(benchmarks: Mapping[str, Sequence[Entry]]) -> Table:
    """The primary metric of each benchmark, with a row for each model."""
    names = {
        benchmark: next((entry.result.primary for entry in entries if entry.result.primary), None)
        for benchmark, entries in benchmarks.items()
    }
    shown = {benchmark: name for benchmark, name in names.items() if name}
    labels = list(dict.fromkeys(entry.label for entries in benchmarks.values() for entry in entries))
    columns: list[dict[str, Value]] = []
    for benchmark, name in shown.items():
        raw = benchmarks[benchmark][0].result.raw
        column: dict[str, Value] = {}
        for group in by_data(benchmarks[benchmark]).values():
            there = {entry.label: entry.result.metrics[name] for entry in group if name in entry.result.metrics}
            for (label, value), flag in zip(there.items(), best(list(there.values())), strict=True):
                column[label] = Value(show(value, raw), best=flag and not raw)
        columns.append(column)
    head = ["model", *(f"{title_of(benchmarks[benchmark])}: {_words(name)}" for benchmark, name in shown.items())]
    rows: list[list[CellValue]] = [[label, *(column.get(label) for column in columns)] for label in labels]
    return Table(head, rows)


def scores(entries: Sequence[Entry]) -> list[Block]:
    """The overall metrics of the models, their baselines, and chance."""
    metrics = shared([entry.result for entry in entries])
    if len(metrics) <= MAX_COLUMNS:
        return [*_scores(entries, metrics), *_other_baselines(entries)]
    main = {entry.result.primary for entry in entries}
    chosen = [name for name in metrics if name in main]
    blocks = _scores(entries, chosen) if chosen and not entries[0].result.raw else []
    return [*blocks, *_other_baselines(entries), *_all(entries, metrics, bool(blocks))]


def _scores(entries: Sequence[Entry], metrics: Sequence[str]) -> list[Block]:
    raw = entries[0].result.raw
    flags = {name: best([entry.result.metrics.get(name) for entry in entries]) for name in metrics}
    rows: list[list[CellValue]] = []
    quiet: list[bool] = []
    for place, entry in enumerate(entries):
        result = entry.result
        cells = [_value(entry, name, flags[name][place] and not raw) for name in metrics]
        ties = result.metrics.get("tie_rate")
        rows.append([entry.label, *cells, None if ties is None else show(ties), _counted(entry), "this report"])
        quiet.append(False)
        for baseline, values in result.baselines.items():
            cells = [_plain(values.get(name), raw) for name in metrics]
            if any(cells) and not _has_interval(values):
                rows.append([f"↳ {baseline}", *cells, None, None, f"baseline of {entry.label}"])
                quiet.append(True)
    chance = {name: value for entry in entries for name, value in entry.result.chance.items()}
    if any(name in chance for name in metrics):
        rows.append(["chance", *(_plain(chance.get(name), raw) for name in metrics), None, None, None])
        quiet.append(True)
    head = ["model", *map(_words, metrics), "ties", "rows", "source"]
    return [Table(head, rows, quiet, words=("source",))]


def _value(entry: Entry, name: str, is_best: bool) -> Value | None:
    value = entry.result.metrics.get(name)
    if value is None:
        return None
    raw = entry.result.raw
    low, high = entry.result.intervals.get(name, (None, None))
    detail = "" if low is None or high is None else f"{show(low, raw)}–{show(high, raw)}"
    return Value(show(value, raw), detail, is_best)


def _plain(value: float | None, raw: bool) -> Value | None:
    return None if value is None else Value(show(value, raw))


def _counted(entry: Entry) -> Value | None:
    counts = entry.result.counts
    left_out = [f"{counts[name]:,} {name}" for name in ("missing", "broken") if counts.get(name)]
    return Value(f"{counts['rows']:,}", ", ".join(left_out)) if "rows" in counts else None


def _printed(figure: Published, name: str) -> Value | None:
    """A figure with the digits of its publication: one or two."""
    if name not in figure.metrics:
        return None
    digits = f"{100 * figure.metrics[name]:.2f}"
    return Value(digits.removesuffix("0"))


def _has_interval(values: Mapping[str, float]) -> bool:
    """Whether a baseline has a measure and an interval of its own, instead of the benchmark's metrics."""
    return any(f"{name}_low" in values for name in values)


def _other_baselines(entries: Sequence[Entry]) -> list[Block]:
    """Baselines with a measure of their own, such as `real or drawn`."""
    rows: list[list[CellValue]] = []
    for entry in entries:
        for baseline, values in entry.result.baselines.items():
            for name, value in values.items():
                if (low := values.get(f"{name}_low")) is not None:
                    shown = Value(show(value), f"{show(low)}–{show(values[f'{name}_high'])}")
                    rows.append([entry.label, baseline, shown])
    if not rows:
        return []
    note = (
        "Real or drawn: how many images a linear classifier on their embeddings tells right; chance is 50. Where it "
        "is far above, a model can choose between two images by how they were made."
    )
    return [Table(["model", "baseline", "accuracy"], rows, words=("baseline",)), Note(note)]


def published(entries: Sequence[Entry]) -> list[Block]:
    """Published figures on the same rows, below the models of the report; or why there are none."""
    results = [entry.result for entry in entries]
    there = published_of(results[0].benchmark)
    figures = published_beside(results)
    if not figures:
        return (
            [Note(f"No published figures are shown, because these are not the rows that they are of: {_of(there)}.")]
            if there
            else []
        )
    metrics = [
        name
        for name in dict.fromkeys(name for figure in figures for name in figure.metrics)
        if any(name in result.metrics for result in results)
    ]
    rows: list[list[CellValue]] = [
        [entry.label, *(_value(entry, name, False) for name in metrics), "this report"] for entry in entries
    ]
    for figure in figures:
        cells = [_printed(figure, name) for name in metrics]
        if any(cells):
            rows.append([f"{figure.model} ({figure.training})", *cells, f"{figure.cite}, on {figure.data}"])
    if len(rows) == len(entries):
        return []
    quiet = [place >= len(entries) for place in range(len(rows))]
    beside = Table(["model", *map(_words, metrics), "source"], rows, quiet, words=("source",))
    references = dict.fromkeys(f"{figure.cite}: {figure.reference}." for figure in figures)
    remarks = dict.fromkeys(f"{figure.cite}: {figure.remark}" for figure in figures if figure.remark)
    return [Folded("Published figures", [Note(" ".join([ABOUT_PUBLISHED, *references, *remarks])), beside])]


def _of(figures: Sequence[Published]) -> str:
    every = dict.fromkeys(figure.data for figure in figures)
    return "; ".join(f"{data} ({rows})" if (rows := rows_of(data)) else data for data in every)


def _all(entries: Sequence[Entry], metrics: Sequence[str], heading: bool) -> list[Block]:
    """A row for each metric, if there are too many for columns."""
    raw = entries[0].result.raw
    chance = {name: value for entry in entries for name, value in entry.result.chance.items()}
    rows: list[list[CellValue]] = []
    for name in metrics:
        flags = best([entry.result.metrics.get(name) for entry in entries])
        cells = [_value(entry, name, flag and not raw) for entry, flag in zip(entries, flags, strict=True)]
        rows.append([_words(name), *cells, *([] if raw else [_plain(chance.get(name), raw)])])
    head = ["metric", *(entry.label for entry in entries), *([] if raw else ["chance"])]
    return [*([Heading("All metrics")] if heading else []), Table(head, rows)]


def categories(entries: Sequence[Entry], where: str = "") -> list[Block]:
    """The metric of each category, on one data set. If there are several, `where` names it."""
    heading = Heading(f"By category {where}".rstrip())
    of = {entry.label: category_metrics(entry.result) for entry in entries}
    names = list(dict.fromkeys(name for found in of.values() for name in found))
    if not names:
        return []
    rows: list[list[CellValue]] = []
    values = {
        name: [entry.result.metrics[of[entry.label][name]] if name in of[entry.label] else None for entry in entries]
        for name in names
    }
    flags = {name: best(values[name]) for name in names}

    def cell(place: int, name: str) -> CellValue:
        entry = entries[place]
        return _value(entry, of[entry.label][name], flags[name][place]) if name in of[entry.label] else None

    if len(names) > MAX_COLUMNS:
        for name in names:
            number = next((e.result.counts[name] for e in entries if name in e.result.counts), None)
            rows.append([name, number, *(cell(place, name) for place in range(len(entries)))])
        return [heading, Table(["category", "rows", *(entry.label for entry in entries)], rows)]
    rows = [
        [entry.label, *(cell(place, name) for name in names), "this report"] for place, entry in enumerate(entries)
    ]
    counts = [next((e.result.counts[name] for e in entries if name in e.result.counts), None) for name in names]
    if any(counts):
        rows.append(["rows", *counts, None])
    chance = {name: value for entry in entries for name, value in entry.result.chance.items()}
    guesses = [chance.get(next((found[name] for found in of.values() if name in found), "")) for name in names]
    if any(guesses):
        rows.append(["chance", *(_plain(guess, raw=False) for guess in guesses), None])
    quiet = [place >= len(entries) for place in range(len(rows))]
    return [heading, Table(["model", *names, "source"], rows, quiet, words=("source",))]


def comparison(entries: Sequence[Entry]) -> list[Block]:
    """For each two models, whether they differ by more than chance on the same rows."""
    if len(entries) < 2 or entries[0].result.raw:
        return []
    draws = Draws()
    rows: list[list[CellValue]] = []
    refused: dict[str, list[str]] = {}
    metrics = shared([entry.result for entry in entries])
    for first, second in combinations(entries, 2):
        if reason := why_not_paired(first.result, second.result):
            refused.setdefault(reason, []).append(f"{second.label} and {first.label}")
            continue
        for name, found in differences(first.result, second.result, draws).items():
            if name in metrics:
                between = found.interval(lambda edge: f"{100 * edge:+.1f}", " to ")
                verdict = (
                    (f"{(second if found.value > 0 else first).label} is better") if found.is_clear else "not clear"
                )
                value = Value(f"{100 * found.value:+.1f}", best=found.is_clear)
                rows.append([f"{second.label} less {first.label}", _words(name), value, between, verdict])
    blocks: list[Block] = [Heading("Differences on the same rows")]
    if differ := different_settings([entry.result for entry in entries]):
        blocks.append(Note(f"The models were not evaluated alike: {differ}."))
    if rows:
        head = ["models", "metric", "difference", "95 % interval", "verdict"]
        blocks.append(Note(HOW_TO_COMPARE))
        blocks.append(Table(head, rows, words=("metric", "verdict")))
    for reason, pairs in refused.items():
        blocks.append(Note(f"Not compared row by row: {'; '.join(pairs)}: {reason}."))
    return blocks if len(blocks) > 1 else []


def about(entries: Sequence[Entry]) -> list[Block]:
    """The data and the settings of each result, because scores depend on them."""
    rows: list[list[CellValue]] = []
    for entry in entries:
        result = entry.result
        settings = result.settings
        counts = [f"{result.counts[name]:,} {name}" for name in NAMED_COUNTS if name in result.counts]
        rows.append(
            [
                entry.label,
                short_name(str(result.data.get("source", ""))),
                str(result.data.get("fingerprint", "")),
                ", ".join(counts),
                str(settings.get("scores", settings.get("protocol", ""))),
                str(settings.get("autocast") or result.model.get("dtype", "")),
            ]
        )
    head = ["model", "data", "fingerprint", "counts", "scoring", "precision"]
    blocks: list[Block] = [Table(head, rows, words=head)]
    if limited := [entry.label for entry in entries if entry.result.settings.get("max_rows") is not None]:
        blocks.append(Note(f"Only a part of the rows was evaluated (max_rows): {', '.join(limited)}."))
    if len({entry.result.data.get("fingerprint") for entry in entries}) > 1:
        blocks.append(Note("These results were not evaluated on the same data: their fingerprints differ."))
    return [Heading("How it was evaluated"), *blocks]


def _words(metric: str) -> str:
    return metric.replace("_", " ")

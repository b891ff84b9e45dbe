# SPDX-License-Identifier: Apache-2.0
"""Pages of the rows that a model gets wrong, and of examples right and wrong."""

from __future__ import annotations

import functools
import os
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_tripletclip.data.decoding import BrokenValue
from hf_tripletclip.evaluation.images import ImageFile, ImageRef
from hf_tripletclip.evaluation.items import Item, places
from hf_tripletclip.evaluation.report.reading import short_name
from hf_tripletclip.results.metrics import show
from hf_tripletclip.results.result import EvaluationResult
from hf_tripletclip.utils.pages.markup import text
from hf_tripletclip.utils.pages.page import write_page
from hf_tripletclip.utils.pages.parts import controls, grid, table
from hf_tripletclip.utils.pages.pictures import thumbnail
from hf_tripletclip.utils.pages.template import render
from hf_tripletclip.utils.pages.words import marked_captions

KEY, CATEGORY, ROW = "key", "category", "row"  # columns of predictions
RIGHT, WRONG = "right", "wrong"
NO_CATEGORY = "no category"


def write_errors_page(
    path: str | os.PathLike[str],
    benchmark: Any,
    result: EvaluationResult,
    number: int = 50,
    *,
    seed: int = 0,
) -> Path:
    """
    Write a page of rows that the model gets wrong, in one file: images, captions with marks at the words that differ,
    scores, and the comparisons that fail. Readers can filter it by category and sort it by how wrong the model is.

    Args:
        path (`str` or `os.PathLike`): The HTML file to write.
        benchmark ([`~hf_tripletclip.evaluation.questions.ItemBenchmark`]): The benchmark, with its
            data.
        result ([`EvaluationResult`]): The result on this data, with predictions.
        number (`int`, defaults to 50): The most rows to show; the categories take turns.
        seed (`int`, defaults to 0): The seed of the choice.

    Returns:
        `Path`: The page.

    Raises:
        OSError: The data does not exist, or the page cannot be written.
        ValueError: The benchmark does not consist of questions, or the result has no predictions or comes from other
            data.
    """
    if number < 1:
        raise ValueError(f"{number} rows cannot be shown; give at least 1.")
    if not hasattr(benchmark, "checked_items"):
        raise ValueError(f"{result.benchmark} does not consist of questions whose images and captions can be shown.")
    _check(result)
    items = {item.key: item for item in benchmark.checked_items()}
    if unknown := [key for key in result.predictions[KEY] if key not in items]:
        raise ValueError(
            f"{len(unknown)} of {len(result.predictions[KEY])} rows of the result are not in {benchmark.source}, "
            f"{unknown[0]!r} for one: the result is of other data."
        )
    outcomes = _outcomes(items[result.predictions[KEY][0]], result)
    right = _right(result.predictions, outcomes)
    wrong = [index for index, good in enumerate(right) if not good]
    chosen = _in_turn(wrong, _categories(result), number, seed)
    rows = [_row(items[result.predictions[KEY][index]], result.predictions, index, outcomes) for index in chosen]
    name = f"{benchmark.title}: what {short_name(str(result.model.get('name') or 'the model'))} gets wrong"
    note = f"{len(rows):,} of the {len(wrong):,} rows that are wrong, of {len(right):,} rows in all."
    return _write(path, name, note, rows, result, right, outcomes)


def write_examples_page(
    path: str | os.PathLike[str], dataset: Any, result: EvaluationResult, *, examples: int = 28, seed: int = 0
) -> Path:
    """
    Write a page of example triplets with their scores, in one file: right and wrong ones of every kind.

    Args:
        path (`str` or `os.PathLike`): The HTML file to write.
        dataset (`datasets.Dataset`): The dataset that was evaluated.
        result ([`EvaluationResult`]): The result of [`~hf_tripletclip.evaluation.evaluate_triplets`], with
            predictions.
        examples (`int`, defaults to 28): The number of triplets to show.
        seed (`int`, defaults to 0): The seed of the choice.

    Returns:
        `Path`: The page.

    Raises:
        ValueError: The result has no predictions, or they do not name their rows of the dataset.
    """
    from hf_tripletclip.evaluation.benchmarks.triplets import Triplets
    from hf_tripletclip.evaluation.triplets import comparisons_of

    _check(result)
    predictions = result.predictions
    if ROW not in predictions:
        raise ValueError("The predictions have no column `row`: evaluate the dataset with `evaluate_triplets`.")
    asked = comparisons_of(negative_image="score_i1c0" in predictions, negative_text="score_i0c1" in predictions)
    outcomes = [name for name in asked if name in predictions]
    right = _right(predictions, outcomes)
    groups = [f"{category} {good}" for category, good in zip(_categories(result), right, strict=True)]
    chosen = _in_turn(range(len(right)), groups, examples, seed)
    # Only these rows are read.
    shown = Triplets(data=dataset.select([predictions[ROW][index] for index in chosen]), allow_missing=True).items()
    rows = [_row(item, predictions, chosen[item.columns[ROW]], outcomes) for item in shown]
    note = f"{len(rows):,} of {len(right):,} test triplets, right and wrong ones of each kind."
    return _write(path, "Example predictions", note, rows, result, right, outcomes)


@dataclass(frozen=True)
class Picture:
    """An image as a `data:` URI, or the reason why it cannot be shown."""

    source: str = ""
    problem: str = ""


@dataclass(frozen=True)
class Row:
    """
    A question and the model's answer. `errors.html` shows it as a card.

    Args:
        item ([`Item`]): The question.
        scores (`Mapping[str, float]`): By pair, such as `i0c1`.
        outcomes (`Mapping[str, bool]`): By name, those that count for this row.
    """

    item: Item
    scores: Mapping[str, float]
    outcomes: Mapping[str, bool]

    @property
    def is_right(self) -> bool:
        return all(self.outcomes.values())

    @property
    def failed(self) -> list[str]:
        """The outcomes that are wrong."""
        return [name for name, right in self.outcomes.items() if not right]

    @property
    def kinds(self) -> list[str]:
        """What the box of categories filters by."""
        return [self.item.category or NO_CATEGORY]

    @property
    def margin(self) -> float:
        """Over all comparisons, the least lead of the pair that should win, with six decimals."""
        return round(min(self.scores[one] - self.scores[other] for one, other in self.comparisons()), 6)

    def comparisons(self) -> list[tuple[str, str]]:
        """The comparisons of the outcomes that count, each once."""
        wins = [both for name in self.outcomes for both in self.item.comparisons.get(name, ())]
        return list(dict.fromkeys(wins))

    def verdict(self, pair: str) -> bool | None:
        """Whether a pair scores higher than all pairs that it should beat; `None` if there are none."""
        losers = [other for one, other in self.comparisons() if one == pair]
        return all(self.scores[pair] > self.scores[other] for other in losers) if losers else None

    @property
    def captions(self) -> list[str]:
        """The captions as HTML, with the words marked in which they differ."""
        if not self.item.captions:
            return [""]
        own, others = marked_captions(self.item.captions[0], self.item.captions[1:])
        return [own, *others]

    @property
    def true_captions(self) -> set[int]:
        """The captions that should win on the first image; without images the first caption."""
        found = {0}
        for one, _ in self.comparisons():
            (first, image), (second, caption) = places(one)
            if (first, second) == ("i", "c") and image == 0:
                found.add(caption)
        return found

    @functools.cached_property
    def pictures(self) -> list[Picture]:
        """The images."""
        return [_picture(image) for image in self.item.images]

    @property
    def same_kind(self) -> list[tuple[str, str]]:
        """The pairs of two captions or of two images, each with its name."""
        found = []
        for pair in self.scores:
            (first, one), (second, other) = places(pair)
            if first == second:
                found.append((pair, f"{'captions' if first == 'c' else 'images'} {one + 1} and {other + 1}"))
        return found

    @property
    def names(self) -> list[str]:
        """The key, shortened, and the names of image files."""
        key = self.item.key if len(self.item.key) <= 80 else self.item.key[:79] + "…"
        files = [image.name for image in self.item.images if isinstance(image, ImageFile)]
        return list(dict.fromkeys([key, *files]))


def _picture(image: ImageRef) -> Picture:
    try:
        return Picture(source=thumbnail(image.load()))
    except BrokenValue as error:  # the file may have changed since the evaluation
        return Picture(problem=str(error))


def card(row: Row) -> str:
    """The row as a card of a grid (HTML)."""
    return render(Path(__file__).with_name("errors.html"), row=row)


def _check(result: EvaluationResult) -> None:
    predictions = result.predictions
    if not predictions or KEY not in predictions or not any(name.startswith("score_") for name in predictions):
        raise ValueError(
            f"The page needs the predictions of {result.benchmark}, with keys and scores. A result that was read "
            "without its .parquet beside has none."
        )


def _outcomes(item: Item, result: EvaluationResult) -> list[str]:
    found = [name for name in item.comparisons if name in result.predictions]
    if not found:
        raise ValueError(
            f"The predictions of {result.benchmark} have none of {', '.join(item.comparisons) or 'its outcomes'}."
        )
    return found


def _right(predictions: Mapping[str, Sequence[Any]], outcomes: Sequence[str]) -> list[bool]:
    """For each row, whether all its outcomes are right."""
    return [
        all(value is not False for value in values) for values in zip(*(predictions[n] for n in outcomes), strict=True)
    ]


def _categories(result: EvaluationResult) -> list[str]:
    predictions = result.predictions
    return [value or NO_CATEGORY for value in predictions.get(CATEGORY, [None] * len(predictions[KEY]))]


def _in_turn(indices: Sequence[int], groups: Sequence[str], number: int, seed: int) -> list[int]:
    """This many rows, chosen at random, with the groups in turn."""
    order = list(indices)
    random.Random(seed).shuffle(order)
    waiting: dict[str, list[int]] = {}
    for index in order:
        waiting.setdefault(groups[index], []).append(index)
    chosen: list[int] = []
    while waiting and len(chosen) < number:
        for name in sorted(waiting):
            if len(chosen) < number:
                chosen.append(waiting[name].pop())
        waiting = {name: left for name, left in waiting.items() if left}
    return chosen


def _row(item: Item, predictions: Mapping[str, Sequence[Any]], index: int, outcomes: Sequence[str]) -> Row:
    scores = {pair: predictions[f"score_{pair}"][index] for pair in item.pairs() if f"score_{pair}" in predictions}
    return Row(
        item, scores, {name: predictions[name][index] for name in outcomes if predictions[name][index] is not None}
    )


def _write(
    path: str | os.PathLike[str],
    heading: str,
    note: str,
    rows: Sequence[Row],
    result: EvaluationResult,
    right: Sequence[bool],
    outcomes: Sequence[str],
) -> Path:
    categories = _categories(result)
    total, good = Counter(categories), Counter(name for name, fine in zip(categories, right, strict=True) if fine)
    shown = Counter(row.item.category or NO_CATEGORY for row in rows)
    lines: list[list[object]] = [
        [name, total[name], good[name], total[name] - good[name], f"{good[name] / total[name]:.1%}", shown[name]]
        for name in total
    ]
    if len(total) > 1:
        every = len(right)
        lines.append(["all", every, sum(right), every - sum(right), f"{sum(right) / every:.1%}", len(rows)])
    names = [name for name in total if shown[name]]
    failed = [name for name in outcomes if any(row.outcomes.get(name) is False for row in rows)]
    boxes = controls(
        {
            "category": ("kinds", [("", "all categories"), *((name, name) for name in names)]),
            "verdict": ("verdict", _verdicts(rows)),
            "wrong": ("failed", [("", "whatever is wrong"), *((name, _words(name)) for name in failed)]),
        },
        [("", "categories in turn"), ("margin up", "most wrong first"), ("margin down", "least wrong first")],
    )
    metrics = [
        f"{_words(name)} {show(result.metrics[name])} %"
        for name in dict.fromkeys([*outcomes, result.primary])
        if name in result.metrics
    ]
    facts = f" The model's {', '.join(metrics)}." if metrics else ""
    counted = _counted_as(result.predictions, outcomes, right)
    rule = f" A row counts as right if all of it is right: {counted}." if len(outcomes) > 1 else ""
    share = f"share right ({counted})" if len(outcomes) > 1 else "share right"
    counts = table(["category", "rows", "right", "wrong", share, "shown here"], lines)
    overview = (
        f"<p class='note'>{text(note)}{text(facts)}{text(rule)} Numbers are cosines. ✓ marks a pair that scores "
        "higher than all that it is compared with, ✗ one that does not, though it should; a tie is wrong. Words in "
        f"which captions differ are marked.</p>{counts}"
    )
    body = f"{boxes}{grid(map(card, rows))}" if rows else "<p>There is no such row.</p>"
    return write_page(
        path,
        title=heading,
        heading=heading,
        overview=overview,
        sections={"Rows": body},
        command="hf_tripletclip.evaluation",
        style=Path(__file__).with_name("errors.css").read_text(encoding="utf-8"),
    )


def _counted_as(predictions: Mapping[str, Sequence[Any]], outcomes: Sequence[str], right: Sequence[bool]) -> str:
    """The outcome that is right in the same rows as all outcomes together, or else all outcomes, in words."""
    same = next(
        (name for name in reversed(outcomes) if [v is not False for v in predictions[name]] == list(right)), ""
    )
    return _words(same) if same else " and ".join(map(_words, outcomes))


def _verdicts(rows: Sequence[Row]) -> list[tuple[str, str]]:
    found = dict.fromkeys(RIGHT if row.is_right else WRONG for row in rows)
    return [("", "right and wrong"), *((name, name) for name in (RIGHT, WRONG) if name in found)]


def _words(name: str) -> str:
    return name.replace("_", " ")

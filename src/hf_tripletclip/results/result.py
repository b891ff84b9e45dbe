# SPDX-License-Identifier: Apache-2.0
"""`EvaluationResult`, its files, and plain-text tables of it."""

from __future__ import annotations

import copy
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

FORMAT = 1  # of the JSON form; files with another number are refused


@dataclass(frozen=True)
class Mean:
    """
    How a metric comes from the predictions: the mean outcome over rows, or the mean of such means.

    Args:
        outcome (`str`): The column of outcomes: booleans or numbers, and `None` in rows that do not count.
        by (`str`, *optional*): For each value of this column, take the mean over its rows; then take the mean of these
            means (a macro mean). By default, take the mean over all rows (a micro mean).
        over (`str`, *optional*): For each value of this column, take the macro mean of `by`; then take the mean of
            these.
        where (`dict[str, Any]`): Column -> value: only rows with these values count.
    """

    outcome: str
    by: str | None = None
    over: str | None = None
    where: Mapping[str, Any] = field(default_factory=dict)


@dataclass(repr=False)
class EvaluationResult:
    """
    Args:
        benchmark (`str`): The benchmark's name in the registry.
        metrics (`dict[str, float]`): By name, fractions in 0..1 unless `raw`.
        chance (`dict[str, float]`): The values that guessing would reach, for metrics with a known one.
        counts (`dict[str, int]`): `rows`, rows per category, `missing` and others.
        settings (`dict[str, Any]`): What else decides the numbers: protocol, precision, ...
        predictions (`dict[str, list]`): Columns of per-row keys, scores and outcomes; not in the JSON form.
        primary (`str`, *optional*): The metric to show when there is room for only one.
        title (`str`, *optional*): The benchmark's name in reports and cards.
        hub_dataset (`str`, *optional*): The id of the Hub dataset with the benchmark's data, if it is a single one.
        task (`str`, *optional*): The Hub's name of the task, for `model-index`. Missing in results of older versions.
        raw (`bool`): The metrics are plain numbers, such as cosines: not shares, and the highest is not the best.
        family (`str`): `composition`, `retention` (what fine-tuning may lose) or `embeddings`.
        tradeoff (`tuple[str, ...]`): The metrics that reports plot, composition against retention.
        also_true (`tuple[str, ...]`): Pairs besides `i0c0`, `i1c1`, ... whose caption is true of the image.
        intervals (`dict[str, tuple[float, float]]`): 95 % bootstrap intervals of metrics.
        baselines (`dict[str, dict[str, float]]`): Baseline -> metric -> value: for models that do not look at the
            image, and for a classifier that tells drawn images from real ones.
        means (`dict[str, Mean]`): How to compute each metric from the predictions.
        model (`dict[str, Any]`): `name`, `fingerprint`, `class`, `dtype` and other facts about the model.
        data (`dict[str, Any]`): `source`, `fingerprint` and other facts about the data.
        versions (`dict[str, str]`): The versions of the libraries.
    """

    benchmark: str
    metrics: dict[str, float]
    chance: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    predictions: dict[str, list[Any]] = field(default_factory=dict)
    primary: str | None = None
    title: str | None = None
    hub_dataset: str | None = None
    task: str | None = None
    raw: bool = False
    family: str = "composition"
    tradeoff: tuple[str, ...] = ()
    also_true: tuple[str, ...] = ()
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    baselines: dict[str, dict[str, float]] = field(default_factory=dict)
    means: dict[str, Mean] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        """One line; `format_table` has all metrics."""
        parts = [repr(self.benchmark)]
        if self.primary in self.metrics:
            low, high = self.intervals.get(self.primary, (None, None))
            between = "" if low is None else f" [{low:.3f}, {high:.3f}]"
            parts.append(f"{self.primary}={self.metrics[self.primary]:.3f}{between}")
        parts += [f"{len(self.metrics)} metrics"]
        parts += [f"{self.counts['rows']:,} rows"] if "rows" in self.counts else []
        parts += [f"model={str(self.model['name'])!r:.80}"] if "name" in self.model else []
        return f"EvaluationResult({', '.join(parts)})"

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object, without the predictions."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name != "predictions"}
        means = {name: asdict(mean) for name, mean in self.means.items()}
        return {"format": FORMAT, **copy.deepcopy(values), "means": means}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EvaluationResult:
        """
        The inverse of `to_dict`.

        Raises:
            ValueError: These are not the fields of a result, or they come from another version.
        """
        if not isinstance(values, Mapping):
            raise ValueError(f"An evaluation result is a JSON object, not a {type(values).__name__}.")
        values = dict(values)
        if (version := values.pop("format", FORMAT)) != FORMAT:
            raise ValueError(
                f"This result is of format {version!r} and this version of hf_tripletclip reads {FORMAT}: evaluate "
                "again, or read it with the version that wrote it."
            )
        known = {entry.name for entry in fields(cls)}
        if (unknown := values.keys() - known) or not {"benchmark", "metrics"} <= values.keys():
            raise ValueError(
                f"An evaluation result has `benchmark`, `metrics` and no fields but {sorted(known)}; here are "
                f"{sorted(values)}" + (f", of which {sorted(unknown)} are unknown." if unknown else ".")
            )
        kinds = {entry.name: str(entry.type).partition("[")[0] for entry in fields(cls) if entry.name in values}
        for kind, form, words in (("dict", Mapping, "a JSON object"), ("tuple", (list, tuple), "a list")):
            if wrong := sorted(name for name in values if kinds[name] == kind and not isinstance(values[name], form)):
                raise ValueError(f"{', '.join(wrong)} of an evaluation result must be {words}.")
        _check_plain(values)
        try:
            values["intervals"] = {name: (low, high) for name, (low, high) in values.get("intervals", {}).items()}
            values["means"] = {name: Mean(**mean) for name, mean in values.get("means", {}).items()}
            values |= {name: tuple(values[name]) for name, kind in kinds.items() if kind == "tuple"}
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"The intervals or means of this evaluation result are not what they are: {error}"
            ) from error
        return cls(**values)

    def save_json(self, path: str | os.PathLike[str]) -> None:
        """Write `to_dict` to a file."""
        staged = Path(f"{os.fspath(path)}.tmp")
        staged.write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")
        os.replace(staged, path)  # so that readers never see half a file

    @classmethod
    def load_json(cls, path: str | os.PathLike[str]) -> EvaluationResult:
        """
        Read what `save_json` wrote.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is not an evaluation result, or comes from another version.
        """
        try:
            return cls.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))
        except ValueError as error:
            raise ValueError(f"{path} is no evaluation result that can be read: {error}") from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the JSON form to `path`, such as `sugarcrepe.json`, and the predictions to a `.parquet` beside it."""
        import pyarrow
        import pyarrow.parquet

        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        table = target.with_suffix(".parquet")
        if self.predictions:
            staged = target.with_suffix(".parquet.tmp")
            pyarrow.parquet.write_table(pyarrow.table(self.predictions), staged)
            os.replace(staged, table)
        else:
            table.unlink(missing_ok=True)  # the predictions of an earlier result
        self.save_json(target)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> EvaluationResult:
        """Read what `save` wrote, with the predictions if their file exists. Raises the errors of `load_json`."""
        import pyarrow
        import pyarrow.parquet

        result = cls.load_json(path)
        table = Path(path).with_suffix(".parquet")
        if table.exists():
            try:
                result.predictions = pyarrow.parquet.read_table(table).to_pydict()
            except pyarrow.ArrowException as error:
                raise ValueError(f"{table} are no predictions that can be read: {error}") from error
        return result

    def format_table(self) -> str:
        """A plain-text table: the main metrics, their 95 % intervals if known, and chance."""
        return _table(self, {"result": self})


# The metrics of held-out rows that tables show; `to_dict` has all of them.
SHOWN_HELD_OUT = ("held_out_accuracy", "held_out_group_score")


def main_metrics(result: EvaluationResult) -> list[str]:
    """The metrics that tables show: all but the tie rate and the text, image and group scores of each kind."""
    hidden = ("tie_rate", "held_out_", "text_score_", "image_score_", "group_score_")
    return [name for name in result.metrics if name in SHOWN_HELD_OUT or not name.startswith(hidden)]


def table_rows(before: EvaluationResult, after: EvaluationResult) -> list[tuple[str, float, float, float | None]]:
    """(metric, before, after, chance) for each main metric that both results have."""
    return [
        (name, before.metrics[name], after.metrics[name], after.chance.get(name))
        for name in main_metrics(after)
        if name in before.metrics
    ]


def format_before_after(before: EvaluationResult, after: EvaluationResult) -> str:
    """A plain-text table: the main metrics before and after training, and chance."""
    return _table(after, {"before": before, "after": after})


def _table(of: EvaluationResult, columns: dict[str, EvaluationResult]) -> str:
    names = [name for name in main_metrics(of) if all(name in result.metrics for result in columns.values())]
    width = max(map(len, ["", *names])) + 1
    intervals = of.intervals if len(columns) == 1 else {}
    head = " " * width + "".join(f"{column:>9}" for column in columns)
    lines = [head + ("  95 % interval" if intervals else "") + f"{'chance':>9}"]
    for name in names:
        guess = f"{of.chance[name]:9.3f}" if name in of.chance else ""
        values = "".join(f"{result.metrics[name]:9.3f}" for result in columns.values())
        between = ""
        if intervals:
            low, high = intervals.get(name, (None, None))
            between = " " * 15 if low is None else f"  {low:.3f} - {high:.3f}"
        lines.append(f"{name:{width}}{values}{between}{guess}".rstrip())
    return "\n".join(lines)


def _check_plain(values: Mapping[str, Any]) -> None:
    """Raise `ValueError` if the fields of a file cannot become tables and file names."""
    name = values["benchmark"]
    if not isinstance(name, str) or not re.fullmatch(r"[\w.-]+", name) or name.strip(".") == "":
        raise ValueError(f"An evaluation result has the name of a benchmark; here is {name!r}.")
    for part in ("metrics", "chance", "counts"):
        numbers = values.get(part, {})
        if not isinstance(numbers, Mapping):
            raise ValueError(f"`{part}` of an evaluation result is an object of numbers, not {numbers!r}.")
        for key, value in numbers.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise ValueError(f"`{part}` of an evaluation result has {value!r} for {key!r}, which is no number.")


def format_result(result: EvaluationResult) -> str:
    """
    The table of a result, with columns for its baselines and the rows of each category. Below it: baselines with other
    metrics, the tie rate and the number of rows that were left out.
    """
    shown = main_metrics(result)
    beside = {name: of for name, of in result.baselines.items() if of.keys() & set(shown)}
    lines = result.format_table().splitlines()
    width = max(map(len, lines))
    head, *rows = (line.ljust(width) for line in lines)
    for name in beside:
        head += f"  {name}"
    for place, metric in enumerate(shown):
        for name, values in beside.items():
            value = f"{values[metric]:.3f}" if metric in values else ""
            rows[place] += f"  {value:>{len(name)}}"
    if any(metric in result.counts for metric in shown):  # a metric of few rows is uncertain
        wide = max(map(len, (head, *rows)))
        head = f"{head:{wide}}{'rows':>9}"
        for place, metric in enumerate(shown):
            if metric in result.counts:
                rows[place] = f"{rows[place]:{wide}}{result.counts[metric]:>9,}"
    others = [
        f"{name}: " + ", ".join(f"{metric} {value:.3f}" for metric, value in values.items())
        for name, values in result.baselines.items()
        if name not in beside
    ]
    if columns := result.data.get("columns"):  # how the columns of the user's table were used
        named = {
            name: value if isinstance(value, str) else ", ".join(value) for name, value in columns.items() if value
        }
        others.append("columns: " + "; ".join(f"{name} {value}" for name, value in named.items()))
    return "\n".join(line.rstrip() for line in (head, *rows, *others, _rows(result)))


def _rows(result: EvaluationResult) -> str:
    parts = [f"{result.counts['rows']:,} rows"] if "rows" in result.counts else []
    parts += [f"{result.counts[name]:,} {name}" for name in ("missing", "broken") if name in result.counts]
    if "tie_rate" in result.metrics:
        parts.append(f"tie rate {result.metrics['tie_rate']:.4f}")
    if result.settings.get("max_rows") is not None:
        parts.append("a sample, because of max_rows")
    if result.settings.get("protocol") == "official":
        parts.append("official protocol")
    return ", ".join(parts)

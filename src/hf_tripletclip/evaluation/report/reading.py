# SPDX-License-Identifier: Apache-2.0
"""What a report reads: result files with the names of their models, and published figures."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_tripletclip.evaluation.registry import BENCHMARKS, benchmark_class
from hf_tripletclip.results.result import EvaluationResult


@dataclass
class Entry:
    """
    A model's result on a benchmark.

    Args:
        label (`str`): The model's name in the report.
        result ([`EvaluationResult`]): The result, with its predictions if their file exists.
        path (`Path`): The file.
        model (`str`): The part of the label that is the same in all results of the model.
    """

    label: str
    result: EvaluationResult
    path: Path
    model: str = ""


def read_entries(paths: Sequence[str | os.PathLike[str]]) -> list[Entry]:
    """
    The results in files, and in all files in and below folders.

    Args:
        paths (`Sequence[str or os.PathLike]`): Files that [`EvaluationResult.save`] wrote, or folders of them. In
            folders, other JSON files are skipped.

    Returns:
        `list[Entry]`: In the given order, each file once, with a different label for each model.

    Raises:
        FileNotFoundError: There is no such file, or no result in a folder.
        ValueError: A file is not a result that can be read, or two results do not differ in anything that a report
            shows.
    """
    files: dict[Path, None] = {}
    for path in map(Path, paths):
        if path.is_dir():
            found = [file for file in sorted(path.rglob("*.json")) if _is_result(file)]
            if not found:
                raise FileNotFoundError(f"{path} has no evaluation results; `tripletclip evaluate` writes them.")
        elif path.is_file():
            found = [path]
        else:
            raise FileNotFoundError(
                f"there is no evaluation result {path}: give a folder or a file that `tripletclip evaluate` wrote"
            )
        files |= dict.fromkeys(file.resolve() for file in found)
    return label_entries([Entry("", _completed(EvaluationResult.load(file)), file) for file in files])


def _completed(result: EvaluationResult) -> EvaluationResult:
    """The result, with what its benchmark declares if it comes from a version that did not store this."""
    if result.task is None and result.benchmark in BENCHMARKS:
        return dataclasses.replace(result, **benchmark_class(result.benchmark).declared())
    return result


def _is_result(file: Path) -> bool:
    """Whether a file has the fields of a result of any version. A broken file may be a result."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return file.stem in BENCHMARKS  # reading it then raises an error that says what is wrong
    return isinstance(values, dict) and {"benchmark", "metrics"} <= values.keys()


def label_entries(entries: Sequence[Entry]) -> list[Entry]:
    """
    Give each model, and each of several results of one model on one benchmark, a short name of its own.

    Raises:
        ValueError: Two results do not differ in anything that could be part of a name.
    """
    short = [short_name(_identity(entry)[0]) for entry in entries]
    models: dict[str, dict[tuple[str, str], None]] = {}
    for name, entry in zip(short, entries, strict=True):
        models.setdefault(name, {})[_identity(entry)] = None
    for name, entry in zip(short, entries, strict=True):
        same = list(models[name])
        if len(same) == 1:
            entry.label = name
        elif len({full for full, _ in same}) == len(same):
            entry.label = f"{name} ({Path(_identity(entry)[0]).parent.name or _identity(entry)[1][:6]})"
        else:
            entry.label = f"{name} ({_identity(entry)[1][:6] or same.index(_identity(entry)) + 1})"
    by_benchmark: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        entry.model = entry.label
        by_benchmark.setdefault((entry.result.benchmark, entry.label), []).append(entry)
    for (benchmark, label), group in by_benchmark.items():
        if len(group) > 1:
            _qualify(group, benchmark, label)
    return list(entries)


def _identity(entry: Entry) -> tuple[str, str]:
    model = entry.result.model
    return str(model.get("name") or entry.path.parent.name), str(model.get("fingerprint") or "")


def short_name(name: str) -> str:
    """The last part of a path; the id of a Hub repository unchanged."""
    is_path = os.path.isabs(name) or name.startswith((".", "~")) or name.count("/") > 1 or os.path.exists(name)
    return Path(name).name or name if is_path else name


def by_data(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    """The entries of each data set by a name of their own. Only entries of one data set can be compared."""
    groups: dict[Any, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.result.data.get("fingerprint"), []).append(entry)
    names = [short_name(str(group[0].result.data.get("source") or "unnamed data")) for group in groups.values()]
    seen = Counter(names)
    return {
        name if seen[name] == 1 else f"{name} ({fingerprint})": group
        for name, (fingerprint, group) in zip(names, groups.items(), strict=True)
    }


def _qualify(group: Sequence[Entry], benchmark: str, label: str) -> None:
    for describe in (
        lambda entry: Path(str(entry.result.data.get("source", ""))).name,
        lambda entry: entry.result.settings.get("protocol"),
        lambda entry: entry.result.settings.get("autocast") or "float32",
        lambda entry: entry.path.parent.name,
        lambda entry: entry.path.stem,
    ):
        names = [str(describe(entry)) for entry in group]
        if max(Counter(names).values()) == 1:
            for entry, name in zip(group, names, strict=True):
                entry.label = f"{label}, {name}"
            return
    raise ValueError(
        f"{', '.join(str(entry.path) for entry in group)} are results of one model, {label}, on {benchmark} that "
        "nothing tells apart: give one of them."
    )


def title_of(entries: Sequence[Entry]) -> str:
    """The title of the benchmark of these results; its name if it has none."""
    return entries[0].result.title or entries[0].result.benchmark


# ---- Figures that others have published, as they printed them, each with its source: `published.json` ----


@dataclass(frozen=True)
class Published:
    """
    A model's figures in a publication.

    Args:
        benchmark (`str`): The benchmark's name in the registry.
        model (`str`): The model's name in the publication.
        training (`str`): The training data.
        metrics (`Mapping[str, float]`): By our names, fractions in 0..1.
        data (`str`): The evaluation data; `is_of` checks whether a result has the same rows.
        cite (`str`): The place of the figures, such as "Patel et al. 2024, Table 4".
        reference (`str`): How to find this publication.
        group (`str`): Figures with the same model, training and group belong to the same weights.
        remark (`str`): A remark about the figures, or an empty text.
    """

    benchmark: str
    model: str
    training: str
    metrics: Mapping[str, float]
    data: str
    cite: str
    reference: str
    group: str
    remark: str = ""


@functools.cache
def _file() -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads(Path(__file__).with_name("published.json").read_text(encoding="utf-8"))
    return found


@functools.cache
def published() -> tuple[Published, ...]:
    """All figures."""
    return tuple(
        Published(
            benchmark=table["benchmark"],
            model=model,
            training=training,
            metrics={name: round(value / 100, 6) for name, value in zip(table["metrics"], values, strict=True)},
            data=table["data"],
            cite=table["cite"],
            reference=table["reference"],
            group=table["group"],
            remark=table.get("remark", ""),
        )
        for table in _file()["tables"]
        for model, training, *values in table["rows"]
    )


def published_of(benchmark: str) -> list[Published]:
    """The figures on a benchmark."""
    return [figure for figure in published() if figure.benchmark == benchmark]


def published_beside(results: Sequence[EvaluationResult]) -> list[Published]:
    """The figures on the same rows as all these results of a benchmark."""
    figures = published_of(results[0].benchmark)
    same = {data for data in {figure.data for figure in figures} if all(is_of(result, data) for result in results)}
    return [figure for figure in figures if figure.data in same]


def is_of(result: EvaluationResult, data: str) -> bool:
    """
    Whether a result comes from the data of published figures, as far as its numbers of rows and the name of its source
    show.

    Args:
        result ([`EvaluationResult`]): A result of a benchmark with figures on this data.
        data (`str`): As in [`Published`].
    """
    asked = _file()["data"][data]
    source = str(result.data.get("source", "")).lower()
    return (
        all(result.counts.get(name) in numbers for name, numbers in asked.get("counts", {}).items())
        and re.search(asked.get("source", ""), source) is not None
        and ("not_source" not in asked or re.search(asked["not_source"], source) is None)
    )


def rows_of(data: str) -> str:
    """How many rows the data has, in words."""
    counts = _file()["data"][data].get("counts", {})
    return " and ".join(f"{numbers[0]:,} {name}" for name, numbers in counts.items())

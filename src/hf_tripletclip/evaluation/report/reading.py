# SPDX-License-Identifier: Apache-2.0
"""Which results a report is about: their files, and what their models are called."""

from __future__ import annotations

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Sequence
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
        label (`str`): What the report calls the model.
        result ([`EvaluationResult`]): The result, with its predictions where their file is there.
        path (`Path`): The file.
        model (`str`): The part of the label that names the model, the same in all of its results.
    """

    label: str
    result: EvaluationResult
    path: Path
    model: str = ""


def read_entries(paths: Sequence[str | os.PathLike[str]]) -> list[Entry]:
    """
    The results of files, and of all files in and below folders.

    Args:
        paths (`Sequence[str or os.PathLike]`): Files that [`EvaluationResult.save`] wrote, or folders of them. JSON
            files of other kinds are passed over in folders.

    Returns:
        `list[Entry]`: In the order given, each file once, with labels that tell the models apart.

    Raises:
        FileNotFoundError: There is no such file, or no result in a folder.
        ValueError: A file is no result that can be read, or two results are the same in all that a report shows.
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
            raise FileNotFoundError(f"there is no evaluation result {path}")
        files |= dict.fromkeys(file.resolve() for file in found)
    return label_entries([Entry("", _completed(EvaluationResult.load(file)), file) for file in files])


def _completed(result: EvaluationResult) -> EvaluationResult:
    """The result, with what its benchmark declares if it comes from a version that did not store this."""
    if result.title is None and result.benchmark in BENCHMARKS:
        return dataclasses.replace(result, **benchmark_class(result.benchmark).declared())
    return result


def _is_result(file: Path) -> bool:
    """Whether it has the fields of a result, of whatever version; a broken file may be one."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return file.stem in BENCHMARKS  # then reading it says what is wrong with it
    return isinstance(values, dict) and {"benchmark", "metrics"} <= values.keys()


def label_entries(entries: Sequence[Entry]) -> list[Entry]:
    """
    Give the models short names that tell them, and different results of one model on one benchmark, apart.

    Raises:
        ValueError: Two results are the same in all that could tell them apart.
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
    """A path by its last part, the id of a Hub repository as it is."""
    is_path = os.path.isabs(name) or name.startswith((".", "~")) or name.count("/") > 1 or os.path.exists(name)
    return Path(name).name or name if is_path else name


def by_data(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    """The entries of each data set, which alone can be compared, by a name of it that tells it from the others."""
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

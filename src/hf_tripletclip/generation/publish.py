# SPDX-License-Identifier: Apache-2.0
"""From finished units to a dataset folder that `load_dataset` opens anywhere, without this package."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features, Value
from tqdm.auto import tqdm

from hf_tripletclip.data.schema import (
    COLUMNS,
    GENERATOR,
    HELD_OUT,
    ID,
    NEGATIVE_TYPE,
    SCORES,
    SEED,
    SOURCE,
)
from hf_tripletclip.generation.engine import Job
from hf_tripletclip.generation.filters import FilterSettings, apply_filters
from hf_tripletclip.generation.layout import ASSETS_FOLDER, DATA_FOLDER, LEFT_OUT_FILE, PLAN_FILE, REPORT_FILE
from hf_tripletclip.generation.plan import Unit
from hf_tripletclip.generation.source import OpenSource
from hf_tripletclip.generation.stage import ERROR
from hf_tripletclip.generation.units import encode
from hf_tripletclip.hub.files import CARD_FILE

STAGED_FOLDER = "staged"  # in the work folder: the dataset until it is whole
LOGS_FOLDER = "logs"  # in the work folder: of the tasks of a cluster
FILTER = "filter: "  # begins the reasons of rows that the filters leave out
ROW_GROUP = 100  # images are large, and readers take a group at a time


@dataclass
class GenerationReport:
    """
    Args:
        rows (`int`): Rows of the source.
        kept (`dict[str, int]`): Split -> rows of the dataset.
        left_out (`dict[str, int]`): Why rows are not in it -> how many, the most frequent first.
        seconds (`float`): How long this call took; not part of the file, so that reruns write the same.
    """

    rows: int
    kept: dict[str, int]
    left_out: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    def save(self, output: Path) -> None:
        fields = {name: value for name, value in asdict(self).items() if name != "seconds"}
        staged = output / f"{REPORT_FILE}.tmp"
        staged.write_text(json.dumps(fields, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(staged, output / REPORT_FILE)

    @classmethod
    def load(cls, output: Path) -> GenerationReport | None:
        """Of a finished dataset; `None` where it is not finished."""
        path = output / REPORT_FILE
        return cls(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None

    def summary(self) -> str:
        """A few lines for the end of a run."""
        kept = sum(self.kept.values())
        lines = [f"{kept:,} of {self.rows:,} rows: " + ", ".join(f"{n:,} {split}" for split, n in self.kept.items())]
        if self.seconds:
            lines[0] += f"; {self.seconds:.0f} s, {self.rows / self.seconds:,.0f} rows/s"
        lines += [f"  {number:>8,} × {reason}" for reason, number in self.left_out.items()]
        return "\n".join(lines)


def dataset_features(job: Job, source: OpenSource) -> Features:
    """The columns of the dataset: the pair, the hard negative, and where it comes from."""
    made = Features({name: feature for stage in job.stages.values() for name, feature in stage.produces.items()})
    text = Value("string")
    available = {**job.pairs(source), **made, ID: text, GENERATOR: text, SOURCE: text}
    order = (ID, *COLUMNS, NEGATIVE_TYPE, HELD_OUT, GENERATOR, SEED, *SCORES, SOURCE)
    wanted = [name for name in order if name in available] + [name for name in made if name not in order]
    return Features({name: available[name] for name in wanted})


def write_dataset(job: Job, filters: FilterSettings, *, progress: bool) -> GenerationReport:
    """
    Write the dataset of finished units into the job's output folder: `README.md`, `data/*.parquet`, the rows left out
    with their reasons, and the report. The same units give the same bytes. A dataset that was there before is replaced
    once the new one is whole.

    Raises:
        OSError: The disk is full; the units are kept.
        ValueError: No row is left.
    """
    from hf_tripletclip.hub.dataset_card import write_dataset_card

    source = job.source.open()
    units = list(job.plan.units())
    choice = _choose(job, source, units, filters)
    counts = choice.counts()
    sizes = {split: sum(len(choice.kept(unit)) for unit in units if unit.split == split) for split in source.sizes}
    if not any(sizes.values()):
        hint = "; settings of filters may be changed with `--overwrite`"
        raise ValueError(
            f"None of the {job.plan.rows} rows is left: {counts}. The units are kept in {job.work}"
            f"{hint if any(reason.startswith(FILTER) for reason in counts) else ''}."
        )
    features = dataset_features(job, source)
    report = GenerationReport(rows=job.plan.rows, kept={split: n for split, n in sizes.items() if n}, left_out=counts)
    shutil.rmtree(job.work / STAGED_FOLDER, ignore_errors=True)
    staged = job.work / STAGED_FOLDER / job.output.resolve().name  # by the name that the card gives it
    data = staged / DATA_FOLDER
    data.mkdir(parents=True)
    with tqdm(total=sum(sizes.values()), unit="rows", desc="writing", disable=not progress) as bar:
        for split, rows in report.kept.items():
            part = [unit for unit in units if unit.split == split]
            _write_split(data, split, rows, features, _rows(job, source, part, choice, features), job, bar)
    _write_left_out(staged / LEFT_OUT_FILE, source, units, choice)
    write_dataset_card(staged, plan=job.plan.to_dict(), report=report, features=features)
    job.plan.save(staged / PLAN_FILE)
    report.save(staged)
    _put_in_place(staged, job.output)
    remove_work(job)
    return report


def _put_in_place(staged: Path, output: Path) -> None:
    """Replace the files of the dataset that was there. Without the report, the last, the output is not finished."""
    (output / REPORT_FILE).unlink(missing_ok=True)
    for name in (PLAN_FILE, DATA_FOLDER, LEFT_OUT_FILE, CARD_FILE, ASSETS_FOLDER, REPORT_FILE):
        if (output / name).is_dir():
            shutil.rmtree(output / name)
        os.replace(staged / name, output / name)


def remove_work(job: Job) -> None:
    """Remove the units of a finished dataset. The lock stays with its holder, and logs with those who are writing."""
    for path in job.work.iterdir():
        if path.is_dir() and path.name != LOGS_FOLDER:
            shutil.rmtree(path)
    (job.work / PLAN_FILE).unlink(missing_ok=True)  # the last: it says whose units are there


class _Choice:
    """Which rows are kept, and why the others are not: a number per row, for there are millions."""

    def __init__(self, units: list[Unit]) -> None:
        starts = np.cumsum([0, *(unit.rows for unit in units)]).tolist()
        self._starts = {unit.number: start for unit, start in zip(units, starts, strict=False)}
        self.codes = np.zeros(starts[-1], np.int32)  # of the reasons; 0 where the row is kept
        self._reasons: dict[str, int] = {}

    def of(self, unit: Unit) -> np.ndarray:
        """A view of the codes of a unit's rows."""
        return self.codes[self._starts[unit.number] :][: unit.rows]

    def code(self, reason: str) -> int:
        return self._reasons.setdefault(reason, len(self._reasons) + 1)

    def kept(self, unit: Unit) -> list[int]:
        """The places in a unit of the rows that are kept."""
        return np.flatnonzero(self.of(unit) == 0).tolist()

    def left_out(self, unit: Unit) -> list[tuple[int, str]]:
        """The places of the others, and why."""
        reasons = ["", *self._reasons]
        return [(place, reasons[code]) for place, code in enumerate(self.of(unit).tolist()) if code]

    def counts(self) -> dict[str, int]:
        """Reason -> rows, the most frequent first."""
        numbers = np.bincount(self.codes, minlength=len(self._reasons) + 1)[1:].tolist()
        return dict(Counter(dict(zip(self._reasons, numbers, strict=True))).most_common())


def _choose(job: Job, source: OpenSource, units: list[Unit], filters: FilterSettings) -> _Choice:
    choice = _Choice(units)
    columns: dict[str, Any] = {name: np.full(len(choice.codes), np.nan, np.float32) for name in filters.columns()}
    start = 0
    for unit in units:
        rows = job.read(unit, columns, source)
        codes = choice.of(unit)
        for place, error in enumerate(rows[ERROR]):
            if error is not None:
                codes[place] = choice.code(_reason(error))
        for name, values in columns.items():
            values[start : start + unit.rows] = np.asarray(rows[name], np.float32)  # `None` is not a number
        start += unit.rows
    if columns:
        whole = np.flatnonzero(choice.codes == 0)  # the rows that every stage could make
        _, dropped = apply_filters({name: values[whole] for name, values in columns.items()}, filters, len(whole))
        for index, reason in dropped.items():
            choice.codes[whole[index]] = choice.code(f"{FILTER}{reason}")
    return choice


def _reason(error: str) -> str:
    """`captions: refusal: I cannot ...` counts as `captions: refusal`."""
    return ":".join(error.split(":")[:2])


def _rows(
    job: Job, source: OpenSource, units: list[Unit], choice: _Choice, features: Features
) -> Iterator[dict[str, Any]]:
    constants = {SOURCE: public_name(job.source.name)}
    if (generator := _generator(job)) is not None or GENERATOR not in source.features:
        constants[GENERATOR] = generator or "the source"
    readable = [name for name in features if name != ID and name not in constants]
    for unit in units:
        places = choice.kept(unit)
        if not places:
            continue
        rows = job.read(unit, readable, source)
        chosen = {name: [rows[name][place] for place in places] for name in features if name not in constants}
        chosen |= {name: [value] * len(places) for name, value in constants.items()}
        encoded = encode(chosen, features)
        for number in range(len(places)):
            yield {name: encoded[name][number] for name in features}


def public_name(name: str) -> str:
    """A path by its last part: where things lie on this machine is nobody's business."""
    return Path(name).name if Path(name).is_absolute() or Path(name).exists() else name


def _generator(job: Job) -> str | None:
    """What made the negatives, such as `llm:mistralai/Mistral-7B-Instruct-v0.2 + diffusers:stabilityai/sdxl-turbo`."""
    labels = []
    for step, stage in job.stages.items():
        if not step.startswith("check-"):
            name, colon, model = stage.label.partition(":")
            labels.append(f"{name}{colon}{public_name(model) if colon else ''}")
    return " + ".join(labels) or None


def _write_split(
    folder: Path, split: str, rows: int, features: Features, stream: Iterator[dict[str, Any]], job: Job, bar: Any
) -> None:
    size = job.plan.output["rows_per_file"]
    files = math.ceil(rows / size)
    for number in range(files):
        path = folder / f"{split}-{number:05d}-of-{files:05d}.parquet"
        left = min(size, rows - number * size)
        with pq.ParquetWriter(path, features.arrow_schema) as writer:
            while left:
                chunk = [next(stream) for _ in range(min(left, ROW_GROUP))]
                writer.write_table(pa.Table.from_pylist(chunk, schema=features.arrow_schema))
                left -= len(chunk)
                bar.update(len(chunk))


def _write_left_out(path: Path, source: OpenSource, units: list[Unit], choice: _Choice) -> None:
    with open(path, "w", encoding="utf-8") as file:
        for unit in units:
            if not (left_out := choice.left_out(unit)):
                continue
            ids = source.read(unit.split, unit.start, unit.stop, [])[ID]
            for place, reason in left_out:
                row_id = ids[place]  # of a damaged tar, its path
                row_id = public_name(row_id) if os.path.isabs(row_id) else row_id
                line = {"split": unit.split, "row": unit.start + place, "id": row_id, "reason": reason}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")

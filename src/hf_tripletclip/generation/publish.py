# SPDX-License-Identifier: Apache-2.0
"""From finished units to a dataset folder that `load_dataset` opens anywhere, without this package."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    IMAGE,
    NEGATIVE_TYPE,
    SCORES,
    SEED,
    SOURCE,
)
from hf_tripletclip.generation.filters import FilterSettings, apply_filters
from hf_tripletclip.generation.plan import (
    DATA_FOLDER,
    LEFT_OUT_FILE,
    LOCK_FILE,
    LOGS_FOLDER,
    PLAN_FILE,
    REPORT_FILE,
    Unit,
    encode,
)
from hf_tripletclip.generation.replacing import put_in_place
from hf_tripletclip.generation.source import DIGEST, OpenSource, picture_digest
from hf_tripletclip.generation.splitting import Shares
from hf_tripletclip.generation.stage import ERROR, short_reason

if TYPE_CHECKING:  # it needs datatrove, and `tripletclip mine` does not
    from hf_tripletclip.generation.engine import Job

PARAPHRASES_STEP = "paraphrases"
STAGED_FOLDER = "staged"  # in the work folder: the dataset until it is whole
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
        text = json.dumps(fields, indent=1, ensure_ascii=False) + "\n"
        (output / REPORT_FILE).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, output: Path) -> GenerationReport | None:
        """
        The report of a finished dataset; `None` if it is not finished.

        Raises:
            ValueError: The file is damaged.
        """
        path = output / REPORT_FILE
        if not path.is_file():
            return None
        try:
            fields = json.loads(path.read_bytes())  # the report of `tripletclip mine` has more
            return cls(**{name: value for name, value in fields.items() if name in cls.__dataclass_fields__})
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is damaged: {error}. `--overwrite` makes the dataset anew.") from error

    def summary(self) -> str:
        """A few lines for the end of a run."""
        kept = sum(self.kept.values())
        lines = [f"{kept:,} of {self.rows:,} rows: " + ", ".join(f"{n:,} {split}" for split, n in self.kept.items())]
        if self.seconds:
            lines[0] += f"; {self.seconds:.0f} s, {rate(self.rows / self.seconds)} rows/s"
        lines += [f"  {number:>8,} × {reason}" for reason, number in self.left_out.items()]
        return "\n".join(lines)


def rate(number: float) -> str:
    """A number with two significant digits: `12,345`, `12`, `1.2`, `0.17`, `0.0012`."""
    return f"{number:,.0f}" if number >= 9.5 else np.format_float_positional(number, 2, fractional=False, trim="-")


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
    from hf_tripletclip.generation.dataset_card import write_dataset_card

    source = job.source.open()
    units = list(job.plan.units())
    shares = Shares.of_plan(job.plan.output)
    choice = _choose(job, source, units, filters, shares)
    counts, sizes = choice.counts(), choice.sizes()
    if not any(sizes.values()):
        hint = "; settings of filters may be changed with `--overwrite`"
        raise ValueError(
            f"None of the {job.plan.rows} rows is left ("
            + "; ".join(f"{number} × {reason}" for reason, number in counts.items())
            + f"). The units are kept in {job.work}"
            f"{hint if any(reason.startswith(FILTER) for reason in counts) else ''}."
        )
    shares.warn_of_empty(sizes)
    features = dataset_features(job, source)
    report = GenerationReport(rows=job.plan.rows, kept={split: n for split, n in sizes.items() if n}, left_out=counts)
    shutil.rmtree(job.work / STAGED_FOLDER, ignore_errors=True)
    staged = job.work / STAGED_FOLDER / job.output.resolve().name  # by the name that the card gives it
    (staged / DATA_FOLDER).mkdir(parents=True)
    with tqdm(total=sum(sizes.values()), unit="rows", desc="writing", disable=not progress) as bar:
        _write_rows(job, source, units, choice, features, report.kept, staged / DATA_FOLDER, bar)
    _write_left_out(staged / LEFT_OUT_FILE, source, units, choice)
    write_dataset_card(staged, plan=job.plan.to_dict(), report=report, features=features)
    job.plan.save(staged / PLAN_FILE)
    report.save(staged)
    put_in_place(staged, job.output)
    remove_work(job)
    return report


def remove_work(job: Job) -> None:
    """Remove the units of a finished dataset. The lock stays, because it is held, and logs, which may still grow."""
    clear_work(job.work)


def clear_work(work: Path) -> None:
    """Remove all of a work folder but its lock and logs."""
    for path in work.iterdir():
        if path.is_dir() and path.name != LOGS_FOLDER:
            shutil.rmtree(path)
        elif path.is_file() and path.name not in (LOCK_FILE, PLAN_FILE):
            path.unlink()
    (work / PLAN_FILE).unlink(missing_ok=True)  # last, because it says which run the units belong to


class _Choice:
    """Which rows are kept, in which split, and why others are not: in numbers: there may be millions of rows."""

    def __init__(self, units: list[Unit], splits: Sequence[str]) -> None:
        starts = np.cumsum([0, *(unit.rows for unit in units)]).tolist()
        self._starts = {unit.number: start for unit, start in zip(units, starts, strict=False)}
        self.codes = np.zeros(starts[-1], np.int32)  # of the reasons; 0 if the row is kept
        self._reasons: dict[str, int] = {}
        self._splits = list(splits)
        self._sides = np.zeros(starts[-1], np.int8)  # of the splits

    def of(self, unit: Unit) -> np.ndarray:
        """A view of the codes of a unit's rows."""
        return self.codes[self._starts[unit.number] :][: unit.rows]

    def put(self, unit: Unit, splits: Sequence[str]) -> None:
        """Set the splits of a unit's rows."""
        self._sides[self._starts[unit.number] :][: unit.rows] = [self._splits.index(split) for split in splits]

    def splits(self, unit: Unit) -> list[str]:
        return [self._splits[side] for side in self._sides[self._starts[unit.number] :][: unit.rows].tolist()]

    def sizes(self) -> dict[str, int]:
        """Split -> rows that are kept."""
        numbers = np.bincount(self._sides[self.codes == 0], minlength=len(self._splits)).tolist()
        return dict(zip(self._splits, numbers, strict=True))

    def code(self, reason: str) -> int:
        return self._reasons.setdefault(reason, len(self._reasons) + 1)

    def kept(self, unit: Unit) -> list[int]:
        """The places in a unit of the rows that are kept."""
        return np.flatnonzero(self.of(unit) == 0).tolist()

    def left_out(self, unit: Unit) -> list[tuple[int, str]]:
        """The places of the rows that are left out, and why."""
        reasons = ["", *self._reasons]
        return [(place, reasons[code]) for place, code in enumerate(self.of(unit).tolist()) if code]

    def counts(self) -> dict[str, int]:
        """Reason -> rows, the most frequent first."""
        numbers = np.bincount(self.codes, minlength=len(self._reasons) + 1)[1:].tolist()
        return dict(Counter(dict(zip(self._reasons, numbers, strict=True))).most_common())


def _choose(
    job: Job, source: OpenSource, units: list[Unit], filters: FilterSettings, shares: Shares | None = None
) -> _Choice:
    shares = shares or Shares()
    choice = _Choice(units, shares.splits(list(source.sizes)))
    columns: dict[str, Any] = {name: np.full(len(choice.codes), np.nan, np.float32) for name in filters.columns()}
    start = 0
    for unit in units:
        rows = job.read(unit, columns, source)
        codes = choice.of(unit)
        for place, error in enumerate(rows[ERROR]):
            if error is not None:
                codes[place] = choice.code(short_reason(error))
        if shares:
            choice.put(unit, [shares.split_of(picture) for picture in _pictures(job, source, unit, rows[ERROR])])
        else:
            choice.put(unit, [unit.split] * unit.rows)
        for name, values in columns.items():
            values[start : start + unit.rows] = np.asarray(rows[name], np.float32)  # `None` is not a number
        start += unit.rows
    if columns:
        whole = np.flatnonzero(choice.codes == 0)  # the rows that every stage could make
        _, dropped = apply_filters({name: values[whole] for name, values in columns.items()}, filters, len(whole))
        for index, reason in dropped.items():
            choice.codes[whole[index]] = choice.code(f"{FILTER}{reason}")
    return choice


def _pictures(job: Job, source: OpenSource, unit: Unit, errors: Sequence[str | None]) -> list[str]:
    """A digest of the image of each row of a unit; of rows that are left out it may be anything."""
    first = next(iter(job.stages))
    digests = job.files(first).read(unit, [DIGEST])[DIGEST]
    if None in digests:  # a source that cannot change, and has no digests
        images = source.read(unit.split, unit.start, unit.stop, [IMAGE])[IMAGE]
        return ["" if error else picture_digest(image) for image, error in zip(images, errors, strict=True)]
    return [digest.rpartition("-")[2] for digest in digests]


def _write_rows(
    job: Job,
    source: OpenSource,
    units: list[Unit],
    choice: _Choice,
    features: Features,
    sizes: Mapping[str, int],
    folder: Path,
    bar: Any,
) -> None:
    constants = {SOURCE: public_name(job.source.name)}
    if (generator := _generator(job)) is not None or GENERATOR not in source.features:
        constants[GENERATOR] = generator or "the source"
    readable = [name for name in features if name != ID and name not in constants]
    per_file = job.plan.output["rows_per_file"]
    with contextlib.ExitStack() as stack:
        files = {
            split: stack.enter_context(contextlib.closing(SplitFiles(folder, split, number, per_file, features)))
            for split, number in sizes.items()
        }
        for unit in units:
            places, splits = choice.kept(unit), choice.splits(unit)
            if not places:
                continue
            rows = job.read(unit, readable, source)
            chosen = {name: [rows[name][place] for place in places] for name in features if name not in constants}
            chosen |= {name: [value] * len(places) for name, value in constants.items()}
            encoded = encode(chosen, features)
            for number, place in enumerate(places):
                files[splits[place]].add({name: encoded[name][number] for name in features})
                bar.update()


def public_name(name: str) -> str:
    """A path by its last part, so that the paths of this machine are not published."""
    return Path(name).name if Path(name).is_absolute() or Path(name).exists() else name


def _generator(job: Job) -> str | None:
    """What made the negatives, such as `llm:mistralai/Mistral-7B-Instruct-v0.2 + diffusers:stabilityai/sdxl-turbo`."""
    labels = []
    for step, stage in job.stages.items():
        if not step.startswith("check-") and step != PARAPHRASES_STEP:
            name, colon, model = stage.label.partition(":")
            labels.append(f"{name}{colon}{public_name(model) if colon else ''}")
    return " + ".join(labels) or None


class SplitFiles:
    """The files of a split, whose number of rows is known, row by row."""

    def __init__(self, folder: Path, split: str, rows: int, per_file: int, features: Features) -> None:
        self._paths = [
            folder / f"{split}-{number:05d}-of-{math.ceil(rows / per_file):05d}.parquet"
            for number in range(math.ceil(rows / per_file))
        ]
        self._rows, self._per_file, self._schema = rows, per_file, features.arrow_schema
        self._chunk: list[dict[str, Any]] = []
        self._written = 0
        self._writer: pq.ParquetWriter | None = None

    def add(self, row: dict[str, Any]) -> None:
        self._chunk.append(row)
        number, place = divmod(self._written, self._per_file)
        left = min(self._per_file, self._rows - number * self._per_file) - place
        if len(self._chunk) < min(left, ROW_GROUP):
            return
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._paths[number], self._schema)
        self._writer.write_table(pa.Table.from_pylist(self._chunk, schema=self._schema))
        self._written += len(self._chunk)
        if len(self._chunk) == left:
            self.close()
        self._chunk = []

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


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

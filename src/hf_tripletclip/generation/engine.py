# SPDX-License-Identifier: Apache-2.0
"""Runs the stages over the units of a plan, as steps of datatrove's executors.

Each stage is a separate pipeline over all units, one after the other, so that a language model and an image model
never share a device. A task takes every `world_size`-th unit and skips those that are done. The units' files say which
are done, not datatrove's records of finished tasks, so the number of tasks may change from run to run.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub.utils
from datasets import Features, Value

from hf_tripletclip.data.schema import CLIP_SCORE, ID, NEG_CAPTION, NEG_IMAGE, NEGATIVE_TYPE, SCORES, SEED
from hf_tripletclip.generation.plan import PLAN_FILE, REPORT_FILE, WORK_FOLDER, Plan, Unit, UnitFiles
from hf_tripletclip.generation.source import CHECKED, DIGEST, OpenSource, Source, value_digest
from hf_tripletclip.generation.stage import ERROR, Batch, Stage
from hf_tripletclip.generation.tasks import recorded
from hf_tripletclip.utils.extras import optional_imports

with optional_imports():
    from datatrove.pipeline.base import PipelineStep


@dataclass
class Job:
    """
    A plan with what is needed to carry it out.

    Args:
        plan ([`Plan`]): The plan.
        source ([`Source`]): The pairs.
        stages (`dict[str, Stage]`): The stages by step, in order; not set up.
        output (`Path`): The folder of the dataset that is made.
    """

    plan: Plan
    source: Source
    stages: dict[str, Stage]
    output: Path

    @property
    def work(self) -> Path:
        return self.output / WORK_FOLDER

    def files(self, step: str) -> UnitFiles:
        """The unit files of a step. Those of the first step also have a digest of each row of the source."""
        number, columns = list(self.stages).index(step), self.stages[step].produces
        if number == 0:
            columns = Features({**columns, DIGEST: Value("string")})
        return UnitFiles(self.work / f"{number}-{step}", self.plan.hash_of(step), columns)

    def is_to_do(self) -> bool:
        """
        Whether the dataset is still to be made.

        Raises:
            OSError: A run of other settings has taken the folder: this job is an older one.
        """
        making, made = self.work / PLAN_FILE, self.output / PLAN_FILE
        current = making if making.is_file() else made if (self.output / REPORT_FILE).is_file() else None
        if current is None or self.plan.is_in(current):
            return current != made
        raise OSError(f"A newer run makes {self.output} with other settings, so this older run ends.")

    def origin(self, column: str, before: str | None = None) -> str | None:
        """The step, before another one, that makes a column; `None` if the source has it."""
        steps = list(self.stages)
        if before is not None:
            steps = steps[: steps.index(before)]
        return next((step for step in reversed(steps) if column in self.stages[step].produces), None)

    def pairs(self, source: OpenSource) -> Features:
        """The source's columns, without those that are about negatives which are made anew."""
        return current_columns(source.features, self.stages.values())

    def inputs(self, step: str, source: OpenSource) -> list[str]:
        """The columns that a stage is given: those it requires, and those of its optional ones that there are."""
        stage, pairs = self.stages[step], self.pairs(source)
        there = [name for name in stage.optional if name in pairs or self.origin(name, step) is not None]
        return [*stage.requires, *there]

    def read(self, unit: Unit, columns: Iterable[str], source: OpenSource, before: str | None = None) -> Batch:
        """
        `id`, `error` (the first of the steps before, and which) and columns of a unit's rows.

        Raises:
            DamagedUnit: A unit's file was not what had been written; it is removed.
            OSError: The source has other rows, images or captions than when the unit was made.
        """
        steps = list(self.stages) if before is None else list(self.stages)[: list(self.stages).index(before)]
        origins = {column: self.origin(column, before) for column in columns}
        own = [column for column, origin in origins.items() if origin is None]
        rows = source.read(unit.split, unit.start, unit.stop, own)
        errors: list[str | None] = [None] * unit.rows
        seen = [name for name in CHECKED if name in own]
        for number, step in enumerate(steps):
            files = self.files(step)
            extra = [DIGEST] if number == 0 and seen else []
            made = files.read(unit, [ID, ERROR, *extra, *(name for name, origin in origins.items() if origin == step)])
            if made.pop(ID) != rows[ID]:
                raise OSError(
                    f"{files.path(unit)} is of other rows than {unit.start} to {unit.stop} of {unit.split!r} in "
                    f"{self.source.name} are now: the source was changed. Restore it, or name another output."
                )
            for place, digest in enumerate(made.pop(DIGEST, [])):
                self._check_unchanged(unit, place, digest, {name: rows[name][place] for name in seen})
            found = made.pop(ERROR)
            errors = [error or new for error, new in zip(errors, found, strict=True)]
            rows |= made
        return {**rows, ERROR: errors}

    def _check_unchanged(self, unit: Unit, place: int, digest: str | None, values: dict[str, Any]) -> None:
        for name, value in values.items():
            if digest is not None and digest.split("-")[CHECKED.index(name)] != value_digest(value):
                raise OSError(
                    f"The {name} of row {unit.start + place} of {unit.split!r} in {self.source.name} was changed "
                    "while this dataset was made: restore it, or start anew with `--overwrite`."
                )


def current_columns(features: Features, stages: Iterable[Stage]) -> Features:
    """
    A source's columns without those that go out of date: a new negative caption is not that of the source's negative
    image, and neither its kind nor its scores hold.
    """
    made = {name for stage in stages for name in stage.produces}
    outdated: set[str] = set()
    if NEG_CAPTION in made:
        outdated |= {NEG_IMAGE, NEGATIVE_TYPE}
    if made & {NEG_CAPTION, NEG_IMAGE}:
        outdated |= {SEED, *SCORES} - {CLIP_SCORE}
    return Features({name: feature for name, feature in features.items() if name not in outdated})


class StageStep(PipelineStep):
    """The pipeline step of one stage."""

    name = "stage"
    type = "TRIPLETCLIP"

    def __init__(self, job: Job, step: str, progress: bool = True) -> None:
        super().__init__()
        self.job = job
        self.step = step
        self.progress = progress  # whether libraries may show their bars

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Any]:
        """Make the units of a task. Nothing is handed on: the rows are in the units' files."""
        job, files = self.job, self.job.files(self.step)
        if not job.is_to_do():
            return iter(())
        missing = [unit for unit in job.plan.units() if unit.number % world_size == rank and not files.is_done(unit)]
        with bars(self.progress), recorded(job.work, self.step, rank) as task:
            if missing:
                stage = ready(job.stages[self.step], rank)
                source = job.source.open()
            for unit in missing:
                task.unit = unit.number
                task.save(job.work)
                rows = run_unit(job, self.step, stage, source, unit)
                if DIGEST in files.features:
                    rows[DIGEST] = source.digests(unit.split, unit.start, unit.stop)
                if not job.is_to_do():
                    break
                files.write(unit, rows)
                self.stat_update("rows", value=unit.rows)
        return iter(())


@contextlib.contextmanager
def bars(shown: bool) -> Iterator[None]:
    """With the bars of `datasets` and of the Hub's client, or without."""
    if shown or datasets.utils.are_progress_bars_disabled():
        yield
        return
    datasets.disable_progress_bars()
    hub_shown = not huggingface_hub.utils.are_progress_bars_disabled()
    huggingface_hub.utils.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()
        if hub_shown:
            huggingface_hub.utils.enable_progress_bars()


def run_unit(job: Job, step: str, stage: Stage, source: OpenSource, unit: Unit) -> Batch:
    """
    The columns of a step for a unit. Rows that failed before are not given to the stage, and the first stage is not
    given rows whose image or caption is broken.
    """
    needed = job.inputs(step, source)
    rows = job.read(unit, needed, source, before=step)
    names = [*stage.produces, ERROR]
    made: Batch = {ID: rows[ID], **{name: [None] * unit.rows for name in names}}
    if step == next(iter(job.stages)):
        rows[ERROR] = made[ERROR] = source.problems(unit.split, unit.start, unit.stop)
    usable = [place for place, error in enumerate(rows[ERROR]) if error is None]
    for start in range(0, len(usable), stage.batch_size):
        places = usable[start : start + stage.batch_size]
        batch = {name: [rows[name][place] for place in places] for name in (ID, *needed)}
        results = stage(batch)
        for name in names:
            if len(results[name]) != len(places):
                raise ValueError(f"{stage.name} gave {len(results[name])} values of {name!r} for {len(places)} rows.")
            for place, value in zip(places, results[name], strict=True):
                made[name][place] = f"{step}: {value}" if name == ERROR and value else value
    return made


_READY: dict[str, Stage] = {}  # of this process: the stage that it runs


def ready(stage: Stage, rank: int) -> Stage:
    """A stage that is set up: once per process, on the device that is this task's."""
    device = stage.device or (_device_of(rank) if stage.uses_device else None)
    # All fields, also those that do not change the rows: another folder for answers is another stage.
    fields = {field.name: getattr(stage, field.name) for field in dataclasses.fields(stage) if field.init}
    key = repr((type(stage), {**fields, "device": device}))
    if key not in _READY:
        _READY.clear()  # the next stage needs the memory
        stage = copy.deepcopy(stage)
        stage.device = device
        stage.setup()
        _READY[key] = stage
    return _READY[key]


def _device_of(rank: int) -> str | None:
    import torch

    return f"cuda:{rank % torch.cuda.device_count()}" if torch.cuda.is_available() else None

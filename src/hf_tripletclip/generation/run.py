# SPDX-License-Identifier: Apache-2.0
"""A whole run of generation: from image-caption pairs to a dataset of triplets."""

from __future__ import annotations

import copy
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from datasets import LargeList, List
from tqdm.auto import tqdm

from hf_tripletclip.data.schema import NEG_CAPTION
from hf_tripletclip.generation.engine import Job, StageStep, bars, current_columns
from hf_tripletclip.generation.filters import FilterSettings, checks_of
from hf_tripletclip.generation.holding import absolute, locked
from hf_tripletclip.generation.jobs import refuse_while_queued
from hf_tripletclip.generation.plan import LOGS_FOLDER, PLAN_FILE, REPORT_FILE, WORK_FOLDER, DamagedUnit, Plan
from hf_tripletclip.generation.publish import PARAPHRASES_STEP, GenerationReport, remove_work, write_dataset
from hf_tripletclip.generation.source import Source
from hf_tripletclip.generation.splitting import Shares
from hf_tripletclip.generation.stage import Stage
from hf_tripletclip.generation.tasks import TASKS_FOLDER

logger = logging.getLogger(__name__)  # not that of transformers, which workers need not import

REPAIRS = 3  # times that damaged units are made again in one run
POLL_SECONDS = 0.5  # at least, for the progress bar
POLLED_UNITS = 2_000  # that are counted in a second: with many units it is looked less often


@dataclass
class GenerationSettings:
    """
    What to make, and with what.

    Args:
        source ([`Source`]): The image-caption pairs.
        output (`str` or `os.PathLike`): Folder of the dataset that is made.
        captions, images ([`Stage`], *optional*): Where hard negative captions and images come from. Without one the
            source has the column, or the dataset does without it.
        paraphrases ([`Stage`], *optional*): Where other captions that say the same come from.
        checks (`Sequence[Stage]`): Scores to add.
        filters ([`FilterSettings`]): Which rows are kept, by their scores.
        unit_rows (`int`, defaults to 256): Rows of a work unit: what a killed process loses at most. A few minutes'
            work is a good size.
        rows_per_file (`int`, defaults to 10,000): Rows of a parquet file of the dataset.
        license (`str`, *optional*): Of the dataset, an identifier of the Hub.
        validation_share, test_share (`float`, defaults to 0): Shares of the source's pictures that become splits of
            these names, see [`~hf_tripletclip.generation.splitting.Shares`]; the rest is `train`. For a source of one
            split.
    """

    source: Source
    output: str | os.PathLike[str]
    captions: Stage | None = None
    images: Stage | None = None
    paraphrases: Stage | None = None
    checks: Sequence[Stage] = ()
    filters: FilterSettings = field(default_factory=FilterSettings)
    unit_rows: int = 256
    rows_per_file: int = 10_000
    license: str | None = None
    validation_share: float = 0.0
    test_share: float = 0.0

    def stages(self) -> dict[str, Stage]:
        """Copies of the stages by step, in the order in which they run."""
        given = {"captions": self.captions, "images": self.images, PARAPHRASES_STEP: self.paraphrases}
        given |= {f"check-{check.name}": check for check in self.checks}
        stages = {step: copy.copy(stage) for step, stage in given.items() if stage is not None}
        for step, stage in stages.items():  # what servers have answered is not asked for, and paid, again
            if getattr(stage, "cache_dir", "") is None:
                stage.cache_dir = str(absolute(self.output) / WORK_FOLDER / f"answers-{step}")  # type: ignore[attr-defined]
        return stages

    def job(self) -> Job:
        """
        The job: the source is opened and counted, and everything checked that can be checked before work starts.

        Raises:
            OSError: The source does not exist.
            ValueError: A stage needs a column that neither the source nor a stage before it has, or one negative
                caption if a row has several; a number is out of range; or the output is part of the source.
        """
        for name in ("unit_rows", "rows_per_file"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` is {getattr(self, name)}; give at least 1.")
        shares = Shares(self.validation_share, self.test_share)
        if len({check.name for check in self.checks}) < len(self.checks):
            raise ValueError("A check is named twice.")
        stages = self.stages()
        if not stages:
            raise ValueError("There is nothing to do: name a source of captions, images or paraphrases, or a check.")
        source = self.source.located()
        if source.overlaps(absolute(self.output)):
            raise ValueError(
                f"The output {self.output} is, holds or lies in the source {self.source.name}: name another output."
            )
        opened = source.open(again=True)
        shares.check(self.source.name, list(opened.sizes))
        available = dict(current_columns(opened.features, stages.values()))
        for step, stage in stages.items():
            if missing := [name for name in stage.requires if name not in available]:
                raise ValueError(
                    f"{step} ({stage.name}) needs {', '.join(missing)}, which neither {self.source.name} nor a stage "
                    "before it has."
                )
            read = NEG_CAPTION in (*stage.requires, *stage.optional)
            if read and isinstance(available.get(NEG_CAPTION), (list, List, LargeList)):
                raise ValueError(
                    f"{step} ({stage.name}) reads one {NEG_CAPTION} per row, and here a row has several: make one per "
                    "row, or leave the images and the checks out."
                )
            available |= stage.produces
        if missing := [name for name in self.filters.columns() if name not in available]:
            checks = " ".join(checks_of(missing))
            raise ValueError(f"The filters need {', '.join(missing)}: add `--checks {checks}`.")
        plan = Plan(
            source=opened.identity() | ({} if (files := opened.files()) is None else {"files": files}),
            unit_rows=self.unit_rows,
            stages={step: stage.settings() for step, stage in stages.items()},
            output={
                "filters": asdict(self.filters),
                "rows_per_file": self.rows_per_file,
                "license": self.license,
                **shares.to_dict(),
            },
        )
        return Job(plan=plan, source=source, stages=stages, output=absolute(self.output))


def generate(
    settings: GenerationSettings,
    *,
    workers: int = 1,
    overwrite: bool = False,
    progress: bool = True,
) -> GenerationReport:
    """
    Make a dataset of triplets on this machine.

    A run that was stopped, killed or crashed is continued by the same call: units that are done are not made again,
    and the result is byte for byte that of an uninterrupted run, also with another number of workers.

    Args:
        settings ([`GenerationSettings`]): What to make.
        workers (`int`, defaults to 1): Processes. With several, call this under `if __name__ == "__main__"`.
        overwrite (`bool`, defaults to `False`): Start anew if the output holds a dataset of other settings, or a
            finished one. It is replaced once the new one is whole.
        progress (`bool`, defaults to `True`): Whether to show progress bars.

    Returns:
        [`GenerationReport`]: Rows made, kept and left out, by reason.

    Raises:
        FileExistsError: The output holds something else, or a dataset of other settings.
        OSError: The source does not exist, the output cannot be written, the disk is full, or a worker was killed:
            finished units are kept.
        ValueError: The settings do not fit together, the output is part of the source, or a model cannot be used.
    """
    if workers < 1:
        raise ValueError(f"`workers` is {workers}; give at least 1.")
    from hf_tripletclip.generation.local import LocalExecutor

    def execute(job: Job, step: str) -> None:
        count = min(workers, sum(1 for _ in job.plan.units()))
        LocalExecutor(
            [StageStep(job, step, progress)],
            tasks=count,
            workers=count,
            logging_dir=str(job.work / LOGS_FOLDER / step),
            skip_completed=False,
        ).run()

    return run_here(settings, execute, overwrite=overwrite, progress=progress)


def run_here(
    settings: GenerationSettings, execute: Callable[[Job, str], None], *, overwrite: bool, progress: bool
) -> GenerationReport:
    """
    A run that this process leads from the first step to the dataset; see [`generate`].

    Args:
        settings ([`GenerationSettings`]): What to make.
        execute (`Callable`): Makes the units of a step, and returns when they are made.
        overwrite, progress (`bool`): As of [`generate`].
    """
    with bars(progress):
        for stage in settings.stages().values():
            stage.check()
        job = settings.job()
        with locked(job.output):
            refuse_while_queued(job.output, job.work)
            started = time.monotonic()
            report = prepare(job, overwrite)
            if report is None:
                report = _make(job, settings.filters, execute, progress)
                report.seconds = time.monotonic() - started
            shutil.rmtree(job.work / LOGS_FOLDER, ignore_errors=True)
            return report


def _make(job: Job, filters: FilterSettings, execute: Callable[[Job, str], None], progress: bool) -> GenerationReport:
    """Make the units and the dataset; units that turn out to be damaged on the way are made again."""
    for repairs in range(REPAIRS + 1):
        try:
            for step in job.stages:
                _run_step(job, step, execute, progress)
            return write_dataset(job, filters, progress=progress)
        except DamagedUnit as error:
            if repairs == REPAIRS:
                raise
            logger.warning(str(error).replace("The same command makes it again.", "It is made again."))
            # Who finds one looks at all: each is made again in the next turn.
            damaged = sum(job.files(step).check(unit) for step in job.stages for unit in job.plan.units())
            if damaged:
                logger.warning(f"{damaged} more units are damaged, and made again.")
    raise AssertionError("unreachable")


def prepare(job: Job, overwrite: bool) -> GenerationReport | None:
    """
    See that the output folder belongs to this plan; a finished dataset is reported and not made again.

    With `overwrite` it is made anew, and the old one stays until the new one is whole. An unfinished run of the same
    plan is continued. Of an unfinished run of another plan, units that the changes do not concern are kept: other
    filters do not ask a model again.

    A finished dataset has no units any more. Other filters, or another license, then make everything again: if
    fewer of its rows are wanted, [`~hf_tripletclip.generation.filter_dataset`] chooses them in seconds.

    Raises:
        FileExistsError: It holds a dataset of other settings.
    """
    making, made = job.work / PLAN_FILE, job.output / PLAN_FILE
    finished = (job.output / REPORT_FILE).is_file()
    if not overwrite:
        at_stake = making if making.is_file() and _has_units(job.work) else made if finished else None
        differences = [] if at_stake is None else job.plan.differences(Plan.load(at_stake).to_dict())
        if differences:
            raise FileExistsError(
                f"{job.output} was started with other settings: {'; '.join(differences[:5])}. Use the same "
                "settings, name another output, or start anew with `--overwrite`."
            )
        if finished and job.plan.is_in(made):
            report = GenerationReport.load(job.output)
            remove_work(job)  # the run may have been killed before it could
            return report
    elif not job.plan.is_in(making):
        _keep_units(job)
    job.plan.save(making)
    if not finished:
        job.plan.save(made, staging=job.work)
    shutil.rmtree(job.work / TASKS_FOLDER, ignore_errors=True)
    for step in job.stages:
        job.files(step).remove_leftovers()
    return None


def _has_units(work: Path) -> bool:
    """Whether there is something to lose: a run that could not start is put right and repeated."""
    return next(work.glob("*/unit-*.parquet"), None) is not None


def _keep_units(job: Job) -> None:
    """Remove the units that this plan cannot use."""
    folders = {job.files(step).folder: job.files(step) for step in job.stages}
    for path in [path for path in job.work.iterdir() if path.is_dir()]:
        if not (path in folders or path.name.startswith("answers-")):
            shutil.rmtree(path)
    for folder, files in folders.items():
        usable = {files.path(unit) for unit in job.plan.units() if files.is_done(unit)}
        for path in folder.glob("*.parquet"):
            if path not in usable:
                path.unlink()


def _run_step(job: Job, step: str, execute: Callable[[Job, str], None], progress: bool) -> None:
    units, files = list(job.plan.units()), job.files(step)
    if all(files.is_done(unit) for unit in units):
        return
    sizes = {files.path(unit).name: unit.rows for unit in units}
    done = files.count_done(sizes)
    with tqdm(total=job.plan.rows, initial=done, unit="rows", desc=step, disable=not progress) as bar:
        stop = threading.Event()

        def watch() -> None:
            while not stop.wait(max(POLL_SECONDS, len(units) / POLLED_UNITS)):
                bar.update(files.count_done(sizes) - bar.n)

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            execute(job, step)
        finally:
            stop.set()
            watcher.join()
        bar.update(job.plan.rows - bar.n)
    if missing := [unit.number for unit in units if not files.is_done(unit)]:
        raise OSError(
            f"{step}: {len(missing)} of {len(units)} units were not made, such as unit {missing[0]}. `tripletclip "
            f"generate --status {job.output}` tells why; the same command continues."
        )

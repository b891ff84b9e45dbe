# SPDX-License-Identifier: Apache-2.0
"""A whole run of generation: from image-caption pairs to a dataset of triplets."""

from __future__ import annotations

import contextlib
import copy
import os
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from datasets import LargeList, List
from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from hf_tripletclip.data.schema import NEG_CAPTION, VQA_SCORE
from hf_tripletclip.generation.engine import WORK_FOLDER, Job, StageStep, current_columns
from hf_tripletclip.generation.filters import FilterSettings
from hf_tripletclip.generation.layout import PLAN_FILE
from hf_tripletclip.generation.plan import Plan
from hf_tripletclip.generation.publish import (
    LOGS_FOLDER,
    GenerationReport,
    remove_work,
    write_dataset,
)
from hf_tripletclip.generation.source import Source
from hf_tripletclip.generation.stage import Stage

LOCK_FILE = "lock"  # in the work folder, where it stays
POLL_SECONDS = 0.5  # at least, for the progress bar
POLLED_UNITS = 2_000  # that are counted in a second: with many units it is looked less often
EXECUTORS = ("local", "slurm", "ray")


@dataclass
class GenerationSettings:
    """
    What to make, and with what.

    Args:
        source ([`Source`]): The image-caption pairs.
        output (`str` or `os.PathLike`): Folder of the dataset that is made.
        captions, images ([`Stage`], *optional*): Where hard negative captions and images come from. Without one the
            source has the column, or the dataset does without it.
        checks (`Sequence[Stage]`): Scores to add.
        filters ([`FilterSettings`]): Which rows are kept, by their scores.
        unit_rows (`int`, defaults to 256): Rows of a work unit: what a killed process loses at most. A few minutes'
            work is a good size.
        rows_per_file (`int`, defaults to 10,000): Rows of a parquet file of the dataset.
        license (`str`, *optional*): Of the dataset, an identifier of the Hub.
    """

    source: Source
    output: str | os.PathLike[str]
    captions: Stage | None = None
    images: Stage | None = None
    checks: Sequence[Stage] = ()
    filters: FilterSettings = field(default_factory=FilterSettings)
    unit_rows: int = 256
    rows_per_file: int = 10_000
    license: str | None = None

    def stages(self) -> dict[str, Stage]:
        """Copies of the stages by step, in the order in which they run."""
        given = {"captions": self.captions, "images": self.images}
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
                caption where a row has several; a number is out of range; or the output is part of the source.
        """
        for name in ("unit_rows", "rows_per_file"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` is {getattr(self, name)}; give at least 1.")
        if len({check.name for check in self.checks}) < len(self.checks):
            raise ValueError("A check is named twice.")
        stages = self.stages()
        if not stages:
            raise ValueError("There is nothing to do: name a source of captions, of images, or a check.")
        source = self.source.located()
        if source.overlaps(absolute(self.output)):
            raise ValueError(
                f"The output {self.output} is, holds or lies in the source {self.source.name}: name another output."
            )
        opened = source.open(anew=True)
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
            checks = dict.fromkeys("vqa" if name == VQA_SCORE else "clip" for name in missing)
            raise ValueError(f"The filters need {', '.join(missing)}: add `--checks {' '.join(checks)}`.")
        plan = Plan(
            source=opened.identity(),
            unit_rows=self.unit_rows,
            stages={step: stage.settings() for step, stage in stages.items()},
            output={"filters": asdict(self.filters), "rows_per_file": self.rows_per_file, "license": self.license},
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
        overwrite (`bool`, defaults to `False`): Start anew where the output holds a dataset of other settings, or a
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
    job = settings.job()
    with locked(job.output):
        started = time.monotonic()
        report = prepare(job, overwrite)
        if report is None:
            for step in job.stages:
                _run_step(job, step, workers, progress)
            report = write_dataset(job, settings.filters, progress=progress)
            report.seconds = time.monotonic() - started
        shutil.rmtree(job.work / LOGS_FOLDER, ignore_errors=True)
        return report


def absolute(path: str | os.PathLike[str]) -> Path:
    """A path that means the same in workers, which may have started in another directory."""
    return Path(os.path.abspath(os.path.expanduser(path)))


@contextlib.contextmanager
def locked(output: Path) -> Iterator[None]:
    """
    Hold the lock of an output folder.

    Raises:
        FileExistsError: It holds something that is not ours.
        OSError: It cannot be written, or another run works on it.
    """
    work = output / WORK_FOLDER
    others = sorted(path.name for path in output.iterdir() if path.name != WORK_FOLDER) if output.is_dir() else []
    if others and not ((output / PLAN_FILE).is_file() and (work / LOCK_FILE).is_file()):
        raise FileExistsError(
            f"{output} holds {', '.join(others[:3])} and is no dataset in the making: name another output."
        )
    lock = FileLock(work / LOCK_FILE)
    try:
        work.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise OSError(f"Another run is working on {output}: wait for it, or name another output.") from error
    except OSError as error:
        raise OSError(f"The output folder {output} cannot be written: {error}") from error
    try:
        yield
    finally:
        lock.release()


def prepare(job: Job, overwrite: bool) -> GenerationReport | None:
    """
    See that the output folder belongs to this plan; a finished dataset is reported and not made again.

    With `overwrite` it is made anew, and the old one stays until the new one is whole. An unfinished run of the same
    plan is continued. Of an unfinished run of another plan, units that the changes do not concern are kept: other
    filters do not ask a model again.

    A finished dataset has no units any more. Other filters, or another license, then make everything again: where
    fewer of its rows are wanted, [`~hf_tripletclip.generation.filter_dataset`] chooses them in seconds.

    Raises:
        FileExistsError: It holds a dataset of other settings.
    """
    making, made = job.work / PLAN_FILE, job.output / PLAN_FILE
    report = GenerationReport.load(job.output)
    if not overwrite:
        at_stake = making if making.is_file() and _has_units(job.work) else None if report is None else made
        differences = [] if at_stake is None else job.plan.differences(Plan.load(at_stake).to_dict())
        if differences:
            raise FileExistsError(
                f"{job.output} was started with other settings: {'; '.join(differences[:5])}. Use the same "
                "settings, name another output, or start anew with `--overwrite`."
            )
        if report is not None and made.read_text(encoding="utf-8") == job.plan.to_json():
            remove_work(job)  # the run may have been killed before it could
            return report
    elif not (making.is_file() and making.read_text(encoding="utf-8") == job.plan.to_json()):
        _keep_units(job)
    job.plan.save(making)
    if report is None:
        job.plan.save(made)
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


def _run_step(job: Job, step: str, workers: int, progress: bool) -> None:
    from hf_tripletclip.generation.local import LocalExecutor

    units, files = list(job.plan.units()), job.files(step)
    if all(files.is_done(unit) for unit in units):
        return
    workers = min(workers, len(units))
    executor = LocalExecutor(
        [StageStep(job, step)],
        tasks=workers,
        workers=workers,
        logging_dir=str(job.work / LOGS_FOLDER / step),
        skip_completed=False,
    )
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
            executor.run()
        finally:
            stop.set()
            watcher.join()
        bar.update(job.plan.rows - bar.n)

# SPDX-License-Identifier: Apache-2.0
"""How far a run of generation is, read from its output folder alone, on any executor."""

from __future__ import annotations

import contextlib
import os
import socket
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features
from filelock import FileLock, Timeout

from hf_tripletclip.generation.jobs import QueuedTask, describe_queue, in_queue, load_jobs, never_starts
from hf_tripletclip.generation.plan import (
    LOCK_FILE,
    LOGS_FOLDER,
    PLAN_FILE,
    WORK_FOLDER,
    Plan,
    Unit,
    UnitFiles,
    is_alive,
)
from hf_tripletclip.generation.publish import GenerationReport
from hf_tripletclip.generation.stage import ERROR, short_reason
from hf_tripletclip.generation.tasks import FAILED, RUNNING, WRITE, Task, load_tasks

SHOWN = 5  # reasons and failures of a step
WITHOUT_A_WORD = "ended without a word: killed, or out of memory or time"


def status(output: str | os.PathLike[str]) -> str:
    """
    How far a run is: for each step the units that are done, running and failed, and why; the jobs in Slurm's queue.
    Nothing is changed.

    Args:
        output (`str` or `os.PathLike`): The folder of the dataset that is made.

    Returns:
        `str`: Lines for the terminal.

    Raises:
        FileNotFoundError: The folder does not exist.
        ValueError: It is no output of `tripletclip generate`, or its plan or report is damaged.
    """
    folder = Path(output).expanduser()
    work = folder / WORK_FOLDER
    if not folder.exists():
        raise FileNotFoundError(f"{output} does not exist: nothing was started there.")
    making = work / PLAN_FILE
    report = GenerationReport.load(folder) if (folder / PLAN_FILE).is_file() else None
    if not making.is_file():
        if report is None:
            raise ValueError(
                f"{output} is no output of `tripletclip generate`: it holds neither a plan nor a dataset."
            )
        return f"{output} is finished.\n{report.summary()}"
    plan = Plan.load(making)
    jobs = load_jobs(work)
    try:
        queued, unknown = in_queue(jobs), None
    except OSError as error:
        queued, unknown = [], str(error)
    held = _is_held(work)
    tasks = load_tasks(work)
    running = [task for task in tasks if task.state == RUNNING and _runs(task, held, queued, unknown is not None)]
    if held or (queued and not never_starts(queued)) or running:
        lines = [f"{output} is being made."]
    else:
        lines = [f"{output} is not finished, and nothing works on it: the command that started it continues."]
    if report is not None:
        lines.append("The dataset that is there stays until the new one is whole.")
    units = list(plan.units())
    lines.append(f"{plan.rows:,} rows in {len(units):,} units of {plan.unit_rows}")
    for number, step in enumerate([*plan.stages, WRITE]):
        own = [task for task in tasks if task.step == step]
        files = None if step == WRITE else UnitFiles(work / f"{number}-{step}", plan.hash_of(step), Features({}))
        lines += _step(step, files, units, own, [task for task in own if task in running])
    lines += describe_queue(jobs, queued)
    if unknown is not None:
        lines.append(f"Slurm cannot be asked for jobs {', '.join(job.id for job in jobs)}: {unknown}")
    if (work / LOGS_FOLDER).is_dir():
        lines.append(f"logs: {work / LOGS_FOLDER}")
    return "\n".join(lines)


def _step(
    step: str, files: UnitFiles | None, units: Sequence[Unit], tasks: Sequence[Task], running: Sequence[Task]
) -> list[str]:
    done = {unit.number for unit in units if files is not None and files.is_done(unit)}
    failed = [task for task in tasks if task not in running and task.state in (RUNNING, FAILED)]
    failed = [task for task in failed if task.unit is None or task.unit not in done]
    if files is None:
        if not tasks:
            return []
        line = f"{step}: {len(running)} running, {len(failed)} failed"
    else:
        at = (
            f" ({', '.join(str(task.unit) for task in running)})"
            if any(task.unit is not None for task in running)
            else ""
        )
        line = f"{step}: {len(done):,} of {len(units):,} units done, {len(running)} running{at}, {len(failed)} failed"
    lines = [line]
    for task in failed[:SHOWN]:
        where = f"task {task.rank}" + (f" (job {task.job})" if task.job else "")
        at = "" if task.unit is None else f" at unit {task.unit}"
        lines.append(f"  {where}{at}: {task.problem or WITHOUT_A_WORD}")
    if len(failed) > SHOWN:
        lines.append(f"  and {len(failed) - SHOWN} more")
    if files is not None:
        reasons = _reasons(files, [unit for unit in units if unit.number in done])
        lines += [f"  {number:,} rows left out: {reason}" for reason, number in reasons.most_common(SHOWN)]
    return lines


def _reasons(files: UnitFiles, units: Sequence[Unit]) -> Counter[str]:
    reasons: Counter[str] = Counter()
    for unit in units:
        with contextlib.suppress(pa.ArrowException, OSError, ValueError):  # a damaged one is reported when it is read
            errors = pq.read_table(files.path(unit), columns=[ERROR])[ERROR].drop_null().to_pylist()
            reasons.update(map(short_reason, errors))
    return reasons


def _is_held(work: Path) -> bool:
    """Whether a run of this machine, or of another with shared locks, has the folder's lock."""
    if not (work / LOCK_FILE).is_file():
        return False
    try:
        with FileLock(work / LOCK_FILE, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # a folder that is not ours to write
        return False


def _runs(task: Task, held: bool, queued: Sequence[QueuedTask], unknown: bool) -> bool:
    """Whether a task that says it runs does: it may have been killed."""
    if any(task.job == other.name for other in queued):
        return True
    if task.host == socket.gethostname():
        return is_alive(task.process)
    return held or (unknown and task.job is not None)

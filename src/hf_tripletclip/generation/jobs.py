# SPDX-License-Identifier: Apache-2.0
"""The jobs of a cluster that work on an output folder, and whether Slurm still has them."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from hf_tripletclip.utils.redact import one_line

JOBS_FILE = "jobs.json"  # in the work folder
ASK_SECONDS = 60  # for Slurm to answer
# A job whose reason is this never starts, nor does one behind it.
NEVER = "DependencyNeverSatisfied"


@dataclass(frozen=True)
class SubmittedJob:
    """
    Args:
        id (`str`): Slurm's number.
        step (`str`): The step of the plan, or `write`.
        logs (`str`): The folder of what its tasks print.
    """

    id: str
    step: str
    logs: str


@dataclass(frozen=True)
class QueuedTask:
    """A task, or tasks that have not started, of a job in Slurm's queue."""

    job: str  # the number of the job
    name: str  # with that of the task, such as `12_3` or `12_[4-9]`
    state: str  # such as `RUNNING`
    reason: str  # why it waits


def save_jobs(work: Path, jobs: Sequence[SubmittedJob]) -> None:
    """Write which jobs were submitted, completely or not at all."""
    staged = work / f"{JOBS_FILE}.tmp"
    staged.write_text(json.dumps([asdict(job) for job in jobs], indent=1) + "\n", encoding="utf-8")
    os.replace(staged, work / JOBS_FILE)


def forget_jobs(work: Path) -> None:
    (work / JOBS_FILE).unlink(missing_ok=True)


def load_jobs(work: Path) -> list[SubmittedJob]:
    """
    The jobs that were submitted; none if there is no file.

    Raises:
        ValueError: The file is damaged.
    """
    path = work / JOBS_FILE
    if not path.is_file():
        return []
    try:
        return [SubmittedJob(**fields) for fields in json.loads(path.read_bytes())]
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged, so which jobs were submitted is not known: once none of them is in the queue, "
            "remove the file."
        ) from error


def in_queue(jobs: Iterable[SubmittedJob]) -> list[QueuedTask]:
    """
    What Slurm's queue has of some jobs.

    Raises:
        OSError: Slurm cannot be asked.
    """
    numbers = [job.id for job in jobs]
    if not numbers:
        return []
    try:
        asked = subprocess.run(
            ["squeue", "--noheader", f"--jobs={','.join(numbers)}", "--format=%F|%i|%T|%r"],
            capture_output=True,
            text=True,
            timeout=ASK_SECONDS,
        )
    except FileNotFoundError as error:
        raise OSError("there is no squeue here") from error
    except subprocess.TimeoutExpired as error:
        raise OSError(f"squeue gave no answer in {ASK_SECONDS} s") from error
    if asked.returncode and "Invalid job id" not in asked.stderr:  # so it says once it has forgotten all of them
        raise OSError(complaint(asked.stderr) or f"squeue ended with {asked.returncode}")
    return [QueuedTask(*line.strip().split("|", 3)) for line in asked.stdout.splitlines() if line.count("|") >= 3]


def complaint(said: str) -> str:
    """What a command of Slurm says on standard error, in one line and without its name."""
    lines = (line.strip() for line in said.splitlines())
    return one_line("; ".join(line.partition("error: ")[2] or line for line in lines if line))


def never_starts(queued: Sequence[QueuedTask]) -> bool:
    """Whether all jobs that remain in the queue wait for a job that has failed."""
    waiting = all(task.state == "PENDING" and task.reason in (NEVER, "Dependency") for task in queued)
    return waiting and any(task.reason == NEVER for task in queued)


def describe_queue(jobs: Iterable[SubmittedJob], queued: Sequence[QueuedTask]) -> list[str]:
    """A line per job that is in the queue: `job 12 (captions): 2 running, 1 pending (Priority)`."""
    lines = []
    for job in jobs:
        states = Counter(
            f"{task.state.lower()}{f' ({task.reason})' if task.state == 'PENDING' and task.reason != 'None' else ''}"
            for task in queued
            if task.job == job.id
        )
        if states:
            lines.append(f"job {job.id} ({job.step}): " + ", ".join(f"{n} {state}" for state, n in states.items()))
    return lines


def queued_jobs(work: Path) -> str:
    """The jobs of an output that are in the queue, for a message; empty if there are none or Slurm cannot be asked."""
    with contextlib.suppress(OSError, ValueError):
        jobs = load_jobs(work)
        return "; ".join(describe_queue(jobs, in_queue(jobs)))
    return ""


def cancel(numbers: Sequence[str]) -> None:
    """Take jobs out of the queue; those that are not there are no error."""
    if numbers:
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            subprocess.run(["scancel", *numbers], capture_output=True, timeout=ASK_SECONDS)


def refuse_while_queued(output: Path, work: Path) -> None:
    """
    Check that no job of an earlier submission works on an output, or will. The caller holds its lock. Jobs that wait
    for one that has failed are removed from the queue.

    Raises:
        OSError: There are such jobs, or Slurm cannot be asked.
    """
    jobs = load_jobs(work)
    try:
        queued = in_queue(jobs)
    except OSError as error:
        raise OSError(
            f"Jobs {', '.join(job.id for job in jobs)} were submitted for {output}, and Slurm cannot be asked "
            f"whether they have ended: {error}. Run `squeue` where Slurm answers; if the jobs have ended, remove "
            f"{work / JOBS_FILE}."
        ) from error
    if queued and never_starts(queued):
        cancel(sorted({task.job for task in queued}))
    elif queued:
        numbers = " ".join(job.id for job in jobs if any(task.job == job.id for task in queued))
        raise OSError(
            f"{output} is being made: {'; '.join(describe_queue(jobs, queued))}. Wait for them (`tripletclip generate "
            f"--status {output}` tells how far they are), or end them with `scancel {numbers}`; then the same command "
            "continues."
        )
    forget_jobs(work)

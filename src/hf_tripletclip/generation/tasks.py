# SPDX-License-Identifier: Apache-2.0
"""The state of each task of a run, in files that `tripletclip generate --status` reads, on any executor."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

TASKS_FOLDER = "tasks"  # in the work folder
WRITE = "write"  # the step that writes the dataset
RUNNING, FAILED, DONE = "running", "failed", "done"
MAX_PROBLEM = 1000  # characters


@dataclass
class Task:
    """
    Args:
        step (`str`): The step of the plan, or `write`.
        rank (`int`): Which of the step's tasks.
        state (`str`): `running`, `failed` or `done`.
        unit (`int`, *optional*): The unit that it is at.
        problem (`str`, *optional*): Why it failed.
        host, process: Where it runs.
        job (`str`, *optional*): Slurm's name of it, such as `12_3`.
    """

    step: str
    rank: int
    state: str = RUNNING
    unit: int | None = None
    problem: str | None = None
    host: str = ""
    process: int = 0
    job: str | None = None

    def save(self, work: Path) -> None:
        """Write it to a file, completely or not at all. If that fails, only the status is lost."""
        path = work / TASKS_FOLDER / f"{self.step}-{self.rank:05d}.json"
        staged = path.with_suffix(".tmp")
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            staged.write_text(json.dumps(asdict(self), ensure_ascii=False), encoding="utf-8", errors="replace")
            os.replace(staged, path)


@contextlib.contextmanager
def recorded(work: Path, step: str, rank: int) -> Iterator[Task]:
    """A task of this process while it runs; why it fails is written down."""
    array, number = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    job = f"{array}_{number}" if array and number else None
    task = Task(step, rank, host=socket.gethostname(), process=os.getpid(), job=job)
    task.save(work)
    try:
        yield task
    except BaseException as error:
        known = isinstance(error, (OSError, ValueError, ImportError)) and str(error)
        task.state, task.problem = FAILED, str(error) if known else f"{type(error).__name__}: {error}"
        task.problem = " ".join(task.problem.split())[:MAX_PROBLEM]
        task.save(work)
        raise
    task.state = DONE
    if (work / TASKS_FOLDER).is_dir():  # else the dataset is finished
        task.save(work)


def load_tasks(work: Path) -> list[Task]:
    """The tasks of the run at hand, by step and rank; a file that cannot be read is skipped."""
    tasks = []
    for path in sorted((work / TASKS_FOLDER).glob("*.json")):
        with contextlib.suppress(OSError, ValueError, TypeError):
            tasks.append(Task(**json.loads(path.read_bytes())))
    return tasks

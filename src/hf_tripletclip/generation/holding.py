# SPDX-License-Identifier: Apache-2.0
"""The output folder of a run: one run at a time has its lock."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from hf_tripletclip.generation.jobs import queued_jobs
from hf_tripletclip.generation.plan import LOCK_FILE, PLAN_FILE, REPORT_FILE, WORK_FOLDER, Plan
from hf_tripletclip.generation.replacing import READY_FOLDER, finish_replacing

LOCK_SECONDS = 1.0  # to wait for it: a process that asks how far a run is holds it for a moment
COMMANDS = ("mine", "join")  # which have one stage, of their name
# What versions of this package have left in an output folder itself when they were killed.
LEFTOVERS = ("plan.tmp", f"{REPORT_FILE}.tmp")


def absolute(path: str | os.PathLike[str]) -> Path:
    """A path that means the same in workers, which may have started in another directory."""
    return Path(os.path.abspath(os.path.expanduser(path)))


def begin(plan: Plan, output: Path, overwrite: bool) -> bool:
    """
    Check that an output folder belongs to a plan of one stage, and write the plan there. The caller holds its lock.

    Args:
        plan ([`Plan`]): Of a command whose only stage has its name, such as `mine`.
        output (`Path`): The folder.
        overwrite (`bool`): Whether to start anew when it is of another plan.

    Returns:
        `bool`: Whether it holds the finished dataset already.

    Raises:
        FileExistsError: It is of another plan.
    """
    making, made = output / WORK_FOLDER / PLAN_FILE, output / PLAN_FILE
    finished = (output / REPORT_FILE).is_file()
    if finished and not overwrite:
        if differences := plan.differences(Plan.load(made).to_dict()):
            raise FileExistsError(
                f"{output} was made with other settings: {'; '.join(differences[:5])}. Use the same settings, name "
                "another output, or start anew with `--overwrite`."
            )
        return True
    if making.is_file() and not overwrite and plan.stages.keys().isdisjoint(stages := Plan.load(making).stages):
        command = next((name for name in stages if name in COMMANDS), "generate")
        raise FileExistsError(
            f"{output} holds an unfinished run of `tripletclip {command}`: name another output, or start anew with "
            "`--overwrite`."
        )
    plan.save(making)
    if not finished:
        plan.save(made, staging=making.parent)
    return False


@contextlib.contextmanager
def locked(output: Path, wait: float = LOCK_SECONDS) -> Iterator[None]:
    """
    Hold the lock of an output folder, waiting for it some seconds. The leftovers of killed runs are removed.

    Raises:
        FileExistsError: It holds something that this package did not make.
        OSError: It cannot be written, or another run works on it.
    """
    work = output / WORK_FOLDER
    others = sorted(path.name for path in output.iterdir() if path.name != WORK_FOLDER) if output.is_dir() else []
    if (work / LOCK_FILE).is_file():
        # Its lock and a plan show that it is ours; killed runs may have left files that are removed below.
        plans = (output / PLAN_FILE, work / PLAN_FILE, work / READY_FOLDER / PLAN_FILE)
        ours = any(path.is_file() for path in plans) or not set(others) - set(LEFTOVERS)
    else:
        ours = not others
    if not ours:
        raise FileExistsError(
            f"{output} holds {', '.join(others[:3])} and is no dataset in the making: name another output."
        )
    lock = FileLock(work / LOCK_FILE)
    try:
        work.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=wait)
    except Timeout as error:
        jobs = queued_jobs(work)
        raise OSError(
            f"Another run is working on {output}{f' ({jobs})' if jobs else ''}: wait for it, or name another output."
        ) from error
    except OSError as error:
        raise OSError(f"The output folder {output} cannot be written: {error}") from error
    try:
        for name in LEFTOVERS:
            (output / name).unlink(missing_ok=True)
        for path in work.glob("*.tmp"):
            path.unlink(missing_ok=True)
        finish_replacing(output)
        yield
    finally:
        lock.release()

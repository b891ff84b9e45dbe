# SPDX-License-Identifier: Apache-2.0
"""Runs of an experiment, each a process and a folder of its own: the finished are kept, the stopped go on."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

METRICS_FILE = "metrics.json"
LOG_FILE = "log.txt"
SETTINGS_FILE = "settings.json"
SHOWN_LINES = 5


@dataclass(frozen=True)
class Run:
    """
    One training run.

    Args:
        label (`str`): The arm that it belongs to.
        seed (`int`): Its seed.
        folder (`Path`): Where its files go.
        command (`tuple[str, ...]`): What trains and measures it, and leaves `metrics.json` in the folder.
    """

    label: str
    seed: int
    folder: Path
    command: tuple[str, ...]

    def finished(self) -> bool:
        """Whether it has been trained and measured."""
        return (self.folder / METRICS_FILE).is_file()

    def metrics(self) -> dict[str, float]:
        """What was measured, of a finished run."""
        return json.loads((self.folder / METRICS_FILE).read_text(encoding="utf-8"))


def folder_of(root: Path, label: str, seed: int) -> Path:
    """The folder of a run."""
    return root / f"{re.sub(r'[^a-z0-9_]+', '-', label.lower()).strip('-')}-seed-{seed}"


def as_flags(flags: Mapping[str, Any]) -> list[str]:
    """Command-line flags of names and values."""
    found: list[str] = []
    for name, value in flags.items():
        if isinstance(value, Mapping):
            found.append(f"--{name}={json.dumps(value)}")
        elif isinstance(value, (list, tuple)):
            found += [f"--{name}", *map(str, value)]
        else:
            found.append(f"--{name}={str(value).lower() if isinstance(value, bool) else value}")
    return found


def hold_settings(root: Path, settings: Mapping[str, Any]) -> None:
    """
    Note what the runs of a folder have in common.

    Raises:
        ValueError: It holds runs of other settings, which must not meet in one table.
    """
    root.mkdir(parents=True, exist_ok=True)
    record, settings = root / SETTINGS_FILE, json.loads(json.dumps(settings))
    if record.is_file() and (kept := json.loads(record.read_text(encoding="utf-8"))) != settings:
        changed = sorted(name for name in {*kept, *settings} if kept.get(name) != settings.get(name))
        named = ", ".join(f"{name}: {kept.get(name)!r}, not {settings.get(name)!r}" for name in changed)
        raise ValueError(f"{root} holds runs of other settings ({named}): name another `--output_dir`.")
    record.write_text(json.dumps(settings, indent=1), encoding="utf-8")


def execute(run: Run, threads: int) -> None:
    """
    Run one in a process of its own; what it prints is kept in `log.txt`.

    Raises:
        RuntimeError: It failed.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    log = run.folder / LOG_FILE
    with log.open("a", encoding="utf-8") as file:
        status = subprocess.run(run.command, stdout=file, stderr=subprocess.STDOUT, env=environment).returncode
    if status != 0 or not run.finished():
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-SHOWN_LINES:]
        raise RuntimeError(
            f"The run in {run.folder} ended with status {status}. Its log ends with:\n" + "\n".join(lines)
        )


def execute_all(
    runs: Sequence[Run], *, jobs: int, threads: int, progress: bool = True, after: Callable[[], object] = lambda: None
) -> None:
    """
    Run those that are not finished.

    Args:
        runs (`Sequence[Run]`): In this order, so that an early look at a table compares like with like.
        jobs (`int`): How many at a time.
        threads (`int`): CPU threads of each.
        progress (`bool`, defaults to `True`): Whether to show a bar.
        after (`Callable`, *optional*): Called after each.
    """
    waiting = [run for run in runs if not run.finished()]
    bar = tqdm(total=len(runs), initial=len(runs) - len(waiting), disable=not progress, unit="run")
    with bar, ThreadPoolExecutor(jobs) as pool:
        for _ in pool.map(lambda run: execute(run, threads), waiting):
            bar.update()
            after()

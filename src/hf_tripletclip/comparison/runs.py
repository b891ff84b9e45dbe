# SPDX-License-Identifier: Apache-2.0
"""Runs of an experiment, each a process and a folder of its own: the finished are kept, the stopped go on."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from hf_tripletclip.training.variants import as_flags
from hf_tripletclip.utils.files import replace_text

METRICS_FILE = "metrics.json"
LOG_FILE = "log.txt"
RUN_FILE = "run.json"
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

    def settings(self) -> dict[str, str]:
        """The flags of its command by name, but for where its files go: paths beside its folder begin with `.`."""
        root = f"{self.folder.parent}{os.sep}"
        flags = {name: value for name, value in flags_of(self.command).items() if name != "output_dir"}
        return {name: value.replace(root, "./", value.startswith(root)) for name, value in flags.items()}

    def metrics(self) -> dict[str, float]:
        """
        What was measured, of a finished run.

        Raises:
            ValueError: The file is damaged.
        """
        return _read(self.folder / METRICS_FILE)


def _read(path: Path) -> dict[str, Any]:
    """An object of JSON."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): remove it, or the folder that it is in.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged (it holds no object): remove it, or the folder that it is in.")
    return content


def folder_of(root: Path, label: str, seed: int) -> Path:
    """The folder of a run."""
    return root / f"{re.sub(r'[^a-z0-9_]+', '-', label.lower()).strip('-')}-seed-{seed}"


def words_of(flags: Mapping[str, Any]) -> list[str]:
    """Command-line words of flags and their values."""
    return [word for flag, value in flags.items() for word in as_flags(flag, value)]


def flags_of(words: Sequence[str]) -> dict[str, str]:
    """
    The flags among the words of a command line by name, and their values; several values with spaces between, the last
    of a flag that is there twice. What stands before the first flag is left out.
    """
    flags: dict[str, str] = {}
    name = ""
    for word in words:
        if word.startswith("--"):
            name, _, value = word[2:].partition("=")
            name = name.replace("-", "_")
            flags[name] = value
        elif name:
            flags[name] = f"{flags[name]} {word}".strip()
    return flags


def differences_from(record: Path, content: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """
    Hold something to what a file notes of it, and note it there unless it differs.

    Args:
        record (`Path`): A file of JSON, which need not be there.
        content (`Mapping[str, Any]`): What it should say.

    Returns:
        `dict[str, tuple]`: What differs, by name: as it is noted, and as it is; `None` for what is not there.

    Raises:
        ValueError: The file is damaged.
    """
    content = json.loads(json.dumps(content))
    if not record.is_file():
        replace_text(record, json.dumps(content, indent=1))
    kept = _read(record)
    names = sorted(name for name in {*kept, *content} if kept.get(name) != content.get(name))
    return {name: (kept.get(name), content.get(name)) for name in names}


def hold_settings(root: Path, settings: Mapping[str, Any]) -> None:
    """
    Note what the runs of a folder have in common. What is noted of a folder in which no run has begun does not count.

    Raises:
        OSError: The folder cannot be made.
        ValueError: It holds runs of other settings, which must not meet in one table.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"The folder {root} cannot be made ({error.strerror}): name another `--output_dir`.") from error
    if all(path.name == LOG_FILE for path in root.glob("*/*")):
        (root / SETTINGS_FILE).unlink(missing_ok=True)
    if changed := differences_from(root / SETTINGS_FILE, settings):
        named = ", ".join(f"{name}: {kept!r}, not {now!r}" for name, (kept, now) in changed.items())
        raise ValueError(f"{root} holds runs of other settings ({named}): name another `--output_dir`.")


def hold_run(run: Run) -> None:
    """
    Note what a run is, in its folder.

    Raises:
        ValueError: The folder holds another one, which may have been made by an older version.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    if changed := differences_from(run.folder / RUN_FILE, run.settings()):
        named = ", ".join(f"{name}: {kept!r}, not {now!r}" for name, (kept, now) in changed.items())
        raise ValueError(
            f"{run.folder} holds another run than that of {run.label!r} ({named}): name another `--output_dir`."
        )


def execute(run: Run, threads: int) -> None:
    """
    Run one in a process of its own; what it prints is kept in `log.txt`. One that fails before it writes anything, for
    a flag that there is not, say, has not begun: its folder may hold another.

    Raises:
        ChildProcessError: It failed.
        ValueError: Its folder holds another run.
    """
    hold_run(run)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    log = run.folder / LOG_FILE
    with log.open("a", encoding="utf-8") as file:
        status = subprocess.run(run.command, stdout=file, stderr=subprocess.STDOUT, env=environment).returncode
    if status != 0 or not run.finished():
        if {path.name for path in run.folder.iterdir()} <= {RUN_FILE, LOG_FILE}:
            (run.folder / RUN_FILE).unlink()
        said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-SHOWN_LINES:]
        raise ChildProcessError(
            f"{run.label!r} with seed {run.seed} ended with status {status}; the same command goes on with it. Its "
            f"log, {log}, " + ("is empty." if not said else "ends with:\n" + "\n".join(said))
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

    Raises:
        ChildProcessError: One failed. Those that were running beside it are finished first.
        ValueError: A folder holds another run.
    """
    for run in runs:
        if run.folder.is_dir():  # before anything runs
            hold_run(run)
    waiting = [run for run in runs if not run.finished()]
    bar = tqdm(total=len(runs), initial=len(runs) - len(waiting), disable=not progress, unit="run")
    with bar, ThreadPoolExecutor(jobs) as pool:
        futures = {pool.submit(execute, run, threads): run for run in waiting}
        try:
            for future in as_completed(futures):
                run = futures[future]
                if future.exception() is not None:
                    tqdm.write(f"{run.label!r} with seed {run.seed} failed. What runs beside it is finished first.")
                future.result()
                bar.set_postfix_str(f"last: {run.label}, seed {run.seed}")
                bar.update()
                after()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # of those that wait, where one failed

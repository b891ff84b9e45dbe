# SPDX-License-Identifier: Apache-2.0
"""
The runs of an experiment. Each has its own process and folder; finished runs are kept, and stopped runs are resumed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
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
RUNNING: set[subprocess.Popen[bytes]] = set()  # what `execute` waits for
SIGNALS = (signal.SIGTERM, signal.SIGHUP) if hasattr(signal, "SIGHUP") else (signal.SIGTERM,)


@dataclass(frozen=True)
class Run:
    """
    One training run.

    Args:
        label (`str`): Label of its arm.
        seed (`int`): Its seed.
        folder (`Path`): Folder of its files.
        command (`tuple[str, ...]`): The command that trains and measures it, and writes `metrics.json` to the folder.
    """

    label: str
    seed: int
    folder: Path
    command: tuple[str, ...]

    def finished(self) -> bool:
        """Whether it has been trained and measured."""
        return (self.folder / METRICS_FILE).is_file()

    def settings(self) -> dict[str, str]:
        """The flags of its command by name, except its folder. Paths next to its folder are made relative."""
        root = f"{self.folder.parent}{os.sep}"
        flags = {name: value for name, value in flags_of(self.command).items() if name != "output_dir"}
        return {name: value.replace(root, "./", value.startswith(root)) for name, value in flags.items()}

    def metrics(self) -> dict[str, float]:
        """
        The metrics of a finished run.

        Raises:
            ValueError: The file of metrics is damaged.
        """
        return _read(self.folder / METRICS_FILE)


def _read(path: Path) -> dict[str, Any]:
    """The JSON object in a file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): remove it, or its folder.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged (it holds no object): remove it, or its folder.")
    return content


def folder_of(root: Path, label: str, seed: int) -> Path:
    """The folder of a run."""
    return root / f"{re.sub(r'[^a-z0-9_]+', '-', label.lower()).strip('-')}-seed-{seed}"


def words_of(flags: Mapping[str, Any]) -> list[str]:
    """Command-line words of flags and their values."""
    return [word for flag, value in flags.items() for word in as_flags(flag, value)]


def flags_of(words: Sequence[str]) -> dict[str, str]:
    """
    The flags of a command line by name, with their values. Several values are joined by spaces; of a repeated flag the
    last one counts. Words before the first flag are ignored.
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
    Compare settings with the record of them in a file. If there is no record, write it.

    Args:
        record (`Path`): A JSON file, which need not exist.
        content (`Mapping[str, Any]`): The settings.

    Returns:
        `dict[str, tuple]`: The values that differ, by name: as recorded, and as given; `None` for a missing value.

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
    Record the settings that the runs of a folder share. An earlier record is replaced if no run has started yet.

    Raises:
        OSError: The folder cannot be created.
        ValueError: The folder holds runs with other settings, which must not be compared in one table.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"Cannot create the folder {root} ({error.strerror}): give another `--output_dir`.") from error
    if all(path.name == LOG_FILE for path in root.glob("*/*")):
        (root / SETTINGS_FILE).unlink(missing_ok=True)
    if changed := differences_from(root / SETTINGS_FILE, settings):
        named = ", ".join(f"{name}: {kept!r}, not {now!r}" for name, (kept, now) in changed.items())
        raise ValueError(f"{root} holds runs with other settings ({named}): give another `--output_dir`.")


def hold_run(run: Run) -> None:
    """
    Record the settings of a run in its folder.

    Raises:
        ValueError: The folder holds another run, perhaps of an older version.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    if changed := differences_from(run.folder / RUN_FILE, run.settings()):
        named = ", ".join(f"{name}: {kept!r}, not {now!r}" for name, (kept, now) in changed.items())
        raise ValueError(f"{run.folder} holds another run than {run.label!r} ({named}): give another `--output_dir`.")


def execute(run: Run, threads: int) -> None:
    """
    Execute a run in its own process, with its output in `log.txt`. If it fails before it writes anything, such as
    because of an unknown flag, it counts as not started, and its folder may be used for another run.

    Raises:
        ChildProcessError: The run failed.
        ValueError: Its folder holds another run.
    """
    hold_run(run)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    log = run.folder / LOG_FILE
    with (
        log.open("a", encoding="utf-8") as file,
        subprocess.Popen(run.command, stdout=file, stderr=subprocess.STDOUT, env=environment) as process,
    ):
        RUNNING.add(process)
        status = process.wait()
        RUNNING.discard(process)
    if status != 0 or not run.finished():
        if {path.name for path in run.folder.iterdir()} <= {RUN_FILE, LOG_FILE}:
            (run.folder / RUN_FILE).unlink()
        said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-SHOWN_LINES:]
        raise ChildProcessError(
            f"{run.label!r} with seed {run.seed} ended with status {status}; the same command resumes it. Its log, "
            f"{log}, " + ("is empty." if not said else "ends with:\n" + "\n".join(said))
        )


def execute_all(
    runs: Sequence[Run], *, jobs: int, threads: int, progress: bool = True, after: Callable[[], object] = lambda: None
) -> None:
    """
    Execute the runs that are not finished. If this process is told to end, by a signal or Ctrl-C, it ends them too.

    Args:
        runs (`Sequence[Run]`): The runs, in the order of execution, so that an unfinished table compares equal seeds.
        jobs (`int`): Number of runs at a time.
        threads (`int`): CPU threads of each run.
        progress (`bool`, defaults to `True`): Whether to show a progress bar.
        after (`Callable`, *optional*): Called after each run.

    Raises:
        ChildProcessError: A run failed. Other runs that had started are finished first.
        ValueError: A folder holds another run.
    """
    for run in runs:
        if run.folder.is_dir():  # checked before anything runs
            hold_run(run)
    waiting = [run for run in runs if not run.finished()]
    bar = tqdm(total=len(runs), initial=len(runs) - len(waiting), disable=not progress, unit="run")
    with bar, _signals_raise(), ThreadPoolExecutor(jobs) as pool:
        futures = {pool.submit(execute, run, threads): run for run in waiting}
        try:
            for future in as_completed(futures):
                run = futures[future]
                if future.exception() is not None:
                    tqdm.write(f"{run.label!r} with seed {run.seed} failed. Runs that started are finished first.")
                future.result()
                bar.set_postfix_str(f"last: {run.label}, seed {run.seed}")
                bar.update()
                after()
        except (KeyboardInterrupt, SystemExit):
            pool.shutdown(wait=False, cancel_futures=True)  # before they end: another would begin
            for process in list(RUNNING):
                process.terminate()
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # cancels waiting runs if one failed


@contextlib.contextmanager
def _signals_raise() -> Iterator[None]:
    """Signals that end a process raise `SystemExit` in here, with the status that a shell gives."""

    def stop(number: int, frame: Any) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, stop) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

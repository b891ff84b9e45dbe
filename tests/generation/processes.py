# SPDX-License-Identifier: Apache-2.0
"""Starting and killing processes, and what a folder holds."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.generation.stages_for_tests import ROOT

RESULT = ("README.md", "plan.json", "report.json", "left_out.jsonl")


def environment(home: Path) -> dict[str, str]:
    """Of processes that use caches of their own and no Hub."""
    path = os.pathsep.join(filter(None, [str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


@contextlib.contextmanager
def started(command: Sequence[str], home: Path) -> Iterator[subprocess.Popen[str]]:
    """A command in a process group of its own, none of which outlives the block."""
    process = subprocess.Popen(
        command,
        env=environment(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Where this runs in the background of a shell it ignores Ctrl-C, and the command would too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def run(command: Sequence[str], home: Path, status: int = 0, **options: object) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command, **{"env": environment(home), "capture_output": True, "text": True, "timeout": 120, **options}
    )
    assert done.returncode == status, done.stdout[-2000:] + done.stderr[-4000:]
    return done


def wait_until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.01)


def alive_in_group(group: int) -> list[int]:
    """Processes of a group that are running."""
    alive = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                state, _, pgrp = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
                if int(pgrp) == group and state not in "ZX":
                    alive.append(int(entry.name))
    return alive


def units(output: Path) -> dict[str, tuple[int, int]]:
    """Finished units -> inode and time of writing."""
    found = {}
    for path in (output / ".generation").glob("*/unit-*.parquet"):
        with contextlib.suppress(FileNotFoundError):  # removed in the meantime
            found[f"{path.parent.name}/{path.name}"] = (path.stat().st_ino, path.stat().st_mtime_ns)
    return found


def result(output: Path) -> dict[str, bytes]:
    """All files of a finished dataset and their contents."""
    paths = (
        [output / name for name in RESULT]
        + sorted((output / "data").iterdir())
        + sorted((output / "assets").iterdir())
    )
    assert {path.name for path in output.iterdir()} == {*RESULT, "data", "assets", ".generation"}
    assert [path.name for path in (output / ".generation").iterdir()] == ["lock"]
    return {path.relative_to(output).as_posix(): path.read_bytes() for path in paths}

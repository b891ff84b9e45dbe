# SPDX-License-Identifier: Apache-2.0
"""One training run at a time in an output folder."""

from __future__ import annotations

import contextlib
import errno
import json
import multiprocessing
import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from hf_tripletclip.training import output_lock
from hf_tripletclip.training.output_lock import HOLDER_FILE, AlreadyTraining, holder, training_lock


def hold(folder: str, held: Any) -> None:
    with training_lock(folder):
        held.set()
        multiprocessing.Event().wait(60)


@pytest.fixture
def other(tmp_path: Path) -> Any:
    """Another process that holds the folder."""
    context = multiprocessing.get_context("fork")
    held = context.Event()
    process = context.Process(target=hold, args=(str(tmp_path), held))
    process.start()
    assert held.wait(30)
    yield process
    process.kill()
    process.join()


def test_a_second_run_is_refused_by_name_and_a_killed_run_holds_nothing(tmp_path, other):
    with (
        pytest.raises(AlreadyTraining, match=rf"process {other.pid} on {socket.gethostname()}, since 20\d\d-"),
        training_lock(tmp_path),
    ):
        pass
    other.kill()
    other.join()
    with training_lock(tmp_path):
        assert holder(tmp_path)["pid"] == os.getpid()
        with training_lock(tmp_path):  # within a process once more
            pass
        assert holder(tmp_path) is not None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("number", "refused"), [(errno.EACCES, True), (errno.EAGAIN, True), (errno.ENOLCK, False)])
def test_a_file_system_without_locks_is_no_other_run(tmp_path, monkeypatch, number, refused):
    def refuse(*_: Any) -> None:
        raise OSError(number, "lock")

    monkeypatch.setattr(output_lock.fcntl, "lockf", refuse)
    with pytest.raises(AlreadyTraining) if refused else contextlib.nullcontext(), training_lock(tmp_path):
        assert holder(tmp_path) is not None


def test_the_holder_names_its_command(tmp_path, monkeypatch):
    monkeypatch.setattr(output_lock.sys, "argv", ["/bin/train.py", "--flag"])
    with training_lock(tmp_path):
        assert (holder(tmp_path)["command"], holder(tmp_path)["beat"]) == ("train.py", 0)


def left_by(folder: Path, host: str, beat: int = 3) -> None:
    content = {"run": "a", "pid": 7, "host": host, "since": "2026-01-01 10:00:00+00:00", "command": "x", "beat": beat}
    (folder / HOLDER_FILE).write_text(json.dumps(content))


@pytest.mark.parametrize("locks", [True, False])
def test_a_holder_on_another_machine_is_alive_if_its_heartbeat_comes(tmp_path, monkeypatch, locks):
    """The kernel's lock may not reach it, or there is none."""
    monkeypatch.setattr(output_lock, "BEAT", 0.05)
    monkeypatch.setattr(output_lock, "SILENCE", 0.1)
    if not locks:
        monkeypatch.setattr(output_lock, "fcntl", None)
    host = "beta" if locks else socket.gethostname()
    left_by(tmp_path, host)
    with training_lock(tmp_path):  # silent: it was killed
        assert holder(tmp_path)["host"] == socket.gethostname()
    left_by(tmp_path, host)
    monkeypatch.setattr(output_lock.time, "sleep", lambda _: left_by(tmp_path, host, beat=4))
    with pytest.raises(AlreadyTraining, match=f"process 7 on {host}, since 2026-01-01"), training_lock(tmp_path):
        pass


@pytest.mark.parametrize("text", ["", "[]", "{}", "null"])
def test_an_unreadable_holder_file_stops_no_run(tmp_path, text, monkeypatch):
    monkeypatch.setattr(output_lock, "SILENCE", 0.0)
    (tmp_path / HOLDER_FILE).write_text(text)
    with training_lock(tmp_path):
        pass


def test_the_holder_keeps_writing_its_heartbeat(tmp_path, monkeypatch):
    monkeypatch.setattr(output_lock, "BEAT", 0.01)
    with training_lock(tmp_path):
        ends = time.monotonic() + 30
        while (beat := (holder(tmp_path) or {}).get("beat", 0)) < 2:
            assert time.monotonic() < ends
            time.sleep(0.01)
        assert isinstance(beat, int)
    assert list(tmp_path.iterdir()) == []

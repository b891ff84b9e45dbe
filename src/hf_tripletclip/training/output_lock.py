# SPDX-License-Identifier: Apache-2.0
"""One training run at a time in an output folder, on however many machines it runs."""

from __future__ import annotations

import contextlib
import datetime
import errno
import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list, gather_object
from transformers.utils import logging

from hf_tripletclip.training.arguments import TripletCLIPTrainingArguments

try:
    import fcntl
except ImportError:  # no POSIX
    fcntl = None  # type: ignore[assignment]

logger = logging.get_logger(__name__)

LOCK_FILE = ".training.lock"  # empty: it is only locked
HOLDER_FILE = ".training.json"  # which process trains here
BEAT = 5.0  # seconds between two heartbeats of the holder
SILENCE = 4 * BEAT  # after so many seconds without one, a holder that the lock says nothing of is dead

_held: set[Path] = set()  # by this process


class AlreadyTraining(OSError):
    """Another run trains in this folder."""


@contextlib.contextmanager
def training_lock(output_dir: str | os.PathLike[str]) -> Iterator[None]:
    """
    Hold an output folder for training; one process of a run does. Within a process it may be held again.

    The kernel's lock of a file tells whether the holder is alive, also over network file systems, and ends with it. It
    belongs to one process, so a `DataLoader` worker that outlives a killed trainer holds nothing. If the file system
    has no locks, or if the holder is on another machine that may not share them, the holder's heartbeat tells.

    Args:
        output_dir (`str` or `os.PathLike`): An existing folder.

    Raises:
        AlreadyTraining: Another run holds it. The message says which process, on which machine, since when.
    """
    folder = Path(output_dir).resolve()
    if folder in _held:
        yield
        return
    descriptor, kernel = _lock_file(folder)
    beating: _Heartbeat | None = None
    try:
        _refuse_living(folder, kernel)
        beating = _Heartbeat(folder / HOLDER_FILE)
        beating.start()
        _held.add(folder)
        yield
    finally:
        _held.discard(folder)
        if beating is not None:
            beating.end()
            with contextlib.suppress(OSError):
                (folder / LOCK_FILE).unlink()
        os.close(descriptor)  # which unlocks


def holder(output_dir: str | os.PathLike[str]) -> dict[str, Any] | None:
    """What the run that trains in a folder, or that was killed there, says of itself; `None` if there is none."""
    try:
        content = json.loads((Path(output_dir) / HOLDER_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _lock_file(folder: Path) -> tuple[int, bool]:
    """A descriptor of the locked file, and whether the file system has locks."""
    path = folder / LOCK_FILE
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        if fcntl is None:
            return descriptor, False
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                os.close(descriptor)
                raise AlreadyTraining(_told(folder, holder(folder))) from error
            return descriptor, False
        try:
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor, True
        except FileNotFoundError:
            pass
        os.close(descriptor)  # a run that ended just now has removed the file that was locked


def _refuse_living(folder: Path, kernel: bool) -> None:
    """Wait for the heartbeat of a holder that the kernel's lock says nothing of, and refuse if it comes."""
    there = holder(folder)
    if there is None or (kernel and there.get("host") == socket.gethostname()):
        return  # nobody, or a run that was killed
    beat = (there.get("run"), there.get("beat"))
    logger.warning(
        f"A run on {there.get('host')} has trained in {folder} and did not say that it ended: waiting for "
        f"{SILENCE:.0f} seconds to see whether it still trains."
    )
    deadline = time.monotonic() + SILENCE
    while time.monotonic() < deadline:
        time.sleep(BEAT / 5)
        now = holder(folder)
        if now is None:
            return
        if (now.get("run"), now.get("beat")) != beat:
            raise AlreadyTraining(_told(folder, now))


def _told(folder: Path, who: dict[str, Any] | None) -> str:
    who = who or {}
    process = f"process {who['pid']} on {who['host']}" if {"pid", "host"} <= who.keys() else "another process"
    since = f", since {who['since']}" if "since" in who else ""
    command = f" ({who['command']})" if who.get("command") else ""
    return (
        f"Another run trains in {folder}: {process}{since}{command}. Wait for it, end it, or name another "
        "`output_dir`. A killed launcher may leave its processes running."
    )


class _Heartbeat(threading.Thread):
    """Writes which process trains, and again and again that it still does."""

    def __init__(self, path: Path) -> None:
        super().__init__(name="training lock", daemon=True)
        self.path = path
        self.ended = threading.Event()
        self.content: dict[str, Any] = {
            "run": uuid.uuid4().hex,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="seconds"),
            "command": Path(sys.argv[0]).name,
            "beat": 0,
        }

    def start(self) -> None:
        self._write()
        super().start()

    def run(self) -> None:
        while not self.ended.wait(BEAT):
            self.content["beat"] += 1
            with contextlib.suppress(OSError):  # a full disk is reported when a checkpoint does not fit
                self._write()

    def end(self) -> None:
        self.ended.set()
        self.join()
        with contextlib.suppress(OSError):
            self.path.unlink()

    def _write(self) -> None:
        staged = self.path.with_suffix(".tmp")
        staged.write_text(json.dumps(self.content), encoding="utf-8")
        os.replace(staged, self.path)


# ---- Several processes ----


@contextlib.contextmanager
def output_held(args: TripletCLIPTrainingArguments) -> Iterator[None]:
    """
    Hold the output folder for a run of several processes, which all call this.

    Raises:
        AlreadyTraining: In all of them, if another run holds it.
        OSError: In all of them, if the folder cannot be written.
    """
    with contextlib.ExitStack() as stack:
        outcome: list[Any] = [None]
        if args.process_index == 0:
            try:
                os.makedirs(str(args.output_dir), exist_ok=True)
                stack.enter_context(training_lock(str(args.output_dir)))
                outcome = [(holder(str(args.output_dir)) or {}).get("run")]
            except OSError as error:
                outcome = [error if isinstance(error, AlreadyTraining) else OSError(str(error))]
        outcome = broadcast_object_list(outcome)
        if isinstance(outcome[0], OSError):
            raise outcome[0]
        _warn_unless_shared(args, outcome[0])
        yield


def _warn_unless_shared(args: TripletCLIPTrainingArguments, run: str | None) -> None:
    if args.world_size == 1 or args.save_on_each_node:
        return
    sees = (holder(str(args.output_dir)) or {}).get("run") == run
    places = gather_object([None if sees else f"process {args.process_index} on {socket.gethostname()}"])
    if args.process_index == 0 and (blind := [place for place in places if place]):
        logger.warning(
            f"{', '.join(blind)} does not see what process 0 writes into {args.output_dir}: `output_dir` must be a "
            "folder that all machines share, or its checkpoints cannot be resumed."
        )

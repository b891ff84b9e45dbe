# SPDX-License-Identifier: Apache-2.0
"""datatrove's local executor, but quiet; it stops at the first error and when its parent ends."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections import deque
from multiprocessing.connection import Connection, wait
from typing import Any

from tqdm import tqdm

from hf_tripletclip.utils.extras import optional_imports

with optional_imports():
    from datatrove.executor.local import LocalPipelineExecutor
    from loguru import logger

logger.disable("datatrove")  # here, so that workers, which import this module, are quiet too

START_METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
PRELOADED = ["hf_tripletclip.generation.local", "hf_tripletclip.generation.engine"]  # once for all workers


class LocalExecutor(LocalPipelineExecutor):
    """
    Runs the tasks in processes of this machine, or in this one if there is one worker. Unlike its base, it ends all
    workers when one fails or is killed, and they end when it is killed.

    Raises:
        ChildProcessError: A worker was killed.
        Exception: What was raised in a worker.
    """

    def run(self) -> None:
        if self.workers == 1:
            for rank in range(self.tasks):
                self._run_for_rank(rank, local_rank=-1)  # a negative rank logs to the file only
            return
        context: Any = multiprocessing.get_context(START_METHOD)
        context.set_forkserver_preload(PRELOADED)
        ranks = deque(range(self.tasks))
        running: dict[Any, Any] = {}  # where a worker's outcome comes from -> the worker
        try:
            while ranks or running:
                while ranks and len(running) < self.workers:
                    receiver, sender = context.Pipe(duplex=False)
                    process = context.Process(target=_work, args=(self, ranks.popleft(), sender))
                    process.start()
                    sender.close()
                    running[receiver] = process
                wait([*running, *(process.sentinel for process in running.values())])
                for receiver, process in list(running.items()):
                    ended = process.exitcode is not None  # asked first: what it has sent before it ended is there
                    if receiver.poll() or ended:
                        _outcome(receiver, process)
                        process.join()
                        del running[receiver]
        finally:
            for process in running.values():
                process.kill()
            for process in running.values():
                process.join()


def _outcome(receiver: Connection, process: Any) -> None:
    """Raise what a worker has raised."""
    try:
        if not receiver.poll():
            raise EOFError
        failure = receiver.recv()
    except EOFError:
        process.join()
        raise ChildProcessError(
            f"A worker process ended with exit code {process.exitcode}, perhaps killed for want of memory: lower "
            "`--num_workers`; the same command then continues with the finished units. A smaller batch size is "
            "another setting, which `--overwrite` starts anew."
        ) from None
    if failure is not None:
        error, text = failure
        raise error from _InWorker(text)


class _InWorker(Exception):
    """The traceback of a worker's error."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def _work(executor: LocalExecutor, rank: int, outcome: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends its workers
    tqdm.set_lock(threading.RLock())  # its own is a named semaphore, which outlives a worker that is killed
    _end_with_parent()
    try:
        executor._run_for_rank(rank, -1)
    except BaseException as error:
        outcome.send(_portable(error))
    else:
        outcome.send(None)


def _portable(error: BaseException) -> tuple[BaseException, str]:
    """An error as another process can raise it, and its traceback."""
    text = traceback.format_exc()
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # some of huggingface_hub's need more than their message
        kinds = (kind for kind in (OSError, ValueError, ImportError) if isinstance(error, kind))
        error = next(kinds, RuntimeError)(f"{type(error).__name__}: {error}")
    return error, text


def _end_with_parent() -> None:
    parent: Any = multiprocessing.parent_process()

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()

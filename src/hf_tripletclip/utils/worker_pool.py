# SPDX-License-Identifier: Apache-2.0
"""Worker processes that decode pictures."""

from __future__ import annotations

import signal
from concurrent.futures import ProcessPoolExecutor


def worker_pool(number: int) -> ProcessPoolExecutor | None:
    """
    A pool of `number` worker processes; `None` for 0, if this process does the work itself.

    The workers ignore Ctrl-C, which a terminal sends to all processes: this process ends them.
    """
    if not number:
        return None
    return ProcessPoolExecutor(number, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN))

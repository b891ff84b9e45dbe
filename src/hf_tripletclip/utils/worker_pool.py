# SPDX-License-Identifier: Apache-2.0
"""Worker processes that decode pictures."""

from __future__ import annotations

import signal
from concurrent.futures import ProcessPoolExecutor


def worker_pool(number: int) -> ProcessPoolExecutor | None:
    """
    So many worker processes; `None` for 0: this process does the work.

    Ctrl-C, which a terminal sends to all processes, is left to this one: it ends the workers.
    """
    if not number:
        return None
    return ProcessPoolExecutor(number, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN))

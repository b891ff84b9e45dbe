# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import signal

from hf_tripletclip.utils.worker_pool import worker_pool


def interrupted(number: int) -> int:
    os.kill(os.getpid(), signal.SIGINT)
    return number


def test_workers_leave_ctrl_c_to_their_parent():
    assert worker_pool(0) is None
    pool = worker_pool(2)
    with pool:
        assert list(pool.map(interrupted, range(6))) == list(range(6))

# SPDX-License-Identifier: Apache-2.0
"""Fixtures for all tests."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import pytest

# Each pytest-xdist worker has a core of its own; torch reads this when it is first imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# Nothing asks the real Hub, whose client would try again for half a minute where there is no network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from tests.loopback_hub import LoopbackHub


@pytest.fixture
def hub() -> Iterator[LoopbackHub]:
    """An empty Hub on this machine, see `tests/loopback_hub.py`."""
    with LoopbackHub() as running:
        yield running


@pytest.fixture(scope="session", autouse=True)
def quick_garbage_collection() -> None:
    """`Trainer` collects garbage at each start, and looks at all that was imported, which takes it a second."""
    gc.freeze()

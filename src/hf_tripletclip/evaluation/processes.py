# SPDX-License-Identifier: Apache-2.0
"""Several processes that evaluate together: which there are, and errors that concern them all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object

# What a user can act on; anything else is a mistake of the program and not caught.
EXPECTED = (OSError, ValueError, ImportError, torch.OutOfMemoryError)


def in_all_processes(function: Callable[[], Any]) -> Any:
    """
    What a function returns, which all processes call; if it fails in one with an expected error, it does so in all.

    Raises:
        ValueError: It failed in another process.
    """
    value, error = None, None
    try:
        value = function()
    except EXPECTED as caught:
        error = caught
    messages = gather_object([None if error is None else f"{type(error).__name__}: {error}"])
    if error is not None:
        raise error
    if other := [message for message in messages if message is not None]:
        raise ValueError(f"in another process: {other[0]}")
    return value


def start_processes(device: str | None = None) -> PartialState:
    """The processes that a launcher started; on CPUs they need to be told that they are to work there."""
    return PartialState(cpu=device == "cpu" or (device is None and not torch.accelerator.is_available()))

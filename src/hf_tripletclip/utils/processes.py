# SPDX-License-Identifier: Apache-2.0
"""Several processes that do one job: what one of them reads, or fails at, all get to know."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object

Found = TypeVar("Found")

# Errors that a user can do something about. Other errors are mistakes of the program and are not caught.
EXPECTED = (OSError, ValueError, ImportError, torch.OutOfMemoryError)


def start_processes(device: str | None = None) -> PartialState:
    """The state of the processes that a launcher started; it must know if they are to work on CPUs."""
    return PartialState(cpu=device == "cpu" or (device is None and not torch.accelerator.is_available()))


def in_all_processes(function: Callable[[], Found]) -> Found:
    """
    The value of a function that all processes call. If it fails in one with an expected error, it fails in all.

    Raises:
        ValueError: The function failed in another process.
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
    return value  # type: ignore[return-value] # there was no error


def from_first_process(function: Callable[[], Found]) -> Found:
    """
    The value of a function that the first process calls, in all processes; all of them call this. If it fails with an
    expected error, all raise that error.
    """
    outcome: list[Any] = [None, None]
    if PartialState().is_main_process:
        try:
            outcome = [function(), None]
        except EXPECTED as caught:
            outcome = [None, caught]
    value, error = broadcast_object_list(outcome)
    if error is not None:
        raise error
    return value

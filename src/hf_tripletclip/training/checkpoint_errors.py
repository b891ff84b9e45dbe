# SPDX-License-Identifier: Apache-2.0
"""What goes wrong when a checkpoint is read or written, in one sentence that names it."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Iterator

from safetensors import SafetensorError

# What reading or writing a file of a checkpoint raises, of all the libraries that do.
UNREADABLE = (
    OSError,
    ValueError,
    RuntimeError,
    KeyError,
    TypeError,
    AttributeError,
    EOFError,
    IndexError,
    AssertionError,
    pickle.UnpicklingError,
    SafetensorError,
)
UNWRITABLE = (OSError, RuntimeError, SafetensorError)


class CheckpointNotWritten(OSError):
    """A checkpoint could not be written; those before it are whole."""


@contextlib.contextmanager
def reading_of(checkpoint: str | None) -> Iterator[None]:
    """Name the checkpoint where a file of it cannot be read."""
    try:
        yield
    except UNREADABLE as error:
        if checkpoint is None or (isinstance(error, ValueError) and str(checkpoint) in str(error)):
            raise
        lines = str(error).splitlines() or [type(error).__name__]
        raise ValueError(
            f"{checkpoint} cannot be read: {lines[0]}. It is damaged, or of another model; resume from another one."
        ) from error

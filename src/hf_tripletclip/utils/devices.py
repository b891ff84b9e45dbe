# SPDX-License-Identifier: Apache-2.0
"""What all stages need that load a model: where it runs, in which precision, and silence while it loads."""

from __future__ import annotations

import contextlib
import logging
import pickle
from collections.abc import Iterator

import torch
from safetensors import SafetensorError

DTYPES = ("auto", "float32", "float16", "bfloat16")


def check_dtype(dtype: str) -> None:
    """
    Check the setting before a model is loaded.

    Raises:
        ValueError: There is no such precision.
    """
    if dtype not in DTYPES:
        raise ValueError(f"`dtype` is {dtype!r}; give {', '.join(DTYPES)}.")


def pick_device(device: str | None = None) -> torch.device:
    """
    The device of this name; the machine's accelerator, or its CPU where it has none, by default.

    Raises:
        ValueError: There is no such device.
    """
    if device is None:
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return found or torch.device("cpu")
    try:
        torch.empty(0, device=device)
        return torch.device(device)
    except (RuntimeError, AssertionError) as error:  # a wrong name, or a torch without that kind of device
        problem = str(error).partition("\n")[0]
        raise ValueError(f"`device` is {device!r}, which this machine does not have: {problem}") from error


def pick_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """The precision of this name; half precision on an accelerator and float32 on a CPU where it is `auto`."""
    if dtype == "auto":
        return torch.float32 if device.type == "cpu" else torch.float16
    return getattr(torch, dtype)


@contextlib.contextmanager
def no_progress_bars() -> Iterator[None]:
    """
    Without the bars that transformers shows while it reads weights, and without its remark that a processor without
    torchvision is Pillow's. Its warnings about weights stay.
    """
    from transformers.utils import import_utils
    from transformers.utils import logging as transformers_logging

    remark = _NoTorchvision()
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    import_utils.logger.addFilter(remark)
    try:
        yield
    finally:
        import_utils.logger.removeFilter(remark)
        if shown:
            transformers_logging.enable_progress_bar()


@contextlib.contextmanager
def loading(source: str, kind: str) -> Iterator[None]:
    """
    Quietly, see [`no_progress_bars`], and with errors that name the model: the Hub's client does not always.

    Raises:
        OSError: The model is not there or cannot be reached.
    """
    with no_progress_bars():
        try:
            yield
        except OSError as error:
            raise OSError(f"{source} cannot be loaded as {kind}: {error}") from error
        except (SafetensorError, KeyError, pickle.UnpicklingError, RuntimeError) as error:
            if type(error).__name__ == "OutOfMemoryError":
                raise
            problem = f"{type(error).__name__} {error}".partition("\n")[0]
            raise OSError(f"{source} cannot be loaded as {kind}, its files are damaged: {problem}") from error


class _NoTorchvision(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return "requires torchvision" not in record.getMessage()

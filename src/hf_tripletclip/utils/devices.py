# SPDX-License-Identifier: Apache-2.0
"""Loading models: the device, the precision, and no progress bars meanwhile."""

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
        ValueError: `dtype` is none of `DTYPES`.
    """
    if dtype not in DTYPES:
        raise ValueError(f"`dtype` is {dtype!r}; give {', '.join(DTYPES)}.")


def pick_device(device: str | None = None) -> torch.device:
    """
    The device with this name. Defaults to the machine's accelerator if it has one, else the CPU.

    Raises:
        ValueError: The machine has no such device.
    """
    if device is None:
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return accelerator or torch.device("cpu")
    try:
        torch.empty(0, device=device)
        return torch.device(device)
    except (RuntimeError, AssertionError) as error:  # a wrong name, or a torch without that kind of device
        problem = str(error).partition("\n")[0]
        raise ValueError(f"`device` is {device!r}, which this machine does not have: {problem}") from error


def pick_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """The precision with this name. `auto` is half precision on an accelerator and float32 on a CPU."""
    if dtype == "auto":
        return torch.float32 if device.type == "cpu" else torch.float16
    return getattr(torch, dtype)


@contextlib.contextmanager
def no_progress_bars() -> Iterator[None]:
    """
    Hide the progress bars of transformers while it reads weights, and its remark that a processor uses Pillow because
    torchvision is missing. Warnings about weights are still shown.
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
    Load something without progress bars, see [`no_progress_bars`], and with errors that name the model, which those of
    the Hub's client do not always do.

    Args:
        source (`str`): The model's name or path.
        kind (`str`): What it is loaded as, for the message.

    Raises:
        OSError: The model does not exist, cannot be reached, or its files are damaged.
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


def computes_in_bfloat16() -> bool:
    """Whether this CPU has instructions for products of bfloat16: AVX512-BF16 or AMX."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())

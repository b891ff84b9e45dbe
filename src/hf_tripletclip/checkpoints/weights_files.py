# SPDX-License-Identifier: Apache-2.0
"""Weights from a file of whatever kind, without running what is in it."""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

WEIGHTS_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
NESTED = ("state_dict", "model_state_dict", "model")  # where training scripts put the weights
# Wrappers that put their name before every tensor's: DDP, torch.compile, Lightning, and OpenCLIP's own.
PREFIXES = ("module.", "_orig_mod.", "model.", "clip_model.", "clip.")
# OpenCLIP's schedules leave numpy numbers in the optimizer's state. torch refuses these by default; they are data, and
# are allowed under the names that numpy 1 and numpy 2 write.
_SCALAR: Any = np.float64(0).__reduce__()[0]
NUMBERS: list[Any] = [
    *((_SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    np.dtype,
    *(type(np.dtype(name)) for name in ("bool", "int32", "int64", "float16", "float32", "float64")),
]


def read_weights(path: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """
    The tensors of a weights file: `.safetensors`, or a pickle (`.pt`, `.pth`, `.bin`, `.ckpt`) that holds tensors,
    numbers, strings and containers of them only. Nested under `state_dict`, `model_state_dict` or `model` they are
    found, and prefixes that all names have, such as `module.`, are taken off.

    Returns:
        `dict[str, torch.Tensor]`, on the CPU, in the precisions of the file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no such file, holds code, which is never run, or no tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"The weights file {path} does not exist.")
    if path.suffix not in WEIGHTS_SUFFIXES:
        raise ValueError(f"{path} is no {', '.join(WEIGHTS_SUFFIXES)} file.")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    for name in NESTED:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
            break
    tensors = {}
    if isinstance(content, Mapping):
        tensors = {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        found = f"it has {', '.join(map(str, list(content)[:5]))}" if isinstance(content, Mapping) else "it has none"
        raise ValueError(f"{path} holds no state dict of tensors: {found}.")
    while prefix := next((p for p in PREFIXES if all(name.startswith(p) for name in tensors)), None):
        tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


def _read_safetensors(path: Path) -> Any:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file that can be read: {error}") from error


def _read_pickle(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals(NUMBERS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"{found[1]}, which is no tensor" if found else "more than tensors"
        # Not from torch's error, which advises to run what is in the file.
        raise ValueError(
            f"{path} is refused: it holds {what}, and reading that would run code from it. If you trust it, open it "
            "in a place without secrets and write its state dict with `safetensors.torch.save_file`."
        ) from None
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        problem = str(error).partition("\n")[0]
        raise ValueError(f"{path} is no checkpoint that torch can read: {problem or type(error).__name__}") from error

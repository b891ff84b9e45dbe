# SPDX-License-Identifier: Apache-2.0
"""Weights from a file of whatever kind, without running what is in it."""

from __future__ import annotations

import os
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

WEIGHTS_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
NESTED = ("state_dict", "model_state_dict", "model")  # where training scripts put the weights
WEIGHT_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
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
    check_kind_of_file(path)
    content = _read_safetensors(path) if path.suffix == ".safetensors" else read_pickle(path)
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


def check_kind_of_file(path: Path) -> None:
    """
    Check that a file is not one of those that are often found in the place of weights.

    Raises:
        ValueError: It is; says which, and what to do.
    """
    with path.open("rb") as file:
        head = file.read(512)
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    # The length that a safetensors file begins with may look like the mark of a pickle; its header then follows.
    pickled = head.startswith((b"PK\x03\x04", b"\x80")) and head[8:9] != b"{"
    found = None
    if not head:
        found = "is empty, not a readable file of weights. Download it again."
    elif head.startswith(b"version https://git-lfs"):
        found = "is a pointer of Git LFS, not the weights: fetch them with `git lfs pull` or `hf download`."
    elif text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        found = "is a web page, not weights: whoever saved it got a page instead of the file. Download it again."
    elif pickled and path.suffix == ".safetensors":
        found = "is a pickle under the name of a safetensors file. Name it `.bin` or `.pt` if it should be one."
    elif pickled and _is_torchscript(path):
        found = (
            "is a TorchScript archive, which holds code that is never run here. Write the state dict of the model in "
            "it with `safetensors.torch.save_file`, in a place without secrets."
        )
    if found:
        raise ValueError(f"{path} {found}")


def _is_torchscript(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError):
        return False
    return any(name.endswith("/constants.pkl") or "/code/" in name for name in names)


def damaged(path: Path, error: Exception) -> str:
    """What to say of a safetensors file that cannot be read."""
    return f"{path} is no safetensors file that can be read: {error}. Download it again."


def _read_safetensors(path: Path) -> Any:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(damaged(path, error)) from error


def read_pickle(path: Path) -> Any:
    """
    What a pickle of torch holds, where that is tensors, numbers, strings and containers of them only.

    Raises:
        ValueError: It holds more, or cannot be read. Nothing in it is run.
    """
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

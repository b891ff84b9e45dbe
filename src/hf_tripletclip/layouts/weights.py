# SPDX-License-Identifier: Apache-2.0
"""Files of weights: read without running what is in them, and checked before transformers reads them.

transformers itself takes weights that are not finite, or integers, its errors about pickles advise to run them, and
weights that do not fit their config are shown in a table only.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from hf_tripletclip.configuration import ConfigError
from hf_tripletclip.layouts.files import find_file
from hf_tripletclip.utils.files import read_json_object

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
INTEGER_BUFFERS = ("position_ids", "num_batches_tracked", "relative_position_index")  # no weights


def read_weights(path: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """
    The tensors of a weights file: `.safetensors`, or a pickle (`.pt`, `.pth`, `.bin`, `.ckpt`) that holds only
    tensors, numbers, strings and containers of them. They may be nested under `state_dict`, `model_state_dict` or
    `model`. Prefixes that all names have, such as `module.`, are removed.

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
    Check that a file is none of those that often take the place of weights.

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
    What a pickle of torch holds, if that is only tensors, numbers, strings and containers of them.

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


def find_weights(source: str | os.PathLike[str], kwargs: Mapping[str, Any], named: str | None = None) -> list[Path]:
    """
    The weights files that transformers reads from a directory or Hub repository, all shards of them; none if it finds
    none, which it reports itself.

    Args:
        source (`str` or `os.PathLike`): A directory or the id of a Hub repository.
        kwargs (`Mapping[str, Any]`): `from_pretrained`'s: `variant`, `use_safetensors`, `revision`, ...
        named (`str`, *optional*): The file that the config names.

    Raises:
        OSError: A shard is missing.
        ValueError: An index names no shards.
    """
    variant = f".{kwargs['variant']}" if kwargs.get("variant") else ""
    safe, pickled = f"model{variant}.safetensors", f"pytorch_model{variant}.bin"
    indices = {safe: f"model.safetensors.index{variant}.json", pickled: f"pytorch_model.bin.index{variant}.json"}
    given = kwargs.get("use_safetensors")
    wanted = (safe, pickled) if given is None else (safe,) if given else (pickled,)
    names = [named] if named else [name for one in wanted for name in (one, indices[one])]
    hub = dict(kwargs)
    for name in names:
        found = find_file(source, name, hub)
        if found is None:
            continue
        if not name.endswith(".json"):
            return [Path(found)]
        shards = read_json_object(found).get("weight_map")
        listed = sorted(set(map(str, shards.values()))) if isinstance(shards, dict) else []
        if not listed or any(Path(shard).name != shard for shard in listed):
            raise ValueError(f"{found} must name the file of each tensor, one in the same folder, in `weight_map`.")
        paths = {shard: find_file(source, shard, hub) for shard in listed}
        if missing := [shard for shard, path in paths.items() if path is None]:
            raise OSError(f"{source} lacks {', '.join(missing[:3])}, which its {name} names: download it again.")
        return [Path(path) for path in paths.values() if path is not None]
    return []


def check_weights(paths: Iterable[Path]) -> None:
    """
    Check that weights files can be read without running code, and hold finite floating point numbers.

    Raises:
        ValueError: One cannot, or does not; names the file and the tensor.
    """
    for path in paths:
        check_kind_of_file(path)
        for name, tensor in _tensors(path):
            if tensor.dtype not in WEIGHT_TYPES and not name.endswith(INTEGER_BUFFERS):
                raise ValueError(
                    f"{path}: {name!r} has the type {str(tensor.dtype).removeprefix('torch.')}, weights are of 16, 32 "
                    "or 64 bit floating point."
                )
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise ValueError(f"{path}: {name!r} has values that are not finite.")


def check_tensors(tensors: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], where: str) -> None:
    """
    Check that tensors are those of a model.

    Args:
        tensors (`Mapping[str, torch.Tensor]`): What a file holds, by the names in it.
        expected (`Mapping[str, torch.Tensor]`): What it should hold, by the same names, such as the state dict of a
            model on the device `meta`.
        where (`str`): The file, for messages.

    Raises:
        ValueError: A tensor is missing, extra, misshaped, not floating or not finite.
    """
    for name, tensor in tensors.items():
        if name not in expected:
            raise ValueError(f"{where} has a tensor {name!r} that is no part of the model.")
        if tensor.shape != expected[name].shape:
            raise ValueError(
                f"{where}: {name!r} has shape {tuple(tensor.shape)}, the config says {tuple(expected[name].shape)}."
            )
        if tensor.dtype not in WEIGHT_TYPES:
            raise ValueError(
                f"{where}: {name!r} has the type {tensor.dtype}, weights are of 16, 32 or 64 bit floating point."
            )
        if not tensor.isfinite().all():
            raise ValueError(f"{where}: {name!r} has values that are not finite.")
    if missing := expected.keys() - tensors.keys():
        raise ValueError(f"{where} lacks {', '.join(map(repr, sorted(missing)))}.")


def _tensors(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """One after the other, so that not all need to be in memory."""
    if path.suffix != ".safetensors":
        content = read_pickle(path)
        if not isinstance(content, Mapping):
            raise ValueError(f"{path} holds no state dict of tensors, it holds a {type(content).__name__}.")
        yield from ((str(name), value) for name, value in content.items() if isinstance(value, torch.Tensor))
        return
    try:
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118, it is no mapping
                yield name, file.get_tensor(name)
    except SafetensorError as error:
        raise ValueError(damaged(path, error)) from error


@contextlib.contextmanager
def no_report_of_what_is_refused() -> Iterator[None]:
    """
    Hold back transformers' table of the weights that do not fit, and drop it if the block ends in an error, which says
    the same in one line. Else the table is shown at the end of the block.
    """
    logger = logging.getLogger("transformers.modeling_utils")
    held = _HoldReports()
    logger.addFilter(held)
    try:
        yield
    finally:
        logger.removeFilter(held)
    for record in held.records:
        logger.handle(record)


def load_fitting(load: Callable[..., Any], source: object, **kwargs: Any) -> Any:
    """
    What a `from_pretrained` of transformers returns. Tensors that do not have the shape that the config says are named
    in an error; transformers shows them in a table only.

    Args:
        load (`Callable`): The `from_pretrained` of a source.
        source: Its name, for messages.
        kwargs: Its arguments.

    Raises:
        ValueError: Tensors do not fit; others as there.
    """
    with no_report_of_what_is_refused():
        try:
            return load(**kwargs)
        except RuntimeError as error:
            if "ignore_mismatched_sizes" not in str(error):
                raise
            # On no device: what does not fit would be made anew, in sizes that may be wrong by far.
            kwargs |= {"ignore_mismatched_sizes": True, "output_loading_info": True, "device_map": "meta"}
            info = load(**kwargs)[1]
            listed = "; ".join(
                f"{name!r} is {tuple(found)} in the file and {tuple(expected)} by the config"
                for name, found, expected in sorted(info["mismatched_keys"])[:5]
            )
            raise ConfigError(f"The weights of {source} do not fit its config: {listed}.") from error


class _HoldReports(logging.Filter):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def filter(self, record: logging.LogRecord) -> bool:
        if "LOAD REPORT" not in record.getMessage():
            return True
        self.records.append(record)
        return False

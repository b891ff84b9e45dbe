# SPDX-License-Identifier: Apache-2.0
"""The weights files of a model in transformers' layout, looked at before transformers reads them.

transformers itself takes weights that are not finite, or integers, and its errors about pickles advise to run them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from hf_tripletclip.layouts.configs import read_json_object
from hf_tripletclip.layouts.published import find_file
from hf_tripletclip.layouts.weights_files import WEIGHT_TYPES, check_kind_of_file, damaged, read_pickle

INTEGER_BUFFERS = ("position_ids", "num_batches_tracked", "relative_position_index")  # no weights


def find_weights(source: str | os.PathLike[str], kwargs: Mapping[str, Any], named: str | None = None) -> list[Path]:
    """
    The weights files that transformers reads from a directory or Hub repository, all shards of them; none where it
    finds none, which it reports itself.

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


def shapes_of(paths: Iterable[Path]) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor in weights files."""
    return {name: tuple(tensor.shape) for path in paths for name, tensor in _tensors(path)}


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

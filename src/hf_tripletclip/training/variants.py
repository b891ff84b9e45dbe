# SPDX-License-Identifier: Apache-2.0
"""The runs that fine-tuning compares: a set of flags, and what of it each variant changes."""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args, get_type_hints

BASE_ROW = "base"  # the line of the model that all start from
COMMON = ("output_dir", "model_name_or_path", "dataset_name_or_path")  # one of these cannot differ between variants

Arguments = tuple[Any, ...]


def make_runs(
    variants: Mapping[str, Any],
    given: Arguments,
    parse: Callable[[list[str]], Arguments],
) -> dict[str, Arguments]:
    """
    The arguments of each run, checked as those of the command line are.

    Args:
        variants (`Mapping[str, Any]`): Name -> flags that differ and their values.
        given (`tuple`): Dataclasses of the arguments that all runs share.
        parse (`Callable`): Reads the shared arguments again, with more flags behind them.

    Returns:
        `dict`: Name -> dataclasses as in `given`, each with a folder of its own as `output_dir`.

    Raises:
        ValueError: A name is no name of a folder or there twice, a flag is unknown, or a value is not allowed.
    """
    _check_names(variants)
    runs = {}
    for name, changes in variants.items():
        if not isinstance(changes, Mapping):
            raise ValueError(f"`variants` has {changes!r} for {name}: give the flags that differ.")
        for flag in changes:
            if not any(_field(part, flag) for part in given):
                known = [entry.name for part in given for entry in dataclasses.fields(part)]
                near = "".join(f" (did you mean {one}?)" for one in difflib.get_close_matches(str(flag), known, 1))
                raise ValueError(f"`variants`: {name} sets `{flag}`, which is no flag{near}.")
            if flag in COMMON:
                raise ValueError(f"`variants`: {name} sets `{flag}`, which is one for all variants.")
        folder = str(Path(_of(given, "output_dir")) / str(name))
        flags = [f"--output_dir={folder}"]
        for flag, value in changes.items():
            flags += [] if value is None else as_flags(flag, value)
        try:
            arguments = parse(flags)
        except ValueError as error:
            raise ValueError(f"`variants`: {name}: {error}") from error
        for flag in (flag for flag, value in changes.items() if value is None):
            _leave_open(arguments, flag, str(name))
        runs[str(name)] = arguments
    return runs


def check_outputs(base: str, output_dir: str, runs: Mapping[str, Arguments]) -> None:
    """
    Raise `ValueError` if a run would write over the model that it starts from.

    Args:
        base (`str`): Directory or Hub id of that model.
        output_dir (`str`): Where the table goes.
        runs: From [`make_runs`].
    """
    if not Path(base).is_dir():
        return
    start = Path(base).resolve()
    for folder in (output_dir, *(_of(arguments, "output_dir") for arguments in runs.values())):
        if start == Path(folder).resolve() or (folder != output_dir and Path(folder).resolve() in start.parents):
            raise ValueError(
                f"{folder} would be written over, but {base} is what fine-tuning starts from: name another "
                "`--output_dir`."
            )


def _check_names(variants: Mapping[str, Any]) -> None:
    seen: dict[str, str] = {}
    for name in map(str, variants):
        if name != name.strip() or name in ("", ".", "..") or any(mark in name for mark in ("/", "\\", "\0")):
            raise ValueError(f"`variants` has the name {name!r}: each names a folder, so no slash and no outer space.")
        if name.casefold() == BASE_ROW:
            raise ValueError(f"`variants` has the name {name!r}, which is that of the model that all start from.")
        if (other := seen.get(name.casefold())) is not None:
            raise ValueError(f"`variants` has {other!r} and {name!r}, which on some disks are one folder.")
        seen[name.casefold()] = name


def as_flags(flag: str, value: Any) -> list[str]:
    """A flag of the command line and its value, as words."""
    if isinstance(value, Mapping):
        return [f"--{flag}={json.dumps(value)}"]
    if isinstance(value, (list, tuple)):
        return [f"--{flag}", *map(str, value)]
    return [f"--{flag}={str(value).lower() if isinstance(value, bool) else value}"]


def _leave_open(arguments: Arguments, flag: str, variant: str) -> None:
    """Set a flag to `None`, which the command line has no word for."""
    part = next(part for part in arguments if _field(part, flag))
    if type(None) not in get_args(get_type_hints(type(part))[flag]):
        raise ValueError(f"`variants`: {variant} leaves `{flag}` empty: give a value or leave it out.")
    setattr(part, flag, None)


def _field(part: Any, flag: str) -> bool:
    return any(entry.name == flag for entry in dataclasses.fields(part))


def _of(arguments: Arguments, flag: str) -> Any:
    return getattr(next(part for part in arguments if _field(part, flag)), flag)

# SPDX-License-Identifier: Apache-2.0
"""Classes by name, with settings from JSON or YAML: what the registries of stages and of benchmarks share."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from hf_tripletclip.utils.extras import optional_imports


def load_class(kind: str, name: str, known: Mapping[str, str], package: str) -> type[Any]:
    """
    The class of this name.

    Args:
        kind (`str`): What it is, for the message.
        name (`str`): Its name.
        known (`Mapping[str, str]`): Name -> `module:Class` in the package.
        package (`str`): The package.

    Raises:
        ValueError: There is none of this name.
        ImportError: A library that it needs is not installed.
    """
    if name not in known:
        raise ValueError(f"unknown {kind} {name!r}; there are {', '.join(known)}")
    module, _, attribute = known[name].partition(":")
    with optional_imports():
        return getattr(importlib.import_module(f"{package}.{module}"), attribute)


def make(
    kind: str, name: str, known: Mapping[str, str], package: str, options: Mapping[str, Any] | None = None
) -> Any:
    """
    An instance of the dataclass of this name.

    Args:
        kind, name, known, package: As in `load_class`.
        options (`Mapping[str, Any]`, *optional*): Its settings, as JSON or YAML gives them.

    Raises:
        ValueError: There is none of this name, or it has no such setting, or one of another type.
        ImportError: A library that it needs is not installed.
    """
    found = load_class(kind, name, known, package)
    accepted = [field.name for field in dataclasses.fields(found) if field.init]
    if unknown := [option for option in options or {} if option not in accepted]:
        raise ValueError(f"{kind} {name!r} takes no {', '.join(unknown)}; it takes {', '.join(accepted)}")
    hints = get_type_hints(found)
    for option, value in (options or {}).items():
        if not fits(value, hints[option]):
            raise ValueError(f"{kind} {name!r}: `{option}` is {value!r}, which is no {_name(hints[option])}")
    return found(**(options or {}))


def fits(value: Any, hint: Any) -> bool:
    """Whether a value of JSON or YAML is of a field's type: a list does for a tuple, an integer for a float."""
    kind, arguments = get_origin(hint) or hint, get_args(hint)
    if hint is Any:
        return True
    if kind in (Union, UnionType):
        return any(fits(value, argument) for argument in arguments)
    if kind is Literal:
        return value in arguments
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind is tuple:
        return isinstance(value, (list, tuple))
    if kind in (NoneType, None):
        return value is None
    return isinstance(value, kind) if isinstance(kind, type) else True


def _name(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint).replace("NoneType", "None")

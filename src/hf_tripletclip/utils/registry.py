# SPDX-License-Identifier: Apache-2.0
"""Find classes by name and make instances with settings from JSON or YAML, for the registries of this package."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from hf_tripletclip.utils.extras import optional_imports


def load_class(kind: str, name: str, known: Mapping[str, str], package: str) -> type[Any]:
    """
    Import a class by its name in a registry.

    Args:
        kind (`str`): The kind of thing, such as "benchmark", for messages.
        name (`str`): The name.
        known (`Mapping[str, str]`): The registry: name -> `module:Class` in the package.
        package (`str`): The package.

    Raises:
        ValueError: The registry has no such name.
        ImportError: A library that the class needs is not installed.
    """
    if name not in known:
        raise ValueError(f"unknown {kind} {name!r}; there are {', '.join(known)}")
    module, _, attribute = known[name].partition(":")
    with optional_imports():
        return getattr(importlib.import_module(f"{package}.{module}"), attribute)


def class_paths(known: Mapping[str, str], package: str) -> dict[str, str]:
    """The classes of a registry: the full path of each, by its name in the registry. It imports none of them."""
    return {name: f"{package}.{place.replace(':', '.')}" for name, place in known.items()}


def make(
    kind: str, name: str, known: Mapping[str, str], package: str, options: Mapping[str, Any] | None = None
) -> Any:
    """
    Make an instance of a dataclass by its name in a registry.

    Args:
        kind, name, known, package: As in `load_class`.
        options (`Mapping[str, Any]`, *optional*): Its settings, as JSON or YAML holds them.

    Raises:
        ValueError: The registry has no such name, the class has no such setting, or a value has the wrong type.
        ImportError: A library that the class needs is not installed.
    """
    cls = load_class(kind, name, known, package)
    accepted = [field.name for field in dataclasses.fields(cls) if field.init]
    if unknown := [option for option in options or {} if option not in accepted]:
        raise ValueError(f"{kind} {name!r} takes no {', '.join(unknown)}; it takes {', '.join(accepted)}")
    hints = get_type_hints(cls)
    for option, value in (options or {}).items():
        if not fits(value, hints[option]):
            raise ValueError(f"{kind} {name!r}: `{option}` is {value!r}, which is no {_name(hints[option])}")
    return cls(**(options or {}))


def fits(value: Any, hint: Any) -> bool:
    """Whether a value of JSON or YAML fits a field's type. A list fits a tuple, and an integer fits a float."""
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

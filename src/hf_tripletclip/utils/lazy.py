# SPDX-License-Identifier: Apache-2.0
"""Lazy imports: a package lists its public names and their modules, and imports them on first use (PEP 562)."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

from hf_tripletclip.utils.extras import optional_imports


def lazy_exports(package: str, modules: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """
    The `__getattr__` and `__dir__` of a package whose names are imported on first use.

    Args:
        package (`str`): `__name__` of the package.
        modules (`Mapping[str, str]`): Public name -> module inside the package that defines it.

    Example:

    ```python
    __getattr__, __dir__ = lazy_exports(__name__, {"TripletCLIPModel": "modeling"})
    ```
    """

    def module_getattr(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        with optional_imports():
            value = getattr(importlib.import_module(f"{package}.{modules[name]}"), name)
        setattr(sys.modules[package], name, value)  # the next access finds it directly
        return value

    def module_dir() -> list[str]:
        return sorted({*vars(sys.modules[package]), *modules})

    return module_getattr, module_dir

# SPDX-License-Identifier: Apache-2.0
"""The stages by name: a source of captions or images, or a check, is one file and one line here."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from hf_tripletclip.generation.stage import Stage

CAPTIONS = {
    "llm": "captions.llm:LLMCaptions",
    "inference": "captions.inference:InferenceCaptions",
    "rules": "captions.rules:RuleCaptions",
    "scenes": "captions.scenes:ScenesCaptions",
}
IMAGES = {
    "diffusers": "images.diffusers:DiffusersImages",
    "inference": "images.inference:InferenceImages",
    "scenes": "images.scenes:ScenesImages",
}
CHECKS = {
    "clip": "checks.clip:ClipScores",
    "vqa": "checks.vqa:VqaScores",
}
STAGES = {"captions": CAPTIONS, "images": IMAGES, "check": CHECKS}


def get_stage(kind: str, name: str, options: Mapping[str, Any] | None = None) -> Stage:
    """
    A stage by its name.

    Args:
        kind (`str`): `captions`, `images` or `check`.
        name (`str`): Its name, such as `llm`.
        options (`Mapping`, *optional*): Its settings.

    Raises:
        ValueError: There is no such stage, or it has no such setting.
        ImportError: A library that it needs is not installed.
    """
    known = STAGES[kind]
    if name not in known:
        raise ValueError(f"unknown {kind} {name!r}; there are {', '.join(known)}")
    module, _, attribute = known[name].partition(":")
    stage_class: type[Stage] = getattr(importlib.import_module(f"hf_tripletclip.generation.{module}"), attribute)
    accepted = [field.name for field in dataclasses.fields(stage_class) if field.init]
    if unknown := [option for option in options or {} if option not in accepted]:
        raise ValueError(f"{kind} {name!r} takes no {', '.join(unknown)}; it takes {', '.join(accepted)}")
    hints = get_type_hints(stage_class)
    for option, value in (options or {}).items():
        if not fits(value, hints[option]):
            raise ValueError(f"{kind} {name!r}: `{option}` is {value!r}, which is no {_name(hints[option])}")
    return stage_class(**(options or {}))


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

# SPDX-License-Identifier: Apache-2.0
"""The stages by name: a source of captions, images or paraphrases, or a check, is one file and one line here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hf_tripletclip.generation.stage import Stage
from hf_tripletclip.utils.registry import make

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
PARAPHRASES = {
    "rules": "paraphrases.rules:RuleParaphrases",
}
CHECKS = {
    "clip": "checks.clip:ClipScores",
    "vqa": "checks.vqa:VqaScores",
}
PACKAGE = "hf_tripletclip.generation"
STAGES = {"captions": CAPTIONS, "images": IMAGES, "paraphrases": PARAPHRASES, "check": CHECKS}

# What messages call a stage that is not called as its kind.
KINDS = {"captions": "source of negative captions", "images": "source of negative images"}


def get_stage(kind: str, name: str, options: Mapping[str, Any] | None = None) -> Stage:
    """
    A stage by its name.

    Args:
        kind (`str`): `captions`, `images`, `paraphrases` or `check`.
        name (`str`): Its name, such as `llm`.
        options (`Mapping`, *optional*): Its settings.

    Raises:
        ValueError: There is no such stage, or it has no such setting.
        ImportError: A library that it needs is not installed.
    """
    return make(KINDS.get(kind, kind), name, STAGES[kind], PACKAGE, options)

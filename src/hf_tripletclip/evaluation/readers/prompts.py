# SPDX-License-Identifier: Apache-2.0
"""Class names and prompt templates for zero-shot classification."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

from hf_tripletclip.evaluation.readers.clip_benchmark import read_lines

FOLDER = Path(__file__).parent / "classnames"  # LICENSE.txt there names the sources
IMAGENET = "imagenet1k"
OPENAI = "openai"
PLACES = ("{c}", "{}")  # stand for the class name; CLIP_benchmark uses the first


@functools.cache
def imagenet_classes() -> dict[str, str]:
    """WordNet id -> class name, in the order of the 1,000 labels of ImageNet-1k: OpenAI's names."""
    lines = (FOLDER / f"{IMAGENET}.tsv").read_text(encoding="utf-8").splitlines()
    return dict(line.split("\t") for line in lines)


def openai_templates() -> list[str]:
    """The 80 templates of OpenAI for ImageNet."""
    return (FOLDER / f"{OPENAI}_templates.txt").read_text(encoding="utf-8").splitlines()


def read_classnames(given: str | Sequence[str]) -> list[str]:
    """
    Class names in the order of the labels.

    Args:
        given (`str` or `Sequence[str]`): The names; `"imagenet1k"`; or a text file with one name on each line.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: There are no names.
    """
    if given == IMAGENET:
        return list(imagenet_classes().values())
    return _lines(given, "class names", f"or give {IMAGENET}")


def read_templates(given: str | Sequence[str]) -> list[str]:
    """
    Prompt templates.

    Args:
        given (`str` or `Sequence[str]`): The templates; `"openai"` for the 80 for ImageNet; one template; or a text
            file with one template on each line.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: There are no templates, or one has no place for the class name.
    """
    if given == OPENAI:
        return openai_templates()
    if isinstance(given, str) and any(place in given for place in PLACES):
        return [given]
    templates = [line for line in _lines(given, "templates", f"or give {OPENAI}") if line]
    if bad := [template for template in templates if not any(place in template for place in PLACES)]:
        raise ValueError(f"the template {bad[0]!r} has no {PLACES[0]}, the place of the class name")
    return templates


def _lines(given: str | Sequence[str], what: str, instead: str) -> list[str]:
    if not isinstance(given, str):
        lines: list[str] | None = list(given)
    elif (lines := read_lines(Path(given).expanduser())) is None:
        raise FileNotFoundError(f"{given} is no file of {what}, one a line; {instead}")
    if not any(lines or ()):
        raise ValueError(f"{given} has no {what}")
    return lines or []


def prompt(template: str, name: str) -> str:
    """The template with the class name put in."""
    return template.replace(PLACES[0], name) if PLACES[0] in template else template.replace(PLACES[1], name)

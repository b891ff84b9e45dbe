# SPDX-License-Identifier: Apache-2.0
"""Reads the docstrings of this package, written as in transformers, for mkdocstrings."""

from __future__ import annotations

import re
from typing import Any

import griffe

from hf_tripletclip.evaluation.registry import BENCHMARKS, PACKAGE
from hf_tripletclip.utils.registry import class_paths

# "name (`int`, *optional*, defaults to 5): text", and "`int`: text" under Returns.
KIND = r"(?:`[^`]*`|\[`[^`]*`\]|[^()`]|\([^()]*\))*"
ARGUMENT = re.compile(rf"^(?P<name>\s+[*\w, ]+) \((?P<kind>{KIND})\):", re.MULTILINE)
RESULT = re.compile(r"^(?P<space>\s+)`(?P<kind>[^`\n]+)`:", re.MULTILINE)
REFERENCE = re.compile(r"\[`~?(?P<name>[\w.]+)`\](?![(\[])")


class Docstrings(griffe.Extension):
    """
    Turns types and cross references of docstrings into what griffe and mkdocs-autorefs read.

    A name in ``[`Name`]`` is a link if the site has an entry for it, and code if not.
    """

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        documented = _documented(pkg)
        for one in _objects(pkg):
            if one.docstring is not None:
                one.docstring.value = rewritten(one.docstring.value, documented)


def rewritten(text: str, documented: dict[str, str]) -> str:
    """A docstring with plain types and links; `documented` maps names to their places on the site."""

    def argument(match: re.Match[str]) -> str:
        kind = _plain(re.sub(r"(, )?\*optional\*|, defaults to .*|, returned when .*", "", match["kind"]))
        return f"{match['name']} ({kind}):" if kind else f"{match['name']}:"

    def reference(match: re.Match[str]) -> str:
        name = match["name"]
        place = documented.get(name.rpartition(".")[2]) if "transformers." not in name else None
        shown = f"`{name.rpartition('.')[2]}`"
        return f"[{shown}][{place}]" if place else shown

    head, *sections = re.split(r"^(?=\s*(?:Args|Returns|Raises|Yields):\n)", text, flags=re.MULTILINE)
    sections = [RESULT.sub(r"\g<space>\g<kind>:", ARGUMENT.sub(argument, section)) for section in sections]
    return REFERENCE.sub(reference, head + "".join(sections))


def _plain(kind: str) -> str:
    return re.sub(r"`|\*|\[`~?|`\]", "", REFERENCE.sub(lambda match: match["name"].rpartition(".")[2], kind))


def _documented(package: griffe.Module) -> dict[str, str]:
    """The public names of the package and of its rooms, and where the site has them."""
    places = {path.rpartition(".")[2]: path for path in class_paths(BENCHMARKS, PACKAGE).values()}
    for room in (*(one for one in package.modules.values() if not one.is_alias), package):
        for name in room.exports or ():
            if name in room.members:  # `checkpoints.convert` is a function of a module of its name
                place = f"{room.path}.{name}"
                places[str(name)] = f"{place}.{name}" if name in room.modules else place
    return places


def _objects(one: griffe.Object | griffe.Alias) -> Any:
    if one.is_alias:
        return
    yield one
    for member in one.members.values():
        yield from _objects(member)

# SPDX-License-Identifier: Apache-2.0
"""The metadata at the head of a card: read with errors that name it, and changed field by field."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard import REGEX_YAML_BLOCK
from huggingface_hub.utils import yaml_dump

EMPTY = re.compile(r"\s*---[ \t]*\r?\n---[ \t]*(\r?\n|$)")
NAMES = ("base_model", "tags")  # fields that are read here, each a name or a list of names


def parse_card(content: str, where: object) -> ModelCard:
    """
    Read a card.

    Args:
        content (`str`): The whole card.
        where: What an error calls it: its path or its repository.

    Raises:
        ValueError: Its metadata cannot be read.
    """
    try:
        card = ModelCard(content)
    except (ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise ValueError(f"the metadata at the head of {where} cannot be read: {error}") from error
    for field in NAMES:
        value = card.data.get(field)
        if not all(isinstance(one, str) for one in (value if isinstance(value, list) else [value or ""])):
            raise ValueError(f"the metadata at the head of {where} has `{field}: {value}`: give a name, or a list.")
    return card


def fields_of(content: str) -> dict[str, Any]:
    """The metadata of a card that [`parse_card`] has read, as YAML has them."""
    match = REGEX_YAML_BLOCK.search(content)
    return {} if match is None else yaml.safe_load(match.group(2)) or {}


def without_empty_metadata(content: str) -> str:
    """A card without metadata that hold no line, which the Hub's client takes for text."""
    match = EMPTY.match(content)
    return content if match is None else content[match.end() :]


def body_of(content: str) -> str:
    """A card without its metadata."""
    match = REGEX_YAML_BLOCK.search(content)
    return content if match is None else content[match.end() :]


def with_fields(content: str, fields: Mapping[str, Any]) -> str:
    """
    A card with fields of its metadata set, at the end where it lacks them. The rest of it stays byte for byte: YAML
    that is read and written again is another, without comments, with `1.10` as `1.1` and `no` as `false`.

    Args:
        content (`str`): The whole card, with or without metadata.
        fields (`Mapping[str, Any]`): Field -> value.
    """
    if not fields:
        return content
    newline = "\r\n" if "\r\n" in content else "\n"
    match = REGEX_YAML_BLOCK.search(content)
    if match is None:
        return f"---{newline}{_dump(fields, newline)}---{newline}{newline}{content}"
    header = match.group(2) + newline
    known = yaml.safe_load(header) or {}
    changed = _edited(header, fields, newline)
    wanted = {**known, **fields}
    if not _holds(changed, wanted):  # such as one in braces, which takes no further lines
        changed = _dump(wanted, newline)
    return content[: match.start(2)] + changed.removesuffix(newline) + content[match.end(2) :]


def _edited(header: str, fields: Mapping[str, Any], newline: str) -> str:
    parts, position, left = [], 0, dict(fields)
    for name, start, stop in _spans(header):
        if name in fields:
            value = {name: left.pop(name)} if name in left else {}  # once, of a field that is there twice
            parts += [header[position:start], _dump(value, newline)]
            position = stop
    return "".join([*parts, header[position:], _dump(left, newline)])


def _spans(header: str) -> Iterator[tuple[str, int, int]]:
    """The fields, each with where its lines begin and end."""
    root = yaml.compose(header, Loader=yaml.SafeLoader)
    for key, value in root.value if isinstance(root, yaml.MappingNode) else []:
        # An alias has the place of what it stands for.
        end = max(_end(value), key.end_mark.index)
        if header[end - 1] != "\n":
            end = header.find("\n", end) + 1 or len(header)
        yield key.value, key.start_mark.index, end


def _end(node: yaml.Node) -> int:
    """Where a value ends; the mark of a block stands behind the comments that follow it."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return max(map(_end, last)) if isinstance(last, tuple) else _end(last)
    return node.end_mark.index


def _holds(header: str, wanted: Mapping[str, Any]) -> bool:
    try:
        return yaml.safe_load(header) == wanted
    except yaml.YAMLError:
        return False


def _dump(fields: Mapping[str, Any], newline: str) -> str:
    return yaml_dump(dict(fields), sort_keys=False, line_break=newline) if fields else ""

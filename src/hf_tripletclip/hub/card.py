# SPDX-License-Identifier: Apache-2.0
"""A card as it was written, by a person or by this package: its metadata and its text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard import REGEX_YAML_BLOCK
from huggingface_hub.utils import yaml_dump

EMPTY_METADATA = re.compile(r"\s*---[ \t]*\r?\n---[ \t]*(\r?\n|$)")  # which the Hub's client takes for text
NAMES = ("base_model", "tags")  # fields that are read here, each a name or a list of names
# In a card that this package wrote: the parts that are written anew for the repository that the model goes to.
USE = ("<!-- use:begin -->", "<!-- use:end -->")
BASE = ("<!-- base:begin -->", "<!-- base:end -->")
# Cards to be filled in: peft's and transformers' have 39 gaps, that of `Trainer` a comment.
GAP, GAPS = "[More Information Needed]", 38
COMMENT = "<!-- This model card has been generated automatically according to"
BOOLEAN = "tag:yaml.org,2002:bool"


class _Loader(yaml.SafeLoader):
    """`SafeLoader` whose only booleans are `true` and `false`: on the Hub, `language: no` is Norwegian."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if tag != BOOLEAN]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(BOOLEAN, re.compile("true|True|TRUE|false|False|FALSE"), list("tTfF"))


@dataclass(frozen=True)
class Card:
    """
    A card.

    Args:
        content (`str`): The whole card.
        fields (`dict[str, Any]`): Its metadata.
        text (`str`): The card without its metadata.
    """

    content: str
    fields: dict[str, Any] = field(default_factory=dict)
    text: str = ""

    @classmethod
    def read(cls, content: str, where: object) -> Card:
        """
        Read a card.

        Args:
            content (`str`): The whole card.
            where: What an error calls it: its path or its repository.

        Raises:
            ValueError: Its metadata cannot be read.
        """
        content = EMPTY_METADATA.sub("", content, count=1) if EMPTY_METADATA.match(content) else content
        match = REGEX_YAML_BLOCK.search(content)
        try:
            ModelCard(content)  # refuses what the Hub's client cannot use
            fields = {} if match is None else yaml.load(match[2], _Loader) or {}
        except (ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
            raise ValueError(f"the metadata at the head of {where} cannot be read: {error}") from error
        for name in NAMES:
            value = fields.get(name)
            if not all(isinstance(one, str) for one in (value if isinstance(value, list) else [value or ""])):
                raise ValueError(f"the metadata at the head of {where} has `{name}: {value}`: give a name, or a list.")
        return cls(content, fields, content if match is None else content[match.end() :])

    @property
    def is_ours(self) -> bool:
        """Whether this package has written it."""
        return is_ours(self.text)

    @property
    def is_written(self) -> bool:
        """Whether it has a text, of a person or of this package, and not only metadata or a template."""
        return bool(self.text.strip()) and not is_template(self.text)

    def with_fields(self, fields: Mapping[str, Any]) -> Card:
        """The card with fields of its metadata set; its text stays, and all of it if there is nothing to change."""
        changed = {name: value for name, value in fields.items() if self.fields.get(name) != value}
        gap = self.text == self.content  # it had no metadata
        return joined({**self.fields, **changed}, self.text, self.content, gap=gap) if changed else self


def names_in(value: str | list[str] | None) -> list[str]:
    """The names in a field that holds one or a list of them."""
    return [value] if isinstance(value, str) else value or []


def is_ours(text: str) -> bool:
    """Whether this package has written a card."""
    return all(marker in text for marker in USE)


def is_template(text: str) -> bool:
    """Whether a card is a template of peft, transformers or its `Trainer` that nobody has filled in."""
    return not is_ours(text) and (text.count(GAP) >= GAPS or COMMENT in text)


def joined(fields: Mapping[str, Any], text: str, like: str = "", *, gap: bool = False) -> Card:
    """
    A card of metadata and a text.

    Args:
        fields (`Mapping[str, Any]`): The metadata.
        text (`str`): The text.
        like (`str`): A card whose line breaks the metadata get.
        gap (`bool`, defaults to `False`): Whether to put an empty line between metadata and text.
    """
    newline = "\r\n" if "\r\n" in like else "\n"
    text = newline + text if gap else text
    header = yaml_dump(dict(fields), sort_keys=False, line_break=newline)
    return Card(f"---{newline}{header}---{newline}{text}", dict(fields), text)

# SPDX-License-Identifier: Apache-2.0
"""What becomes of a model's card, or of none, when the model goes to a repository that may have one."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from hf_tripletclip.hub.card_folder import base_of_adapter, facts_of_folder, tells_of_a_run
from hf_tripletclip.hub.card_metadata import body_of, fields_of, parse_card, with_fields, without_empty_metadata
from hf_tripletclip.hub.card_use import OPENCLIP, PEFT, TRANSFORMERS, Use, has_markers, kind_of_folder, renamed
from hf_tripletclip.hub.eval_results import TASK
from hf_tripletclip.hub.model_card import MERGE, create_model_card, is_written, relation_to_base
from hf_tripletclip.hub.names import HubId
from hf_tripletclip.utils.files import CARD_FILE, read_text, without_tokens

KEPT = ("license", "language")  # of the metadata of a card whose text is not
KINDS = (TRANSFORMERS, PEFT, OPENCLIP)


class PublishedCard(NamedTuple):
    """
    A card for a repository.

    Args:
        content (`str`, *optional*): The whole card; `None` leaves the one that the repository has.
        of_folder (`bool`): Whether it tells of what the folder holds, and not of what the repository held.
    """

    content: str | None
    of_folder: bool


def card_to_publish(
    folder: str | os.PathLike[str],
    repo_id: str,
    *,
    base_model: str | None = None,
    there: str | None = None,
    use: Use | None = None,
    license: str | None = None,
    tags: Sequence[str] = (),
) -> PublishedCard:
    """
    The card with which a model's folder goes to a repository, the folder's own before the repository's:

    - One that somebody wrote keeps its text, and its metadata get what they lack. The repository's is not touched
      unless a base model, a license or tags are given.
    - One of ours names the repository and the base model's id instead of folders of this machine, and how the model
      is opened is written anew. What the repository's tells of training and of results stays, unless the folder
      tells of such itself.
    - Else one is made from what lies in the folder. A card without a text gives its metadata to it.

    Metadata stay byte for byte but for what is set. The folder stays as it is.

    Args:
        folder (`str` or `os.PathLike`): The model's folder.
        repo_id (`str`): Where it goes.
        base_model (`str`, *optional*): The Hub's id of what it was made from; it goes before that of the metadata.
        there (`str`, *optional*): The card that the repository has.
        use ([`~hf_tripletclip.hub.card_use.Use`], *optional*): What the model is opened by; by default as far as the
            folder says it.
        license (`str`, *optional*): Of the weights; it goes before that of the metadata.
        tags (`Sequence[str]`): Further tags.

    Returns:
        `PublishedCard`, without tokens.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: The metadata of a card, or a result in the folder, cannot be read.
    """
    target = Path(folder)
    if not target.is_dir():
        raise FileNotFoundError(f"there is no model folder {target}")
    own = read_text(target / CARD_FILE) if (target / CARD_FILE).is_file() else None
    base = None if base_model is None else HubId(base_model)
    known = base or base_of_adapter(target)
    use = replace(use or Use(kind_of_folder(target), repo_id), name=HubId(repo_id), base=known)
    own, there = (one if one is None else without_empty_metadata(one) for one in (own, there))
    cards = [(own, target / CARD_FILE), (there, f"the {CARD_FILE} of {repo_id}")]
    fields = [{} if one is None else fields_of_card(one, where) for one, where in cards]
    asked: dict[str, Any] = {"license": license} if license is not None else {}

    if own is not None and _has_text(own):
        content, of_folder = _updated(own, fields[0], use, base), True
    elif there is not None and _has_text(there) and not (has_markers(there) and tells_of_a_run(target)):
        content, of_folder = there, False
        if has_markers(there):
            content = _updated(there, fields[1], use, base)
        elif base is not None:
            content = with_fields(there, _base_fields(fields[1], use, base))
    else:
        content, of_folder = _made(target, use, own, there, fields), True
    if tags:
        asked["tags"] = list(dict.fromkeys([*_names(fields_of(content).get("tags")), *tags]))
    content = without_tokens(with_fields(content, asked))
    # With a card of the folder go the pictures that it shows, whether or not the repository has that card already.
    return PublishedCard(content if of_folder or content != there else None, of_folder)


def fields_of_card(content: str, where: object) -> dict[str, Any]:
    """
    The metadata of a card.

    Raises:
        ValueError: They cannot be read.
    """
    parse_card(content, where)
    return fields_of(content)


def _has_text(content: str) -> bool:
    """Whether there is more than metadata, and no template that nobody has filled in."""
    return bool(body_of(content).strip()) and is_written(content)


def _updated(content: str, fields: Mapping[str, Any], use: Use, base: HubId | None) -> str:
    """A card with the metadata that it lacks; the text too is brought up to date where it is ours."""
    given: dict[str, Any] = {"pipeline_tag": fields.get("pipeline_tag") or TASK, "library_name": _library(fields, use)}
    if base is not None:
        given |= _base_fields(fields, use, base)
    if has_markers(content):
        body = body_of(content)
        content = content.removesuffix(body) + renamed(body, use)
        index = fields.get("model-index")
        if isinstance(index, list) and len(index) == 1:
            given["model-index"] = [{**index[0], "name": use.name.rpartition("/")[2]}]
    return with_fields(content, _changes(fields, given))


def _base_fields(fields: Mapping[str, Any], use: Use, base: HubId) -> dict[str, Any]:
    """The base model in the metadata, its relation to the model, and the library that fits both."""
    names, relation = _names(fields.get("base_model")), fields.get("base_model_relation")
    if relation == MERGE:
        found: str | list[str] = list(dict.fromkeys([str(base), *names]))
    elif base in names:
        found = fields["base_model"]
    else:
        found = str(base)
    if use.kind == PEFT or not relation:
        relation = relation_to_base(use.kind)
    given = {"base_model": found, "base_model_relation": relation, "library_name": _library(fields, use)}
    return _changes(fields, given)


def _library(fields: Mapping[str, Any], use: Use) -> str:
    """The library of the metadata, unless it is another of those whose layouts we know."""
    named, fits = fields.get("library_name"), {use.kind} | ({OPENCLIP} if use.openclip else set())
    return use.kind if not named or (named in KINDS and named not in fits) else named


def _made(target: Path, use: Use, own: str | None, there: str | None, fields: Sequence[Mapping[str, Any]]) -> str:
    """A card from what lies in the folder, and from the metadata of cards without a text."""
    made = create_model_card(name=use.name, base_model=use.base, kind=use.kind, **facts_of_folder(target))
    header, body = made.data.to_dict(), renamed(made.text, use)
    empty = {}
    for content, known in zip((own, there), fields, strict=True):
        if content is not None and not body_of(content).strip():
            empty[content] = known
        elif content is not None:
            # The data of a card of ours is that of another run.
            names = KEPT if has_markers(content) else (*KEPT, "datasets")
            header |= {name: known[name] for name in names if known.get(name) is not None}
    if not empty:
        return with_fields(body.lstrip("\n"), header)
    content, known = list(empty.items())[-1]  # the repository's before the folder's
    lacking = {name: value for name, value in header.items() if known.get(name) is None}
    base = use.base if isinstance(use.base, HubId) else None
    lacking |= {} if base is None else _base_fields(known, use, base)
    lacking["library_name"] = _library(known, use)
    return f"{with_fields(content.rstrip(), _changes(known, lacking)).rstrip()}\n{body}"


def _changes(fields: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if fields.get(name) != value}


def _names(value: str | list[str] | None) -> list[str]:
    return [value] if isinstance(value, str) else value or []

# SPDX-License-Identifier: Apache-2.0
"""Ids of repositories, and what is a path of this machine instead."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

# First parts of relative paths, which look like ids from wherever the path leads nowhere.
FOLDERS = frozenset({"outputs", "output", "data", "datasets", "models", "runs", "checkpoints", "results"})


class HubId(str):
    """The id of a repository that somebody named as such: a folder of the same name does not make it a path."""


def has_id_form(name: str) -> bool:
    """Whether it has the form of an id, `owner/name`: all that can be asked of one that is given as such."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return name.count("/") == 1


def is_repo_id(name: str) -> bool:
    """
    Whether a name of which nobody said what it is, is the id `owner/name` of a repository: no path that exists here,
    and none into a folder such as `outputs` or `data` of wherever it was written down.
    """
    if isinstance(name, HubId):
        return True
    return has_id_form(name) and name.partition("/")[0] not in FOLDERS and not Path(name).exists()


def public_name(name: str) -> str:
    """A repository by its id, a path by its last part: where things lie on this machine is nobody's business."""
    return name if is_repo_id(name) else Path(name).name

# SPDX-License-Identifier: Apache-2.0
"""The model that an adapter adapts: others can open the adapter only where they find that on the Hub."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import NamedTuple

from hf_tripletclip.hub.names import HubId, is_repo_id
from hf_tripletclip.hub.repository import Destination
from hf_tripletclip.layouts.files import ADAPTER_CONFIG, CONFIG_FILE, TEXT_CONFIG
from hf_tripletclip.utils.files import read_json

PUSH_IT = (
    "push its base first (`tripletclip push BASE user/base`), and name that with `base_model` (`--base_model "
    "user/base`)"
)


class AdapterBase(NamedTuple):
    """
    A base on the Hub.

    Args:
        repo_id ([`~hf_tripletclip.hub.names.HubId`]): Its id.
        revision (`str`, *optional*): Of it.
        split (`bool`): Whether it has the layout of the published TripletCLIP checkpoints.
    """

    repo_id: HubId
    revision: str | None
    split: bool


def find_base(folder: Path, base_model: str | None, destination: Destination, *, shown: str) -> AdapterBase:
    """
    The base of an adapter, as the uploaded `adapter_config.json` is to name it.

    Args:
        folder (`Path`): The adapter's.
        base_model (`str`, *optional*): The base's id, where `adapter_config.json` does not say it.
        destination ([`~hf_tripletclip.hub.repository.Destination`]): Where the adapter goes.
        shown (`str`): What an error calls the adapter.

    Raises:
        ValueError: There is no such model on the Hub, or it is no CLIP.
        OSError: The Hub cannot be reached.
    """
    config = read_json(folder / ADAPTER_CONFIG)
    named = config.get("base_model_name_or_path")
    base = base_model or named
    if not base:
        raise ValueError(f"{shown} names no base model: {PUSH_IT}.")
    there = destination.model_at(base) if base_model is not None or is_repo_id(base) else None
    if there is None:
        raise ValueError(f"{shown} is of {base}, which is no model on the Hub that you can see: {PUSH_IT}.")
    # A revision of another model means nothing here.
    revision = config.get("revision") if base == named else None
    if revision is not None:
        there = destination.model_at(base, revision)
    if there is None:
        raise ValueError(
            f"{shown} is of {base} at the revision {revision!r}, which the Hub does not have: push that, or name "
            f"another `revision` in its {ADAPTER_CONFIG}."
        )
    if CONFIG_FILE not in there.files:
        if TEXT_CONFIG in there.files:
            return AdapterBase(HubId(base), revision, split=True)
        raise ValueError(f"{shown} is of {base}, which holds no CLIP: it has no {CONFIG_FILE}.")
    with tempfile.TemporaryDirectory() as downloaded:
        path = destination.download(CONFIG_FILE, Path(downloaded), there.commit, base)
        model_type = read_json(path).get("model_type")
    if model_type != "clip":
        raise ValueError(f"{shown} is of {base}, which is no CLIP: its `model_type` is {model_type!r}.")
    return AdapterBase(HubId(base), revision, split=False)

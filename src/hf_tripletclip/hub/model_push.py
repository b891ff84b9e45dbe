# SPDX-License-Identifier: Apache-2.0
"""Upload of a model, or of an adapter, to the Hub."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import CommitInfo, ModelCard
from transformers import CLIPModel
from transformers.trainer_utils import unwrap_peft_model

from hf_tripletclip.checkpoints.adapters import save_logit_scale
from hf_tripletclip.checkpoints.clip_like import ADAPTER_CONFIG
from hf_tripletclip.checkpoints.loading import no_progress_bars
from hf_tripletclip.hub.card_use import PEFT, has_markers
from hf_tripletclip.hub.eval_results import is_repo_id
from hf_tripletclip.hub.model_card import CARD_FILE, TEMPLATE, card_to_publish
from hf_tripletclip.hub.model_files import CONFIG, OLD_WEIGHTS, check_model, read_json, stage_model
from hf_tripletclip.hub.upload import Destination

if TYPE_CHECKING:
    from peft import PeftModel


def push_model(
    model: str | os.PathLike[str] | CLIPModel | PeftModel,
    repo_id: str,
    *,
    processor: Any = None,
    base_model: str | None = None,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: str | None = None,
    token: str | bool | None = None,
) -> str:
    """
    Upload a model or a PEFT adapter with its card: what opens it, what was measured, and nothing else. Of a training
    run's folder checkpoints, optimizers, logs and pickles stay here; JSON files lose the paths of this machine.

    The card is the folder's own. Where it has none, one is made of what lies in it; but a `README.md` that the
    repository has already is then left as it is, for somebody may have written it.

    Args:
        model (`str`, `os.PathLike`, [`~transformers.CLIPModel`] or `PeftModel`): A folder with a CLIP, also in
            OpenCLIP's layout, or with an adapter; or a model in memory.
        repo_id (`str`): Such as `user/name`; made where it does not exist.
        processor ([`~transformers.CLIPProcessor`], *optional*): Of a model in memory, uploaded beside it; pipelines
            need one. A folder has its own.
        base_model (`str`, *optional*): The Hub's id of what the model was made from, for its card. An adapter needs it
            where its `adapter_config.json` names a directory; the uploaded one then names this.
        private (`bool`, *optional*): Whether a repository that is made is private. An existing one stays as it is.
        revision (`str`, *optional*): The branch to upload to, made where it does not exist; `main` by default.
        create_pr (`bool`, defaults to `False`): Open a pull request against `main`. To continue one, name its
            `revision`, `refs/pr/N`.
        commit_message (`str`, *optional*): A message that says what was uploaded by default.
        token (`str` or `bool`, *optional*): Of the Hub; that of `hf auth login` or `HF_TOKEN` by default.

    Returns:
        `str`: Address of the repository, its branch or the pull request.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It holds no model, or one that is not finished or damaged; the base of an adapter is not on the
            Hub; the repository holds an adapter and this is none, or the other way round; `repo_id` is no id; a
            revision is named for a pull request.
        TypeError: The object is no CLIP model.
        OSError: The Hub cannot be reached or refuses the upload.

    Example:

    ```python
    >>> from hf_tripletclip import push_model

    >>> push_model("outputs/finetune/lora", "user/clip-lora", base_model="user/clip", private=True)
    ```"""
    destination = Destination(repo_id, "model", private, revision, create_pr, token)
    commit = upload_model(
        model, destination, processor=processor, base_model=base_model, commit_message=commit_message
    )
    return destination.address(commit)


def upload_model(
    model: Any,
    destination: Destination,
    *,
    processor: Any = None,
    base_model: str | None = None,
    commit_message: str | None = None,
    commit_description: str | None = None,
    tags: Sequence[str] = (),
    max_shard_size: int | str = "50GB",
) -> CommitInfo:
    """
    [`push_model`] to a destination.

    Args:
        model, processor, base_model, commit_message: As in [`push_model`].
        destination ([`~hf_tripletclip.hub.upload.Destination`]): Where to.
        commit_description (`str`, *optional*): Of the commit.
        tags (`Sequence[str]`): For the metadata of the card, also of one that the repository has.
        max_shard_size (`int` or `str`, defaults to `"50GB"`): Of a file of weights, for a model in memory.
    """
    if base_model is not None and not is_repo_id(base_model):
        raise ValueError(f"`base_model` is {base_model!r}: give the id of a repository of the Hub, such as user/base.")
    if isinstance(model, (str, os.PathLike)):
        if processor is not None:
            raise ValueError("A folder holds its processor: leave `processor` out.")
        return _upload_folder(Path(model), destination, base_model, commit_message, commit_description, tags)
    if not isinstance(unwrap_peft_model(model), CLIPModel):
        raise TypeError(f"Only a CLIPModel, or a PeftModel of one, can be pushed, not a {type(model).__name__}.")
    with tempfile.TemporaryDirectory() as saved:
        folder = _save(model, processor, Path(saved), max_shard_size)
        return _upload_folder(folder, destination, base_model, commit_message, commit_description, tags)


def _save(model: Any, processor: Any, saved: Path, max_shard_size: int | str) -> Path:
    """The folder of a model that was in memory."""
    folder = saved
    with no_progress_bars():
        if isinstance(model, CLIPModel):
            model.save_pretrained(saved, max_shard_size=max_shard_size)
        else:
            name = model.active_adapter
            model.save_pretrained(saved, selected_adapters=[name])
            folder = saved if name == "default" else saved / name
            save_logit_scale(model, folder)
            (folder / CARD_FILE).unlink(missing_ok=True)  # peft's, with nothing filled in
        if processor is not None:
            processor.save_pretrained(folder)
    return folder


def _upload_folder(
    folder: Path,
    destination: Destination,
    base_model: str | None,
    message: str | None,
    description: str | None,
    tags: Sequence[str],
) -> CommitInfo:
    kind = check_model(folder)
    adapter = _adapter_config(folder, base_model, destination) if kind == PEFT else {}
    destination.prepare()
    there = destination.files()
    _check_same_kind(kind, there, destination)
    with tempfile.TemporaryDirectory() as work:
        staged, downloaded = Path(work) / "staged", Path(work) / "downloaded"
        staged.mkdir()
        base = adapter.get("base_model_name_or_path", base_model)
        card = _card(folder, destination, there, base, tags, downloaded)
        stage_model(folder, kind, staged, card, adapter)
        return destination.send(
            staged,
            message or f"Upload {'PEFT adapter' if kind == PEFT else 'CLIP model'} with hf_tripletclip",
            description=description,
            delete_patterns=() if kind == PEFT else OLD_WEIGHTS,
        )


def _adapter_config(folder: Path, base_model: str | None, destination: Destination) -> dict[str, Any]:
    """`adapter_config.json` as it is uploaded: with a base that others find."""
    config = read_json(folder / ADAPTER_CONFIG)
    named = config.get("base_model_name_or_path")
    base = base_model or named
    if not base or not is_repo_id(base) or not destination.has_model(base):
        what = "names no base model" if not base else f"is of {base}, which is no model on the Hub that you can see"
        raise ValueError(
            f"The adapter in {folder} {what}: push its base first (`tripletclip push BASE user/base`), and name that "
            "with `base_model` (`--base_model user/base`)."
        )
    if base != named:  # a commit of the old name means nothing there
        config |= {"base_model_name_or_path": base, "revision": None}
    return config


def _check_same_kind(kind: str, there: set[str], destination: Destination) -> None:
    """Where both lie side by side, loaders take one or the other."""
    other = CONFIG if kind == PEFT else ADAPTER_CONFIG
    if other in there:
        held, given = ("a model", "an adapter") if kind == PEFT else ("an adapter", "a model")
        raise ValueError(
            f"{destination.repo_id} holds {held} already ({other}), and this is {given}: name another repository, or "
            "another `revision` (`--revision`)."
        )


def _card(
    folder: Path,
    destination: Destination,
    there: set[str],
    base_model: str | None,
    tags: Sequence[str],
    downloaded: Path,
) -> ModelCard | None:
    """The card to upload; `None` where the repository's stays."""
    if CARD_FILE not in there or _has_card(folder):
        card = card_to_publish(folder, destination.repo_id, base_model=base_model)
    elif tags:
        card = ModelCard.load(destination.download(CARD_FILE, downloaded))
    else:
        return None
    if tags:
        data: Any = card.data
        data.tags = list(dict.fromkeys([*(data.tags or []), *tags]))
    return card


def _has_card(folder: Path) -> bool:
    """Whether the folder has a card, and no template that nobody has filled in."""
    path = folder / CARD_FILE
    if not path.is_file():
        return False
    text = path.read_text(encoding="utf-8")
    return has_markers(text) or not TEMPLATE.search(text)

# SPDX-License-Identifier: Apache-2.0
"""Upload of a model, or of an adapter, to the Hub."""

from __future__ import annotations

import glob
import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import CommitInfo
from transformers import CLIPModel
from transformers.trainer_utils import unwrap_peft_model

from hf_tripletclip.hub.adapter_base import AdapterBase, find_base
from hf_tripletclip.hub.card_publish import card_to_publish
from hf_tripletclip.hub.card_use import OPENCLIP, PEFT, TRANSFORMERS, Use, has_markers
from hf_tripletclip.hub.model_files import (
    CONFIG,
    EVALUATIONS,
    WEIGHTS_OF,
    check_model,
    kinds_in,
    stage_model,
    stale_records,
)
from hf_tripletclip.hub.names import HubId, has_id_form
from hf_tripletclip.hub.repository import Destination, Snapshot
from hf_tripletclip.layouts.adapters import save_logit_scale
from hf_tripletclip.layouts.files import (
    ADAPTER_CONFIG,
    LOGIT_SCALE_FILE,
    OPENCLIP_CONFIG,
    PROCESSOR_FILES,
    TOKENIZER_FILES,
)
from hf_tripletclip.layouts.processor import check_processor, check_processor_beside
from hf_tripletclip.results.result import EvaluationResult
from hf_tripletclip.utils.devices import no_progress_bars
from hf_tripletclip.utils.files import CARD_FILE, read_json, read_text

if TYPE_CHECKING:
    from peft import PeftModel


def push_model(
    model: str | os.PathLike[str] | CLIPModel | PeftModel,
    repo_id: str,
    *,
    processor: Any = None,
    base_model: str | None = None,
    license: str | None = None,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: str | None = None,
    token: str | bool | None = None,
) -> str:
    """
    Upload a model or a PEFT adapter with its card: what opens it, what was measured, and nothing else. Of a training
    run's folder checkpoints, optimizers, logs and pickles stay here; JSON files lose the paths of this machine.

    The card is the folder's own. Where it has none, that of the repository stays if somebody wrote it, and is brought
    up to date if it is one of ours; else one is made of what lies in the folder.

    Weights of an older upload of the same kind go, also pickles (`pytorch_model.bin`); a model of transformers and one
    of OpenCLIP may lie side by side. With a new card go the results that an older upload has left, such as
    `evaluation_*.json`. All other files of the repository stay.

    Args:
        model (`str`, `os.PathLike`, [`~transformers.CLIPModel`] or `PeftModel`): A folder with a CLIP, also in
            OpenCLIP's layout, or with an adapter; or a model in memory.
        repo_id (`str`): Such as `user/name`; made where it does not exist.
        processor ([`~transformers.CLIPProcessor`], *optional*): Of a model in memory, uploaded beside it; pipelines
            need one. A folder has its own.
        base_model (`str`, *optional*): The Hub's id of what the model was made from, for its card. An adapter needs it
            where its `adapter_config.json` names a directory; the uploaded one then names this.
        license (`str`, *optional*): Of the weights, an identifier of the Hub for the card.
        private (`bool`, *optional*): Whether a repository that is made is private. An existing one stays as it is,
            with a warning where it is public.
        revision (`str`, *optional*): The branch to upload to, made where it does not exist; `main` by default.
        create_pr (`bool`, defaults to `False`): Open a pull request against `main`. To continue one, name its
            `revision`, `refs/pr/N`.
        commit_message (`str`, *optional*): A message that says what was uploaded by default.
        token (`str` or `bool`, *optional*): Of the Hub; that of `hf auth login` or `HF_TOKEN` by default.

    Returns:
        `str`: Address of the repository, its branch or the pull request.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It holds no model, or one that is not finished or damaged; the processor does not fit the model,
            see [`~hf_tripletclip.layouts.processor.check_processor`]; the base of an adapter is not on the Hub;
            the repository holds an adapter and this is none, or the other way round; `repo_id` is no id; a revision
            is named for a pull request.
        TypeError: The object is no CLIP model.
        OSError: The Hub cannot be reached or refuses the upload.

    Example:

    ```python
    >>> from hf_tripletclip import push_model

    >>> push_model("outputs/finetuned/lora", "user/clip-lora", base_model="user/clip", private=True)
    ```"""
    destination = Destination(repo_id, "model", private, revision, create_pr, token)
    commit = upload_model(
        model,
        destination,
        processor=processor,
        base_model=base_model,
        license=license,
        commit_message=commit_message,
    )
    return destination.address(commit)


def upload_model(
    model: Any,
    destination: Destination,
    *,
    processor: Any = None,
    base_model: str | None = None,
    license: str | None = None,
    commit_message: str | None = None,
    commit_description: str | None = None,
    tags: Sequence[str] = (),
    max_shard_size: int | str = "50GB",
) -> CommitInfo:
    """
    [`push_model`] to a destination.

    Args:
        model, processor, base_model, license, commit_message: As in [`push_model`].
        destination ([`~hf_tripletclip.hub.repository.Destination`]): Where to.
        commit_description (`str`, *optional*): Of the commit.
        tags (`Sequence[str]`): For the metadata of the card, also of one that the repository has.
        max_shard_size (`int` or `str`, defaults to `"50GB"`): Of a file of weights, for a model in memory.
    """
    if base_model is not None and not has_id_form(base_model):
        raise ValueError(f"`base_model` is {base_model!r}: give the id of a repository of the Hub, such as user/base.")
    about = (None if base_model is None else HubId(base_model), license, commit_message, commit_description, tags)
    if isinstance(model, (str, os.PathLike)):
        if processor is not None:
            raise ValueError("A folder holds its processor: leave `processor` out.")
        return _upload_folder(Path(model), destination, *about)
    if not isinstance(unwrap_peft_model(model), CLIPModel):
        raise TypeError(f"Only a CLIPModel, or a PeftModel of one, can be pushed, not a {type(model).__name__}.")
    if processor is not None:
        check_processor(model, processor)
    with tempfile.TemporaryDirectory() as saved:
        folder = _save(model, processor, Path(saved), max_shard_size)
        return _upload_folder(folder, destination, *about, shown="The adapter")


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
    license: str | None,
    message: str | None,
    description: str | None,
    tags: Sequence[str],
    *,
    shown: str | None = None,
) -> CommitInfo:
    kind = check_model(folder)
    if kind == TRANSFORMERS and all(
        any((folder / name).is_file() for name in names) for names in (PROCESSOR_FILES, TOKENIZER_FILES)
    ):
        check_processor_beside(folder)
    base = None
    if kind == PEFT:
        base = find_base(folder, base_model, destination, shown=shown or f"The adapter in {folder}")
    there = destination.look()
    _check_same_kind(kind, there.files, destination)
    with tempfile.TemporaryDirectory() as work:
        staged, downloaded = Path(work) / "staged", Path(work) / "downloaded"
        staged.mkdir()
        text = None
        if CARD_FILE in there.files:
            path = destination.download(CARD_FILE, downloaded, there.commit)
            text = read_text(path, f"the {CARD_FILE} of {destination.repo_id}")
        card = card_to_publish(
            folder,
            destination.repo_id,
            base_model=base_model if base is None else base.repo_id,
            there=text,
            use=_use(folder, kind, there.files, base),
            license=license,
            tags=tags,
        )
        stage_model(folder, kind, staged, card.content, _adapter_config(folder, base))
        old = [name for one in kinds_in(folder, kind) for name in WEIGHTS_OF[one]]
        if card.of_folder:
            ours = text is not None and has_markers(text)
            old += map(glob.escape, _stale_records(destination, there, staged, downloaded, ours))
        # Nothing is made on the Hub before all of it could be read here.
        destination.prepare()
        return destination.send(
            staged,
            message or f"Upload {'PEFT adapter' if kind == PEFT else 'CLIP model'} with hf_tripletclip",
            description=description,
            delete_patterns=old,
        )


def _adapter_config(folder: Path, base: AdapterBase | None) -> dict[str, Any]:
    """`adapter_config.json` as it is uploaded: with a base that others find."""
    if base is None:
        return {}
    named = {"base_model_name_or_path": str(base.repo_id), "revision": base.revision}
    return read_json(folder / ADAPTER_CONFIG) | named


def _use(folder: Path, kind: str, there: frozenset[str], base: AdapterBase | None) -> Use:
    """What opens the model once it is there, beside what was there before."""
    kinds = set(kinds_in(folder, kind))
    if kind != PEFT:
        kinds |= {one for one, name in ((TRANSFORMERS, CONFIG), (OPENCLIP, OPENCLIP_CONFIG)) if name in there}
    use = Use(TRANSFORMERS if TRANSFORMERS in kinds else kind, "", openclip=OPENCLIP in kinds)
    if base is None:
        return use
    return replace(
        use,
        revision=base.revision,
        split=base.split,
        scale=(folder / LOGIT_SCALE_FILE).is_file(),
        processor=any(name in there or (folder / name).is_file() for name in PROCESSOR_FILES),
    )


def _stale_records(destination: Destination, there: Snapshot, staged: Path, downloaded: Path, ours: bool) -> list[str]:
    """What an older upload of ours left of its results; `ours` tells whether the card there is one of ours."""
    found = []
    for name in stale_records(there.files, staged):
        if fnmatch(name, EVALUATIONS):  # others name files so, too
            try:
                EvaluationResult.load_json(destination.download(name, downloaded, there.commit))
            except ValueError:
                continue
            found.append(name)
        elif ours:
            found.append(name)
    return found


def _check_same_kind(kind: str, there: frozenset[str], destination: Destination) -> None:
    """Where both lie side by side, loaders take one or the other."""
    others = (CONFIG, OPENCLIP_CONFIG) if kind == PEFT else (ADAPTER_CONFIG,)
    other = next((name for name in others if name in there), None)
    if other is not None:
        held, given = ("a model", "an adapter") if kind == PEFT else ("an adapter", "a model")
        raise ValueError(
            f"{destination.repo_id} holds {held} already ({other}), and this is {given}: name another repository."
        )

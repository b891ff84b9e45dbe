# SPDX-License-Identifier: Apache-2.0
"""Upload of a model, or of an adapter, to the Hub."""

from __future__ import annotations

import glob
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from huggingface_hub import CommitInfo
from transformers import PreTrainedModel
from transformers.trainer_utils import unwrap_peft_model

from hf_tripletclip.hub.card import Card, joined, names_in
from hf_tripletclip.hub.eval_results import TASK
from hf_tripletclip.hub.model_card import MERGE, Use, create_model_card, of_config, relation_to_base, up_to_date
from hf_tripletclip.hub.model_folder import EVALUATIONS, WEIGHTS_OF, ModelFolder, is_record
from hf_tripletclip.hub.repository import Destination, HubId, Snapshot, has_id_form, is_repo_id
from hf_tripletclip.layouts.adapters import save_logit_scale
from hf_tripletclip.layouts.architectures import ARCHITECTURES, architecture_of, supported
from hf_tripletclip.layouts.configs import read_config
from hf_tripletclip.layouts.files import (
    ADAPTER_CONFIG,
    CONFIG_FILE,
    LOGIT_SCALE_FILE,
    OPENCLIP_CONFIG,
    PROCESSOR_FILES,
    Layout,
    layout_of,
)
from hf_tripletclip.layouts.processor import check_processor
from hf_tripletclip.results.result import EvaluationResult
from hf_tripletclip.utils.devices import no_progress_bars
from hf_tripletclip.utils.files import CARD_FILE, read_json_object, read_text, without_tokens

if TYPE_CHECKING:
    from peft import PeftModel

PUSH_IT = (
    "push its base first (`tripletclip push BASE user/base`), and name that with `base_model` (`--base_model "
    "user/base`)"
)


def push_model(
    model: str | os.PathLike[str] | PreTrainedModel | PeftModel,
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
    Upload a model or a PEFT adapter with its card, what opens it and what was measured, and nothing else: checkpoints,
    optimizers, logs and pickles in a run's folder are not uploaded. JSON files lose the paths of this machine.

    The card is the folder's, or else the repository's. A person's card keeps its text, one that this package wrote is
    brought up to date, and if there is none, one is made from what lies in the folder.

    Weights of an older upload in the same layout are deleted, also pickles (`pytorch_model.bin`); a model of
    transformers and one of OpenCLIP may lie side by side. With a card of the folder, the results that an older upload
    left, such as `evaluation_*.json`, are deleted. All other files of the repository stay.

    Args:
        model (`str`, `os.PathLike`, [`~transformers.CLIPModel`] or `PeftModel`): A folder with a CLIP, also in
            OpenCLIP's layout, or with an adapter; or a model in memory. A SigLIP, or what else [`AutoTripletModel`]
            loads, is pushed alike.
        repo_id (`str`): The repository, such as `user/name`; it is made if it does not exist.
        processor ([`~transformers.CLIPProcessor`], *optional*): The processor of a model in memory, which pipelines
            need. A folder has its own.
        base_model (`str`, *optional*): The Hub's id of the model that it was made from, for the card. An adapter needs
            it if its `adapter_config.json` names a directory; the uploaded one then names this id.
        license (`str`, *optional*): The license of the weights for the card, an identifier of the Hub.
        private (`bool`, *optional*): Whether a new repository is private. An existing one stays as it is, with a
            warning if it is public.
        revision (`str`, *optional*): The branch to upload to, made if it does not exist; `main` by default.
        create_pr (`bool`, defaults to `False`): Open a pull request against `main`. To continue one, name its
            `revision`, `refs/pr/N`.
        commit_message (`str`, *optional*): The message of the commit; by default it says what was uploaded.
        token (`str` or `bool`, *optional*): The token for the Hub; that of `hf auth login` or `HF_TOKEN` by default.

    Returns:
        `str`: The address of the repository, its branch or the pull request.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It holds no model, or one that is not finished or damaged; the processor does not fit the model,
            see [`~hf_tripletclip.layouts.processor.check_processor`]; the base of an adapter is not on the Hub;
            the repository holds an adapter and this is none, or the other way round; `repo_id` is no id; a revision
            is named for a pull request.
        TypeError: The object is no dual encoder.
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
    Upload a model or an adapter to a destination, as [`push_model`] does.

    Args:
        model, processor, base_model, license, commit_message: As in [`push_model`].
        destination ([`~hf_tripletclip.hub.repository.Destination`]): The repository, branch or pull request.
        commit_description (`str`, *optional*): The description of the commit.
        tags (`Sequence[str]`): Tags for the metadata of the card, also of one that the repository has.
        max_shard_size (`int` or `str`, defaults to `"50GB"`): The size of a weights file, of a model in memory.
    """
    if base_model is not None and not has_id_form(base_model):
        raise ValueError(f"`base_model` is {base_model!r}: give the id of a repository of the Hub, such as user/base.")
    in_memory = not isinstance(model, (str, os.PathLike))
    if not in_memory and processor is not None:
        raise ValueError("A folder holds its processor: leave `processor` out.")
    if in_memory and not _is_dual_encoder(unwrap_peft_model(model)):
        raise TypeError(
            f"Only a CLIPModel or another dual encoder (of the types {supported()}), or a PeftModel of one, can be "
            f"pushed, not a {type(model).__name__}."
        )
    if processor is not None:
        check_processor(model, processor)

    with tempfile.TemporaryDirectory() as work:
        saved, staged, downloaded = (Path(work) / name for name in ("saved", "staged", "downloaded"))
        folder = ModelFolder.read(_save(model, processor, saved, max_shard_size) if in_memory else model)
        folder.check_processor()
        base = None
        if folder.layout is Layout.PEFT:
            shown = "The adapter" if in_memory else f"The adapter in {folder.path}"
            base = find_base(folder, base_model, destination, shown=shown)
        there = destination.look()
        _check_same_kind(folder.layout, there.files, destination)
        old_card = None
        if CARD_FILE in there.files:
            shown = f"the {CARD_FILE} of {destination.repo_id}"
            old_card = Card.read(read_text(destination.download(CARD_FILE, downloaded, there.commit), shown), shown)
        use = _use(folder, destination.repo_id, there.files, base)
        card = card_to_publish(
            folder,
            use,
            base_model=base_model if base is None else base.repo_id,
            there=old_card,
            license=license,
            tags=tags,
        )
        staged.mkdir()
        folder.stage(staged, card.content, _adapter_config(folder, base))
        outdated = [name for layout in folder.weights for name in WEIGHTS_OF[layout]]
        if card.of_folder:
            ours = old_card is not None and old_card.is_ours
            outdated += map(glob.escape, _outdated_records(destination, there, staged, downloaded, ours))
        # Nothing is made on the Hub before all of it could be read here.
        destination.prepare()
        what = "PEFT adapter" if folder.layout is Layout.PEFT else f"{use.architecture.family} model"
        return destination.send(
            staged,
            commit_message or f"Upload {what} with hf_tripletclip",
            description=commit_description,
            delete_patterns=outdated,
        )


def _is_dual_encoder(model: Any) -> bool:
    return isinstance(model, PreTrainedModel) and architecture_of(model.config) is not None


def _save(model: Any, processor: Any, saved: Path, max_shard_size: int | str) -> Path:
    """Save a model that was in memory; returns its folder."""
    folder = saved
    with no_progress_bars():
        if unwrap_peft_model(model) is model:
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


class AdapterBase(NamedTuple):
    """
    The model on the Hub that an adapter adapts.

    Args:
        repo_id ([`~hf_tripletclip.hub.repository.HubId`]): Its id.
        revision (`str`, *optional*): Its revision.
        published_layout (`bool`): Whether it has the layout of the published TripletCLIP checkpoints.
        config ([`~transformers.PreTrainedConfig`], *optional*): Its config, unless it has that layout.
    """

    repo_id: HubId
    revision: str | None
    published_layout: bool
    config: Any = None


def find_base(folder: ModelFolder, base_model: str | None, destination: Destination, *, shown: str) -> AdapterBase:
    """
    The base of an adapter, as the uploaded `adapter_config.json` is to name it: others can open the adapter only if
    they find its base on the Hub.

    Args:
        folder ([`~hf_tripletclip.hub.model_folder.ModelFolder`]): The adapter's folder.
        base_model (`str`, *optional*): The base's id, if `adapter_config.json` does not say it.
        destination ([`~hf_tripletclip.hub.repository.Destination`]): The repository that the adapter goes to.
        shown (`str`): What an error calls the adapter.

    Raises:
        ValueError: There is no such model on the Hub, or it is no CLIP.
        OSError: The Hub cannot be reached.
    """
    named = folder.config.get("base_model_name_or_path")
    base = base_model or named
    if not base:
        raise ValueError(f"{shown} names no base model: {PUSH_IT}.")
    there = destination.model_at(base) if base_model is not None or is_repo_id(base) else None
    if there is None:
        raise ValueError(f"{shown} is of {base}, which is no model on the Hub that you can see: {PUSH_IT}.")
    # A revision of another model means nothing here.
    revision = folder.config.get("revision") if base == named else None
    if revision is not None:
        there = destination.model_at(base, revision)
    if there is None:
        raise ValueError(
            f"{shown} is of {base} at the revision {revision!r}, which the Hub does not have: push that, or name "
            f"another `revision` in its {ADAPTER_CONFIG}."
        )
    if CONFIG_FILE not in there.files:
        if layout_of(there.files.__contains__) is Layout.PUBLISHED:
            return AdapterBase(HubId(base), revision, published_layout=True)
        raise ValueError(f"{shown} is of {base}, which holds no CLIP: it has no {CONFIG_FILE}.")
    with tempfile.TemporaryDirectory() as downloaded:
        path = destination.download(CONFIG_FILE, Path(downloaded), there.commit, base)
        found = read_json_object(path)
        kind = found.get("model_type")
        if kind not in ARCHITECTURES:
            raise ValueError(
                f"{shown} is of {base}, which is no CLIP: its `model_type` is {kind!r}, and the types that can be "
                f"pushed are {supported()}."
            )
        # Of a CLIP, nothing in it is needed.
        config = found if kind == "clip" else read_config(Path(path).parent)
    return AdapterBase(HubId(base), revision, published_layout=False, config=config)


def _adapter_config(folder: ModelFolder, base: AdapterBase | None) -> dict[str, Any]:
    """The content of `adapter_config.json` as it is uploaded: with a base that others find."""
    if base is None:
        return {}
    return folder.config | {"base_model_name_or_path": str(base.repo_id), "revision": base.revision}


def _use(folder: ModelFolder, repo_id: str, there: frozenset[str], base: AdapterBase | None) -> Use:
    """How the model is opened once it is uploaded, beside what the repository holds already."""
    if base is not None:
        return Use(
            folder.layout,
            HubId(repo_id),
            base.repo_id,
            revision=base.revision,
            published_base=base.published_layout,
            scale=folder.has(LOGIT_SCALE_FILE),
            processor=folder.has_processor or any(name in there for name in PROCESSOR_FILES),
            **of_config(base.config),
        )
    layouts = {*folder.weights}
    layouts |= {
        layout
        for layout, name in ((Layout.TRANSFORMERS, CONFIG_FILE), (Layout.OPENCLIP, OPENCLIP_CONFIG))
        if name in there
    }
    kind = Layout.TRANSFORMERS if Layout.TRANSFORMERS in layouts else folder.layout
    of_model = of_config(folder.model_config) if folder.layout is Layout.TRANSFORMERS else {}
    return Use(kind, HubId(repo_id), openclip=Layout.OPENCLIP in layouts, **of_model)


def _check_same_kind(layout: Layout, there: frozenset[str], destination: Destination) -> None:
    """Check that a repository holds no adapter beside a model: loaders take one or the other."""
    is_adapter = layout is Layout.PEFT
    others = (CONFIG_FILE, OPENCLIP_CONFIG) if is_adapter else (ADAPTER_CONFIG,)
    other = next((name for name in others if name in there), None)
    if other is not None:
        held, given = ("a model", "an adapter") if is_adapter else ("an adapter", "a model")
        raise ValueError(
            f"{destination.repo_id} holds {held} already ({other}), and this is {given}: name another repository."
        )


def _outdated_records(
    destination: Destination, there: Snapshot, staged: Path, downloaded: Path, ours: bool
) -> list[str]:
    """The results that an older upload left and this one does not write; `ours` says whether the card was ours."""
    found = []
    for name in sorted(there.files):
        if not is_record(name) or (staged / name).exists():
            continue
        if fnmatch(name, EVALUATIONS):  # others name files so, too
            try:
                EvaluationResult.load_json(destination.download(name, downloaded, there.commit))
            except ValueError:
                continue
            found.append(name)
        elif ours:
            found.append(name)
    return found


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
    folder: ModelFolder,
    use: Use,
    *,
    base_model: str | None = None,
    there: Card | None = None,
    license: str | None = None,
    tags: Sequence[str] = (),
) -> PublishedCard:
    """
    The card with which a model goes to a repository: that of the folder, or else that of the repository. A template
    that nobody has filled in does not count, nor does a card that this package wrote for an earlier run.

    - A person's card keeps its text. That of a folder gets the metadata that it lacks; that of the repository gets
      only what is given here.
    - A card that this package wrote is brought up to date: metadata, name, base model, and how the model is opened.
    - If there is none, one is made from what lies in the folder, with the metadata that a card without text has.

    Args:
        folder ([`~hf_tripletclip.hub.model_folder.ModelFolder`]): The model's folder; it stays as it is.
        use ([`~hf_tripletclip.hub.model_card.Use`]): How the model is opened in the repository.
        base_model (`str`, *optional*): The id of the model that it was made from. It goes before what a card names.
        there ([`~hf_tripletclip.hub.card.Card`], *optional*): The card in the repository.
        license (`str`, *optional*): The license for the metadata.
        tags (`Sequence[str]`): Further tags for the metadata.

    Returns:
        `PublishedCard`, without tokens.

    Raises:
        ValueError: The metadata of the folder's card, or a result in the folder, cannot be read.
    """
    own, base = folder.card, None if base_model is None else HubId(base_model)
    use = replace(use, base=base or folder.config.get("base_model_name_or_path") or None)
    if own is not None and own.is_written:
        card, of_folder = _completed(own, use, base), True
    elif there is not None and there.is_written and not (there.is_ours and folder.tells_of_a_run):
        card, of_folder = there, False
        if there.is_ours:
            card = _completed(there, use, base)
        elif base is not None:
            card = there.with_fields(_base_fields(there, use, base))
    else:
        made = create_model_card(name=use.name, use=use, **folder.facts())
        card, of_folder = _with_metadata_of(made.data.to_dict(), made.text, own, there, use, base), True
    asked: dict[str, Any] = {} if license is None else {"license": license}
    if tags:
        asked["tags"] = list(dict.fromkeys([*names_in(card.fields.get("tags")), *tags]))
    content = without_tokens(card.with_fields(asked).content)
    # With a card of the folder go the pictures that it shows, whether or not the repository has that card already.
    return PublishedCard(content if of_folder or there is None or content != there.content else None, of_folder)


def _completed(card: Card, use: Use, base: HubId | None) -> Card:
    """A card with the metadata that it lacks; the text too is brought up to date if it is ours."""
    fields = {"pipeline_tag": card.fields.get("pipeline_tag") or TASK, "library_name": _library(card.fields, use)}
    if base is not None:
        fields |= _base_fields(card, use, base)
    if not card.is_ours:
        return card.with_fields(fields)
    index = card.fields.get("model-index")
    if isinstance(index, list) and len(index) == 1:
        fields["model-index"] = [{**index[0], "name": use.name.rpartition("/")[2]}]
    return joined({**card.fields, **fields}, up_to_date(card, use), card.content)


def _base_fields(card: Card, use: Use, base: HubId) -> dict[str, Any]:
    """The base model in the metadata, its relation to the model, and the library that fits both."""
    names, relation = names_in(card.fields.get("base_model")), card.fields.get("base_model_relation")
    found: Any = str(base)
    if relation == MERGE:
        found = list(dict.fromkeys([str(base), *names]))
    elif base in names:
        found = card.fields["base_model"]
    if use.kind == Layout.PEFT or not relation:
        relation = relation_to_base(use.kind)
    return {"base_model": found, "base_model_relation": relation, "library_name": _library(card.fields, use)}


def _library(fields: Mapping[str, Any], use: Use) -> str:
    """The library of the metadata, unless it names another of the layouts that we know."""
    named, fits = fields.get("library_name"), {use.kind} | ({Layout.OPENCLIP} if use.openclip else set())
    return str(use.kind) if not named or (named in set(WEIGHTS_OF) - fits) else named


def _with_metadata_of(
    fields: dict[str, Any], text: str, own: Card | None, there: Card | None, use: Use, base: HubId | None
) -> Card:
    """A card that was just made, with the metadata of the cards that it takes the place of."""
    # Of a card with a text only this is kept, and the data unless it is ours: that is the data of another run.
    for card in filter(None, (own, there)):
        if card.text.strip():
            kept = ("license", "language") if card.is_ours else ("license", "language", "datasets")
            fields |= {name: card.fields[name] for name in kept if card.fields.get(name) is not None}
    # A card of metadata alone, such as one that was made on the website, keeps all of them.
    for card in filter(None, (own, there)):
        if not card.text.strip():
            known = {name: value for name, value in card.fields.items() if value is not None}
            lacking = {name: value for name, value in fields.items() if name not in known}
            lacking |= {} if base is None else _base_fields(card, use, base)
            fields = {**known, **lacking, "library_name": _library(known, use)}
    return joined(fields, text)

# SPDX-License-Identifier: Apache-2.0
"""The model card of a trained model, and what becomes of it when the model is published."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, EvalResultEntry, ModelCard, ModelCardData

from hf_tripletclip.evaluation.result import EvaluationResult
from hf_tripletclip.hub.card_equation import describe_objective
from hf_tripletclip.hub.card_folder import EVALUATION_PLOT, LOSS_PLOT, base_of_adapter, facts_of_folder
from hf_tripletclip.hub.card_sections import (
    CITATION,
    WISE_FT_CITATION,
    Retention,
    citation_section,
    evaluation_section,
    limits_section,
    retention_section,
    training_section,
)
from hf_tripletclip.hub.card_use import (
    PEFT,
    TRANSFORMERS,
    has_markers,
    kind_of_folder,
    renamed,
    shown_base,
    use_section,
)
from hf_tripletclip.hub.eval_results import TASK, is_repo_id, load_card, model_index, public_name, same_result
from hf_tripletclip.objectives import Objective

CARD_FILE = "README.md"
TOKEN = re.compile(r"\b(hf|api_org)_[A-Za-z0-9]{20,}")  # as the Hub makes them
GAP = r"\[More Information Needed\]"
# A card that peft or transformers left to fill in, which has 39 gaps, or one that `Trainer` asks to complete.
TEMPLATE = re.compile(
    rf"({GAP}((?!{GAP}).)*){{38}}|<!-- This model card has been generated automatically according to", re.DOTALL
)
MERGE = "merge"


def create_model_card(
    *,
    name: str,
    dataset: str | None = None,
    objective: Objective | None = None,
    towers: str | None = None,
    hyperparameters: Mapping[str, Any] | None = None,
    hardware: Mapping[str, str] | None = None,
    before: EvaluationResult | None = None,
    after: EvaluationResult | None = None,
    further: Sequence[EvaluationResult] = (),
    entries: Sequence[EvalResultEntry] = (),
    validation: tuple[int, Mapping[str, float]] | None = None,
    retention: Retention | None = None,
    bound: str | None = None,
    base_model: str | None = None,
    tuned_model: str | None = None,
    merged: bool = False,
    kind: str = TRANSFORMERS,
    config: Any = None,
    plots: Sequence[str] = (),
    license: str | None = None,
) -> ModelCard:
    """
    Write a model's card. Only what is given here gets into it, without tokens and without paths of this machine:
    hyperparameters that are named like a secret are left out, what looks like a token of the Hub is blanked wherever
    it stands, and directories are named by their last part.

    Args:
        name (`str`): Name of the model's folder, or the id of its repository.
        dataset (`str`, *optional*): What it was trained on: a Hub id or another name.
        objective ([`~hf_tripletclip.objectives.Objective`], *optional*): What it was trained with.
        towers (`str`, *optional*): What of it was trained.
        hyperparameters (`Mapping[str, Any]`, *optional*): Name -> value; those that are `None` are left out.
        hardware (`Mapping[str, str]`, *optional*): What it was trained on and how long: name -> value.
        before, after ([`EvaluationResult`], *optional*): The evaluation before and after training.
        further (`Sequence[EvaluationResult]`): Of other benchmarks.
        entries (`Sequence[EvalResultEntry]`): Results that lie in `.eval_results`.
        validation (`tuple[int, Mapping[str, float]]`, *optional*): Step and metrics of the trainer's last evaluation.
        retention ([`~hf_tripletclip.hub.card_sections.Retention`], *optional*): What it lost of what its base knew.
        bound (`str`, *optional*): A sentence on the bound on that loss in training.
        base_model (`str`, *optional*): What it comes from; random weights by default.
        tuned_model (`str`, *optional*): Of a merge, what was tuned from the base.
        merged (`bool`, defaults to `False`): Whether its weights lie between those of a base and a tuned model.
        kind (`str`, defaults to `"transformers"`): What the folder holds: that, `peft` or `open_clip`.
        config ([`~transformers.CLIPConfig`] or `Mapping`, *optional*): The model's, for its limits.
        plots (`Sequence[str]`): Which of `loss_curve.png` and `evaluation.png` lie beside the card.
        license (`str`, *optional*): Of the weights, an identifier of the Hub; what training started from and what it
            saw may ask for one. The card names none by default.

    Returns:
        `ModelCard`, with the metadata that the Hub understands.
    """
    trained = objective is not None
    sources = [one for one in (base_model, tuned_model) if one is not None and is_repo_id(one)]
    relation = MERGE if merged else _relation(kind)
    shown_data = None if dataset is None else public_name(dataset)
    results = _results(after, further, retention, shown_data)
    data = ModelCardData(
        license=license,
        library_name=kind,
        pipeline_tag=TASK,
        tags=_tags(objective, kind, merged),
        # Only ids of the Hub belong into the metadata, not paths.
        base_model=(sources if merged else sources[0]) if sources else None,
        datasets=[dataset] if dataset is not None and is_repo_id(dataset) else None,
        base_model_relation=relation if sources or merged else None,
        model_name=name.rpartition("/")[2] if results else None,  # of the results only
        eval_results=results or None,
    )
    citations = [CITATION] * trained + [WISE_FT_CITATION] * (retention is not None)
    sections = [
        f"# {name.rpartition('/')[2]}",
        _summary(kind, objective, dataset, base_model, tuned_model, retention if merged else None),
        use_section(kind, name, base_model),
        training_section(
            describe_objective(objective) if objective is not None else None,
            towers,
            hyperparameters or {},
            hardware or {},
            LOSS_PLOT if LOSS_PLOT in plots else None,
        ),
        evaluation_section(
            before,
            after,
            further=further,
            entries=entries,
            validation=validation,
            plot=EVALUATION_PLOT if EVALUATION_PLOT in plots else None,
            otherwise="It was not evaluated." if trained and retention is None else None,
        ),
        retention_section(retention, bound),
        limits_section(dataset, has_base=base_model is not None and is_repo_id(base_model), **_sizes(config)),
        citation_section(citations),
    ]
    body = "\n\n".join(section for section in sections if section)
    return ModelCard(_public(f"---\n{data.to_yaml()}\n---\n\n{body}\n"))


def card_to_publish(folder: str | os.PathLike[str], repo_id: str, *, base_model: str | None = None) -> ModelCard:
    """
    The card with which a model's folder goes to a repository. A card of ours names the repository, and the base
    model's id where one is given, instead of folders of this machine; one that somebody wrote keeps its text and gets
    metadata that it lacks; where there is none, or a template that nobody filled in, one is made from what lies in the
    folder. The folder stays as it is.

    Args:
        folder (`str` or `os.PathLike`): The model's folder.
        repo_id (`str`): Where it goes.
        base_model (`str`, *optional*): The Hub's id of what it was made from.

    Returns:
        `ModelCard`, without tokens.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: The metadata of the README.md, or a result in the folder, cannot be read.
    """
    target = Path(folder)
    if not target.is_dir():
        raise FileNotFoundError(f"there is no model folder {target}")
    readme, kind = target / CARD_FILE, kind_of_folder(target)
    base = base_model or base_of_adapter(target)
    card = load_card(readme) if readme.is_file() else None
    if card is None or not is_written(card.text):
        made = create_model_card(name=repo_id, base_model=base, kind=kind, **facts_of_folder(target))
        for name in ("license", "datasets", "language"):
            if card is not None and card.data.get(name) is not None:
                made.data[name] = card.data[name]
        return made
    data: Any = card.data
    ours = has_markers(card.text)
    if ours:
        card.text = renamed(card.text, kind, repo_id, base)
        data.model_name = repo_id.rpartition("/")[2] if data.eval_results else None
    data.pipeline_tag = data.pipeline_tag or TASK
    data.library_name = data.library_name or kind
    if base_model is not None and (ours or not _are_ids(data.base_model)):
        is_merge = data.get("base_model_relation") == MERGE
        data.base_model = _with_base(data.base_model, base_model) if is_merge else base_model
        data["base_model_relation"] = data.get("base_model_relation") or _relation(kind)
    return ModelCard(_public(card.content))


def is_written(text: str) -> bool:
    """Whether the text is of us or of a person, and no template of peft, transformers or its `Trainer`."""
    return has_markers(text) or not TEMPLATE.search(text)


def _summary(
    kind: str,
    objective: Objective | None,
    dataset: str | None,
    base_model: str | None,
    tuned_model: str | None,
    merge: Retention | None,
) -> str:
    what = {PEFT: "A PEFT adapter of a CLIP model", TRANSFORMERS: "A CLIP model"}.get(
        kind, "A CLIP model for OpenCLIP"
    )
    base = shown_base(base_model) if base_model is not None else None
    if merge is not None:
        tuned = "what was tuned from it" if tuned_model is None else f"`{public_name(tuned_model)}`"
        return (
            f"{what} whose weights lie between those of {base or 'a base model'} and of {tuned}, at "
            f"α = {merge.alpha:g} ([WiSE-FT](https://arxiv.org/abs/2109.01903))."
        )
    if objective is None:
        return f"{what}, from {base}." if base else f"{what}."
    on = "" if dataset is None else f" on {_shown_data(dataset)}"
    return f"{what} trained with the objective `{objective.name}`{on}, from {base or 'random weights'}."


def _shown_data(dataset: str) -> str:
    shown = public_name(dataset)
    return f"[`{shown}`](https://huggingface.co/datasets/{shown})" if is_repo_id(dataset) else f"`{shown}`"


def _relation(kind: str) -> str:
    return "adapter" if kind == PEFT else "finetune"


def _tags(objective: Objective | None, kind: str, merged: bool) -> list[str]:
    tags = ["clip"]
    if objective is not None or merged:
        tags += ["tripletclip", "compositionality"]
    if objective is not None and any(role.startswith("negative_") for role in objective.roles):
        tags.append("hard-negatives")
    return [*tags, *(["lora"] if kind == PEFT else []), *(["wise-ft"] if merged else [])]


def _results(
    after: EvaluationResult | None,
    further: Sequence[EvaluationResult],
    retention: Retention | None,
    dataset: str | None,
) -> list[EvalResult]:
    """For the metadata: each metric once."""
    found = [] if after is None else model_index([after], dataset=dataset)
    others = list(further)
    if retention is not None:
        others += [
            one for point in retention.curve.points if point.alpha == retention.alpha for one in point.results.values()
        ]
    for entry in model_index(others):
        if not any(same_result(entry, other) for other in found):
            found.append(entry)
    return found


def _sizes(config: Any) -> dict[str, int | None]:
    parts = config if isinstance(config, Mapping) else {} if config is None else config.to_dict()
    vision, text = parts.get("vision_config") or {}, parts.get("text_config") or {}
    return {"image_size": vision.get("image_size"), "text_length": text.get("max_position_embeddings")}


def _are_ids(base_model: str | list[str] | None) -> bool:
    names = [base_model] if isinstance(base_model, str) else base_model or []
    return bool(names) and all(is_repo_id(name) for name in names)


def _with_base(known: str | list[str] | None, base_model: str) -> list[str]:
    others = [known] if isinstance(known, str) else known or []
    return list(dict.fromkeys([base_model, *others]))


def _public(content: str) -> str:
    return TOKEN.sub("[token]", content)

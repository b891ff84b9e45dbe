# SPDX-License-Identifier: Apache-2.0
"""The model card of a trained model."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import EvalResult, EvalResultEntry, ModelCard, ModelCardData

from hf_tripletclip.hub.card_folder import EVALUATION_PLOT, LOSS_PLOT
from hf_tripletclip.hub.card_sections import (
    CITATION,
    WISE_FT_CITATION,
    Part,
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
    WHAT,
    Use,
    has_markers,
    is_split,
    shown_base,
    use_section,
)
from hf_tripletclip.hub.card_words import code, words
from hf_tripletclip.hub.eval_results import TASK, model_index, same_result
from hf_tripletclip.hub.names import is_repo_id, public_name
from hf_tripletclip.objectives import Objective
from hf_tripletclip.objectives.describe import describe_objective
from hf_tripletclip.results.result import EvaluationResult
from hf_tripletclip.utils.files import without_tokens

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
    learned_scale: bool = False,
    config: Any = None,
    plots: Sequence[str] = (),
    trained_on: Part | None = None,
    evaluated_on: Part | None = None,
    overlap: Sequence[str] = (),
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
        learned_scale (`bool`, defaults to `False`): Whether the `logit_scale` that was trained with an adapter lies
            beside it.
        config ([`~transformers.CLIPConfig`] or `Mapping`, *optional*): The model's, for its limits.
        plots (`Sequence[str]`): Which of `loss_curve.png` and `evaluation.png` lie beside the card.
        trained_on ([`~hf_tripletclip.hub.card_sections.Part`], *optional*): How many rows, and of which split.
        evaluated_on ([`~hf_tripletclip.hub.card_sections.Part`], *optional*): The same of what `after` is of, or
            `validation` where there is no `after`.
        overlap (`Sequence[str]`): Sentences on what of the evaluation was trained on.
        license (`str`, *optional*): Of the weights, an identifier of the Hub; what training started from and what it
            saw may ask for one. The card names none by default.

    Returns:
        `ModelCard`, with the metadata that the Hub understands.
    """
    trained = objective is not None
    # Plain strings: YAML writes no others.
    sources = [str(one) for one in (base_model, tuned_model) if one is not None and is_repo_id(one)]
    relation = MERGE if merged else relation_to_base(kind)
    shown_data = None if dataset is None else public_name(dataset)
    results = _results(after, further, retention, shown_data)
    data = ModelCardData(
        license=license,
        library_name=kind,
        pipeline_tag=TASK,
        tags=_tags(objective, kind, merged),
        # Only ids of the Hub belong into the metadata, not paths.
        base_model=(sources if merged else sources[0]) if sources else None,
        datasets=[str(dataset)] if dataset is not None and is_repo_id(dataset) else None,
        base_model_relation=relation if sources or merged else None,
        model_name=name.rpartition("/")[2] if results else None,  # of the results only
        eval_results=results or None,
    )
    citations = [CITATION] * trained + [WISE_FT_CITATION] * (retention is not None)
    sections = [
        f"# {words(name.rpartition('/')[2])}",
        _summary(kind, objective, dataset, base_model, tuned_model, retention if merged else None),
        use_section(Use(kind, name, base_model, split=is_split(base_model), scale=learned_scale)),
        training_section(
            describe_objective(objective) if objective is not None else None,
            towers,
            hyperparameters or {},
            hardware or {},
            LOSS_PLOT if LOSS_PLOT in plots else None,
            trained_on,
        ),
        evaluation_section(
            before,
            after,
            further=further,
            entries=entries,
            validation=validation,
            plot=EVALUATION_PLOT if EVALUATION_PLOT in plots else None,
            overlap=overlap,
            evaluated_on=evaluated_on,
            otherwise="It was not evaluated." if trained and retention is None else None,
        ),
        retention_section(retention, bound),
        limits_section(dataset, has_base=base_model is not None and is_repo_id(base_model), **_sizes(config)),
        citation_section(citations),
    ]
    body = "\n\n".join(section for section in sections if section)
    return ModelCard(without_tokens(f"---\n{data.to_yaml()}\n---\n\n{body}\n"))


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
    what = WHAT[kind]
    base = shown_base(base_model) if base_model is not None else None
    if merge is not None:
        tuned = "what was tuned from it" if tuned_model is None else code(public_name(tuned_model))
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
    return f"[`{shown}`](https://huggingface.co/datasets/{shown})" if is_repo_id(dataset) else code(shown)


def relation_to_base(kind: str) -> str:
    """Of a model that is no merge, for `base_model_relation`."""
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

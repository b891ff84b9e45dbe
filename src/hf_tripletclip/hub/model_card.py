# SPDX-License-Identifier: Apache-2.0
"""The model card of a trained model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.utils import HFValidationError, validate_repo_id

from hf_tripletclip.evaluation.result import EvaluationResult, table_rows

CITATION = """@inproceedings{patel2024tripletclip,
  title = {TripletCLIP: Improving Compositional Reasoning of CLIP via Synthetic Vision-Language Negatives},
  author = {Patel, Maitreya and Kusumba, Abhiram and Cheng, Sheng and Kim, Changhoon and Gokhale, Tejas and
            Baral, Chitta and Yang, Yezhou},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2024},
  note = {arXiv:2411.02545}
}"""

SECRET = re.compile(r"(^|_)(token|password|secret|api_key)$")  # names of hyperparameters
TOKEN = re.compile(r"\b(hf|api_org)_[A-Za-z0-9]{20,}")  # as the Hub makes them

LIMITS = {
    "scenes": "It was trained and evaluated on `scenes`, drawings of icons made by a program. Its numbers say nothing "
    "about photographs, and it knows only the few words of those captions.",
}
DEFAULT_LIMITS = "Evaluate it on your own data before you rely on it; see the evaluation for what it was measured on."


def create_model_card(
    *,
    name: str,
    dataset: str,
    objective: str,
    objective_text: str,
    hyperparameters: Mapping[str, Any],
    before: EvaluationResult | None = None,
    after: EvaluationResult | None = None,
    base_model: str | None = None,
    training_time: str | None = None,
    plots: Mapping[str, str] | None = None,
    license: str | None = None,
) -> ModelCard:
    """
    Write the model card of a trained model. Only what is given here gets into it, without tokens: hyperparameters that
    are named like a secret are left out, and what looks like a token of the Hub is blanked wherever it stands.

    Args:
        name (`str`): Name of the model.
        dataset (`str`): What it was trained on: a Hub id or another name.
        objective (`str`): Name of the objective.
        objective_text (`str`): Its terms, as Markdown.
        hyperparameters (`Mapping[str, Any]`): Name -> value.
        before, after ([`EvaluationResult`], *optional*): The evaluation before and after training.
        base_model (`str`, *optional*): What training started from; random weights by default.
        training_time (`str`, *optional*): How long, on what.
        plots (`Mapping[str, str]`, *optional*): Caption -> file beside the card.
        license (`str`, *optional*): Of the weights, an identifier of the Hub; what training started from and what it
            saw may ask for one. The card names none by default.

    Returns:
        `ModelCard`, with the metadata that the Hub understands.
    """
    data = ModelCardData(
        license=license,
        library_name="transformers",
        pipeline_tag="zero-shot-image-classification",
        tags=["clip", "tripletclip", "compositionality", "hard-negatives"],
        # Only ids of the Hub belong into the metadata, not paths.
        base_model=base_model if base_model is not None and _is_repo_id(base_model) else None,
        datasets=[dataset] if _is_repo_id(dataset) else None,
        model_name=name,
        eval_results=_eval_results(_public(dataset), after),
    )
    sections = [
        f"# {name}",
        f"A CLIP model trained with the objective `{objective}` on `{_public(dataset)}`, from "
        f"{f'`{_public(base_model)}`' if base_model else 'random weights'}.",
        "## Use",
        '```python\nfrom transformers import pipeline\n\nclassifier = pipeline("zero-shot-image-classification", '
        f'model="{name}")\nclassifier("image.png", candidate_labels=["a red cat above a blue fish", "a blue cat above '
        'a red fish"], hypothesis_template="{}")\n```',
        "It is a standard `CLIPModel`. To train it further on hard negatives open it with `hf_tripletclip`:",
        "```python\nfrom hf_tripletclip import TripletCLIPModel, load_processor\n\n"
        f'model = TripletCLIPModel.from_pretrained("{name}")\nprocessor = load_processor("{name}")\n```',
        "## Training",
        f"Objective: {objective_text}",
        *([f"Time: {training_time}."] if training_time else []),
        "| hyperparameter | value |\n| --- | --- |\n"
        + "\n".join(f"| {key} | {_cell(value)} |" for key, value in hyperparameters.items() if not SECRET.search(key)),
        "## Evaluation",
        _evaluation(before, after),
        *(f"![{caption}]({file})" for caption, file in (plots or {}).items()),
        "## Limits",
        LIMITS.get(dataset, DEFAULT_LIMITS),
        "## Citation",
        f"```bibtex\n{CITATION}\n```",
    ]
    content = f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(sections) + "\n"
    return ModelCard(TOKEN.sub("[token]", content))


def _is_repo_id(name: str) -> bool:
    """Whether it is the id `owner/name` of a repository, and no path that exists here."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return name.count("/") == 1 and not Path(name).exists()


def _public(name: str) -> str:
    """A repository by its id, a path by its last part: where things lie on this machine is nobody's business."""
    return name if _is_repo_id(name) else Path(name).name


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def _eval_results(dataset: str, after: EvaluationResult | None) -> list[EvalResult] | None:
    if after is None:
        return None
    return [
        EvalResult(
            task_type="zero-shot-image-classification",
            dataset_type=dataset,
            dataset_name=dataset,
            metric_type=name,
            metric_value=round(after.metrics[name], 4),
        )
        for name in ("accuracy", "text_score", "image_score", "group_score")
        if name in after.metrics
    ]


def _evaluation(before: EvaluationResult | None, after: EvaluationResult | None) -> str:
    if after is None:
        return "It was not evaluated."
    rows = table_rows(before or after, after)
    lines = [
        f"{after.counts.get('rows')} triplets. Cosines in float32; strictly greater wins, a tie is wrong"
        + (f" ({after.metrics['tie_rate']:.1%} of the rows have one)." if "tie_rate" in after.metrics else "."),
        "",
        "| metric | before | after | chance |" if before else "| metric | value | chance |",
        "| --- | --- | --- | --- |" if before else "| --- | --- | --- |",
    ]
    for name, old, new, chance in rows:
        values = [f"{old:.3f}"] * bool(before) + [f"{new:.3f}", "" if chance is None else f"{chance:.3f}"]
        lines.append(f"| {name} | " + " | ".join(values) + " |")
    return "\n".join(lines)

# SPDX-License-Identifier: Apache-2.0
"""The model card of a trained model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from hf_tripletclip.evaluation.result import EvaluationResult, table_rows
from hf_tripletclip.hub.eval_results import is_repo_id, model_index, public_name

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
    adapter: bool = False,
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
        adapter (`bool`, defaults to `False`): Whether the folder holds a PEFT adapter of `base_model`.
        training_time (`str`, *optional*): How long, on what.
        plots (`Mapping[str, str]`, *optional*): Caption -> file beside the card.
        license (`str`, *optional*): Of the weights, an identifier of the Hub; what training started from and what it
            saw may ask for one. The card names none by default.

    Returns:
        `ModelCard`, with the metadata that the Hub understands.
    """
    data = ModelCardData(
        license=license,
        library_name="peft" if adapter else "transformers",
        pipeline_tag="zero-shot-image-classification",
        tags=["clip", "tripletclip", "compositionality", "hard-negatives"],
        # Only ids of the Hub belong into the metadata, not paths.
        base_model=base_model if base_model is not None and is_repo_id(base_model) else None,
        datasets=[dataset] if is_repo_id(dataset) else None,
        base_model_relation=None if base_model is None else "adapter" if adapter else "finetune",
        model_name=name,
        eval_results=None if after is None else model_index([after], dataset=public_name(dataset)),
    )
    sections = [
        f"# {name}",
        f"A CLIP model trained with the objective `{objective}` on `{public_name(dataset)}`, from "
        f"{f'`{public_name(base_model)}`' if base_model else 'random weights'}.",
        "## Use",
        *(_use_of_adapter(name, base_model) if adapter else _use(name)),
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


def _use(name: str) -> list[str]:
    return [
        '```python\nfrom transformers import pipeline\n\nclassifier = pipeline("zero-shot-image-classification", '
        f'model="{name}")\nclassifier("image.png", candidate_labels=["a red cat above a blue fish", "a blue cat above '
        'a red fish"], hypothesis_template="{}")\n```',
        "It is a standard `CLIPModel`. To train it further on hard negatives open it with `hf_tripletclip`:",
        "```python\nfrom hf_tripletclip import TripletCLIPModel, load_processor\n\n"
        f'model = TripletCLIPModel.from_pretrained("{name}")\nprocessor = load_processor("{name}")\n```',
    ]


def _use_of_adapter(name: str, base_model: str | None) -> list[str]:
    base = public_name(base_model or "BASE_MODEL")
    return [
        "It is a PEFT adapter, a small file beside its base model, and opens without `hf_tripletclip`:",
        "```python\nfrom peft import PeftModel\nfrom transformers import CLIPModel, CLIPProcessor\n\n"
        f'model = PeftModel.from_pretrained(CLIPModel.from_pretrained("{base}"), "{name}")\n'
        f'processor = CLIPProcessor.from_pretrained("{name}")\n```',
        f"`tripletclip convert {name} TARGET` writes the plain `CLIPModel` that it makes.",
    ]


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


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

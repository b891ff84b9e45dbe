# SPDX-License-Identifier: Apache-2.0
"""The model card of a trained model, written with `model_card_template.md`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import EvalResult, EvalResultEntry, ModelCard, ModelCardData
from transformers import AutoConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES as ZERO_SHOT,
)

from hf_tripletclip.hub.card import BASE, USE, Card
from hf_tripletclip.hub.eval_results import TASK, model_index, same_result
from hf_tripletclip.hub.repository import is_repo_id, public_name
from hf_tripletclip.layouts.architectures import ARCHITECTURES, Architecture, architecture_of
from hf_tripletclip.layouts.configs import text_positions, without_weights
from hf_tripletclip.layouts.files import LOGIT_SCALE_FILE, Layout, folder_layout
from hf_tripletclip.layouts.published import PUBLISHED_CHECKPOINTS
from hf_tripletclip.objectives import Objective
from hf_tripletclip.objectives.describe import describe_objective
from hf_tripletclip.results.curve import Curve, Point, format_gains
from hf_tripletclip.results.result import EvaluationResult, main_metrics, table_rows
from hf_tripletclip.utils.files import without_tokens
from hf_tripletclip.utils.markdown import code, in_python, table, words

TEMPLATE = Path(__file__).with_name("model_card_template.md")
SECRET = re.compile(r"(^|_)(token|password|secret|api_key)$")  # names of hyperparameters
LOSS_PLOT, EVALUATION_PLOT = "loss_curve.png", "evaluation.png"
MERGE = "merge"
CLIP = ARCHITECTURES["clip"]
# How the text of a card begins.
WHAT = {Layout.PEFT: "A PEFT adapter of {}", Layout.TRANSFORMERS: "{}", Layout.OPENCLIP: "{} for OpenCLIP"}
CITATION = """@inproceedings{patel2024tripletclip,
  title = {TripletCLIP: Improving Compositional Reasoning of CLIP via Synthetic Vision-Language Negatives},
  author = {Patel, Maitreya and Kusumba, Abhiram and Cheng, Sheng and Kim, Changhoon and Gokhale, Tejas and
            Baral, Chitta and Yang, Yezhou},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2024},
  note = {arXiv:2411.02545},
  url = {https://arxiv.org/abs/2411.02545}
}"""


@dataclass
class Retention:
    """
    What a model gained, and what it lost of what its base knew.

    Args:
        curve ([`~hf_tripletclip.results.curve.Curve`]): Models from the base (alpha 0) to the tuned model (alpha 1).
        alpha (`float`): The model that the card describes.
        chosen ([`~hf_tripletclip.results.curve.Point`], *optional*): The model with the most composition of those
            that lose no more than `max_loss`.
        max_loss (`float`, *optional*): The loss of retention that was allowed.
        plot (`str`, *optional*): The file of the curve's picture, beside the card.
    """

    curve: Curve
    alpha: float
    chosen: Point | None = None
    max_loss: float | None = None
    plot: str | None = None

    def rows(self) -> list[tuple[str, Point]]:
        """The base, this model and others of interest, by name; empty if there is nothing to compare row by row."""
        points = {point.alpha: point for point in self.curve.points if point.results}
        if 0 not in points or self.alpha not in points or self.alpha == 0:
            return []
        rows = {0.0: "base", self.alpha: "this model"}
        if 1 in points:
            rows.setdefault(1.0, "tuned model")
        if self.chosen is not None:
            rows.setdefault(self.chosen.alpha, f"WiSE-FT, α = {self.chosen.alpha:g}")
        return [(name, points[alpha]) for alpha, name in rows.items()]

    def curve_rows(self) -> list[tuple[str, str, str, str]]:
        """Alpha, composition, retention and a remark on each model of the curve; empty if it has a single one."""
        rows = []
        for point in self.curve.points:
            marks = ["this model"] * (point.alpha == self.alpha)
            marks += ["chosen"] * (self.chosen is not None and point.alpha == self.chosen.alpha)
            rows.append((f"{point.alpha:g}", f"{point.composition:.3f}", f"{point.retention:.3f}", ", ".join(marks)))
        return rows if len(rows) > 1 else []

    def measured_on(self) -> str:
        """The benchmarks, their data and numbers of rows."""
        parts = []
        for result in self.rows()[0][1].results.values():
            rows = f", {result.counts['rows']:,} rows" if "rows" in result.counts else ""
            source = result.data.get("source")
            parts.append(f"{code(result.benchmark)}{f' on {code(public_name(str(source)))}' if source else ''}{rows}")
        return "; ".join(parts)


class Part(NamedTuple):
    """
    A part of the data that was trained or evaluated on.

    Args:
        rows (`int`, *optional*): The number of rows; `None` for a stream.
        split (`str`, *optional*): The name of the split.
    """

    rows: int | None = None
    split: str | None = None

    def described(self, what: str = "rows") -> str:
        """Such as "12 rows of the split `train`"; empty if nothing is known."""
        counted = "" if self.rows is None else f"{self.rows:,} {what.removesuffix('s') if self.rows == 1 else what}"
        named = "" if self.split is None else f"the split {code(self.split)}"
        return " of ".join(filter(None, (counted, named)))


@dataclass(frozen=True)
class Use:
    """
    How a model is opened.

    Args:
        kind (`str`): The layout of its folder: `transformers`, `peft` or `open_clip`.
        name (`str`): The id of its repository, or the name of its folder.
        base (`str`, *optional*): The model it was made from. An adapter is opened with it.
        revision (`str`, *optional*): The revision of an adapter's base.
        published_base (`bool`, defaults to `False`): Whether an adapter's base has the layout of the published
            TripletCLIP checkpoints, which only this package opens.
        scale (`bool`, defaults to `False`): Whether a `logit_scale` lies beside an adapter.
        processor (`bool`, defaults to `True`): Whether a processor lies beside an adapter.
        openclip (`bool`, defaults to `False`): Whether a model in OpenCLIP's layout lies beside that of transformers.
        architecture ([`~hf_tripletclip.layouts.architectures.Architecture`]): That of the model, or of the base of an
            adapter; a CLIP by default.
        text_length (`int`, *optional*): How many tokens the text tower takes; not needed for a CLIP.
    """

    kind: str
    name: str
    base: str | None = None
    revision: str | None = None
    published_base: bool = False
    scale: bool = False
    processor: bool = True
    openclip: bool = False
    architecture: Architecture = CLIP
    text_length: int | None = None

    @property
    def what(self) -> str:
        """How the text of the card begins."""
        return _what(Layout(self.kind), self.architecture)

    @property
    def is_clip(self) -> bool:
        return self.architecture == CLIP

    @property
    def has_pipeline(self) -> bool:
        """Whether transformers' pipeline for zero-shot classification gives the model's own scores."""
        # Of a fixed length it takes 64 tokens, with a mask if the tokenizer makes one, and drops `tokenizer_kwargs`.
        return self.architecture.model_type in ZERO_SHOT and not self.architecture.fixed_length

    @property
    def on_hub(self) -> bool:
        return is_repo_id(self.name)

    @property
    def base_on_hub(self) -> bool:
        return is_repo_id(self.base or "")

    @property
    def schema(self) -> str:
        """Of OpenCLIP's names of models."""
        return "hf-hub" if self.on_hub else "local-dir"

    @property
    def quoted(self) -> str:
        """The name between quotation marks of Python."""
        return self.name if self.on_hub else in_python(self.name)

    @property
    def quoted_base(self) -> str:
        """The base between quotation marks of Python."""
        return in_python(public_name(self.base or "BASE_MODEL"))


def of_config(config: Any) -> dict[str, Any]:
    """
    What a config tells of how its model is opened, as arguments of [`Use`].

    Args:
        config ([`~transformers.PreTrainedConfig`] or `Mapping`, *optional*): Of one of the architectures in the table;
            without one, it is a CLIP.

    Raises:
        ValueError: It describes no model.
    """
    architecture = None if config is None else architecture_of(config)
    if architecture is None or architecture == CLIP:
        return {"architecture": CLIP}
    # Of transformers' own class, for its `AutoModel`.
    plain = AutoConfig.for_model(**(config if isinstance(config, Mapping) else config.to_dict()))
    text_length = text_positions(without_weights(plain).text_model, plain.text_config)
    return {"architecture": architecture, "text_length": text_length}


def create_model_card(
    *,
    name: str,
    kind: str = Layout.TRANSFORMERS,
    base_model: str | None = None,
    learned_scale: bool = False,
    use: Use | None = None,
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
    tuned_model: str | None = None,
    merged: bool = False,
    config: Any = None,
    plots: Sequence[str] = (),
    trained_on: Part | None = None,
    evaluated_on: Part | None = None,
    overlap: Sequence[str] = (),
    license: str | None = None,
) -> ModelCard:
    """
    Write a model's card. It tells only what is given here, without tokens and without paths of this machine:
    hyperparameters whose names are those of secrets are left out, what looks like a token of the Hub is blanked
    everywhere, and a directory is named by its last part.

    Args:
        name (`str`): The name of the model's folder, or the id of its repository.
        kind (`str`, defaults to `"transformers"`): The layout of the folder: `transformers`, `peft` or `open_clip`.
        base_model (`str`, *optional*): The model it was made from; random weights by default.
        learned_scale (`bool`, defaults to `False`): Whether the `logit_scale` that was trained with an adapter lies
            beside it.
        use ([`Use`], *optional*): How the model is opened; by default as `name`, `kind`, `base_model`,
            `learned_scale` and `config` say.
        dataset (`str`, *optional*): The training data: a Hub id or another name.
        objective ([`~hf_tripletclip.objectives.Objective`], *optional*): The training objective.
        towers (`str`, *optional*): A sentence on the parts of the model that were trained.
        hyperparameters (`Mapping[str, Any]`, *optional*): Name -> value; those that are `None` are left out.
        hardware (`Mapping[str, str]`, *optional*): The hardware and time of training: name -> value.
        before, after ([`EvaluationResult`], *optional*): The evaluation before and after training.
        further (`Sequence[EvaluationResult]`): Results of other benchmarks.
        entries (`Sequence[EvalResultEntry]`): Results in `.eval_results`.
        validation (`tuple[int, Mapping[str, float]]`, *optional*): Step and metrics of the trainer's last evaluation.
        retention ([`Retention`], *optional*): What the model gained and lost against its base.
        bound (`str`, *optional*): A sentence on the bound on that loss in training.
        tuned_model (`str`, *optional*): Of a merge, the model that was tuned from the base.
        merged (`bool`, defaults to `False`): Whether the weights lie between those of a base and a tuned model.
        config ([`~transformers.CLIPConfig`], that of another dual encoder, or `Mapping`, *optional*): The model's
            config, for its architecture and its limits.
        plots (`Sequence[str]`): Those of `loss_curve.png` and `evaluation.png` that lie beside the card.
        trained_on ([`Part`], *optional*): The split and number of rows that were trained on.
        evaluated_on ([`Part`], *optional*): The same of `after`, or of `validation` if there is no `after`.
        overlap (`Sequence[str]`): Sentences on training data in the evaluation data.
        license (`str`, *optional*): The license of the weights, an identifier of the Hub. The card names none by
            default: what training started from and what it saw may ask for one.

    Returns:
        `ModelCard`, with the metadata that the Hub understands.
    """
    if use is None:
        published = _has_published_layout(base_model)
        use = Use(kind, name, base_model, published_base=published, scale=learned_scale, **of_config(config))
    # Plain strings: YAML writes no others.
    sources = [str(one) for one in (use.base, tuned_model) if one is not None and is_repo_id(one)]
    relation = MERGE if merged else relation_to_base(use.kind)
    results = _results(after, further, retention, None if dataset is None else public_name(dataset))
    title = use.name.rpartition("/")[2]
    data = ModelCardData(
        license=license,
        library_name=str(use.kind),
        pipeline_tag=TASK,
        tags=_tags(objective, use, merged),
        # Only ids of the Hub belong into the metadata, not paths.
        base_model=(sources if merged else sources[0]) if sources else None,
        datasets=[str(dataset)] if dataset is not None and is_repo_id(dataset) else None,
        base_model_relation=relation if sources or merged else None,
        model_name=title if results else None,  # of the results only
        eval_results=results or None,
    )
    values = (hyperparameters or {}).items()
    parts = config if isinstance(config, Mapping) else {} if config is None else config.to_dict()
    validated_on = evaluated_on if after is None and evaluated_on is not None and evaluated_on.split else None
    card: Any = ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        # What the template calls.
        code=code, words=words, table=table, in_python=in_python, format_gains=format_gains,
        # What the model is, and how it is opened.
        title=title,
        what=use.what,
        use=use,
        scale_file=LOGIT_SCALE_FILE,
        base=_shown_base(use.base),
        tuned=None if tuned_model is None else code(public_name(tuned_model)),
        merge=retention if merged else None,
        # Training.
        objective=objective,
        equation=None if objective is None else describe_objective(objective),
        dataset=dataset,
        data=None if dataset is None else _linked(dataset, "datasets/"),
        towers=towers,
        hardware=hardware,
        hyperparameters=[
            (name, f"{value:g}" if isinstance(value, float) else value)
            for name, value in values
            if value is not None and not SECRET.search(name)
        ],
        loss_plot=LOSS_PLOT if LOSS_PLOT in plots else None,
        trained_on=trained_on if trained_on is not None and trained_on.described() else None,
        # Evaluation.
        overlap=overlap,
        after=None if after is None else _measured(before, after, evaluated_on),
        evaluation_plot=EVALUATION_PLOT if EVALUATION_PLOT in plots else None,
        further=[_measured(None, result) for result in further],
        validation=None if validation is None else {
            "step": validation[0],
            "rows": [(name, f"{value:.4f}") for name, value in validation[1].items()],
        },
        validated_on=validated_on,
        entries=[(code(one.dataset_id), one.value, one.notes or "") for one in entries],
        not_evaluated=objective is not None and retention is None,
        retention=retention,
        bound=bound,
        # Limits and citation.
        image_size=(parts.get("vision_config") or {}).get("image_size"),
        text_length=use.text_length or (parts.get("text_config") or {}).get("max_position_embeddings"),
        base_on_hub=use.base is not None and is_repo_id(use.base),
        citation=CITATION,
    )  # fmt: skip
    return ModelCard(without_tokens(f"{card.content}\n"))


def up_to_date(card: Card, use: Use) -> str:
    """
    The text of a card that this package wrote, with a new heading, a new section "Use" and the new name of the base
    model. What it tells of training and evaluation stays, and so does what somebody has added.

    Args:
        card ([`~hf_tripletclip.hub.card.Card`]): The card.
        use ([`Use`]): How the model is opened now; without a base model, its name in the text stays.
    """
    made = create_model_card(name=use.name, use=use).text
    text = _with_part(card.text, USE, made)
    start = text.lstrip()
    if start.startswith("# "):
        text = text.replace(start.splitlines()[0], made.strip().splitlines()[0], 1)
    if use.base is not None:
        for what in (_what(layout, one) for layout in WHAT for one in ARCHITECTURES.values()):
            if BASE[0] not in text:
                text = text.replace(f"\n{what}.", f"\n{what}, from {''.join(BASE)}.", 1)
        text = _with_part(text, BASE, made)
    return text


def _with_part(text: str, markers: tuple[str, str], made: str) -> str:
    """A text whose part between two markers is that of another text."""
    begin, end = markers
    before, found, rest = text.partition(begin)
    if not found:
        return text
    return before + begin + made.partition(begin)[2].partition(end)[0] + end + rest.partition(end)[2]


def _what(layout: Layout, architecture: Architecture) -> str:
    """How the text of a card begins."""
    text = WHAT[layout].format(architecture.described)
    return text[0].upper() + text[1:]


def relation_to_base(kind: str) -> str:
    """The `base_model_relation` of a model that is no merge."""
    return "adapter" if kind == Layout.PEFT else "finetune"


def _has_published_layout(model: str | None) -> bool:
    """Whether a model has the published layout, as far as that is known without the Hub."""
    if model is None or model in PUBLISHED_CHECKPOINTS:
        return model is not None
    return folder_layout(Path(model)) is Layout.PUBLISHED


def _shown_base(base_model: str | None) -> str | None:
    """A base model in running text, between the markers that let it be renamed."""
    return None if base_model is None else f"{BASE[0]}{_linked(base_model)}{BASE[1]}"


def _linked(name: str, prefix: str = "") -> str:
    """A model or dataset in running text, linked if it is on the Hub."""
    shown = public_name(name)
    return f"[`{shown}`](https://huggingface.co/{prefix}{shown})" if is_repo_id(name) else code(shown)


def _tags(objective: Objective | None, use: Use, merged: bool) -> list[str]:
    tags = [use.architecture.model_type]
    if objective is not None or merged:
        tags += ["tripletclip", "compositionality"]
    if objective is not None and any(role.startswith("negative_") for role in objective.roles):
        tags.append("hard-negatives")
    return [*tags, *(["lora"] if use.kind == Layout.PEFT else []), *(["wise-ft"] if merged else [])]


def _results(
    after: EvaluationResult | None,
    further: Sequence[EvaluationResult],
    retention: Retention | None,
    dataset: str | None,
) -> list[EvalResult]:
    """The results in the metadata: each metric once."""
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


def _measured(
    before: EvaluationResult | None, after: EvaluationResult, evaluated_on: Part | None = None
) -> dict[str, Any]:
    """A result as the template shows it: its title, a sentence on its rows, and its table."""
    ties = f" ({after.metrics['tie_rate']:.1%} of the rows have one)" if "tie_rate" in after.metrics else ""
    triplets = after.benchmark == "triplets"
    part = Part(after.counts.get("rows"), None if evaluated_on is None else evaluated_on.split)
    described = part.described("triplets" if triplets else "rows")
    lead = [f"{described[0].upper()}{described[1:]}."] if described else []
    if triplets and after.settings.get("protocol") != "official":
        lead.append(f"Cosines in float32; strictly greater wins, a tie is wrong{ties}.")
    known = {name: old for name, old, _, _ in table_rows(before, after)} if before is not None else {}
    rows = []
    for name in main_metrics(after):
        if before is not None and name not in known:
            continue
        old = [f"{known[name]:.3f}"] if before is not None else []
        between = "{:.3f} – {:.3f}".format(*after.intervals[name]) if name in after.intervals else ""
        guess = f"{after.chance[name]:.3f}" if name in after.chance else ""
        rows.append((name, *old, f"{after.metrics[name]:.3f}", *([between] if after.intervals else []), guess))
    head = ["metric", *(["value"] if before is None else ["before", "after"])]
    return {
        "title": after.title or after.benchmark,
        "lead": " ".join(lead),
        "head": [*head, *["95 % interval"] * bool(after.intervals), "chance"],
        "rows": rows,
    }

# SPDX-License-Identifier: Apache-2.0
"""Sections of a model card, as Markdown; one that has nothing to tell is empty."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from huggingface_hub import EvalResultEntry

from hf_tripletclip.hub.card_words import code, table, words
from hf_tripletclip.hub.names import public_name
from hf_tripletclip.results.curve import Curve, Point, format_gains
from hf_tripletclip.results.result import EvaluationResult, main_metrics, table_rows

SECRET = re.compile(r"(^|_)(token|password|secret|api_key)$")  # names of hyperparameters

CITATION = """@inproceedings{patel2024tripletclip,
  title = {TripletCLIP: Improving Compositional Reasoning of CLIP via Synthetic Vision-Language Negatives},
  author = {Patel, Maitreya and Kusumba, Abhiram and Cheng, Sheng and Kim, Changhoon and Gokhale, Tejas and
            Baral, Chitta and Yang, Yezhou},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2024},
  note = {arXiv:2411.02545},
  url = {https://arxiv.org/abs/2411.02545}
}"""
WISE_FT_CITATION = """@inproceedings{wortsman2022robust,
  title = {Robust fine-tuning of zero-shot models},
  author = {Wortsman, Mitchell and Ilharco, Gabriel and Kim, Jong Wook and Li, Mike and Kornblith, Simon and
            Roelofs, Rebecca and Lopes, Raphael Gontijo and Hajishirzi, Hannaneh and Farhadi, Ali and
            Namkoong, Hongseok and Schmidt, Ludwig},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year = {2022},
  note = {arXiv:2109.01903},
  url = {https://arxiv.org/abs/2109.01903}
}"""

LIMITS = {
    "scenes": "It was trained and evaluated on `scenes`, drawings of icons made by a program. Its numbers say nothing "
    "about photographs, and it knows only the few words of those captions.",
}
DEFAULT_LIMITS = "Evaluate it on your own data before you rely on it."
BASE_LIMITS = "The limits and biases that the card of its base model tells of are likely to be its own."


@dataclass
class Retention:
    """
    What a model gained and what it lost of what its base knew.

    Args:
        curve ([`~hf_tripletclip.results.curve.Curve`]): Models from the base (alpha 0) to the tuned (1).
        alpha (`float`): The model that the card is of.
        chosen ([`~hf_tripletclip.results.curve.Point`], *optional*): The best that keeps enough.
        max_loss (`float`, *optional*): How much was enough.
        plot (`str`, *optional*): File of the curve's picture, beside the card.
    """

    curve: Curve
    alpha: float
    chosen: Point | None = None
    max_loss: float | None = None
    plot: str | None = None

    def rows(self) -> list[tuple[str, Point]]:
        """The base, this model, and others of interest; empty where there is nothing to compare row by row."""
        points = {point.alpha: point for point in self.curve.points if point.results}
        if 0 not in points or self.alpha not in points or self.alpha == 0:
            return []
        rows = {0.0: "base", self.alpha: "this model"}
        if 1 in points:
            rows.setdefault(1.0, "tuned model")
        if self.chosen is not None:
            rows.setdefault(self.chosen.alpha, f"WiSE-FT, α = {self.chosen.alpha:g}")
        return [(name, points[alpha]) for alpha, name in rows.items()]


class Part(NamedTuple):
    """
    A part of the data that was trained or evaluated on.

    Args:
        rows (`int`, *optional*): How many; `None` of a stream.
        split (`str`, *optional*): Its name.
    """

    rows: int | None = None
    split: str | None = None

    def described(self, what: str = "rows") -> str:
        """Such as "12 rows of the split `train`"; empty where nothing is known."""
        counted = "" if self.rows is None else f"{self.rows:,} {what.removesuffix('s') if self.rows == 1 else what}"
        named = "" if self.split is None else f"the split {code(self.split)}"
        return " of ".join(filter(None, (counted, named)))


def training_section(
    objective: str | None,
    towers: str | None,
    hyperparameters: Mapping[str, Any],
    hardware: Mapping[str, str],
    loss_plot: str | None = None,
    trained_on: Part | None = None,
) -> str:
    """How it was trained; secrets among the hyperparameters are left out."""
    described = "" if trained_on is None else trained_on.described()
    stream = ", read as a stream" if described and trained_on is not None and trained_on.rows is None else ""
    values = {name: value for name, value in hyperparameters.items() if value is not None and not SECRET.search(name)}
    parts = [
        objective,
        f"Trained on {described}{stream}." if described else None,
        towers,
        "\n".join(f"- {words(name)}: {words(value)}" for name, value in hardware.items()),
        table(["hyperparameter", "value"], [(name, _number(value)) for name, value in values.items()])
        if values
        else None,
        f"![Loss]({loss_plot})" if loss_plot else None,
    ]
    return _section("Training", parts)


def evaluation_section(
    before: EvaluationResult | None,
    after: EvaluationResult | None,
    *,
    further: Sequence[EvaluationResult] = (),
    entries: Sequence[EvalResultEntry] = (),
    validation: tuple[int, Mapping[str, float]] | None = None,
    plot: str | None = None,
    overlap: Sequence[str] = (),
    evaluated_on: Part | None = None,
    otherwise: str | None = None,
) -> str:
    """
    What it reaches.

    Args:
        before, after ([`EvaluationResult`], *optional*): On triplets, before and after training.
        further (`Sequence[EvaluationResult]`): Of other benchmarks.
        entries (`Sequence[EvalResultEntry]`): As they are for the Hub, in `.eval_results`.
        validation (`tuple[int, Mapping[str, float]]`, *optional*): Step and metrics of the trainer's last evaluation.
        plot (`str`, *optional*): File of a picture of before and after.
        overlap (`Sequence[str]`): Sentences on what of the evaluation was trained on.
        evaluated_on ([`Part`], *optional*): What `after`, or else `validation`, is of.
        otherwise (`str`, *optional*): What to say where there is nothing of all that.
    """
    parts: list[str | None] = [f"**Evaluated on training data.** {sentence}" for sentence in overlap]
    if after is not None:
        parts.append(_before_after(before, after, None if evaluated_on is None else evaluated_on.split))
    if plot:
        parts.append(f"![Evaluation before and after training]({plot})")
    for result in further:
        parts += [f"### {words(_title(result))}", _before_after(None, result)]
    if validation is not None:
        step, metrics = validation
        rows = [(name, f"{value:.4f}") for name, value in metrics.items()]
        part = evaluated_on if after is None and evaluated_on is not None and evaluated_on.split else Part()
        of = "".join(f", {described}" for described in [part.described()] if described)
        parts.append(f"On the validation data{of}, at step {step}:\n\n{table(['metric', 'value'], rows)}")
    if entries:
        shown = [(code(one.dataset_id), one.value, one.notes or "") for one in entries]
        parts.append(table(["dataset", "value", "what"], shown))
    return _section("Evaluation", parts or [otherwise])


def _before_after(before: EvaluationResult | None, after: EvaluationResult, split: str | None = None) -> str:
    ties = f" ({after.metrics['tie_rate']:.1%} of the rows have one)" if "tie_rate" in after.metrics else ""
    what = "triplets" if after.benchmark == "triplets" else "rows"
    described = Part(after.counts.get("rows"), split).described(what)
    lead = [f"{described[0].upper()}{described[1:]}."] if described else []
    if after.benchmark == "triplets" and after.settings.get("protocol") != "official":
        lead.append(f"Cosines in float32; strictly greater wins, a tie is wrong{ties}.")
    with_before = before is not None
    known = {name: old for name, old, _, _ in table_rows(before, after)} if before is not None else {}
    head = ["metric", *(["before", "after"] if with_before else ["value"])]
    head += ["95 % interval"] * bool(after.intervals) + ["chance"]
    rows = []
    for name in main_metrics(after):
        if with_before and name not in known:
            continue
        between = "{:.3f} – {:.3f}".format(*after.intervals[name]) if name in after.intervals else ""
        guess = f"{after.chance[name]:.3f}" if name in after.chance else ""
        old = [f"{known[name]:.3f}"] if with_before else []
        rows.append((name, *old, f"{after.metrics[name]:.3f}", *([between] if after.intervals else []), guess))
    return "\n\n".join([" ".join(lead), table(head, rows)] if lead else [table(head, rows)])


def retention_section(retention: Retention | None, bound: str | None = None) -> str:
    """What it gained and lost against its base, and the curve between the two."""
    parts: list[str | None] = []
    if retention is not None:
        curve = retention.curve
        if rows := retention.rows():
            measured = "; ".join(map(_measured, rows[0][1].results.values()))
            parts += [
                f"Composition is {code(curve.composition)}, and retention, what the base model knew, "
                f"{code(curve.retention)} ({measured}). Differences are from the base on the same rows, with the 95 % "
                "interval of a paired bootstrap: one that holds zero may be chance.",
                format_gains(curve, rows),
            ]
        if len(curve.points) > 1:
            parts += _curve(retention)
        if retention.plot:
            parts.append(f"![Composition and retention between base and tuned model]({retention.plot})")
    return _section("Retention", [*parts, bound])


def _curve(retention: Retention) -> list[str]:
    curve, chosen = retention.curve, retention.chosen
    what = "Models between the base (α = 0) and the tuned model (α = 1), weight by weight (WiSE-FT)."
    if chosen is not None:
        what += " The chosen one has the most composition"
        bound = retention.max_loss
        what += "." if bound is None else f" of those that lose at most {bound:g} of retention."
    rows = []
    for point in curve.points:
        marks = ["this model"] * (point.alpha == retention.alpha)
        marks += ["chosen"] * (chosen is not None and point.alpha == chosen.alpha)
        rows.append((f"{point.alpha:g}", f"{point.composition:.3f}", f"{point.retention:.3f}", ", ".join(marks)))
    return [what, table(["α", curve.composition, curve.retention, ""], rows)]


def _measured(result: EvaluationResult) -> str:
    rows = f", {result.counts['rows']:,} rows" if "rows" in result.counts else ""
    source = result.data.get("source")
    return f"{code(result.benchmark)}{f' on {code(public_name(str(source)))}' if source else ''}{rows}"


def limits_section(
    dataset: str | None, *, has_base: bool, image_size: int | None = None, text_length: int | None = None
) -> str:
    """What it is not for, as far as that is known."""
    sizes = [f"images are seen at {image_size} × {image_size} pixels"] if image_size else []
    sizes += [f"captions are cut after {text_length} tokens"] if text_length else []
    sentence = " and ".join(sizes)
    parts = [LIMITS.get(dataset or "", DEFAULT_LIMITS)]
    parts += [f"{sentence[0].upper()}{sentence[1:]}."] if sentence else []
    parts += [BASE_LIMITS] if has_base else []
    return _section("Limits", [" ".join(parts)])


def citation_section(citations: Sequence[str]) -> str:
    """BibTeX."""
    return _section("Citation", [f"```bibtex\n{one}\n```" for one in citations])


def _section(title: str, parts: Sequence[str | None]) -> str:
    found = [part for part in parts if part]
    return "\n\n".join([f"## {title}", *found]) if found else ""


def _title(result: EvaluationResult) -> str:
    return result.title or result.benchmark


def _number(value: Any) -> Any:
    return f"{value:g}" if isinstance(value, float) else value

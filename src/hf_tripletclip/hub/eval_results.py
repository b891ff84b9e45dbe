# SPDX-License-Identifier: Apache-2.0
"""Evaluation results as the Hub shows them: `model-index` in the model card, and `.eval_results/*.yaml`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import yaml
from huggingface_hub import EvalResult, EvalResultEntry, eval_result_entries_to_yaml, parse_eval_result_entries
from huggingface_hub.constants import EVAL_RESULTS_FOLDER
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results

from hf_tripletclip.hub.card import Card
from hf_tripletclip.hub.repository import is_repo_id, public_name
from hf_tripletclip.results.metrics import category_metrics, overall_metrics
from hf_tripletclip.results.result import EvaluationResult
from hf_tripletclip.utils.files import CARD_FILE, read_text, replace_text

TASK = "zero-shot-image-classification"  # if a result does not name one
TASK_ID = "default"  # the task of a dataset's `eval.yaml`
DIGITS = 4


def hub_dataset(result: EvaluationResult) -> str | None:
    """The dataset of the Hub that a result belongs to: its source, or that of its benchmark; `None` if unknown."""
    source = str(result.data.get("source", ""))
    return source if is_repo_id(source) else result.hub_dataset


def is_whole(result: EvaluationResult) -> bool:
    """Whether it is a score of the whole benchmark: no similarities, and no sample of its rows."""
    return not result.raw and result.settings.get("max_rows") is None


def model_index(results: Sequence[EvaluationResult], *, dataset: str | None = None) -> list[EvalResult]:
    """
    The metrics of results for `ModelCardData(eval_results=...)`: those over all rows and those of each category.
    Similarities are left out, which are no scores, and samples (`max_rows`).

    Args:
        results (`Sequence[EvaluationResult]`): The results.
        dataset (`str`, *optional*): What the card calls the data, if the results do not say it.
    """
    found = []
    for result in results:
        if not is_whole(result):
            continue
        official = result.settings.get("protocol") == "official"
        known = hub_dataset(result)
        name = dataset or known or public_name(str(result.data.get("source") or result.benchmark))
        metrics = dict.fromkeys([*overall_metrics(result), *category_metrics(result).values()])
        found += [
            EvalResult(
                task_type=result.task or TASK,
                dataset_type=name,
                dataset_name=dataset or result.title or result.benchmark,
                metric_type=metric,
                metric_name=f"{metric} (official protocol)" if official else None,
                metric_value=round(result.metrics[metric], DIGITS),
            )
            for metric in metrics
        ]
    return found


def eval_entries(results: Sequence[EvaluationResult]) -> dict[str, list[EvalResultEntry]]:
    """
    The entries of `.eval_results/<benchmark>.yaml`: of each result that is of a dataset of the Hub the metric that
    stands for the benchmark. The Hub shows those of datasets that it lists as benchmarks.

    Args:
        results (`Sequence[EvaluationResult]`): The results.

    Returns:
        `dict[str, list[EvalResultEntry]]`: By benchmark.
    """
    found: dict[str, list[EvalResultEntry]] = {}
    for result in results:
        data = hub_dataset(result)
        if data is None or result.primary not in result.metrics or not is_whole(result):
            continue
        scoring = result.settings.get("scores") or result.settings.get("protocol") or "strict"
        rows = f"{result.counts['rows']:,} rows" if "rows" in result.counts else ""
        left_out = [f"{result.counts[name]:,} {name}" for name in ("missing", "broken") if result.counts.get(name)]
        found.setdefault(result.benchmark, []).append(
            EvalResultEntry(
                dataset_id=data,
                task_id=TASK_ID,
                value=round(result.metrics[result.primary], DIGITS),
                notes="; ".join(part for part in (result.primary, scoring, rows, *left_out) if part),
            )
        )
    return found


def results_of_model(results: Sequence[EvaluationResult], folder: str | os.PathLike[str]) -> list[EvaluationResult]:
    """
    The results of the model in a folder: those evaluated from it, or from a repository or folder of its name; all, if
    they are of one model.

    Raises:
        ValueError: There is none, or it is not clear which.
    """
    target = Path(folder).resolve()
    names = {str(result.model.get("name", "")): None for result in results}
    own = [name for name in names if name and Path(name).resolve() == target]
    own = own or [name for name in names if Path(name.partition("@")[0]).name == target.name]
    if not own and len(names) == 1:
        only = next(iter(names))
        if Path(only).exists():
            raise ValueError(f"these results are of the model in {only}, not of the one in {folder}")
        return list(results)
    if len(own) != 1:
        raise ValueError(
            f"which of these models is the one in {folder}: {', '.join(names)}? Give the results of that one alone."
        )
    return [result for result in results if str(result.model.get("name", "")) == own[0]]


def write_eval_results(folder: str | os.PathLike[str], results: Sequence[EvaluationResult]) -> list[Path]:
    """
    Add results to a model's folder: to the metadata of its README.md, where values of the same metric on the same data
    are replaced, and as `.eval_results/<benchmark>.yaml`.

    Args:
        folder (`str` or `os.PathLike`): The model's folder.
        results (`Sequence[EvaluationResult]`): Of this model.

    Returns:
        `list[Path]`: What was written.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: The metadata of the README.md cannot be read.
    """
    target = Path(folder)
    if not target.is_dir():
        raise FileNotFoundError(f"there is no model folder {target}")
    if not any(is_whole(result) for result in results):
        raise ValueError("there is no result of a whole benchmark: samples (`max_rows`) are not published")
    readme = target / CARD_FILE
    name = target.resolve().name
    card = Card.read(read_text(readme) if readme.exists() else f"# {name}\n", readme)
    new = model_index(results)
    if new:
        index = card.fields.get("model-index")
        named, known = model_index_to_eval_results(index) if index else (name, [])
        kept = [one for one in known if not any(same_result(one, other) for other in new)]
        card = card.with_fields({"model-index": eval_results_to_model_index(named, [*kept, *new])})
    replace_text(readme, card.content)
    written = [readme]
    for benchmark, entries in eval_entries(results).items():
        found = eval_result_entries_to_yaml(entries)
        parse_eval_result_entries(found)  # as the Hub reads it
        path = target / EVAL_RESULTS_FOLDER / f"{benchmark}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump(found, sort_keys=False, allow_unicode=True), encoding="utf-8")
        written.append(path)
    return written


def same_result(one: EvalResult, other: EvalResult) -> bool:
    """Whether both are of one metric on one dataset."""
    return (one.unique_identifier, one.metric_type, one.metric_name) == (
        other.unique_identifier,
        other.metric_type,
        other.metric_name,
    )

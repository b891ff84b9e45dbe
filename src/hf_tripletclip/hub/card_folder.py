# SPDX-License-Identifier: Apache-2.0
"""What a model's folder tells of itself, for a card where nobody has written one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResultEntry, parse_eval_result_entries
from huggingface_hub.constants import EVAL_RESULTS_FOLDER

from hf_tripletclip.hub.card_sections import Retention
from hf_tripletclip.layouts.files import ADAPTER_CONFIG
from hf_tripletclip.objectives import OBJECTIVES, Objective, get_objective
from hf_tripletclip.results.curve import CURVE_FILE, PLOT_FILE, Curve, Point
from hf_tripletclip.results.result import EvaluationResult
from hf_tripletclip.utils.files import read_json, read_text

LOSS_PLOT, EVALUATION_PLOT = "loss_curve.png", "evaluation.png"
TRAINER_STATE = "trainer_state.json"


def facts_of_folder(folder: Path) -> dict[str, Any]:
    """
    What lies in a folder, as arguments of [`~hf_tripletclip.hub.create_model_card`].

    Raises:
        ValueError: A file cannot be read.
    """
    found = {path.stem: EvaluationResult.load_json(path) for path in sorted(folder.glob("evaluation_*.json"))}
    config = _json(folder / "config.json")
    was_trained = (folder / TRAINER_STATE).is_file()
    retention = _read_retention(folder, tuned=was_trained or (folder / ADAPTER_CONFIG).is_file())
    return {
        # Every config of ours names an objective; only a training run leaves its state.
        "objective": _objective(config) if was_trained else None,
        "towers": _describe_adapter(folder),
        "before": found.pop("evaluation_before", None),
        "after": found.pop("evaluation_after", None),
        "further": list(found.values()),
        "entries": _read_entries(folder),
        "retention": retention,
        "merged": retention is not None and retention.alpha != 1,
        "config": config,
        "plots": [name for name in (LOSS_PLOT, EVALUATION_PLOT) if (folder / name).is_file()],
    }


def tells_of_a_run(folder: Path) -> bool:
    """Whether anything in the folder tells of training or of results."""
    found = [TRAINER_STATE, CURVE_FILE, "evaluation_*.json", f"{EVAL_RESULTS_FOLDER}/*.yaml"]
    return any(any(folder.glob(pattern)) for pattern in found)


def _objective(config: Mapping[str, Any]) -> Objective | None:
    name = config.get("objective")
    return get_objective(name, **(config.get("objective_kwargs") or {})) if name in OBJECTIVES else None


def base_of_adapter(folder: Path) -> str | None:
    return _json(folder / ADAPTER_CONFIG).get("base_model_name_or_path") or None


def _describe_adapter(folder: Path) -> str | None:
    config = _json(folder / ADAPTER_CONFIG)
    targets = config.get("target_modules")
    shown = ", ".join(f"`{one}`" for one in ([targets] if isinstance(targets, str) else sorted(targets or [])))
    return f"LoRA of rank {config['r']}, alpha {config.get('lora_alpha')}, on {shown}." if config.get("r") else None


def _read_retention(folder: Path, *, tuned: bool) -> Retention | None:
    content = _json(folder / CURVE_FILE)
    if not content:
        return None
    try:
        points = [Point(**point) for point in content["points"]]
        curve = Curve(content["composition"], content["retention"], points)
        chosen = next((point for point in points if point.alpha == content.get("chosen")), None)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{folder / CURVE_FILE} is no curve of `tripletclip merge`: {error}") from error
    alpha = 1.0 if tuned or chosen is None else chosen.alpha
    return Retention(curve, alpha, chosen, plot=PLOT_FILE if (folder / PLOT_FILE).is_file() else None)


def _read_entries(folder: Path) -> list[EvalResultEntry]:
    found: list[EvalResultEntry] = []
    for path in sorted((folder / EVAL_RESULTS_FOLDER).glob("*.yaml")):
        try:
            found += parse_eval_result_entries(yaml.safe_load(read_text(path)))
        except (ValueError, KeyError, TypeError, yaml.YAMLError) as error:
            raise ValueError(f"{path} holds no results that can be read: {error}") from error
    return found


def _json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}

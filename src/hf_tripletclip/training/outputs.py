# SPDX-License-Identifier: Apache-2.0
"""What a finished run leaves beside the model: metrics, plots, a page of examples and the model card."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_tripletclip.configuration import TripletCLIPConfig
from hf_tripletclip.evaluation import EvaluationResult
from hf_tripletclip.evaluation.plots import plot_evaluation, plot_loss_curve, require_plots
from hf_tripletclip.evaluation.report import write_examples_page
from hf_tripletclip.hub import create_model_card
from hf_tripletclip.objectives import get_objective
from hf_tripletclip.training.arguments import TripletCLIPTrainingArguments


@dataclass
class RunRecord:
    """A finished run, as far as its files tell of it."""

    output_dir: Path
    config: TripletCLIPConfig
    args: TripletCLIPTrainingArguments
    dataset: str
    log_history: list[dict[str, Any]]
    before: EvaluationResult | None
    after: EvaluationResult | None
    test: Any
    train_seconds: float


def require_output_tools() -> None:
    """Raise `ImportError` before training where the plots could not be drawn after it."""
    require_plots()

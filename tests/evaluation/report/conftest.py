# SPDX-License-Identifier: Apache-2.0
"""Results to report on, small enough to compute by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hf_tripletclip.results import EvaluationResult
from hf_tripletclip.results.result import Mean
from hf_tripletclip.results.scoring import intervals, tally

KINDS = ("swap_obj", "add_att")
MEANS = {
    **{kind: Mean("accuracy", where={"category": kind}) for kind in KINDS},
    "macro": Mean("accuracy", by="category"),
    "micro": Mean("accuracy"),
}


def make_result(right: list[bool], name: str = "/runs/a", **changes) -> EvaluationResult:
    """SugarCrepe by hand: the first half of the rows are of one kind, the others of the other."""
    rows = len(right)
    predictions = {
        "key": [f"row/{index}" for index in range(rows)],
        "category": [KINDS[2 * index // rows] for index in range(rows)],
        "cluster": list(range(rows)),
        "score_i0c0": [0.3 if good else 0.1 for good in right],
        "score_i0c1": [0.2] * rows,
        "accuracy": right,
        "tie": [False] * rows,
    }
    fields = {
        "benchmark": "sugarcrepe",
        "metrics": {**{metric: tally(predictions, mean) for metric, mean in MEANS.items()}, "tie_rate": 0.0},
        "chance": dict.fromkeys(MEANS, 0.5),
        "counts": {"rows": rows, "missing": 0, **dict.fromkeys(KINDS, rows // 2)},
        "settings": {"protocol": "strict", "scores": "cosine in float32, strictly greater wins", "max_rows": None},
        "predictions": predictions,
        "primary": "macro",
        "intervals": intervals(predictions, MEANS),
        "means": dict(MEANS),
        "model": {"name": name, "fingerprint": f"weights of {name}", "dtype": "float32"},
        "data": {"source": "/data/sugarcrepe", "fingerprint": "f00"},
    }
    return EvaluationResult(**{**fields, **changes})


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Saves results under `results/<model>/<benchmark>.json` and returns the folder."""

    def write(*results: EvaluationResult) -> Path:
        for result in results:
            result.save(tmp_path / "results" / Path(result.model["name"]).name / f"{result.benchmark}.json")
        return tmp_path / "results"

    return write

# SPDX-License-Identifier: Apache-2.0
"""Results in a folder: where each is, and whether one that is there already is what evaluating again would find."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

from hf_tripletclip.evaluation.benchmark import Benchmark
from hf_tripletclip.evaluation.encoder import Encoder
from hf_tripletclip.results.result import EvaluationResult

STATE = "state"  # in `EvaluationResult.data`: the digest of `data_state`
ROUNDING = ("batch_size",)  # settings that change no more than the rounding


def safe_name(model: str) -> str:
    """A model's name as the name of a folder: `someone/clip` -> `someone__clip`."""
    parts = [part for part in Path(model).parts if part not in (".", "..", os.sep)]
    return re.sub(r"[^\w.@=+-]+", "_", "__".join(parts)) or "model"


def data_state(benchmark: Benchmark) -> str | None:
    """
    A digest of everything that a benchmark would read: its rows, captions and images. Images in files count as changed
    where their path, size or time of change did.

    Returns:
        `str` or `None`: `None` where the benchmark does not tell.

    Raises:
        OSError: The data is not there.
        ValueError: The data is not what it should be.
    """
    if type(benchmark).contents is Benchmark.contents:
        return None
    digest = hashlib.sha256()
    for key, images, captions in benchmark.contents():
        versions = [image.version() if image.exists() else f"no {image.name}" for image in images]
        digest.update(json.dumps([key, versions, list(captions)]).encode("utf-8", "surrogatepass") + b"\n")
    for detail in benchmark.details():
        digest.update(json.dumps(detail, default=str).encode("utf-8", "surrogatepass") + b"\n")
    return digest.hexdigest()[:16]


def difference(result: EvaluationResult, benchmark: Benchmark, encoder: Encoder, state: str | None) -> str | None:
    """What makes a result another one than evaluating again would find, in words; `None` if nothing does."""
    if result.benchmark != benchmark.name:
        return f"it is of {result.benchmark}"
    if result.model.get("fingerprint") != encoder.description()["fingerprint"]:
        return "the model is another"
    settings: dict[str, Any] = json.loads(json.dumps(benchmark.settings(encoder)))  # as a file has them
    for name, value in settings.items():
        if name not in ROUNDING and result.settings.get(name) != value:
            return f"`{name}` was {result.settings.get(name)!r}"
    for library, version in result.versions.items():
        if getattr(sys.modules.get(library), "__version__", None) != version:
            return f"{library} was {version}"
    if state is None:
        return f"{benchmark.name} does not tell whether its data changed"
    return None if result.data.get(STATE) == state else "the data has changed"


def read_result(path: Path, name: str) -> EvaluationResult | None:
    """
    The result in a file, with its predictions; `None` where there is none.

    Raises:
        ValueError: The file is no result, or one of another version.
    """
    if not path.exists():
        return None
    try:
        return EvaluationResult.load(path)
    except ValueError as error:
        raise ValueError(f"{error} It is in the way of the result of {name}: --overwrite replaces it.") from error

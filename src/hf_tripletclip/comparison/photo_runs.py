# SPDX-License-Identifier: Apache-2.0
"""
A run on photographs: one objective tunes the text tower; the image tower is locked and embeds each photograph once.

python -m hf_tripletclip.comparison.photo_runs --prepared DIR --data DIR --model CLIP --output_dir DIR --objective NAME
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from datasets import Dataset, disable_progress_bars, load_from_disk
from transformers import set_seed

from hf_tripletclip.checkpoints.merging import interpolate
from hf_tripletclip.comparison.experiments import Experiment, arms_at
from hf_tripletclip.comparison.photos import (
    CAPTIONS_FILE,
    LABELS_FILE,
    SPLIT_FILE,
    Pictures,
    Question,
    measure,
    names_of,
    questions_of,
    read_labels,
    read_photos,
    training_rows,
)
from hf_tripletclip.comparison.runs import METRICS_FILE, Run, differences_from, folder_of, words_of
from hf_tripletclip.evaluation.encoder import Encoder
from hf_tripletclip.layouts.processor import load_processor
from hf_tripletclip.modeling import TripletCLIPModel
from hf_tripletclip.objectives import get_objective
from hf_tripletclip.training import TripletCLIPTrainer, TripletCLIPTrainingArguments
from hf_tripletclip.training.checkpointing import file_digest
from hf_tripletclip.training.draws import LIMITS, unused_limits
from hf_tripletclip.training.towers import TowerArguments, prepare_towers
from hf_tripletclip.utils.files import replace_text

ROWS, QUESTIONS, PICTURES, START = "rows", "questions.json", "pictures.safetensors", "start"
SOURCES, SOURCES_FILE = (CAPTIONS_FILE, SPLIT_FILE, LABELS_FILE), "sources.json"
ALPHAS = (0.5, 1.0)  # of WiSE-FT; the tuned model comes last, because its metrics mark the run as finished
BATCH, LEARNING_RATE, WEIGHT_DECAY = 128, 3e-4, 0.1
MAX_NEGATIVES = 4  # of a row in a batch, as in NegCLIP


def alpha_label(label: str, alpha: float) -> str:
    """The table's label for the model between the start (0) and the tuned model (1)."""
    return label if alpha == 1 else f"{label}, WiSE-FT α = {alpha:g}"


def prepare(data: Path, model: Path, folder: Path, part: str) -> None:
    """
    Prepare what all runs share: the rows, the questions, the photographs' embeddings and the scores of the start.

    Args:
        data, model (`Path`): The folder of photographs and the folder of the CLIP.
        folder (`Path`): Folder for the prepared files.
        part (`str`): The part that is measured: `dev` or `test`.

    Raises:
        ValueError: `folder` was prepared from other captions, labels or weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    photos = read_photos(data, model)
    of_model = sorted(file.name for file in model.glob("*.safetensors"))
    _hold_sources(folder, [*(data / name for name in SOURCES), *(model / name for name in (SPLIT_FILE, *of_model))])
    if not (folder / ROWS / "state.json").is_file():
        training_rows(photos, data).save_to_disk(folder / ROWS)
    if not (folder / QUESTIONS).is_file():
        asked = [asdict(question) for question in questions_of(photos, data, part)]
        replace_text(folder / QUESTIONS, json.dumps(asked))
    start = folder_of(folder.parent, START, 0)
    if not (start / METRICS_FILE).is_file():
        base, processor = TripletCLIPModel.from_pretrained(model), load_processor(model)
        _write(_measured(Encoder(base, processor, progress=False), data, model, folder, part), start)


def _hold_sources(folder: Path, files: Sequence[Path]) -> None:
    """Record the contents of the files from which a folder is made; raise `ValueError` if the record differs."""
    digests = {str(file): file_digest(file)[:16] for file in files if file.is_file()}
    if changed := differences_from(folder / SOURCES_FILE, digests):
        raise ValueError(
            f"{folder} and the runs next to it were made before {', '.join(changed)} changed: give another "
            "`--output_dir`."
        )


def _measured(encoder: Encoder, data: Path, model: Path, folder: Path, part: str) -> dict[str, float]:
    photos, labels = [photo for photo in read_photos(data, model) if photo.part == part], read_labels(data)
    questions = [Question(**values) for values in json.loads((folder / QUESTIONS).read_text(encoding="utf-8"))]
    names = names_of(photos, questions, labels)
    return measure(encoder, Pictures.cached(encoder, data, names, folder / PICTURES), photos, questions, labels)


def _write(metrics: Mapping[str, float], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    replace_text(folder / METRICS_FILE, json.dumps(metrics, indent=1))  # the file exists only when it is complete


def photo_runs(
    experiment: Experiment,
    root: Path,
    *,
    data: Path,
    model: Path,
    part: str,
    seeds: Sequence[int],
    max_steps: int,
    only: Sequence[str] | None = None,
) -> list[Run]:
    """The runs of an experiment on photographs, seed by seed."""
    runs = []
    for seed in seeds:
        for arm in arms_at(experiment, "photos", only):
            folder = folder_of(root, arm.label, seed)
            flags = {
                "prepared": root / "data",
                "data": data,
                "model": model,
                "part": part,
                "output_dir": folder,
                "seed": seed,
                "max_steps": round(max_steps * arm.steps),
                "batch": round(BATCH * arm.batch),
                **arm.flags,
            }
            command = (sys.executable, "-m", "hf_tripletclip.comparison.photo_runs", *words_of(flags))
            runs.append(Run(arm.label, seed, folder, command))
    return runs


def _folder_of_alpha(folder: Path, alpha: float) -> Path:
    return folder if alpha == 1 else folder / f"alpha-{alpha:g}"


def measured_runs(runs: Sequence[Run], root: Path) -> list[Run]:
    """The rows of the table: the start, and for each run the tuned model and those between the start and it."""
    rows = [Run(START, 0, folder_of(root, START, 0), ())]
    for run in runs:
        rows += [
            Run(alpha_label(run.label, alpha), run.seed, _folder_of_alpha(run.folder, alpha), ())
            for alpha in reversed(ALPHAS)
        ]
    return sorted(rows, key=lambda run: [one.label for one in rows].index(run.label))


def main(argv: Sequence[str]) -> None:
    """Tune, measure and write `metrics.json`."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    for name in ("prepared", "data", "model", "output_dir"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--objective", required=True)
    parser.add_argument("--objective_kwargs", type=json.loads, default={})
    parser.add_argument("--part", choices=("dev", "test"), default="test")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max_steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--learning_rate", type=float, default=LEARNING_RATE)
    parser.add_argument("--max_negatives", type=int, default=MAX_NEGATIVES)
    parser.add_argument("--max_positives", type=int)
    options = parser.parse_args(argv)
    disable_progress_bars()
    set_seed(options.seed)
    base, model = (TripletCLIPModel.from_pretrained(options.model) for _ in range(2))
    processor = load_processor(options.model)
    prepare_towers(model, TowerArguments(train_vision="frozen"))
    rows = load_from_disk(options.prepared / ROWS)
    assert isinstance(rows, Dataset)
    options.batch = min(options.batch, len(rows))
    trainer = TripletCLIPTrainer(model, _arguments(options), train_dataset=rows, processing_class=processor)
    trainer.train()
    models = {alpha: interpolate(base, model, alpha) for alpha in ALPHAS}
    for alpha, weights in models.items():
        model.load_state_dict(weights)
        encoder = Encoder(model, processor, progress=False)
        metrics = _measured(encoder, options.data, options.model, options.prepared, options.part)
        _write(metrics, _folder_of_alpha(options.output_dir, alpha))


def _arguments(options: argparse.Namespace) -> TripletCLIPTrainingArguments:
    objective = get_objective(options.objective, **options.objective_kwargs)
    limits = {name: getattr(options, name) for name in LIMITS if name not in unused_limits(objective)}
    settings: dict[str, Any] = {
        "output_dir": str(options.output_dir),
        "objective": options.objective,
        "objective_kwargs": options.objective_kwargs or None,
        "max_steps": options.max_steps,
        "per_device_train_batch_size": options.batch,
        "learning_rate": options.learning_rate,
        **limits,
        "weight_decay": WEIGHT_DECAY,
        "warmup_steps": options.max_steps // 10,
        "lr_scheduler_type": "cosine",
        "seed": options.seed,
        "cache_locked_towers": str(options.prepared / "towers"),
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "logging_steps": 50,
    }
    return TripletCLIPTrainingArguments(**settings)


if __name__ == "__main__":
    main(sys.argv[1:])

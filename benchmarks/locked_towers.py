# SPDX-License-Identifier: Apache-2.0
"""Seconds of a training step with locked towers: the step without a cache, as a ratio to the step with it.

    python benchmarks/locked_towers.py --output benchmarks/results/locked_towers.md

A CLIP with random weights (image tower of a ViT-S/14 at 168 px, text tower of two layers) trains on `negclip` with
AdamW twice in the same run: without and with `cache_locked_towers`, on the same rows from the same seed. Each row has
a JPEG image of COCO's size and two captions. A step's time includes reading, decoding and preprocessing. It is the
mean over an epoch, in one thread without workers, in CPU seconds of the process, which other work on the machine
disturbs least, and in seconds of the wall clock. The first epoch fills the cache; the table shows the median of the
later epochs, and the median of the same epochs without the cache. `--model` and `--images` take a real model and real
photographs.
"""

from __future__ import annotations

import argparse
import io
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from evaluate import WORDS, picture
from result_page import write_page
from transformers import TrainerCallback
from transformers.utils import logging

from hf_tripletclip import (
    TripletCLIPConfig,
    TripletCLIPModel,
    TripletCLIPTrainer,
    TripletCLIPTrainingArguments,
    load_processor,
)
from hf_tripletclip.data import build_processor
from hf_tripletclip.training.towers import TowerArguments, prepare_towers

SIZE = 168
CASES: dict[str, dict[str, Any]] = {
    "image tower locked": {"train_vision": "frozen"},
    "both towers locked, projections in full": {
        "train_vision": "frozen",
        "train_text": "frozen",
        "train_projections": True,
    },
    "image tower locked, text tower by LoRA, distilled": {"train_vision": "frozen", "train_text": "lora"},
}
DISTILLATION = {"distillation": {"kind": "similarity", "weight": 1.0}}


class Epochs(TrainerCallback):
    """Measures the time of each epoch."""

    def __init__(self) -> None:
        self.cpu: list[float] = []
        self.wall: list[float] = []

    def on_epoch_begin(self, *args: Any, **kwargs: Any) -> None:
        self.started = time.process_time(), time.perf_counter()

    def on_epoch_end(self, *args: Any, **kwargs: Any) -> None:
        self.cpu.append(time.process_time() - self.started[0])
        self.wall.append(time.perf_counter() - self.started[1])


def caption(generator: np.random.Generator) -> str:
    return " ".join(generator.choice(WORDS, size=generator.integers(5, 20)))


def make_rows(number: int, images: Path | None) -> Dataset:
    generator = np.random.default_rng(0)
    files = [] if images is None else sorted(images.rglob("*.jpg"))[:number]
    rows = []
    for index in range(number):
        if files:
            content = files[index % len(files)].read_bytes()
        else:
            buffer = io.BytesIO()
            picture(index).save(buffer, "JPEG", quality=90)
            content = buffer.getvalue()
        image = {"bytes": content, "path": None}
        rows.append({"image": image, "caption": caption(generator), "neg_caption": caption(generator)})
    return Dataset.from_list(rows)


def make_model(source: str | None) -> tuple[TripletCLIPModel, Any]:
    if source is not None:
        return TripletCLIPModel.from_pretrained(source), load_processor(source)
    processor = build_processor([" ".join(WORDS)], image_size=SIZE)
    tokenizer = processor.tokenizer
    torch.manual_seed(0)
    text = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 2}
    text |= {"vocab_size": len(tokenizer), "max_position_embeddings": 77, "eos_token_id": tokenizer.eos_token_id}
    vision = {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 12, "num_attention_heads": 6}
    vision |= {"image_size": SIZE, "patch_size": 14}
    return TripletCLIPModel(TripletCLIPConfig(text_config=text, vision_config=vision, projection_dim=128)), processor


def train(case: str, rows: Dataset, options: argparse.Namespace, folder: str, cache: str | None) -> dict[str, Any]:
    core, processor = make_model(options.model)
    distilled = DISTILLATION if "distilled" in case else None
    epochs = Epochs()
    trainer = TripletCLIPTrainer(
        model=prepare_towers(core, TowerArguments(**CASES[case])),
        args=TripletCLIPTrainingArguments(
            output_dir=folder,
            objective="negclip",
            objective_kwargs=distilled,
            cache_locked_towers=cache,
            per_device_train_batch_size=options.batch_size,
            num_train_epochs=options.epochs,
            learning_rate=3e-4,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            use_cpu=not torch.cuda.is_available(),
            disable_tqdm=True,
        ),
        train_dataset=rows,
        processing_class=processor,
    )
    trainer.add_callback(epochs)
    trainer.train()
    steps = len(rows) // options.batch_size
    times: dict[str, Any] = {
        name: [seconds / steps for seconds in taken] for name, taken in (("cpu", epochs.cpu), ("wall", epochs.wall))
    }
    return {**times, "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--model", help="a CLIP directory instead of random weights")
    parser.add_argument("--images", type=Path, help="a folder of .jpg files instead of generated pictures")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    logging.set_verbosity_error()
    torch.set_num_threads(1)
    rows = make_rows(options.rows, options.images)
    what = options.model or f"a CLIP with random weights (image tower ViT-S/14 at {SIZE} px, text tower of two layers)"
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {os.cpu_count()} cores"
    lines = [
        "Written by `python benchmarks/locked_towers.py --output benchmarks/results/locked_towers.md`.",
        "",
        f"`negclip` with AdamW on {what}, float32, {options.rows} rows (an image of a JPEG file and two captions "
        f"each), batches of {options.batch_size}, {device}, torch {torch.__version__}, Python "
        f"{platform.python_version()}. CPU seconds of a step in one thread, with reading, decoding and preprocessing: "
        "without `cache_locked_towers`, in the epoch that fills the cache, and in the later ones. Reference, in the "
        "same run, also for the wall clock: without the cache. The gap is the largest difference of a step's loss "
        "between the two runs; disk is the size of the cache, also in bytes per row.",
        "",
        "| what trains | without | filling | later | ratio | of wall clock | gap | disk, KB | bytes per row |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            cache = f"{folder}/cache"
            without = train(case, rows, options, f"{folder}/without", None)
            cached = train(case, rows, options, f"{folder}/with", cache)
            size = sum(path.stat().st_size for path in Path(cache).rglob("*.safetensors"))
        before, after = (statistics.median(run["cpu"][1:]) for run in (without, cached))
        clock = statistics.median(without["wall"][1:]) / statistics.median(cached["wall"][1:])
        gap = max(abs(one - other) for one, other in zip(without["losses"], cached["losses"], strict=True))
        lines.append(
            f"| {case} | {before:.3f} | {cached['cpu'][0]:.3f} | {after:.4f} | {before / after:.0f} | {clock:.0f} | "
            f"{gap:.1g} | {size / 1e3:.0f} | {size / options.rows:.0f} |"
        )
    write_page(lines, options.output)


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""Time of a training step with each objective, as a ratio to `clip` on the same rows.

    python benchmarks/objectives.py --output benchmarks/results/objectives.md

A step is the forward and backward pass of a small CLIP on a batch with two hard negative captions, one hard negative
image, one paraphrase and two dense captions per row, of which each objective gets what it needs. Objectives alternate,
and the median of `--repeats` turns counts. Times are CPU seconds, which other work on the machine disturbs least.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from pathlib import Path

import torch
from result_page import write_page

from hf_tripletclip import TripletCLIPConfig, TripletCLIPModel
from hf_tripletclip.objectives import OBJECTIVES, available_objectives, get_objective
from hf_tripletclip.roles import ROLES

LENGTH, VOCABULARY, SIDE = 24, 1000, 64
# Number of each role per row. An objective that pairs negative captions with negative images gets one of each.
NUMBERS = {"image": 1, "text": 1, "negative_image": 1, "negative_text": 2, "paraphrase": 1, "dense_text": 2}


def make_model() -> TripletCLIPModel:
    tower = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4}
    ids = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": VOCABULARY - 1}
    text = {**tower, **ids, "max_position_embeddings": LENGTH}
    vision = {**tower, "image_size": SIDE, "patch_size": 16}
    torch.manual_seed(0)
    return TripletCLIPModel(TripletCLIPConfig(text_config=text, vision_config=vision, projection_dim=128))


def make_batch(name: str, rows: int) -> tuple[dict[str, torch.Tensor], int, int]:
    """Model inputs, and the numbers of images and texts per row."""
    roles = get_objective(name).roles
    numbers = {role: NUMBERS[role] for role in roles}
    if "negative_image" in roles and "negative_text" in roles:
        numbers["negative_text"] = 1
    batch: dict[str, torch.Tensor] = {}
    for role, number in numbers.items():
        known = ROLES[role]
        if known.is_image:
            batch[known.model_input] = torch.randn(rows * number, 3, SIDE, SIDE)
        else:
            ids = torch.randint(0, VOCABULARY - 1, (rows * number, LENGTH))
            ids[:, -1] = VOCABULARY - 1
            batch[known.model_input] = ids
            batch[known.attention_mask] = torch.ones_like(ids)
        if number > 1 and known.mask is not None:
            batch[known.mask] = torch.ones(rows, number, dtype=torch.bool)
    images = sum(number for role, number in numbers.items() if ROLES[role].is_image)
    return batch, images, sum(numbers.values()) - images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    model = make_model()

    def step(name: str, batch: dict[str, torch.Tensor]) -> float:
        biased = any(term.uses_bias for term in OBJECTIVES[name].terms)  # a CLIP has no bias
        model.set_objective(name, **({"bias": -10.0} if biased else {}))
        model.zero_grad()
        teacher = None
        start = time.process_time()
        if model.objective.needs_teacher:
            with torch.no_grad():
                output = model(**batch, return_loss=False, return_logits=False)
            teacher = {role: getattr(output, ROLES[role].output) for role in model.objective.teacher_roles}
        model(**batch, teacher_embeds=teacher, return_loss=True, return_logits=False).loss.backward()
        return time.process_time() - start

    batches = {name: make_batch(name, options.rows) for name in available_objectives()}
    for name, (batch, _, _) in batches.items():
        step(name, batch)  # libraries set up their buffers
    times: dict[str, list[float]] = {name: [] for name in batches}
    for _ in range(options.repeats):
        for name, (batch, _, _) in batches.items():
            times[name].append(step(name, batch))
    reference = statistics.median(times["clip"])
    lines = [
        "Written by `python benchmarks/objectives.py --output benchmarks/results/objectives.md`.",
        "",
        f"Forward and backward pass of a CLIP with {model.num_parameters() / 1e6:.1f} M parameters, "
        f"{options.rows} rows, float32, {os.cpu_count()} CPU cores, {torch.get_num_threads()} threads, CPU seconds, "
        f"torch {torch.__version__}, Python {platform.python_version()}. Reference, in the same run: `clip`.",
        "",
        "| objective | images per row | texts per row | seconds | ratio |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, (_, images, texts) in batches.items():
        seconds = statistics.median(times[name])
        lines.append(f"| `{name}` | {images} | {texts} | {seconds:.3f} | {seconds / reference:.2f} |")
    write_page(lines, options.output)


if __name__ == "__main__":
    main()

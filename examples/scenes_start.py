#!/usr/bin/env python
# SPDX-License-Identifier: Apache-2.0
"""Train the small start that the default run of examples/pretrain.py fine-tunes.

    python examples/scenes_start.py src/hf_tripletclip/data/scenes/start

It learns to recognise what `scenes` draws, by two kinds of lessons on pictures of the `train` split of another seed:
what each object is, as labels (patch by patch, and of the whole picture), and, once that has begun, plain CLIP on
pictures and captions. In a second round it also learns what is in each place of a picture. Hard negatives are no
lesson: the pictures of a row are dealt out singly, like any others. No caption of the `test` split and no held-out
combination of noun and colour occurs in what it sees.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from tqdm.auto import trange
from transformers import CLIPProcessor

from hf_tripletclip import TripletCLIPConfig, TripletCLIPModel
from hf_tripletclip.cli import run_reporting_errors
from hf_tripletclip.data import build_processor
from hf_tripletclip.data.scenes.build import make_row
from hf_tripletclip.data.scenes.captions import describe
from hf_tripletclip.data.scenes.drawing import EXTENT, draw_scene
from hf_tripletclip.data.scenes.scene import Scene, stable_hash
from hf_tripletclip.data.scenes.vocabulary import COLOURS, PATTERNS, PLAIN, SIZES, choose_nouns

IMAGE_SIZE, PATCH_SIZE, WIDTH, OBJECTS = 64, 16, 128, 3
TOWER = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH}
NOUNS, PATTERN_NAMES = list(choose_nouns(24)), (PLAIN, *PATTERNS)
COLOUR_NAMES, CELLS = list(COLOURS), 9
# What is asked of each noun, by the number of answers: is it there, its colour, pattern, size and place.
QUESTIONS = (1, len(COLOUR_NAMES), len(PATTERN_NAMES), len(SIZES), CELLS)
WEIGHTS = (0.5, 1.0, 0.5, 0.3, 1.0)
# What is asked of each patch, with "none" as a further answer: noun, colour and pattern of what covers it.
PATCH_QUESTIONS = (len(NOUNS) + 1, len(COLOUR_NAMES) + 1, len(PATTERN_NAMES) + 1)
PATCH_WEIGHTS = (3.0, 3.0, 2.0)
# What is asked of each place, with "none" as a further answer: noun and colour of what is there.
CELL_QUESTIONS, CELL_WEIGHT = PATCH_QUESTIONS[:2], 0.4


@dataclass
class Round:
    """
    Args:
        steps (`int`): How many.
        learning_rate (`float`): Its peak, after 100 steps.
        falls_until (`int`): The step at which it would be 0.
        clip_from (`int`): The step from which on captions are read.
        cells (`bool`): Whether places are asked for.
    """

    steps: int
    learning_rate: float
    falls_until: int
    clip_from: int
    cells: bool


# Places are learned within a hundred steps by a tower that knows nouns, and disturb one that does not.
ROUNDS = (Round(1_200, 2e-3, 1_600, 600, cells=False), Round(400, 1e-3, 400, 0, cells=True))


@dataclass
class Pictures:
    """
    Args:
        pixels (`torch.Tensor` of shape `(N, IMAGE_SIZE, IMAGE_SIZE, 3)`): uint8.
        captions (`list[str]`): One of each picture.
        labels (`torch.Tensor` of shape `(N, OBJECTS, 5)`): int64: noun (-1: no object), colour, pattern, size, place.
        boxes (`torch.Tensor` of shape `(N, OBJECTS, 3)`): float32: centre and half the extent, of the image's side.
    """

    pixels: torch.Tensor
    captions: list[str]
    labels: torch.Tensor
    boxes: torch.Tensor


def draw(rows: int, seed: int) -> Pictures:
    """Both scenes of so many rows of `train`, each as a picture with its caption."""
    pixels = np.empty((2 * rows, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    labels = torch.full((2 * rows, OBJECTS, len(QUESTIONS)), -1)
    boxes = torch.zeros(2 * rows, OBJECTS, 3)
    captions = []
    for row in trange(rows, desc="drawing", disable=None):
        for at, scene in enumerate(make_row("train", row, seed, NOUNS)[:2], start=2 * row):
            assert isinstance(scene, Scene)
            pixels[at] = np.asarray(draw_scene(scene, IMAGE_SIZE, stable_hash("start", seed, at)))
            captions.append(describe(scene))
            for number, (thing, (x, y)) in enumerate(zip(scene.objects, scene.positions(), strict=True)):
                labels[at, number] = torch.tensor(
                    [
                        NOUNS.index(thing.noun),
                        COLOUR_NAMES.index(thing.colour),
                        PATTERN_NAMES.index(thing.pattern),
                        SIZES.index(thing.size),
                        3 * _third(x) + _third(y),
                    ]
                )
                boxes[at, number] = torch.tensor([x, y, EXTENT[thing.size][len(scene.objects) - 2] / 2])
    return Pictures(torch.from_numpy(pixels), captions, labels, boxes)


def _third(place: float) -> int:
    return int(place > 0.4) + int(place > 0.6)


class Lessons(nn.Module):
    """What is asked of a vision tower while it learns to recognise; thrown away afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.objects = nn.Linear(WIDTH, len(NOUNS) * sum(QUESTIONS))
        self.norm = nn.LayerNorm(WIDTH)
        self.patches = nn.Linear(WIDTH, sum(PATCH_QUESTIONS))
        self.cells = nn.Linear(WIDTH, CELLS * sum(CELL_QUESTIONS))
        steps = (torch.arange(IMAGE_SIZE // PATCH_SIZE) + 0.5) * PATCH_SIZE / IMAGE_SIZE
        y, x = torch.meshgrid(steps, steps, indexing="ij")
        self.register_buffer("centres", torch.stack([x, y], dim=-1).flatten(0, 1), persistent=False)

    def of_pictures(self, pooled: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Which nouns are there, and the attributes and the place of those that are."""
        answers = self.objects(pooled).view(len(pooled), len(NOUNS), -1)
        there, attributes = answers[..., 0], answers[..., 1:]
        rows, numbers = (labels[..., 0] >= 0).nonzero(as_tuple=True)
        told = labels[rows, numbers]
        wanted = torch.zeros_like(there)
        wanted[rows, told[:, 0]] = 1.0
        loss = WEIGHTS[0] * F.binary_cross_entropy_with_logits(there, wanted, reduction="none").sum(1).mean()
        parts = attributes[rows, told[:, 0]].split(QUESTIONS[1:], dim=-1)
        return loss + sum(
            weight * F.cross_entropy(part, told[:, number])
            for number, (weight, part) in enumerate(zip(WEIGHTS[1:], parts, strict=True), start=1)
        )

    def of_cells(self, pooled: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """What is in each place of a picture."""
        parts = self.cells(pooled).view(len(pooled), CELLS, -1).split(CELL_QUESTIONS, dim=-1)
        rows, numbers = (labels[..., 0] >= 0).nonzero(as_tuple=True)
        losses = []
        for column, part in enumerate(parts):
            wanted = torch.full((len(pooled), CELLS), part.shape[-1] - 1)
            wanted[rows, labels[rows, numbers, -1]] = labels[rows, numbers, column]
            losses.append(F.cross_entropy(part.flatten(0, 1), wanted.flatten(), reduction="sum") / len(pooled))
        return CELL_WEIGHT * torch.stack(losses).sum()

    def of_patches(self, tokens: torch.Tensor, labels: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        """What covers each patch."""
        away = (self.centres[None, :, None] - boxes[:, None, :, :2]).abs().amax(-1)  # of (row, patch, object)
        covers = (labels[:, None, :, 0] >= 0) & (away < boxes[:, None, :, 2] + 0.01)
        nearest, number = away.masked_fill(~covers, torch.inf).min(-1)
        parts = self.patches(self.norm(tokens)).split(PATCH_QUESTIONS, dim=-1)
        losses = []
        for column, (weight, part) in enumerate(zip(PATCH_WEIGHTS, parts, strict=True)):
            told = labels[..., column].gather(1, number).masked_fill(nearest.isinf(), part.shape[-1] - 1)
            losses.append(weight * F.cross_entropy(part.flatten(0, 1), told.flatten()))
        return torch.stack(losses).sum()


def build(captions: Sequence[str], seed: int) -> tuple[TripletCLIPModel, CLIPProcessor]:
    """The model with random weights, and a processor whose tokenizer knows the words of all nouns' captions."""
    all_nouns = choose_nouns("all")
    scenes = [scene for row in range(5_000) for scene in make_row("train", row, seed, all_nouns)[:2]]
    further = [describe(scene) for scene in scenes if isinstance(scene, Scene)]
    processor = build_processor([*captions, *further], image_size=IMAGE_SIZE)
    tokenizer = processor.tokenizer
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = TripletCLIPConfig(
        objective="clip",
        projection_dim=WIDTH,
        vision_config={
            **TOWER,
            "image_size": IMAGE_SIZE,
            "patch_size": PATCH_SIZE,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "projection_dim": WIDTH,
        },
        text_config={
            **TOWER,
            **special,
            "vocab_size": len(tokenizer),
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "projection_dim": WIDTH,
        },
    )
    return TripletCLIPModel(config), processor


def train(
    model: TripletCLIPModel, processor: CLIPProcessor, pictures: Pictures, plan: Round, batch_size: int, seed: int
) -> None:
    """A round, with new lessons: they from its first step on, CLIP from `plan.clip_from` on; one AdamW over both."""
    lessons = Lessons()
    weights = [*model.parameters(), *lessons.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=plan.learning_rate, betas=(0.9, 0.98), weight_decay=0.05)
    mean, std = (torch.tensor(getattr(processor.image_processor, name)) for name in ("image_mean", "image_std"))
    shuffle = torch.Generator().manual_seed(seed)
    order = torch.empty(0, dtype=torch.long)
    bar = trange(plan.steps, desc="training", disable=None)
    for step in bar:
        if len(order) < batch_size:
            order = torch.randperm(len(pictures.captions), generator=shuffle)
        rows, order = order.split([batch_size, len(order) - batch_size])
        for group in optimizer.param_groups:
            group["lr"] = plan.learning_rate * min(1.0, (step + 1) / 100) * (1 - (step / plan.falls_until) ** 2)
        pixels = ((pictures.pixels[rows] / 255 - mean) / std).permute(0, 3, 1, 2)
        seen = model.vision_model(pixel_values=pixels, output_hidden_states=True)
        labels = pictures.labels[rows]
        # The last layer reads objects off the patches: what they are must be known before it.
        loss = lessons.of_patches(seen.hidden_states[-2][:, 1:], labels, pictures.boxes[rows])
        loss = loss + lessons.of_pictures(seen.pooler_output, labels)
        if plan.cells:
            loss = loss + lessons.of_cells(seen.pooler_output, labels)
        if step >= plan.clip_from:
            captions = [pictures.captions[row] for row in rows.tolist()]
            read = processor.tokenizer(captions, padding=True, return_tensors="pt")
            text = F.normalize(model.text_projection(model.text_model(**read).pooler_output), dim=-1)
            image = F.normalize(model.visual_projection(seen.pooler_output), dim=-1)
            logits = model.logit_scale.exp() * image @ text.T
            own = torch.arange(len(rows))
            loss = loss + (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        if (step + 1) % 100 == 0:
            bar.write(f"step {step + 1}: loss {loss.item():.3f}, {time.process_time():.0f} s of CPU", file=sys.stderr)


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description="Train the start of the default run.")
    parser.add_argument("output_dir", type=Path, help="Where the model and its processor are written.")
    parser.add_argument("--rows", type=int, default=25_000, help="Rows of `train`, two pictures each.")
    parser.add_argument("--scenes_seed", type=int, default=1, help="Seed of the rows; the default run's is 0.")
    parser.add_argument("--max_steps", type=int, help="At most so many of each round, to try it out.")
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0, help="Of the weights and of the order of the pictures.")
    args = parser.parse_args(argv)
    pictures = draw(args.rows, args.scenes_seed)
    torch.manual_seed(args.seed)
    model, processor = build(pictures.captions, args.scenes_seed)
    for number, plan in enumerate(ROUNDS):
        if number:
            torch.manual_seed(args.seed + number)
        steps = min(plan.steps, args.max_steps or plan.steps)
        train(model.train(), processor, pictures, replace(plan, steps=steps), args.batch_size, args.seed + number)
    model.half().save_pretrained(args.output_dir)  # half precision: what is shipped is small
    processor.save_pretrained(args.output_dir)


if __name__ == "__main__":
    sys.exit(run_reporting_errors(lambda: main(sys.argv[1:])))

# SPDX-License-Identifier: Apache-2.0
"""Small datasets of pairs, and pairs with embeddings that are chosen."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from hf_tripletclip.evaluation.images import ImageFile
from hf_tripletclip.mining.pairs import Pairs
from tests.evaluation.benchmarks import picture

WORDS = ("red", "blue", "cat", "dog", "bird", "car", "tree", "man", "hat", "ball")


def caption_of(number: int) -> str:
    return f"a {WORDS[number % 10]} and a {WORDS[number // 10 % 10]} near a {WORDS[number * 7 % 10]}"


def write_photographs(folder: Path, rows: Sequence[tuple[str, list[str]]], **columns: Sequence[Any]) -> Path:
    """A folder of pictures, `captions.jsonl` with a list of captions for each; returns it."""
    folder.mkdir(parents=True)
    lines = []
    for number, (name, captions) in enumerate(rows):
        path = folder / "pictures" / name
        path.parent.mkdir(exist_ok=True)
        if not path.exists():
            picture(name).save(path)
        further = {key: values[number] for key, values in columns.items()}
        lines.append(json.dumps({"image": f"pictures/{name}", "captions": captions, **further}))
    (folder / "captions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def copy_of(path: Path, target: Path) -> None:
    with Image.open(path) as image:
        image.save(target)


def pairs_of(captions: Sequence[str], image_of: Sequence[int], groups: Sequence[int] | None = None) -> Pairs:
    images = max(image_of) + 1
    return Pairs(
        "train",
        keys=[f"key{number}" for number in range(len(captions))],
        captions=list(captions),
        image_of=list(image_of),
        images=[ImageFile(f"{number}.png") for number in range(images)],
        groups=list(groups or range(images)),
        rows=list(range(len(captions))),
    )


def vectors(*rows: Sequence[float]) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.tensor(rows, dtype=torch.float32), dim=-1)

# SPDX-License-Identifier: Apache-2.0
"""Small files in the shape of a benchmark's, and an independent float64 computation of the scores."""

from __future__ import annotations

import copy
import csv
import json
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, List
from datasets import Image as ImageFeature
from datasets.table import embed_table_storage
from PIL import Image

from hf_tripletclip.evaluation.encoder import Encoder


def picture(name: str, size: tuple[int, int] = (20, 16)) -> Image.Image:
    """An RGB image of noise in 4 x 4 blocks, another one for each name."""
    width, height = size
    generator = np.random.default_rng(zlib.crc32(name.encode()))
    blocks = generator.integers(0, 256, (-(-height // 4), -(-width // 4), 3), dtype=np.uint8)
    return Image.fromarray(blocks.repeat(4, axis=0).repeat(4, axis=1)[:height, :width].copy())


def write_images(folder: Path, names: Iterable[str], size: tuple[int, int] = (20, 16)) -> Path:
    """Write a `picture` of each name (such as `000.png`, or `sub/000.png`) into the folder; returns the folder."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(name, size).save(path)
    return folder


def write_json(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


class Naive:
    """Cosines by a float64 copy of a model, one image or caption at a time, with nothing of the package's own."""

    def __init__(self, model: Any, processor: Any) -> None:
        self.model = copy.deepcopy(model).double().eval()
        self.processor = processor

    def image(self, image: Path | str | Image.Image) -> np.ndarray:
        """The embedding `(dim,)`, not normalised."""
        if not isinstance(image, Image.Image):
            with Image.open(image) as opened:
                image = opened.convert("RGB")
        pixels = self.processor.image_processor(images=image, return_tensors="pt")["pixel_values"].double()
        with torch.no_grad():
            return self._vector(self.model.get_image_features(pixel_values=pixels))

    def text(self, caption: str) -> np.ndarray:
        """The embedding `(dim,)`, not normalised."""
        limit = self.model.config.text_config.max_position_embeddings
        inputs = self.processor.tokenizer([caption], truncation=True, max_length=limit, return_tensors="pt")
        with torch.no_grad():
            return self._vector(self.model.get_text_features(**inputs))

    @staticmethod
    def _vector(output: Any) -> np.ndarray:
        return (output if isinstance(output, torch.Tensor) else output.pooler_output)[0].numpy()

    @staticmethod
    def cosine(one: np.ndarray, other: np.ndarray) -> float:
        return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))

    def score(self, image: Path | str | Image.Image, caption: str) -> float:
        """The cosine of an image and a caption."""
        return self.cosine(self.image(image), self.text(caption))

    def scores(self, image: Path | str | Image.Image, captions: Sequence[str]) -> list[float]:
        """The cosine of an image and each caption."""
        embedding = self.image(image)
        return [self.cosine(embedding, self.text(caption)) for caption in captions]

    def between(self, one: str, other: str) -> float:
        """The cosine of two captions."""
        return self.cosine(self.text(one), self.text(other))


class HandEncoder(Encoder):
    """Embeddings that a test writes down, instead of those of the model."""

    def __init__(
        self, model: Any, processor: Any, images: dict[str, Sequence[float]], texts: dict[str, Sequence[float]]
    ) -> None:
        super().__init__(model, processor, progress=False)
        self.by_image, self.by_text = images, texts

    @classmethod
    def of_scores(cls, model: Any, processor: Any, scores: dict[str, dict[str, float]]) -> HandEncoder:
        """
        Embeddings whose products are these scores: image name -> caption -> score. An image's captions of which
        nothing is said have the score 0.
        """
        captions = {caption for of_image in scores.values() for caption in of_image}
        axes = np.eye(len(scores)).tolist()
        return cls(
            model,
            processor,
            dict(zip(scores, axes, strict=True)),
            {caption: [of_image.get(caption, 0.0) for of_image in scores.values()] for caption in captions},
        )

    def images(self, images: Sequence[Any]) -> tuple[torch.Tensor, dict[int, str]]:
        return torch.tensor([self.by_image[image.name] for image in images]).float(), {}

    def texts(self, captions: Sequence[str]) -> torch.Tensor:
        return torch.tensor([self.by_text[caption] for caption in captions]).float()


def write_table(path: Path, columns: dict[str, list[Any]], images: str | None = None) -> Path:
    """Write a parquet file; the column `images` has paths of files, or lists of one, which are embedded."""
    table = Dataset.from_dict(columns)
    if images is not None:
        listed = isinstance(columns[images][0], list)
        table = table.cast_column(images, List(ImageFeature()) if listed else ImageFeature())
        table = table.with_format("arrow").map(embed_table_storage, batched=True).with_format(None)
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_parquet(path)
    return path

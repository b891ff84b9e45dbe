# SPDX-License-Identifier: Apache-2.0
"""A random ViT-B/32: four benchmarks against naive float64 computations, written out here row by row."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import CLIPConfig, CLIPModel

from hf_tripletclip.data import build_processor
from hf_tripletclip.evaluation import Encoder, Retrieval, SugarCrepe, Winoground, ZeroShot
from tests.evaluation.benchmarks import Naive, write_images, write_json, write_table

CAPTIONS = ["a red cat on a table", "a blue cat", "a dog beside a small house", "two birds", "a horse", "an old train"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def encoder():
    processor = build_processor(CAPTIONS, image_size=224)
    config = CLIPConfig()
    config.text_config.vocab_size = len(processor.tokenizer)
    config.text_config.eos_token_id = processor.tokenizer.eos_token_id
    torch.manual_seed(0)
    return Encoder(CLIPModel(config), processor, batch_size=4, progress=False)


@pytest.fixture(scope="module")
def scores(encoder, tmp_path_factory):
    """Six pictures in a folder, and the cosine of each with each caption, in float64."""
    folder = tmp_path_factory.mktemp("pictures")
    write_images(folder, [f"{n}.png" for n in range(6)], size=(120, 90))
    naive = Naive(encoder.model, encoder.processor)
    images = np.stack([naive.image(folder / f"{n}.png") for n in range(6)])
    texts = np.stack([naive.text(caption) for caption in CAPTIONS])
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    return folder, images @ texts.T, texts


def test_sugarcrepe(encoder, scores, tmp_path):
    folder, cosines, _ = scores
    rows = {
        str(2 * n): {"filename": f"{n}.png", "caption": CAPTIONS[n], "negative_caption": CAPTIONS[(n + 1) % 6]}
        for n in range(6)
    }
    write_json(tmp_path / "swap_obj.json", rows)
    result = SugarCrepe(annotations=str(tmp_path), images=str(folder))(encoder)
    right = [cosines[n, n] > cosines[n, (n + 1) % 6] for n in range(6)]
    assert result.metrics["swap_obj"] == pytest.approx(sum(right) / 6)
    assert result.predictions["score_i0c0"] == pytest.approx([cosines[n, n] for n in range(6)], abs=1e-5)


def test_winoground(encoder, scores, tmp_path):
    folder, cosines, _ = scores
    columns: dict[str, list] = {name: [] for name in ("id", "image_0", "image_1", "caption_0", "caption_1")}
    pairs = [(0, 1), (2, 3), (4, 5), (1, 4)]
    for number, (one, other) in enumerate(pairs):
        columns["id"].append(number)
        for place, which in enumerate((one, other)):
            columns[f"image_{place}"].append(str(folder / f"{which}.png"))
            columns[f"caption_{place}"].append(CAPTIONS[which])
    from datasets import Dataset, Image

    table = Dataset.from_dict(columns).cast_column("image_0", Image()).cast_column("image_1", Image())
    table.to_parquet(tmp_path / "data" / "test-0.parquet")
    result = Winoground(data=str(tmp_path / "data"), images=str(folder))(encoder)
    text = [cosines[a, a] > cosines[a, b] and cosines[b, b] > cosines[b, a] for a, b in pairs]
    image = [cosines[a, a] > cosines[b, a] and cosines[b, b] > cosines[a, b] for a, b in pairs]
    assert result.metrics["text_score"] == pytest.approx(sum(text) / 4)
    assert result.metrics["image_score"] == pytest.approx(sum(image) / 4)
    assert result.metrics["group_score"] == pytest.approx(sum(a and b for a, b in zip(text, image, strict=True)) / 4)


def test_retrieval(encoder, scores, tmp_path):
    folder, cosines, _ = scores
    columns = {"image": [str(folder / f"{n}.png") for n in range(6)], "caption": CAPTIONS}
    write_table(tmp_path / "test.parquet", columns, images="image")
    result = Retrieval(data=str(tmp_path / "test.parquet"), split="train")(encoder)
    for direction, matrix in (("image_to_text", cosines), ("text_to_image", cosines.T)):
        for k in (1, 5):
            hits = [sum(matrix[n] > matrix[n, n]) < k for n in range(6)]
            assert result.metrics[f"{direction}_recall@{k}"] == pytest.approx(sum(hits) / 6)


def test_zeroshot(encoder, scores, tmp_path):
    folder, _, _ = scores
    labels = ["cat", "dog", "horse"]
    for n in range(6):
        target = tmp_path / "set" / labels[n % 3]
        target.mkdir(parents=True, exist_ok=True)
        (target / f"{n}.png").write_bytes((folder / f"{n}.png").read_bytes())
    templates = ["a {c}", "a small {c}"]
    result = ZeroShot(data=str(tmp_path / "set"), templates=templates)(encoder)
    naive = Naive(encoder.model, encoder.processor)
    classes = []
    for label in labels:
        prompts = np.stack([naive.text(template.format(c=label)) for template in templates])
        mean = (prompts / np.linalg.norm(prompts, axis=1, keepdims=True)).mean(axis=0)
        classes.append(mean / np.linalg.norm(mean))
    right = []
    for n in range(6):
        image = naive.image(folder / f"{n}.png")
        values = [float(image @ one) for one in classes]
        right.append(values[n % 3] > max(value for place, value in enumerate(values) if place != n % 3))
    assert result.metrics["top1"] == pytest.approx(sum(right) / 6)

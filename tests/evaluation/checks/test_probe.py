# SPDX-License-Identifier: Apache-2.0
"""Real or drawn: told apart if the embeddings differ, not if they do not, and never by an image seen before."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from datasets import Dataset
from datasets import Image as ImageFeature
from PIL import Image

from hf_tripletclip.evaluation.checks.probe import (
    TooFewImages,
    _linked,
    probe,
    probe_baseline,
    real_or_drawn,
)
from hf_tripletclip.evaluation.encoder import Encoder
from hf_tripletclip.evaluation.images import ImageFile

Rows = list[tuple[ImageFile, ImageFile]]


def pairs(number: int) -> Rows:
    return [(ImageFile(f"real-{index}"), ImageFile(f"drawn-{index}")) for index in range(number)]


def embeddings(rows: Rows, apart: float, dim: int = 8) -> dict[ImageFile, torch.Tensor]:
    """Noise, with drawn images `apart` standard deviations away in one direction."""
    generator = torch.Generator().manual_seed(0)
    found = {}
    for image in dict.fromkeys(image for row in rows for image in row):
        vector = torch.randn(dim, generator=generator)
        vector[0] += apart * image.path.startswith("drawn")
        found[image] = torch.nn.functional.normalize(vector, dim=0)
    return found


def test_what_can_be_told_apart_is_told_apart():
    rows = pairs(60)
    found = probe(rows, embeddings(rows, apart=8))
    assert found.accuracy > 0.95
    assert found.interval[0] > 0.9
    assert (found.real, found.drawn, found.both, found.broken) == (60, 60, 0, 0)


def test_what_cannot_be_told_apart_is_chance():
    rows = pairs(200)
    found = probe(rows, embeddings(rows, apart=0))
    assert found.accuracy == pytest.approx(0.5, abs=0.1)
    assert found.interval[0] < 0.55
    assert found.interval[1] > 0.45


def test_it_agrees_with_an_independent_logistic_regression():
    rows = pairs(5)  # each row is a fold
    known = embeddings(rows, apart=1.5)
    found = probe(rows, known)
    images = [*(one for one, _ in rows), *(other for _, other in rows)]
    features = torch.stack([known[image] for image in images]).double().numpy()
    labels = np.array([0.0] * 5 + [1.0] * 5)
    right = np.zeros(10, dtype=bool)
    for row in range(5):
        train = np.arange(10) % 5 != row
        mean, scale = features[train].mean(axis=0), features[train].std(axis=0)
        x = np.c_[(features - mean) / scale, np.ones(10)]
        weights = np.zeros(9)
        penalty = np.diag([1.0] * 8 + [0.0])
        for _ in range(50):  # Newton's method
            p = 1 / (1 + np.exp(-x[train] @ weights))
            gradient = x[train].T @ (p - labels[train]) + penalty @ weights
            weights -= np.linalg.solve((x[train].T * (p * (1 - p))) @ x[train] + penalty, gradient)
        right[~train] = (x[~train] @ weights > 0) == labels[~train].astype(bool)
    assert found.accuracy == pytest.approx(right.mean())
    assert 0.3 < found.accuracy < 1


def test_the_interval_allows_for_images_that_are_tried_by_each_other(monkeypatch):
    def narrow(columns, means):
        return dict.fromkeys(means, (0.5, 0.9))

    monkeypatch.setattr("hf_tripletclip.evaluation.checks.probe.intervals", narrow)
    found = probe(pairs(10), embeddings(pairs(10), apart=8))
    low, high = found.interval
    assert low == pytest.approx(found.accuracy + 2**0.5 * (0.5 - found.accuracy))
    assert high == pytest.approx(min(1.0, found.accuracy + 2**0.5 * (0.9 - found.accuracy)))


@pytest.mark.slow
def test_without_a_difference_the_interval_holds_one_half():
    held = 0
    for seed in range(300):
        generator = torch.Generator().manual_seed(seed)
        rows = pairs(50)
        known = {
            image: torch.nn.functional.normalize(torch.randn(16, generator=generator), dim=0)
            for row in rows
            for image in row
        }
        low, high = probe(rows, known).interval
        held += low <= 0.5 <= high
    assert held / 300 >= 0.94  # 0.86 before it is made wider


def test_both_classes_weigh_the_same():
    rows = [(ImageFile(f"real-{index // 9}"), ImageFile(f"drawn-{index}")) for index in range(270)]
    found = probe(rows, embeddings(rows, apart=0))
    assert (found.real, found.drawn) == (30, 270)
    assert found.accuracy == pytest.approx(0.5, abs=0.15)  # not 0.9, which "all are drawn" would get


def test_images_that_rows_link_are_in_one_group():
    a, b, c, d, e, f = (ImageFile(name) for name in "abcdef")
    numbers = _linked([(a, b), (c, d), (e, b), (f, d)])
    assert numbers[a] == numbers[b] == numbers[e]
    assert numbers[c] == numbers[d] == numbers[f]
    assert numbers[a] != numbers[c]


def test_memory_of_an_image_is_no_knowledge():
    # Each real image in two rows, with embeddings that differ from all others: only who has seen one knows it.
    rows = [(ImageFile(f"real-{index // 4}"), ImageFile(f"drawn-{index}")) for index in range(80)]
    known = embeddings(rows, apart=0, dim=64)
    assert probe(rows, known).accuracy == pytest.approx(0.5, abs=0.2)


def test_an_image_of_both_classes_is_left_out():
    rows = [*pairs(20), (ImageFile("real-0"), ImageFile("real-1"))]
    found = probe(rows, embeddings(rows, apart=8))
    assert (found.real, found.drawn, found.both) == (19, 20, 1)


def test_an_image_without_an_embedding_is_left_out():
    rows = pairs(20)
    known = embeddings(rows, apart=8)
    del known[rows[0][0]]
    found = probe(rows, known, broken=1)
    assert (found.real, found.drawn, found.broken) == (19, 20, 1)


@pytest.mark.parametrize("rows", [[], pairs(1), [(ImageFile("real"), ImageFile(f"drawn-{n}")) for n in range(20)]])
def test_too_few_images(rows):
    known = embeddings(rows, apart=8)
    with pytest.raises(TooFewImages, match="Too few images to tell real from drawn ones by"):
        probe(rows, known)
    assert probe_baseline(rows, known) == {}


def test_a_baseline_has_the_interval():
    rows = pairs(30)
    found = probe_baseline(rows, embeddings(rows, apart=8))["real or drawn"]
    assert found["accuracy_low"] <= found["accuracy"] <= found["accuracy_high"]


def dataset(rows: int = 20) -> Dataset:
    generator = np.random.default_rng(0)
    columns = {
        "image": [Image.fromarray(generator.integers(0, 255, (16, 16, 3), dtype=np.uint8)) for _ in range(rows)],
        "neg_image": [Image.new("RGB", (16, 16), (index, 2 * index, 3)) for index in range(rows)],
    }
    return Dataset.from_dict(columns).cast_column("image", ImageFeature()).cast_column("neg_image", ImageFeature())


def test_a_training_set(model, processor):
    found = real_or_drawn(Encoder(model, processor, progress=False), dataset())
    assert (found.real, found.drawn, found.broken) == (20, 20, 0)
    assert found.accuracy == 1.0  # noise against flat colour
    with pytest.raises(ValueError, match="it lacks 'neg_image'"):
        real_or_drawn(Encoder(model, processor), dataset().remove_columns("neg_image"))


def test_without_scikit_learn_the_check_says_what_to_install_and_results_go_without_it(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "sklearn"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    rows = pairs(30)
    known = embeddings(rows, apart=8)
    with pytest.raises(ImportError, match=r'pip install "hf_tripletclip\[probe\]"'):
        probe(rows, known)
    assert probe_baseline(rows, known) == {}

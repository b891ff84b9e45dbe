# SPDX-License-Identifier: Apache-2.0
"""`benchmarks/scaling.py`: what it measures is what a whole model has, and its formulas are those of the exchange."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_tripletclip.objectives import get_objective

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def scaling(monkeypatch) -> Any:
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module("scaling")
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) == str(FOLDER / f"{name}.py"):
            del sys.modules[name]


def test_parameters_are_those_of_the_published_models(scaling):
    """As the cards of the models have them."""
    found = {size.name: round(scaling.parameters_of(size)[0] / 1e6, 1) for size in scaling.MODELS}
    assert list(found.values()) == [151.3, 427.6, 878.0, 2539.6]


@pytest.mark.parametrize("objective", ["tripletclip", "siglip_triplet"])
def test_two_layers_tell_what_four_keep(scaling, objective):
    deep = scaling.tower(32, 64, 4, 2, patch_size=8, image_size=16)
    size = scaling.Size("tiny", "none", objective, deep, scaling.tower(24, 48, 4, 2, max_position_embeddings=77), 24)
    model: Any = size.model().to(torch.bfloat16).train()
    pixels, ids = torch.zeros(2, 3, 16, 16, dtype=torch.bfloat16), torch.zeros(2, 77, dtype=torch.int64)
    images = scaling.kept_bytes(lambda: model.vision_model(pixels).pooler_output, model.vision_model)
    texts = scaling.kept_bytes(lambda: model.text_model(ids).pooler_output, model.text_model)
    assert scaling.activation_bytes(size) == pytest.approx(images + texts, rel=0.01)  # two rows: two of each


def test_the_formulas(scaling):
    assert scaling.state_bytes(100, 10, 1, sharded=True) == scaling.state_bytes(100, 10, 8, sharded=False) == 1800
    assert scaling.state_bytes(800, 10, 8, sharded=True) == 1600 + 80
    assert scaling.exchanged_bytes(80, 8, sharded=False) == scaling.exchanged_bytes(80, 8, sharded=True) == 560
    # Four blocks are gathered. The ring sends those of each term: six.
    objective = get_objective("tripletclip")
    keys = scaling.key_bytes(objective, 512, 256, 8)
    block = 256 * 512 * 4
    assert keys["all"] == 8 * 4 * block
    assert keys["gather holds"] == 2 * keys["all"]
    assert keys["ring sends"] == 7 * 3 * 6 * block
    first = scaling.gpus_for_ring(objective, 512, 256)
    assert first == 2**28 // (4 * block) + 1

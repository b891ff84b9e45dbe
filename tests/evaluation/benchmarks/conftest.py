# SPDX-License-Identifier: Apache-2.0
"""An independent computation of the scores, and a model that has collapsed."""

from __future__ import annotations

import pytest
import torch
from transformers import CLIPModel

from tests.evaluation.benchmarks import Naive


@pytest.fixture
def naive(model, processor) -> Naive:
    """Scores of `model` in float64, one row at a time."""
    return Naive(model, processor)


@pytest.fixture
def collapsed(model) -> CLIPModel:
    """A model (with `processor`) that gives every image and every caption the same embedding: all scores tie at 1."""
    with torch.no_grad():
        for norm in (model.vision_model.post_layernorm, model.text_model.final_layer_norm):
            norm.weight.zero_()
            norm.bias.fill_(1.0)
        for projection in (model.visual_projection, model.text_projection):
            projection.weight.zero_()
            projection.weight[0] = 1.0  # of length 1 along one axis, exactly, whatever the batch
    return model

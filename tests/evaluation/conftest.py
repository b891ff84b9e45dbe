# SPDX-License-Identifier: Apache-2.0
"""A small random model and its processor."""

from __future__ import annotations

import pytest
import torch
from transformers import CLIPModel, CLIPProcessor

from hf_tripletclip.data import build_processor
from tests.evaluation import CAPTIONS
from tests.tiny import tiny_config


@pytest.fixture(scope="session")
def processor() -> CLIPProcessor:
    return build_processor(CAPTIONS, image_size=16, model_max_length=16)


@pytest.fixture
def model(processor: CLIPProcessor) -> CLIPModel:
    config = tiny_config()
    config.text_config.vocab_size = len(processor.tokenizer)
    config.text_config.eos_token_id = processor.tokenizer.eos_token_id
    torch.manual_seed(0)
    return CLIPModel(config)

# SPDX-License-Identifier: Apache-2.0
"""A small random model, and photographs with several captions each."""

from __future__ import annotations

import pytest
import torch
from transformers import CLIPModel

from hf_tripletclip.data import build_processor
from tests.mining import WORDS, caption_of, write_photographs
from tests.tiny import tiny_config


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    processor = build_processor([" ".join(("a", "and", "near", *WORDS))], image_size=16, model_max_length=16)
    config = tiny_config()
    config.text_config.vocab_size = len(processor.tokenizer)
    config.text_config.eos_token_id = processor.tokenizer.eos_token_id
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def photographs(tmp_path, own_cache):
    """20 pictures of two captions each, and a column of the source."""
    rows = [(f"{number:02d}.png", [caption_of(2 * number), caption_of(2 * number + 1)]) for number in range(20)]
    return write_photographs(tmp_path / "photographs", rows, licence=[f"licence {number}" for number in range(20)])

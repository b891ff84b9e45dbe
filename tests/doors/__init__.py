# SPDX-License-Identifier: Apache-2.0
"""A saved model of ours, opened by other libraries."""

from __future__ import annotations

from pathlib import Path

import torch

from hf_tripletclip import TripletCLIPModel
from hf_tripletclip.data import build_processor
from tests.tiny import tiny_config

WORDS = ["a red cat above a blue dog", "a blue cat below a red dog", "a black key over a gray house in a room"]


def save_model(folder: Path, seed: int = 0, length: int = 16) -> Path:
    """Write a small random model as a training run leaves it, for captions of up to `length` tokens."""
    processor = build_processor(WORDS, image_size=16, model_max_length=length)
    config = tiny_config()
    config.text_config.max_position_embeddings = length
    config.text_config.vocab_size = len(processor.tokenizer)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(config.text_config, name, getattr(processor.tokenizer, name))
    torch.manual_seed(seed)
    TripletCLIPModel(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder

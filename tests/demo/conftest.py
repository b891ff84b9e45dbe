# SPDX-License-Identifier: Apache-2.0
"""Two small random models in directories, and pictures as Gradio hands them over."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import CLIPModel

from hf_tripletclip.data import build_processor
from hf_tripletclip.demo.scoring import DemoModels
from tests.tiny import tiny_config

WORDS = ["a red cat above a blue dog", "a blue cat below a red dog", "a black key over a gray house in a room"]


def save_model(folder: Path, seed: int) -> Path:
    processor = build_processor(WORDS, image_size=16, model_max_length=16)
    config = tiny_config()
    config.text_config.vocab_size = len(processor.tokenizer)
    config.text_config.eos_token_id = processor.tokenizer.eos_token_id
    torch.manual_seed(seed)
    CLIPModel(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def folders(tmp_path_factory) -> list[Path]:
    root = tmp_path_factory.mktemp("models")
    return [save_model(root / name, seed) for seed, name in enumerate(["first", "second"])]


@pytest.fixture(scope="session")
def models(folders) -> DemoModels:
    return DemoModels.from_pretrained(folders, device="cpu")


@pytest.fixture
def picture(tmp_path) -> str:
    path = tmp_path / "picture.png"
    image = Image.new("RGB", (40, 30), "orange")
    image.paste("blue", (5, 5, 20, 20))
    image.save(path)
    return str(path)


@pytest.fixture
def text_file(tmp_path) -> str:
    path = tmp_path / "renamed.png"
    path.write_text("I am a text file")
    return str(path)

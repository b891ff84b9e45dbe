# SPDX-License-Identifier: Apache-2.0
"""What our model says, and the same folder for libraries that must do without this package."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hf_tripletclip import TripletCLIPModel, load_processor
from tests.doors import save_model

CAPTIONS = ["a red cat above a blue dog", "a blue cat", "a black key over a gray house in a room"]


def picture(color: str, other: str) -> Image.Image:
    image = Image.new("RGB", (40, 30), color)
    image.paste(other, (5, 5, 20, 20))
    return image


@dataclass
class Ours:
    """
    Args:
        folder (`str`): Of the model.
        images (`list`): Pictures, one for each caption.
        image, text (`numpy.ndarray`): Embeddings of shape `(3, dim)`, not normalised.
        probabilities (`numpy.ndarray`): Of shape `(3, 3)`, over the captions of each picture.
    """

    folder: str
    images: list[Image.Image]
    image: np.ndarray
    text: np.ndarray
    probabilities: np.ndarray

    @property
    def cosines(self) -> np.ndarray:
        image, text = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (self.image, self.text))
        return image @ text.T


def ours(model: Any, folder: Path) -> Ours:
    """What a model of this package, in memory, makes of the pictures and captions."""
    images = [picture("red", "blue"), picture("yellow", "black"), picture("green", "white")]
    inputs = load_processor(folder)(text=CAPTIONS, images=images, padding=True, return_tensors="pt")
    with torch.no_grad():
        image = model.get_image_features(inputs["pixel_values"]).pooler_output
        text = model.get_text_features(inputs["input_ids"], attention_mask=inputs["attention_mask"]).pooler_output
        probabilities = model(**inputs).logits_per_image.softmax(dim=1)
    return Ours(str(folder), images, image.numpy(), text.numpy(), probabilities.numpy())


@pytest.fixture(scope="session")
def saved(tmp_path_factory) -> Ours:
    folder = save_model(tmp_path_factory.mktemp("doors") / "model")
    return ours(TripletCLIPModel.from_pretrained(folder).eval(), folder)


@pytest.fixture
def adapter(saved, tmp_path) -> Ours:
    """An adapter of the saved model whose layers and whose text projection changed, and what our model says."""
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(
        r=2, target_modules=["q_proj", "v_proj"], modules_to_save=["text_projection"], init_lora_weights=False
    )
    torch.manual_seed(1)
    tuned = peft.get_peft_model(TripletCLIPModel.from_pretrained(saved.folder), config)
    with torch.no_grad():
        tuned.base_model.model.text_projection.weight.add_(0.1)
    tuned.save_pretrained(tmp_path / "adapter")
    load_processor(saved.folder).save_pretrained(tmp_path / "adapter")
    return ours(tuned.get_base_model().eval(), tmp_path / "adapter")


@pytest.fixture
def without_package(monkeypatch) -> None:
    """From here on, nobody can import this package, nor any part of it that was imported."""
    for name in ["hf_tripletclip", *(name for name in sys.modules if name.startswith("hf_tripletclip."))]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError):
        import hf_tripletclip  # noqa: F401

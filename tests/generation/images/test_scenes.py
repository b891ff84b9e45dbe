# SPDX-License-Identifier: Apache-2.0
"""The images of the embedded data."""

from __future__ import annotations

import importlib.util

import datasets
import pytest

from hf_tripletclip.data import load_scenes
from hf_tripletclip.data.scenes import drawing
from hf_tripletclip.generation.images.scenes import ScenesImages
from hf_tripletclip.generation.registry import get_stage


def test_they_are_those_of_the_dataset_to_the_byte(tmp_path):
    rows = load_scenes(seed=2, train_size=6, validation_size=5, test_size=8, image_size=32, num_proc=1,
                       cache_dir=tmp_path)  # fmt: skip
    stage = ScenesImages(scenes_seed=2, image_size=32)
    stage.setup()
    for split in rows:
        raw = rows[split].cast_column("neg_image", datasets.Image(decode=False))
        made = stage({"id": raw["id"], "neg_caption": raw["neg_caption"]})
        assert [image["bytes"] for image in made["neg_image"]] == [image["bytes"] for image in raw["neg_image"]]
        assert made["seed"] == [2] * len(raw)
        assert made["error"] == [None] * len(raw)
    encoded = stage.produces.encode_batch({name: made[name] for name in stage.produces})
    assert set(encoded) == {"neg_image", "seed"}


def test_other_rows_have_an_error():
    stage = get_stage("images", "scenes")
    made = stage({"id": ["scenes-test-000000", "other"], "neg_caption": ["a photo", None]})
    assert made["error"][0].startswith("not the caption of the scene: scenes-test-000000")
    assert made["error"][1] == "not a row of scenes: other"
    assert made["neg_image"] == made["seed"] == [None, None]


def test_settings(monkeypatch):
    assert ScenesImages(device="cpu", batch_size=8).settings() == {
        "stage": "scenes",
        "scenes_seed": 0,
        "nouns": 24,
        "image_size": 64,
    }
    with pytest.raises(ValueError, match="`image_size` is 8"):
        ScenesImages(image_size=8)
    with pytest.raises(ValueError, match="`nouns` is 'few'"):
        ScenesImages(nouns="few")
    drawing._font_folder.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "hf_tripletclip\[scenes\]"'):
        ScenesImages().setup()
    drawing._font_folder.cache_clear()

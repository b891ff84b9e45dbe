# SPDX-License-Identifier: Apache-2.0
"""The images of the built-in data."""

from __future__ import annotations

import importlib.util

import datasets
import pytest

from hf_tripletclip.data import load_scenes
from hf_tripletclip.data.scenes import drawing
from hf_tripletclip.data.scenes.faulty import is_faulty
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


def test_a_share_of_the_training_images_does_not_show_its_caption(tmp_path):
    rows = load_scenes(train_size=20, validation_size=6, test_size=6, image_size=32, num_proc=1, cache_dir=tmp_path)
    changed = {}
    for split in rows:
        raw = rows[split].cast_column("neg_image", datasets.Image(decode=False))
        batch = {"id": raw["id"], "neg_caption": raw["neg_caption"]}
        made = ScenesImages(image_size=32, faulty_share=0.5)(batch)["neg_image"]
        changed[split] = [one["bytes"] != other["bytes"] for one, other in zip(made, raw["neg_image"], strict=True)]
    assert changed["train"] == [is_faulty("train", index, 0, 0.5) for index in range(20)]
    assert 0 < sum(changed["train"]) < 20
    assert not any(changed["validation"] + changed["test"])


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
        "faulty_share": 0.0,
    }
    for share in (-0.1, 1.1):
        with pytest.raises(ValueError, match=f"`faulty_share` is {share}; give a share from 0 to 1"):
            ScenesImages(faulty_share=share)
    with pytest.raises(ValueError, match="`image_size` is 8"):
        ScenesImages(image_size=8)
    with pytest.raises(ValueError, match="`nouns` is 'few'"):
        ScenesImages(nouns="few")
    drawing._font_folder.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "hf_tripletclip\[scenes\]"'):
        ScenesImages().setup()
    drawing._font_folder.cache_clear()

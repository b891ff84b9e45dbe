# SPDX-License-Identifier: Apache-2.0
"""The captions of the built-in data."""

from __future__ import annotations

import pytest

from hf_tripletclip.data import load_scenes
from hf_tripletclip.generation.captions.scenes import ScenesCaptions
from hf_tripletclip.generation.registry import get_stage


@pytest.mark.parametrize("options", [{}, {"seed": 5, "nouns": 30}])
def test_they_are_those_of_the_dataset(tmp_path, options):
    rows = load_scenes(**options, train_size=12, validation_size=5, test_size=14, image_size=16, num_proc=1,
                       cache_dir=tmp_path)  # fmt: skip
    stage = ScenesCaptions(scenes_seed=options.get("seed", 0), nouns=options.get("nouns", 24))
    for split in rows:
        columns = rows[split].select_columns(["id", "caption", "neg_caption", "negative_type"])[:]
        made = stage({"id": columns["id"], "caption": columns["caption"]})
        assert made["neg_caption"] == columns["neg_caption"]
        assert made["negative_type"] == columns["negative_type"]
        assert made["error"] == [None] * len(columns["id"])


def test_other_rows_have_an_error():
    stage = get_stage("captions", "scenes")
    own = stage({"id": ["scenes-train-000003"], "caption": ["a photo"]})
    assert own["error"][0].startswith("not the caption of the scene: scenes-train-000003")
    assert own["neg_caption"] == own["negative_type"] == [None]
    for name in ("coco-1", "scenes-dev-000001", "scenes-train-1", "scenes-train-0000001", "scenes-train-000001x", 7):
        made = stage({"id": [name], "caption": ["a photo"]})
        assert made["error"] == [f"not a row of scenes: {name}"]


def test_settings():
    assert ScenesCaptions().settings() == {"stage": "scenes", "scenes_seed": 0, "nouns": 24}
    with pytest.raises(ValueError, match="`nouns` is 2"):
        ScenesCaptions(nouns=2)

# SPDX-License-Identifier: Apache-2.0
"""A small version of the dataset, and thousands of its rows without images."""

from __future__ import annotations

import pytest
from datasets import DatasetDict

from hf_tripletclip.data import load_scenes
from hf_tripletclip.data.scenes.build import SPLITS, make_row
from hf_tripletclip.data.scenes.scene import Scene
from hf_tripletclip.data.scenes.vocabulary import choose_nouns

SIZES = {"train_size": 1200, "validation_size": 40, "test_size": 70}
ROWS = {"train": 2000, "validation": 1000, "test": 2100}


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> DatasetDict:
    return load_scenes(**SIZES, image_size=32, num_proc=2, cache_dir=tmp_path_factory.mktemp("scenes"))


@pytest.fixture(scope="session")
def rows_of() -> dict[str, list[tuple[Scene, Scene, str]]]:
    """The results of `make_row` for the first `ROWS` rows of each split."""
    nouns = choose_nouns(24)
    return {split: [make_row(split, index, 0, nouns) for index in range(ROWS[split])] for split in SPLITS}

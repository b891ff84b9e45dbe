# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from datasets import DatasetDict

from hf_tripletclip.data import load_scenes

SIZES = {"train_size": 1200, "validation_size": 40, "test_size": 70}


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> DatasetDict:
    return load_scenes(**SIZES, image_size=32, num_proc=2, cache_dir=tmp_path_factory.mktemp("scenes"))

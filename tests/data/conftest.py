# SPDX-License-Identifier: Apache-2.0
"""A processor of small images, and a collator that reports to a temporary file."""

from __future__ import annotations

import pytest

from hf_tripletclip.data import BrokenRows, TripletCollator, build_processor

CAPTIONS = ["a red cat above a blue dog", "a blue cat above a red dog", "a green fish on the beach"]


@pytest.fixture(scope="module")
def processor():
    return build_processor(CAPTIONS, image_size=32, model_max_length=20)


@pytest.fixture
def collator(processor, tmp_path):
    return TripletCollator(processor, broken_rows=BrokenRows(tmp_path / "broken.jsonl"))

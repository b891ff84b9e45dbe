# SPDX-License-Identifier: Apache-2.0
"""Example pictures."""

from __future__ import annotations

import sys

import pytest
from PIL import Image

from hf_tripletclip import TripletCLIPModel, load_processor
from hf_tripletclip.data.scenes.start import start_folder
from hf_tripletclip.data.schema import NEGATIVE_TYPES
from hf_tripletclip.demo.app import EXAMPLE_SIZE, draw_examples


def test_one_of_each_kind_as_the_test_split_has_them(tmp_path):
    examples = draw_examples(tmp_path)
    if not examples:
        pytest.skip("the fonts of the extra `scenes` are not installed")
    assert [example.kind for example in examples] == list(NEGATIVE_TYPES)
    for example in examples:
        assert Image.open(example.path).size == (EXAMPLE_SIZE, EXAMPLE_SIZE)
        assert example.caption != example.negative


def test_none_without_the_fonts(tmp_path, monkeypatch):
    from hf_tripletclip.data.scenes import drawing

    monkeypatch.setitem(sys.modules, "qtawesome", None)
    drawing._font_folder.cache_clear()
    assert draw_examples(tmp_path) == []
    assert not list(tmp_path.iterdir())


def test_a_model_of_small_pictures_recognises_what_is_on_the_large_ones(tmp_path):
    """The model that comes with `scenes` was trained on pictures of 64 px."""
    examples = [example for example in draw_examples(tmp_path) if example.kind in ("replace_obj", "add_obj")]
    if not examples:
        pytest.skip("the fonts of the extra `scenes` are not installed")
    model, processor = TripletCLIPModel.from_pretrained(start_folder()).float().eval(), load_processor(start_folder())
    for example in examples:
        inputs = processor(
            text=[example.caption, example.negative],
            images=Image.open(example.path),
            return_tensors="pt",
            padding=True,
        )
        right, wrong = model(**inputs).logits_per_image[0].tolist()
        assert right > wrong + 1, example

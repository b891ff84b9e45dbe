# SPDX-License-Identifier: Apache-2.0
"""Example pictures."""

from __future__ import annotations

import sys

import pytest
from PIL import Image

from hf_tripletclip.data.schema import NEGATIVE_TYPES
from hf_tripletclip.demo.examples import SIZE, draw_examples


def test_one_of_each_kind_as_the_test_split_has_them(tmp_path):
    examples = draw_examples(tmp_path)
    if not examples:
        pytest.skip("the fonts of the extra `scenes` are not installed")
    assert [example.kind for example in examples] == list(NEGATIVE_TYPES)
    for example in examples:
        assert Image.open(example.path).size == (SIZE, SIZE)
        assert example.caption != example.negative


def test_none_without_the_fonts(tmp_path, monkeypatch):
    from hf_tripletclip.data.scenes import drawing

    monkeypatch.setitem(sys.modules, "qtawesome", None)
    drawing._font_folder.cache_clear()
    assert draw_examples(tmp_path) == []
    assert not list(tmp_path.iterdir())

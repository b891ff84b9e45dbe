# SPDX-License-Identifier: Apache-2.0
"""Files that are read with errors that name them."""

from __future__ import annotations

import pytest

from hf_tripletclip.utils.files import read_json, read_json_object


def test_json_names_the_place_of_an_error(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text('{"1": {"a": 1}}')
    assert read_json(path) == {"1": {"a": 1}}
    path.write_text('{"1":\n  {"a": }}')
    with pytest.raises(ValueError, match=r"rows\.json is not valid JSON: Expecting value: line 2 column 9"):
        read_json(path)
    path.write_bytes(b'{"1": "\xff"}')
    with pytest.raises(ValueError, match=r"rows\.json is not UTF-8: byte 7"):
        read_json(path)
    path.write_bytes(b'\xef\xbb\xbf{"1": 2}')  # Windows editors write such a mark first
    assert read_json(path) == {"1": 2}
    path.write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"rows\.json is not valid JSON: it is nested too deeply"):
        read_json(path)
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "absent.json")


def test_an_object_is_asked_for(tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"a": 1}')
    assert read_json_object(path) == {"a": 1}
    path.write_text("[]")
    with pytest.raises(ValueError, match=r"config\.json must hold a JSON object, it holds a list\."):
        read_json_object(path)

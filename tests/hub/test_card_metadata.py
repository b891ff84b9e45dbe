# SPDX-License-Identifier: Apache-2.0
"""Metadata of cards: fields are set, and the rest stays as it stands."""

from __future__ import annotations

import difflib

import pytest

from hf_tripletclip.hub.card_metadata import body_of, fields_of, parse_card, with_fields
from hf_tripletclip.utils.files import read_text

CARD = """---
# mine
language: no  # norsk
version: 1.10
tags:
- a
- b
# of the weights
license: mit
license: apache-2.0
base_model: [x/y,
  z/w]
model-index: {}
text: |
  block
  of two

first: &one 5
other: *one
---

# Title
"""


@pytest.mark.parametrize(
    ("fields", "changed"),
    [
        ({"new": ["ä"]}, ["+new:", "+- ä"]),
        ({"tags": ["q"]}, ["-- a", "-- b", "+- q"]),
        ({"language": "en"}, ["-language: no  # norsk", "+language: en"]),
        ({"license": "bsd"}, ["-license: mit", "-license: apache-2.0", "+license: bsd"]),
        ({"base_model": "k/l"}, ["-base_model: [x/y,", "-  z/w]", "+base_model: k/l"]),
        ({"text": "x"}, ["-text: |", "-  block", "-  of two", "-", "+text: x"]),
        ({"other": 7}, ["-other: *one", "+other: 7"]),
        ({"model-index": [{"name": "m"}]}, ["-model-index: {}", "+model-index:", "+- name: m"]),
        ({}, []),
    ],
)
def test_only_what_is_set_changes(fields, changed):
    card = with_fields(CARD, fields)
    lines = list(difflib.unified_diff(CARD.splitlines(), card.splitlines(), lineterm="", n=0))[2:]
    assert [line for line in lines if not line.startswith("@@")] == changed
    assert fields_of(card) == {**fields_of(CARD), **fields}
    assert body_of(card) == body_of(CARD)


def test_what_cannot_be_edited_is_written_anew():
    """The value is needed elsewhere; braces take no further lines."""
    card = with_fields(CARD, {"first": 7})
    assert fields_of(card) == {**fields_of(CARD), "first": 7}
    assert with_fields("---\n{license: mit}\n---\nText", {"a": 1}) == "---\nlicense: mit\na: 1\n---\nText"


def test_line_breaks_stay_and_metadata_begin_where_there_are_none():
    assert with_fields("---\r\nlicense: mit\r\n---\r\nText", {"a": [1]}) == (
        "---\r\nlicense: mit\r\na:\r\n- 1\r\n---\r\nText"
    )
    assert with_fields("# Title\n", {"a": 1}) == "---\na: 1\n---\n\n# Title\n"
    assert with_fields("---\n# nothing yet\n---\nText", {"a": 1}) == "---\n# nothing yet\na: 1\n---\nText"


def test_a_byte_order_mark_hides_no_metadata(tmp_path):
    (tmp_path / "README.md").write_bytes(b"\xef\xbb\xbf---\r\nlicense: mit\r\n---\r\nText")
    content = read_text(tmp_path / "README.md")
    assert fields_of(content) == {"license": "mit"}
    assert content.endswith("\r\nText")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("- a", "should be a dict"),
        ("[1, 2", "expected"),
        ("tags: 5", "'int' object is not iterable"),
        ("tags: [5]", r"has `tags: \[5\]`: give a name, or a list"),
        ("base_model: 5", "has `base_model: 5`: give a name, or a list"),
        ("model-index: 5", "Invalid `model_index`"),
        ("1: 2", "must be strings"),
    ],
)
def test_metadata_that_cannot_be_read_are_named(header, message):
    with pytest.raises(ValueError, match=rf"(?s)the metadata at the head of user/x.*{message}"):
        parse_card(f"---\n{header}\n---\nText", "user/x")

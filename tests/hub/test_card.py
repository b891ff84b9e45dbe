# SPDX-License-Identifier: Apache-2.0
"""Cards as they were written: metadata are set, and the text stays as it stands."""

from __future__ import annotations

import pytest
from huggingface_hub import ModelCard

from hf_tripletclip.hub.card import Card
from hf_tripletclip.utils.files import read_text

CARD = """---
language: no
version: 1.10
tags:
- a
- b
license: mit
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

---
no: metadata
---
"""
FIELDS = {
    "language": "no",
    "version": 1.1,
    "tags": ["a", "b"],
    "license": "mit",
    "base_model": ["x/y", "z/w"],
    "model-index": {},
    "text": "block\nof two\n",
    "first": 5,
    "other": 5,
}


def read(content: str) -> Card:
    return Card.read(content, "user/x")


@pytest.mark.parametrize(
    "changes",
    [
        {"new": ["ä"]},
        {"tags": ["q"]},
        {"language": "en"},
        {"license": "bsd", "base_model": "k/l"},
        {"text": "x"},
        {"first": 7},
        {"model-index": [{"name": "m", "results": []}]},
    ],
)
def test_only_what_is_set_changes(changes):
    card = read(CARD)
    assert card.fields == FIELDS
    changed = card.with_fields(changes)
    assert changed == read(changed.content)
    assert changed.fields == {**FIELDS, **changes}
    assert list(changed.fields) == list({**FIELDS, **changes})  # new fields come last
    assert changed.text == card.text
    assert changed.content.endswith(f"---\n{card.text}")


def test_without_a_change_all_of_it_stays():
    content = "---\n# mine\nlanguage: no  # norsk\n---\nText"
    assert read(content).with_fields({}).content == content
    assert read(content).with_fields({"language": "no"}).content == content


def test_norwegian_is_no_boolean():
    """Of the booleans of YAML 1.1, the Hub knows `true` and `false`."""
    card = read("---\nlanguage: no\ngated: false\nother: [on, True]\n---\nText")
    assert card.fields == {"language": "no", "gated": False, "other": ["on", True]}
    assert ModelCard(card.with_fields({"a": 1}).content).data.language == "no"


def test_line_breaks_stay_and_metadata_begin_where_there_are_none():
    assert read("---\r\nlicense: mit\r\n---\r\nText").with_fields({"a": [1]}).content == (
        "---\r\nlicense: mit\r\na:\r\n- 1\r\n---\r\nText"
    )
    assert read("# Title\n").with_fields({"a": 1}).content == "---\na: 1\n---\n\n# Title\n"
    assert read("---\n# nothing yet\n---\nText").with_fields({"a": 1}).content == "---\na: 1\n---\nText"
    assert read("---\n{license: mit}\n---\nText").with_fields({"a": 1}).content == (
        "---\nlicense: mit\na: 1\n---\nText"
    )
    assert read("---\n---\nText").with_fields({"a": 1}).content == "---\na: 1\n---\n\nText"


def test_a_byte_order_mark_hides_no_metadata(tmp_path):
    (tmp_path / "README.md").write_bytes(b"\xef\xbb\xbf---\r\nlicense: mit\r\n---\r\nText")
    card = read(read_text(tmp_path / "README.md"))
    assert card.fields == {"license": "mit"}
    assert card.content.endswith("\r\nText")


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
        read(f"---\n{header}\n---\nText")

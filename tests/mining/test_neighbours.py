# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from hf_tripletclip.mining.neighbours import captions_digest

TEXTS = [
    ["a cat", "a dog"],
    ["Straße", "猫"],
    ["", None],
    [["a cat", "a dog"], ["one"]],
    [["Straße"], []],
]


@pytest.mark.parametrize("texts", TEXTS)
def test_captions_are_the_same_rows_however_they_are_held(texts):
    def held(value, how):
        if isinstance(value, list):
            return [held(one, how) for one in value]
        return value if value is None else how(value.encode())

    wanted = captions_digest(texts)
    for how in (bytes, bytearray):
        assert captions_digest([held(text, how) for text in texts]) == wanted
    arrays = [np.array(text, dtype=object) if isinstance(text, list) else text for text in texts]
    assert captions_digest(arrays) == wanted
    assert captions_digest(texts[::-1]) != wanted


def test_captions_that_are_no_utf8_are_told_apart():
    digests = {captions_digest([value]) for value in (b"\xff", b"\xfe", b"a", None, [b"\xff"])}
    assert len(digests) == 5


def test_what_is_no_caption_is_named():
    with pytest.raises(TypeError, match="it is a set"):
        captions_digest([{"a cat"}])

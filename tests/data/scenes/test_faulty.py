# SPDX-License-Identifier: Apache-2.0
"""Negative images that do not show their captions: the rows that have one, and what it shows."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from hf_tripletclip.data.scenes.build import caption_split, make_row
from hf_tripletclip.data.scenes.captions import describe
from hf_tripletclip.data.scenes.faulty import faulty_image, faulty_scene, is_faulty
from hf_tripletclip.data.scenes.scene import describes, is_held_out
from hf_tripletclip.data.scenes.vocabulary import choose_nouns

NOUNS = choose_nouns(24)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 1.0])
def test_the_share_applies_to_the_training_rows(share):
    rows = 4000
    found = {index for index in range(rows) if is_faulty("train", index, 0, share)}
    assert len(found) / rows == pytest.approx(share, abs=0.03)
    assert all(is_faulty("train", index, 0, min(share + 0.2, 1.0)) for index in found)
    assert not any(is_faulty(split, index, 0, share) for split in ("validation", "test") for index in range(rows))


def test_another_seed_has_other_faulty_rows():
    one, other = ([is_faulty("train", index, seed, 0.5) for index in range(200)] for seed in (0, 1))
    assert one != other


def test_the_negative_caption_is_false_of_what_is_shown():
    again = 0
    for index in range(400):
        positive, negative, _ = make_row("train", index, 0, NOUNS)
        shown = faulty_scene(index, 0, NOUNS)
        assert shown == faulty_scene(index, 0, NOUNS)
        assert not describes(negative, shown)
        assert not is_held_out(shown)
        assert caption_split(describe(shown)) == "train"
        again += shown == positive
    assert 150 < again < 250


def test_each_row_has_its_own_faulty_image():
    one, other = (faulty_image(index, 0, NOUNS, 32)["bytes"] for index in (0, 1))
    assert one != other
    assert one == faulty_image(0, 0, NOUNS, 32)["bytes"]
    assert Image.open(io.BytesIO(one)).size == (32, 32)

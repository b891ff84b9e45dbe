# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from hf_tripletclip.data.scenes.recognition import load_recognition, recognition_templates
from hf_tripletclip.data.scenes.vocabulary import COLOURS
from hf_tripletclip.evaluation import Retrieval, ZeroShot


def test_pictures_are_of_their_colour_and_the_same_each_time():
    table = load_recognition(per_class=4, image_size=48)
    names = table.features["label"].names
    assert names == list(COLOURS)
    assert Counter(table["label"]) == dict.fromkeys(range(len(names)), 4)
    found = 0
    for row in table:
        pixels = np.asarray(row["image"]).reshape(-1, 3).astype(int)
        distance = np.abs(pixels - np.array(COLOURS[names[row["label"]]])).sum(axis=1)
        found += (distance < 110).mean() > 0.02
    assert found >= 0.9 * len(table)
    again = load_recognition(per_class=4, image_size=48)
    assert [image.tobytes() for image in again["image"]] == [image.tobytes() for image in table["image"]]
    other = load_recognition(per_class=4, image_size=48, seed=1)
    assert [image.tobytes() for image in other["image"]] != [image.tobytes() for image in table["image"]]


def test_there_is_a_template_for_each_noun():
    templates = recognition_templates()
    assert len(templates) == 24
    assert all(template.count("{c}") == 1 for template in templates)


def test_defaults():
    given = load_recognition(per_class=1, nouns=24, seed=0, image_size=64)
    assert [image.tobytes() for image in load_recognition(per_class=1)["image"]] == [
        image.tobytes() for image in given["image"]
    ]
    assert given[0]["image"].size == (64, 64)


def test_bad_arguments():
    with pytest.raises(ValueError, match="`per_class` is 0"):
        load_recognition(per_class=0)


def test_benchmarks_load_scenes_by_name():
    found = ZeroShot(data="scenes", max_rows=22).read("scenes")
    assert (len(found.images), found.classnames) == (22, list(COLOURS))
    rows = Retrieval(data="scenes", max_rows=5).rows()
    assert len(rows) == 5
    assert all(len(row.captions) == 1 for row in rows)

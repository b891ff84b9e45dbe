# SPDX-License-Identifier: Apache-2.0
"""The data with faulty negatives, made and scored like any other, and the table of filters."""

from __future__ import annotations

import pytest

from hf_tripletclip.comparison.faulty import FAULTY_SHARE, filter_table, make_faulty
from hf_tripletclip.data import load_tripletdata
from hf_tripletclip.data.scenes.faulty import is_faulty

ROWS = 400


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faulty") / "data"
    make_faulty(folder, progress=False, train_size=ROWS, validation_size=5, test_size=7)
    return folder


def test_the_scores_separate_faulty_rows_from_others(folder):
    rows = load_tripletdata(str(folder))
    assert {split: len(rows[split]) for split in rows} == {"train": ROWS, "validation": 5, "test": 7}
    assert {"neg_clip_score", "negative_type", "neg_image"} <= set(rows["test"].column_names)
    assert not {"faulty"} & set(rows["train"].column_names)
    scores: dict[bool, list[float]] = {True: [], False: []}
    for key, score in zip(rows["train"]["id"], rows["train"]["neg_clip_score"], strict=True):
        scores[is_faulty("train", int(key.rsplit("-", 1)[1]), 0, FAULTY_SHARE)].append(score)
    means = {faulty: sum(some) / len(some) for faulty, some in scores.items()}
    assert means[True] < means[False] - 0.02


def test_the_table_of_filters(folder):
    _, _, none, best, margin = filter_table(folder, best=ROWS // 2).splitlines()
    cells = [cell.strip() for cell in best.strip("|").split("|")]
    assert cells[:2] == [f"`best {ROWS // 2}`", str(ROWS // 2)]
    share = float(none.split("|")[3])
    assert share == pytest.approx(FAULTY_SHARE, abs=0.08)
    left, found, others = map(float, cells[2:5])
    assert left < share
    assert found > 0.5 > others
    assert found * share + others * (1 - share) == pytest.approx(0.5, abs=0.005)
    assert "min_neg_margin 0" in margin

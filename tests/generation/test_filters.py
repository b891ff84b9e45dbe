# SPDX-License-Identifier: Apache-2.0
"""Filters on score columns, against the rules written out row by row."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
from datasets import Dataset, Features, Value

from hf_tripletclip.generation.filters import FilterSettings, apply_filters, filter_dataset

SCORES = {
    "clip_score": [0.30, 0.20, 0.25, 0.10],
    "neg_clip_score": [0.20, 0.20, 0.35, 0.20],
    "cross_clip_score": [0.10, 0.25, 0.25, 0.05],
    "neg_cross_clip_score": [0.10, 0.10, 0.40, 0.10],
    "image_similarity": [0.90, 0.50, 0.70, 0.20],
    "caption_similarity": [0.95, 0.99, 0.60, 0.80],
    "vqa_score": [0.6, 1.0, 0.8, 0.2],
}


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({}, [0, 1, 2, 3]),
        ({"min_clip_score_mean": 0.2}, [0, 1, 2]),
        ({"min_clip_score": 0.22}, [0, 2]),
        ({"min_neg_clip_score": 0.3}, [2]),
        ({"min_margin": 0.0}, [0, 2, 3]),
        ({"min_neg_margin": 0.0}, [0, 1, 3]),
        ({"min_image_similarity": 0.5}, [0, 1, 2]),
        ({"max_image_similarity": 0.7}, [1, 2, 3]),
        ({"min_image_similarity": 0.5, "max_image_similarity": 0.7}, [1, 2]),
        ({"min_caption_similarity": 0.8}, [0, 1, 3]),
        ({"max_caption_similarity": 0.95}, [0, 2, 3]),
        ({"min_vqa_score": 0.6}, [0, 1, 2]),
        ({"best": 1}, [2]),
        ({"best": 2}, [0, 2]),
        ({"best": 100}, [0, 1, 2, 3]),
        ({"best": 1, "max_caption_similarity": 0.9, "min_vqa_score": 0.9}, []),
        ({"best": 1, "max_image_similarity": 0.6}, [1]),
    ],
)
def test_each_bound(settings, kept):
    found, reasons = apply_filters(SCORES, FilterSettings(**settings))
    assert found == kept
    assert sorted([*found, *reasons]) == [0, 1, 2, 3]


def test_a_row_has_the_first_reason_that_applies():
    settings = FilterSettings(min_clip_score_mean=0.2, max_image_similarity=0.8, min_vqa_score=0.9, best=1)
    scores = {**SCORES, "vqa_score": [1.0, 1.0, 1.0, None]}
    kept, reasons = apply_filters(scores, settings)
    assert kept == [2]
    assert reasons == {0: "max_image_similarity", 1: "best", 3: "missing vqa_score"}


def test_missing_scores_are_a_reason_only_where_they_are_needed():
    scores = {**SCORES, "vqa_score": [None, float("nan"), 0.8, 0.2], "clip_score": [0.3, 0.2, None, 0.1]}
    assert apply_filters(scores, FilterSettings(max_image_similarity=1.0))[0] == [0, 1, 2, 3]
    assert apply_filters(scores, FilterSettings(min_vqa_score=0.0)) == (
        [2, 3],
        {0: "missing vqa_score", 1: "missing vqa_score"},
    )
    assert apply_filters(scores, FilterSettings(best=2)) == ([0, 1], {2: "missing clip_score", 3: "best"})


def test_a_score_on_the_bound_is_kept_although_it_is_float32():
    for bound in (0.1, 0.3, 0.6, 0.7, 0.9):
        stored = np.array([bound], dtype=np.float32)
        scores = {"vqa_score": stored, "clip_score": stored, "neg_clip_score": stored, "image_similarity": stored}
        settings = FilterSettings(min_vqa_score=bound, min_clip_score_mean=bound, max_image_similarity=bound)
        assert apply_filters(scores, settings)[0] == [0], bound


def test_of_equal_rows_the_earlier_are_kept():
    scores = {"clip_score": [0.1, 0.2, 0.2, 0.2, 0.2], "neg_clip_score": [0.3, 0.2, 0.2, 0.2, 0.2]}
    assert apply_filters(scores, FilterSettings(best=3))[0] == [0, 1, 2]


def test_many_rows_as_the_rule_is_written():
    rng = random.Random(0)
    rows = 2000
    scores = {
        name: [
            rng.choice([None, round(rng.random(), 2)]) if rng.random() < 0.1 else round(rng.random(), 2)
            for _ in range(rows)
        ]
        for name in SCORES
    }
    settings = FilterSettings(min_clip_score_mean=0.3, max_image_similarity=0.9, min_margin=-0.5, best=300)
    needed = ("clip_score", "neg_clip_score", "image_similarity", "cross_clip_score")
    within = []
    for row in range(rows):
        value = {name: None if scores[name][row] is None else np.float32(scores[name][row]) for name in needed}
        if None in value.values():
            continue
        mean = np.float32((float(value["clip_score"]) + float(value["neg_clip_score"])) / 2)
        margin = value["clip_score"] - value["cross_clip_score"]
        if mean < np.float32(0.3) or margin < -0.5 or value["image_similarity"] > np.float32(0.9):
            continue
        within.append((-mean, row))
    expected = sorted(row for _, row in sorted(within)[:300])
    kept, reasons = apply_filters(scores, settings)
    assert kept == expected
    counts = Counter(reasons.values())
    assert counts["best"] == len(within) - 300
    assert sum(counts.values()) == rows - 300


def test_rows_without_scores():
    assert apply_filters({}, FilterSettings(), 3) == ([0, 1, 2], {})
    assert apply_filters({}, FilterSettings()) == ([], {})
    assert apply_filters({"vqa_score": []}, FilterSettings(min_vqa_score=0.5)) == ([], {})


def test_columns_that_do_not_fit():
    with pytest.raises(
        ValueError, match=r"need the columns neg_clip_score; .* clip_score\. `--checks clip` makes them"
    ):
        apply_filters({"clip_score": [0.1]}, FilterSettings(best=1))
    with pytest.raises(ValueError, match="not of one length"):
        apply_filters({"clip_score": [0.1], "neg_clip_score": [0.1, 0.2]}, FilterSettings(best=1))
    with pytest.raises(ValueError, match="not of one length"):
        apply_filters({"vqa_score": [0.1]}, FilterSettings(), 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"best": 0}, "`best` is 0"),
        ({"best": 0.5}, r"`best` is 0\.5"),
        ({"best": True}, "`best` is True"),
        ({"min_vqa_score": "high"}, "`min_vqa_score` is 'high'; give a number"),
        ({"min_margin": float("nan")}, "`min_margin` is nan"),
        ({"min_image_similarity": 0.8, "max_image_similarity": 0.5}, r"`min_image_similarity` is 0\.8, above"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        FilterSettings(**settings)


def test_a_dataset_is_filtered_in_its_order():
    features = Features({"id": Value("string"), **{name: Value("float32") for name in SCORES}})
    dataset = Dataset.from_dict({"id": list("abcd"), **SCORES}, features=features).select([3, 2, 1, 0])
    kept, counts = filter_dataset(dataset, FilterSettings(min_clip_score_mean=0.2, best=2))
    assert kept["id"] == ["c", "a"]
    assert counts == {"min_clip_score_mean": 1, "best": 1}
    assert filter_dataset(dataset, FilterSettings()) == (dataset, {})
    with pytest.raises(ValueError, match="need the columns vqa_score"):
        filter_dataset(dataset.remove_columns("vqa_score"), FilterSettings(min_vqa_score=0.5))

# SPDX-License-Identifier: Apache-2.0
"""The scoring rules, by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from hf_tripletclip.results.result import Mean
from hf_tripletclip.results.scoring import bootstrap, cosines, intervals, sample_rows, tally, wins

ROWS = {
    "right": [True, False, True, None, False],
    "kind": ["a", "a", "b", "b", None],
    "cluster": [7, 7, 8, 8, 9],
    "number": [0.5, -0.25, 1.0, 2.0, None],
}


def test_the_first_must_be_strictly_greater():
    assert wins([("i0c0", "i0c1")], {"i0c0": 0.5, "i0c1": 0.25})
    assert not wins([("i0c0", "i0c1")], {"i0c0": 0.25, "i0c1": 0.25})
    assert not wins([("i0c0", "i0c1"), ("i0c0", "i0c2")], {"i0c0": 0.25, "i0c1": 0.0, "i0c2": 0.25})
    assert wins([], {})


def test_scores_are_float32_whatever_the_embeddings_are():
    one = torch.tensor([[0.6, 0.8]], dtype=torch.bfloat16)
    found = cosines(one, one)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(one.double().square().sum().item(), rel=1e-6)


@pytest.mark.parametrize(
    ("mean", "value"),
    [
        (Mean("right"), 2 / 4),  # a row of None does not count
        (Mean("right", where={"kind": "a"}), 1 / 2),
        (Mean("right", where={"kind": "b"}), 1 / 1),
        (Mean("right", by="kind"), (1 / 2 + 1) / 2),  # a row of no kind is in no mean
        (Mean("right", by="kind", where={"cluster": 7}), 1 / 2),
        (Mean("number"), 3.25 / 4),
        (Mean("number", by="cluster"), (0.125 + 1.5) / 2),
        (Mean("right", where={"kind": "absent"}), math.nan),
        (Mean("right", where={"kind": None}), 0.0),
    ],
)
def test_means_by_hand(mean, value):
    assert tally(ROWS, mean) == pytest.approx(value, nan_ok=True)


def test_nothing_to_count():
    assert math.isnan(tally({"right": []}, Mean("right")))
    assert math.isnan(tally({"right": [None]}, Mean("right")))
    assert intervals({"right": []}, {"accuracy": Mean("right")}) == {}
    assert intervals({"right": [None, None]}, {"accuracy": Mean("right")}) == {}
    assert bootstrap({"right": [True]}, {}) == {}


@pytest.mark.parametrize(
    ("right", "clusters", "low", "high"),
    [
        ([True], [0], 0.2065, 1.0),
        ([False], [0], 0.0, 0.7935),
        ([False] * 6, range(6), 0.0, 0.3903),
        ([0.0] * 6, [0, 0, 1, 1, 2, 2], 0.0, 0.5615),  # three images, not six rows
        ([True, None, True], [0, 1, 2], 0.3424, 1.0),  # a row that does not count is no try
        ([True, False], [0, 0], 0.0546, 0.9454),  # one image, half right
        ([1] * 400, range(400), 0.9905, 1.0),
    ],
)
def test_rows_that_are_all_alike_are_no_certainty(right, clusters, low, high):
    """Of none right among n the upper end is z² / (n + z²), with z² = 3.8415."""
    predictions = {"right": right, "cluster": list(clusters)}
    assert intervals(predictions, {"it": Mean("right")})["it"] == pytest.approx((low, high), abs=1e-4)


def test_other_numbers_than_right_and_wrong_have_no_interval_of_shares():
    predictions = {"cosine": [0.25, 0.25]}
    assert intervals(predictions, {"mean": Mean("cosine")})["mean"] == (0.25, 0.25)


def test_the_bootstrap_against_all_draws_of_three_clusters():
    clusters = {0: [1.0, 0.0], 1: [1.0], 2: [0.0, 0.0, 1.0]}
    predictions = {
        "right": [value for values in clusters.values() for value in values],
        "cluster": [name for name, values in clusters.items() for _ in values],
    }
    exact = []
    for draw in itertools.product(clusters, repeat=3):
        values = [value for name in draw for value in clusters[name]]
        exact.append(sum(values) / len(values))
    found = bootstrap(predictions, {"accuracy": Mean("right")}, resamples=40_000)["accuracy"]
    assert {round(value, 9) for value in found} == {round(value, 9) for value in exact}
    for value in set(exact):  # 27 draws are equally likely
        share = np.mean(np.isclose(found, value))
        assert share == pytest.approx(np.mean(np.isclose(exact, value)), abs=0.01)


def test_macro_means_are_taken_anew_in_each_draw():
    predictions = {"right": [1, 0, 0], "kind": ["a", "a", "b"], "cluster": [0, 1, 1]}
    found = bootstrap(predictions, {"macro": Mean("right", by="kind")}, resamples=4_000)["macro"]
    # Clusters 00: only a, 1. 01 and 10: a is 1/2, b is 0, so 1/4. 11: both 0.
    assert set(found) == {1.0, 0.25, 0.0}
    assert np.mean(found == 0.25) == pytest.approx(0.5, abs=0.03)
    assert np.mean(found == 1.0) == pytest.approx(0.25, abs=0.03)


def test_draws_are_paired_across_metrics_models_and_chunks(monkeypatch):
    generator = np.random.default_rng(0)
    right = generator.random(200) < 0.6
    one = {"right": right.tolist(), "cluster": [index // 3 for index in range(200)]}
    other = {"right": (~right).tolist(), "cluster": one["cluster"]}
    means = {"accuracy": Mean("right"), "again": Mean("right")}
    first, second = bootstrap(one, means), bootstrap(other, means)
    assert len(first["accuracy"]) == 2_000
    np.testing.assert_array_equal(first["accuracy"], first["again"])
    np.testing.assert_allclose(first["accuracy"] + second["accuracy"], 1)  # only so where the draws are the same
    np.testing.assert_array_equal(first["accuracy"], bootstrap(one, means, seed=0)["accuracy"])
    assert not np.array_equal(first["accuracy"], bootstrap(one, means, seed=1)["accuracy"])
    assert intervals(one, means) == intervals(one, means, seed=0) != intervals(one, means, seed=1)
    for cells in (67 * 30, 1):  # 30 draws at a time, and one
        monkeypatch.setattr("hf_tripletclip.results.scoring.CELLS", cells)
        chunks = bootstrap(one, means)
        assert len(chunks["accuracy"]) == 2_000
        np.testing.assert_array_equal(chunks["accuracy"], chunks["again"])
        np.testing.assert_allclose(chunks["accuracy"].mean(), first["accuracy"].mean(), atol=0.01)


def test_rows_of_one_cluster_count_as_one_for_the_width():
    generator = np.random.default_rng(0)
    values = (generator.random(100) < 0.5).tolist()
    alone = intervals({"right": values}, {"accuracy": Mean("right")})["accuracy"]
    tenfold = {"right": [value for value in values for _ in range(10)]}
    clustered = {**tenfold, "cluster": [index // 10 for index in range(1_000)]}
    assert intervals(clustered, {"accuracy": Mean("right")})["accuracy"] == alone
    narrow = intervals(tenfold, {"accuracy": Mean("right")})["accuracy"]
    assert (narrow[1] - narrow[0]) * 2 < alone[1] - alone[0]


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    generator = np.random.default_rng(0)
    truth, covered = 0.7, 0
    for _ in range(200):
        values = (generator.random(120) < truth).tolist()
        low, high = intervals({"right": values}, {"accuracy": Mean("right")})["accuracy"]
        covered += low <= truth <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_the_level_is_heeded():
    predictions = {"right": [True, False] * 50}
    wide = intervals(predictions, {"accuracy": Mean("right")}, level=0.99)["accuracy"]
    narrow = intervals(predictions, {"accuracy": Mean("right")}, level=0.5)["accuracy"]
    assert wide[0] < narrow[0] < 0.5 < narrow[1] < wide[1]


def test_a_mean_of_means_of_means():
    predictions = {
        "part": ["a", "a", "a", "b", "b", None],
        "group": ["x", "x", "y", "x", None, "z"],
        "right": [True, False, True, False, True, True],
        "cluster": [0, 1, 2, 3, 4, 5],
    }
    mean = Mean("right", by="group", over="part")
    # a: mean of x (1/2) and y (1); b: x (0); rows without part or group do not count
    assert tally(predictions, mean) == pytest.approx((0.75 + 0.0) / 2)
    draws = bootstrap(predictions, {"m": mean}, resamples=300)["m"]
    draws = draws[~np.isnan(draws)]
    assert 0 <= draws.min() <= draws.max() <= 1
    assert abs(draws.mean() - tally(predictions, mean)) < 0.15


def test_a_sample_is_of_all_kinds_and_always_the_same():
    rows = sample_rows(2_100, 50)
    assert rows == sample_rows(2_100, 50) == sorted(set(rows))
    assert {row % 7 for row in rows} == set(range(7))  # where kinds take turns, a fixed step would meet one of them
    assert sample_rows(100, 4) == [5, 49, 53, 97]  # also in the next version: results of a part stay comparable
    assert sample_rows(5, None) == sample_rows(5, 5) == sample_rows(5, 9) == [0, 1, 2, 3, 4]

# SPDX-License-Identifier: Apache-2.0
"""The estimate of a run."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from hf_tripletclip.generation.estimate import estimate
from tests.generation.stages_for_tests import settings, write_source


def seconds(text):
    """The time that an estimate states."""
    hours, minutes, rest = re.search(r"about (?:(\d+) days?, )?(\d+:\d+:\d+) on", text)[2].split(":")
    return int(hours) * 3600 + int(minutes) * 60 + int(rest)


def test_a_slow_stage_is_found_out(tmp_path, own_cache):
    source = write_source(tmp_path / "pairs", train=400)
    slow = settings(source, tmp_path / "out", reversed={"delay": 0.08})  # per batch of 4: 8 s for all
    text = estimate(slow, workers=1, price_per_hour=360.0)
    assert text.splitlines()[0] == "400 rows in 50 units of 8"
    assert 7 <= seconds(text) <= 16
    rate = float(re.search(r"captions: ([\d.,]+) rows/s per worker", text)[1])
    assert 30 < rate <= 50
    cost = float(re.search(r"about ([\d.]+) at 360 an hour and worker", text)[1])
    assert 0.7 <= cost <= 1.6  # a tenth of a unit of money a second
    halved = estimate(slow, workers=4)
    assert "on 4 workers" in halved
    assert seconds(halved) <= 4
    assert "an hour" not in halved
    assert not (tmp_path / "out").exists()


def test_rows_that_fail_are_told(tmp_path, own_cache):
    source = write_source(tmp_path / "pairs", {1: {"caption": ""}, 3: {"image": None}}, train=20)
    text = estimate(settings(source, tmp_path / "out", reversed={"refused": ["bird"]}))
    assert "2 of the first 8 rows are broken" in text
    assert "captions: 4 of 6 sampled rows came through" in text
    assert "images: plain takes" in text
    with pytest.raises(ValueError, match="captions: none of 6 sampled rows came through: refusal: I cannot reverse"):
        estimate(settings(source, tmp_path / "out", reversed={"refused": ["cat", "dog", "bird"]}))


def test_a_source_of_broken_rows(tmp_path, own_cache):
    source = write_source(tmp_path / "pairs", {row: {"caption": ""} for row in range(3)}, train=3)
    with pytest.raises(ValueError, match="All of the first 3 rows are broken: source: empty caption"):
        estimate(settings(source, tmp_path / "out"))


def test_fewer_rows_than_a_batch(tmp_path, own_cache):
    source = write_source(tmp_path / "pairs", train=2)
    assert estimate(settings(source, tmp_path / "out")).startswith("2 rows in 1 units of 8")


def test_no_stage_is_given_more_than_two_batches(tmp_path, own_cache):
    source, log = write_source(tmp_path / "pairs", train=300), tmp_path / "log"
    sizes = {"reversed": {"batch_size": 16}, "plain": {"batch_size": 2}, "lengths": {"batch_size": 64}}
    text = estimate(settings(source, tmp_path / "out", log=str(log), **sizes))
    given = Counter(line.split()[0] for line in log.read_text().splitlines() if " row " in line)
    assert given == {"reversed": 32, "plain": 4, "lengths": 4}
    assert "came through" not in text  # rows that are not given to a stage have not failed


def test_wrong_settings_are_found(tmp_path, own_cache):
    source = write_source(tmp_path / "pairs", train=2)
    with pytest.raises(ValueError, match="needs neg_caption"):
        estimate(settings(source, tmp_path / "out", reversed=None))

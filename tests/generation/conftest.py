# SPDX-License-Identifier: Apache-2.0
"""Fixtures for tests of whole runs."""

from __future__ import annotations

import pytest

from tests.generation.stages_for_tests import write_source


@pytest.fixture(autouse=True)
def _online(monkeypatch):
    """Servers of the tests are reached also where `HF_HUB_OFFLINE` keeps everything else from the network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")  # of processes that they start


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """A cache of datasets for this test alone."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def pairs(tmp_path, own_cache):
    """A source of 20 and 5 rows."""
    return write_source(tmp_path / "pairs", train=20, test=5)

# SPDX-License-Identifier: Apache-2.0
"""A small checkpoint of the published layout."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.checkpoints import write_published


@pytest.fixture
def published(tmp_path: Path) -> Path:
    write_published(tmp_path / "published")
    return tmp_path / "published"

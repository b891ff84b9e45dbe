# SPDX-License-Identifier: Apache-2.0
"""Fixtures for tests of uploads."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from huggingface_hub import HfApi
from huggingface_hub.utils import close_session

from hf_tripletclip.hub.repository import Destination
from tests.hub import FAKE
from tests.loopback_hub import LoopbackHub


@pytest.fixture
def near(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    """A Hub on this machine that uploads of this very process go to; `user` is who they are of."""
    hub.accounts = {FAKE: {"user"}}
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", FAKE)
    monkeypatch.setattr(Destination, "api", property(lambda self: HfApi(endpoint=hub.endpoint, token=self.token)))
    close_session()  # a client that was made offline stays so
    yield hub
    close_session()

# SPDX-License-Identifier: Apache-2.0
"""Rows and stages for tests that ask a server on loopback for captions."""

from __future__ import annotations

from hf_tripletclip.data.schema import CAPTION, ID
from hf_tripletclip.generation.captions.inference import InferenceCaptions
from tests.generation.servers import InferenceServer, Reply, caption_of

BAD = "a red cat that the server fails at"


def rows(number: int) -> dict[str, list]:
    return {
        ID: [f"row-{row}" for row in range(number)],
        CAPTION: [f"a red dog and {row} cats" for row in range(number)],
    }


def with_bad(number: int, place: int = 1) -> dict[str, list]:
    batch = rows(number)
    batch[CAPTION][place] = BAD
    return batch


def fails_at_bad(reply: Reply):
    return lambda body, number: reply if caption_of(body) == BAD else None


def stage_for(server: InferenceServer, **settings) -> InferenceCaptions:
    return InferenceCaptions(**{"model": "m", "base_url": server.url, "backoff": 0.01, "concurrency": 4, **settings})


def expected(batch: dict[str, list]) -> list[str | None]:
    return [None if caption == BAD else caption.replace("red", "blue") for caption in batch[CAPTION]]


def answered(body: dict) -> str:
    return caption_of(body).replace("red", "blue")

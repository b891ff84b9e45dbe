# SPDX-License-Identifier: Apache-2.0
"""Negative images from a server on loopback."""

from __future__ import annotations

import io
import json

import pytest
from datasets import Dataset, Features
from PIL import Image

from hf_tripletclip.data.schema import ID, NEG_CAPTION, NEG_IMAGE, SEED
from hf_tripletclip.generation.client import ServerError
from hf_tripletclip.generation.images.inference import InferenceImages
from hf_tripletclip.generation.registry import get_stage
from hf_tripletclip.generation.stage import ERROR
from tests.generation.servers import InferenceServer, Reply, answer, caption_of, picture

BAD = "a caption that the server fails at"


def rows(number: int) -> dict[str, list]:
    return {ID: [f"row-{row}" for row in range(number)], NEG_CAPTION: [f"{row} blue dogs" for row in range(number)]}


def stage_for(server: InferenceServer, **settings) -> InferenceImages:
    return InferenceImages(**{"base_url": server.address, "backoff": 0.01, "concurrency": 4, **settings})


def opened(value: dict) -> Image.Image:
    assert value["path"] is None
    return Image.open(io.BytesIO(value["bytes"]))


def fails_at_bad(reply: Reply):
    return lambda body, number: reply if caption_of(body) == BAD else None


def test_every_row_gets_a_picture_from_its_seed():
    with InferenceServer() as server:
        options = {"base_url": server.address, "height": 32, "width": 48, "num_inference_steps": 1, "format": "png"}
        stage = get_stage("images", "inference", options)
        made = stage(rows(6))
    assert set(made) == {*stage.produces, ERROR}
    assert made[ERROR] == [None] * 6
    assert len(set(made[SEED])) == 6
    bodies = {sent.body["inputs"]: sent.body for sent in server.received}
    for caption, seed, value in zip(rows(6)[NEG_CAPTION], made[SEED], made[NEG_IMAGE], strict=True):
        parameters = {"height": 32, "width": 48, "num_inference_steps": 1, "seed": seed}
        assert bodies[caption] == {"inputs": caption, "parameters": parameters}
        image = opened(value)
        assert (image.size, image.format) == ((48, 32), "PNG")
        assert image.tobytes() == Image.open(io.BytesIO(answer(bodies[caption]).body)).tobytes()


def test_a_rerun_gives_the_same_bytes_whatever_the_concurrency():
    with InferenceServer() as server:
        first = stage_for(server)(rows(5))
        assert stage_for(server, concurrency=1)(rows(5)) == first
        assert stage_for(server, seed=1)(rows(5))[SEED] != first[SEED]


@pytest.mark.parametrize("format", ["jpeg", "webp", "png"])
def test_pictures_are_stored_as_asked(format):
    with InferenceServer() as server:
        made = stage_for(server, image_size=24, format=format, quality=80)(rows(1))
    image = opened(made[NEG_IMAGE][0])
    assert (image.size, image.format) == ((32, 24), format.upper())


def test_it_runs_in_dataset_map():
    with InferenceServer() as server:
        made = Dataset.from_dict(rows(3)).map(stage_for(server), batched=True, batch_size=2)
    made = made.cast(Features({**made.features, **InferenceImages().produces}))
    assert made[0][NEG_IMAGE].size == (64, 48)


def test_black_pictures_are_drawn_again_from_another_seed():
    black = picture(Image.new("RGB", (64, 48)))
    with InferenceServer(lambda body, number: black if number < 2 else None) as server:
        made = stage_for(server)(rows(2))
        assert made[ERROR] == [None, None]
        assert {sent.body["parameters"]["seed"] for sent in server.received[2:]} == set(made[SEED])
        server.rule = fails_at_bad(black)
        made = stage_for(server, max_attempts=2)({ID: ["a", "b"], NEG_CAPTION: [BAD, "a dog"]})
    assert made[ERROR] == ["blank image: it is black in each of 2 attempts", None]
    assert made[NEG_IMAGE][0] is None
    assert made[SEED][0] is None


CUT = picture(Image.effect_noise((64, 48), 50)).body[:500]


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (Reply(400, {"error": "flagged"}), "HTTP 400: flagged"),
        (Reply(503, {"error": "loading"}), "HTTP 503: loading"),
        (Reply(200, b"<html>Welcome</html>"), "unreadable answer"),
        (Reply(200, {"picture": "none"}), "unreadable answer"),
        (Reply(200, CUT), "unreadable answer"),
        (Reply(hang_up=True), "no connection"),
        (Reply(delay=0.5), "timeout"),
    ],
)
@pytest.mark.parametrize("place", [0, 2])
def test_a_failure_of_one_row_is_its_error(reply, error, place):
    batch = rows(4)
    batch[NEG_CAPTION][place] = BAD
    with InferenceServer(fails_at_bad(reply)) as server:
        made = stage_for(server, concurrency=1, timeout=0.2, max_retries=1)(batch)
    assert made[ERROR][place].startswith(error)
    assert [value is None for value in made[NEG_IMAGE]] == [row == place for row in range(4)]


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (Reply(401, {"error": "who"}), "HTTP 401"),
        (Reply(404, b"no such page"), "HTTP 404: no such page"),
        (Reply(500, {"error": "out of memory"}), "HTTP 500: out of memory"),
        (Reply(200, b"<html>Welcome</html>"), "unreadable answer"),
    ],
)
def test_a_failure_of_the_server_stops_the_run(reply, message):
    with InferenceServer(lambda body, number: reply) as server:
        with pytest.raises(ServerError, match=message):
            stage_for(server, max_retries=1)(rows(100))
        assert len(server.received) <= 12


def test_what_fails_for_a_while_is_sent_again():
    with InferenceServer(lambda body, number: Reply(503, {"error": "loading"}) if number < 3 else None) as server:
        assert stage_for(server)(rows(3))[ERROR] == [None] * 3


def test_pictures_are_kept_and_not_drawn_again(tmp_path):
    with InferenceServer() as server:
        first = stage_for(server, cache_dir=str(tmp_path))(rows(5))
        server.received.clear()
        assert stage_for(server, cache_dir=str(tmp_path))(rows(5)) == first
        assert not server.received
        stage_for(server, cache_dir=str(tmp_path), quality=50)(rows(5))
        assert len(server.received) == 5


def test_rows_without_a_caption_are_not_sent():
    with InferenceServer() as server:
        made = stage_for(server)({ID: ["a", "b"], NEG_CAPTION: [None, ""]})
    assert made[ERROR] == ["missing caption in neg_caption", "empty caption in neg_caption"]
    assert not server.received


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"format": "gif"}, "format"),
        ({"quality": 0}, "quality"),
        ({"image_size": 1}, "image_size"),
        ({"concurrency": 0}, "concurrency"),
        ({"height": 0}, "height"),
        ({"max_attempts": 0}, "max_attempts"),
        ({"base_url": "localhost"}, "base_url"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        InferenceImages(**settings)


def test_settings_tell_what_matters():
    stage = InferenceImages(base_url="http://x", cache_dir="y", timeout=3, concurrency=2, backoff=2)
    assert stage.fingerprint() == InferenceImages().fingerprint()
    assert stage.label == "inference:stabilityai/sdxl-turbo"
    assert {"model", "seed", "quality", "format", "image_size"} <= set(json.loads(json.dumps(stage.settings())))

# SPDX-License-Identifier: Apache-2.0
"""Negative captions from a server on loopback."""

from __future__ import annotations

import json
import os
import pickle
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from transformers.utils import logging as transformers_logging

from hf_tripletclip.data.schema import CAPTION, ID, NEG_CAPTION, NEGATIVE_TYPE
from hf_tripletclip.generation.captions.inference import InferenceCaptions
from hf_tripletclip.generation.client import ServerError
from hf_tripletclip.generation.registry import get_stage
from hf_tripletclip.generation.stage import ERROR
from tests.generation.asking import answered, expected, fails_at_bad, rows, stage_for, with_bad
from tests.generation.captions.tiny_lm import save_chain_lm
from tests.generation.servers import InferenceServer, caption_of, chat


@pytest.fixture(autouse=True)
def _no_token(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")


def test_every_row_gets_a_negative():
    with InferenceServer(lambda body, number: chat(f'Negative caption: "{answered(body)}."')) as server:
        options = {"model": "m", "base_url": server.url, "seed": 3, "extra_body": {"top_k": 5}}
        stage = get_stage("captions", "inference", options)
        made = stage(rows(10))
    assert made == {NEG_CAPTION: expected(rows(10)), NEGATIVE_TYPE: [None] * 10, ERROR: [None] * 10}
    assert set(made) == {*stage.produces, ERROR}
    request = server.received[0]
    assert request.path == "/v1/chat/completions"
    chosen = {name: request.body[name] for name in ("model", "max_tokens", "temperature", "top_p", "top_k")}
    assert chosen == {"model": "m", "max_tokens": 96, "temperature": 0.7, "top_p": 0.95, "top_k": 5}
    assert len({sent.body["seed"] for sent in server.received}) == 10
    assert "authorization" not in request.headers  # HF_TOKEN is not for anybody's server


def test_rejected_answers_are_asked_for_again_from_another_seed():
    with InferenceServer(lambda body, number: chat(caption_of(body)) if number < 4 else None) as server:
        made = stage_for(server)(rows(4))
        assert made[NEG_CAPTION] == expected(rows(4))
        assert len({sent.body["seed"] for sent in server.received}) == 8
        server.rule = lambda body, number: chat("I'm sorry, but I cannot help with that.")
        made = stage_for(server, max_attempts=2)(rows(2))
        assert made[ERROR] == ["refusal: I'm sorry, but I cannot help with that."] * 2


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (chat(None), "empty answer"),
        (chat("a blue dog and", "length"), "unfinished answer: a blue dog and"),
        (chat("", "content_filter"), "refusal: content filter of the server"),
    ],
)
def test_answers_without_a_caption_are_errors_of_their_row(reply, error):
    with InferenceServer(fails_at_bad(reply)) as server:
        made = stage_for(server, max_attempts=1)(with_bad(3))
    assert made[ERROR] == [None, error, None]


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "text", "text": "a blue cat"}],
        [{"type": "text", "text": "a blue "}, {"type": "text", "text": "cat"}],
        [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "a blue cat"}],
        [{"type": "output_text", "text": "a blue cat", "annotations": []}],
        ["a blue ", "cat"],
        {"type": "text", "text": "a blue cat"},
        {"content": "a blue cat"},
    ],
)
def test_an_answer_in_parts(content):
    with InferenceServer(lambda body, number: chat(content)) as server:
        made = stage_for(server)({ID: ["a"], CAPTION: ["a red cat"]})
    assert made[NEG_CAPTION] == ["a blue cat"]


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (3, "unreadable answer: its content is a int"),
        ({"weird": 1}, "unreadable answer: its content is a dict"),
        ([1], "unreadable answer: its content is a int"),
        ([], "empty answer"),
        ([{"type": "image_url", "image_url": {"url": "x"}}], "empty answer"),
        ("a blue \ud83d cat", "undecodable characters: a blue \ufffd cat"),
        ("\udfff", "empty answer: \ufffd"),
    ],
)
def test_an_answer_that_is_no_text_is_the_error_of_its_row_alone(content, error):
    """It is not asked for again as a failure of the server would be, also if all answers are so."""
    with InferenceServer(lambda body, number: chat(content)) as server:
        made = stage_for(server, max_attempts=1)(rows(3))
        assert len(server.received) == 3
        server.rule = fails_at_bad(chat(content))
        alone = stage_for(server, max_attempts=1)(with_bad(3))
    assert made[ERROR] == [error] * 3
    assert alone[ERROR] == [None, error, None]
    assert alone[NEG_CAPTION] == expected(with_bad(3))
    "".join(made[ERROR]).encode()


@pytest.mark.parametrize(
    "content", ["", None, "<think>The cat could be", "analysisWe need to change", "[THINK] red", []]
)
def test_a_model_whose_thoughts_use_up_the_length_is_asked_once_and_the_user_told(content, caplog):
    transformers_logging.warning_once.cache_clear()
    with InferenceServer(lambda body, number: chat(content, "length")) as server:
        made = stage_for(server, max_tokens=50)(rows(4))
        assert len(server.received) == 4
    assert {error.partition(":")[0] for error in made[ERROR]} == {"no answer within `max_tokens`"}
    assert "50 tokens are too few" in made[ERROR][0]
    assert len(caplog.records) == 1
    assert "`max_tokens`" in caplog.records[0].message


def test_an_answer_that_echoes_the_key_is_not_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("MY_KEY", "sk-12345678")
    with InferenceServer(lambda body, number: chat("I cannot, your key is sk-12345678")) as server:
        made = stage_for(server, api_key_env="MY_KEY", cache_dir=str(tmp_path), max_attempts=1)(rows(1))
    assert made[ERROR] == ["refusal: I cannot, your key is [token]"]
    assert "sk-12345678" not in "".join(file.read_text() for file in tmp_path.iterdir())


def test_rows_without_a_caption_are_not_sent():
    with InferenceServer() as server:
        made = stage_for(server)({ID: ["a", "b"], CAPTION: [None, " "]})
    assert made[ERROR] == ["missing caption", "empty caption"]
    assert not server.received


def test_the_key_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-1234")
    with InferenceServer() as server:
        stage = stage_for(server, api_key_env="MY_KEY")
        stage(rows(1))
        assert server.received[0].headers["authorization"] == "Bearer sk-1234"
    assert "sk-1234" not in json.dumps(stage.settings()) + repr(stage)
    assert b"sk-1234" not in pickle.dumps(stage)
    monkeypatch.delenv("MY_KEY")
    with pytest.raises(ValueError, match="MY_KEY"):
        InferenceCaptions(base_url="http://127.0.0.1:1", api_key_env="MY_KEY").setup()


@pytest.mark.parametrize(
    ("url", "key"),
    [
        (None, "hf_secret"),
        ("https://abc.endpoints.huggingface.cloud/v1", "hf_secret"),
        ("https://router.huggingface.co/v1", "hf_secret"),
        ("https://huggingface.co.example.org/v1", None),
        ("http://10.0.0.1:8000/v1", None),
    ],
)
def test_hf_token_goes_to_hugging_face_only(url, key):
    assert InferenceCaptions(base_url=url)._api_key() == key


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"base_url": "127.0.0.1:8000"}, "base_url"),
        ({"base_url": "http://127.0.0.1:8000", "provider": "together"}, "provider"),
        ({"concurrency": 0}, "concurrency"),
        ({"concurrency": 101}, "concurrency"),
        ({"timeout": 0}, "timeout"),
        ({"max_retries": -1}, "max_retries"),
        ({"backoff": -1}, "backoff"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_attempts": 0}, "max_attempts"),
        ({"temperature": -0.1}, "temperature"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        InferenceCaptions(**settings)


def test_where_the_server_is_and_how_it_is_asked_are_no_settings():
    base = InferenceCaptions()
    for same in (
        {"base_url": "http://x/v1"}, {"concurrency": 2}, {"timeout": 1.0}, {"cache_dir": "x"}, {"api_key_env": "X"},
    ):  # fmt: skip
        assert InferenceCaptions(**same).fingerprint() == base.fingerprint()
    for other in ({"model": "x"}, {"provider": "together"}, {"seed": 1}, {"kinds": "all"}, {"extra_body": {"a": 1}}):
        assert InferenceCaptions(**other).fingerprint() != base.fingerprint()
    assert base.label == "inference:mistralai/Mistral-7B-Instruct-v0.2"


@pytest.fixture
def transformers_serve(tmp_path):
    """`transformers serve` of a tiny model: its address and the model's name."""
    for module in ("fastapi", "uvicorn", "openai"):
        pytest.importorskip(module, reason='`transformers serve` needs pip install "transformers[serving]"')
    model = save_chain_lm(tmp_path / "model", {"a red dog": 0.5, "a red cat": 0.5})
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "home" / "hub").mkdir(parents=True)
    code = "from transformers.cli.transformers import main; main()"
    options = ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--default-seed", "0"]
    log = tmp_path / "log"
    with open(log, "wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", code, "serve", model, *options],
            env={**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"},
            stdout=file,
            stderr=file,
        )
    try:
        deadline = time.monotonic() + 120
        while True:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
                break
            except OSError:
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1", model
    finally:
        process.terminate()
        process.wait()


@pytest.mark.slow
def test_transformers_serve(transformers_serve, tmp_path):
    url, model = transformers_serve
    batch = {ID: [f"row-{row}" for row in range(8)], CAPTION: ["a red cat"] * 8}
    sampled = {"generation_config": json.dumps({"do_sample": True})}
    stage = InferenceCaptions(
        model=model,
        base_url=url,
        concurrency=2,
        max_attempts=16,
        extra_body=sampled,
        cache_dir=str(tmp_path / "cache"),
    )
    made = stage(batch)
    # Every other answer is the caption itself, and is asked for again.
    assert made == {NEG_CAPTION: ["a red dog"] * 8, NEGATIVE_TYPE: [None] * 8, ERROR: [None] * 8}
    assert stage(batch) == made
    with pytest.raises(ServerError):
        InferenceCaptions(model="no/such-model", base_url=url, max_retries=0, backoff=0.01)(batch)


def test_a_provider_that_is_unknown_stops_the_run():
    with pytest.raises(ServerError, match="nobody"):
        InferenceCaptions(model="m", provider="nobody", backoff=0.01)(rows(3))


def test_offline_mode_is_named_before_anything_is_asked(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match="HF_HUB_OFFLINE is set"):
        InferenceCaptions(model="m", base_url="http://127.0.0.1:9/v1").setup()

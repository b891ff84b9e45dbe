# SPDX-License-Identifier: Apache-2.0
"""Answers of a server that are kept: none is asked for twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from hf_tripletclip.data.schema import CAPTION, ID, NEG_CAPTION
from hf_tripletclip.generation.captions.inference import InferenceCaptions
from hf_tripletclip.generation.stage import ERROR
from tests.generation.asking import BAD, answered, expected, fails_at_bad, rows, stage_for, with_bad
from tests.generation.servers import InferenceServer, Reply, caption_of, chat


def test_answers_are_kept_and_not_asked_for_again(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-1234")
    batch = with_bad(6)
    with InferenceServer(fails_at_bad(Reply(400, {"error": "no cats"}))) as server:
        first = stage_for(server, cache_dir=str(tmp_path / "cache"), api_key_env="MY_KEY")(batch)
        assert first[ERROR][1] == "HTTP 400: no cats"
        server.received.clear()
        server.rule = lambda body, number: None
        second = stage_for(server, cache_dir=str(tmp_path / "cache"), concurrency=1, timeout=9)(batch)
        assert second[NEG_CAPTION] == [*first[NEG_CAPTION][:1], BAD.replace("red", "blue"), *first[NEG_CAPTION][2:]]
        assert [caption_of(sent.body) for sent in server.received] == [BAD]  # what failed is tried again
        stage_for(server, cache_dir=str(tmp_path / "cache"), seed=1)(batch)  # other settings, other answers
        assert len(server.received) == 1 + 6
        changed = {**batch, CAPTION: [f"{caption} here" for caption in batch[CAPTION]]}
        stage_for(server, cache_dir=str(tmp_path / "cache"))(changed)  # another caption of the same id
        assert len(server.received) == 1 + 6 + 6
    (folder,) = tmp_path.iterdir()
    assert "sk-1234" not in "".join(file.read_text() for file in folder.iterdir())


def test_a_line_that_was_cut_short_is_passed_over(tmp_path):
    with InferenceServer() as server:
        first = stage_for(server, cache_dir=str(tmp_path))(rows(5))
        (file,) = tmp_path.iterdir()
        content = file.read_bytes()
        assert content.count(b"\n") == 5
        file.write_bytes(content[:-20])
        server.received.clear()
        assert stage_for(server, cache_dir=str(tmp_path))(rows(5)) == first
        assert len(server.received) == 1
        server.received.clear()
        assert stage_for(server, cache_dir=str(tmp_path))(rows(5)) == first
        assert not server.received
        assert [bool(line.strip()) and line.endswith(b"}") for line in file.read_bytes().splitlines()].count(True) == 5


KILLED = """
import sys
from hf_tripletclip.generation.captions.inference import InferenceCaptions
from tests.generation.asking import rows
InferenceCaptions(model="m", base_url=sys.argv[1], concurrency=2, cache_dir=sys.argv[2])(rows(20))
"""


def test_kill_9_in_the_middle_of_a_batch_pays_for_no_answer_twice(tmp_path):
    with InferenceServer(lambda body, number: Reply(*chat(answered(body))[:3], delay=0.05)) as server:
        process = subprocess.Popen([sys.executable, "-c", KILLED, server.url, str(tmp_path)], env=os.environ)
        deadline = time.monotonic() + 60
        while len(server.received) < 9 and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        (file,) = tmp_path.iterdir()
        kept = [json.loads(line)["id"] for line in file.read_bytes().splitlines()]
        assert len(kept) >= 6
        server.received.clear()
        made = InferenceCaptions(model="m", base_url=server.url, concurrency=2, cache_dir=str(tmp_path))(rows(20))
    assert made[NEG_CAPTION] == expected(rows(20))
    again = {caption_of(sent.body) for sent in server.received}
    captions = dict(zip(rows(20)[ID], rows(20)[CAPTION], strict=True))
    assert again == {caption for row, caption in captions.items() if row not in kept}


def test_a_cache_that_cannot_be_written_stops_the_run(tmp_path):
    (tmp_path / "file").write_text("")
    with InferenceServer() as server, pytest.raises(OSError, match="file"):
        stage_for(server, cache_dir=str(tmp_path / "file" / "cache"))(rows(2))

# SPDX-License-Identifier: Apache-2.0
"""What is sent to a server again, and whose fault a failure is: the row's or the server's."""

from __future__ import annotations

import base64
import email.utils
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from urllib.parse import quote

import pytest

from hf_tripletclip.data.schema import CAPTION, ID, NEG_CAPTION
from hf_tripletclip.generation.captions.inference import InferenceCaptions
from hf_tripletclip.generation.client import ServerError
from hf_tripletclip.generation.stage import ERROR
from tests.generation.asking import BAD, answered, expected, fails_at_bad, rows, stage_for, with_bad
from tests.generation.servers import InferenceServer, Reply, caption_of, chat


def test_at_most_so_many_requests_at_once():
    with InferenceServer(lambda body, number: Reply(*chat(answered(body))[:3], delay=0.05)) as server:
        stage_for(server, concurrency=3)(rows(12))
    assert server.most_at_once == 3


FOR_A_WHILE = {
    "429": Reply(429, {"error": "slow down"}, {"Retry-After": "0"}),
    "500": Reply(500, {"error": "oops"}),
    "503 of FastAPI": Reply(503, {"detail": "loading"}),
    "a list as an error": Reply(500, ["oops"]),
    "not JSON": Reply(200, b"<html>Welcome</html>"),
    "cut JSON": Reply(200, b'{"choices": [{"mess'),
    "other JSON": Reply(200, {"message": "hello"}),
    "no choices": Reply(200, {"choices": []}),
    "a number": Reply(200, {"choices": 3}),
    "hang-up": Reply(hang_up=True),
    "timeout": Reply(delay=1.0),
    "a byte now and then": Reply(*chat("a blue cat")[:2], drip=0.05),
}


@pytest.mark.parametrize("reply", FOR_A_WHILE.values(), ids=FOR_A_WHILE)
def test_what_fails_for_a_while_is_sent_again(reply):
    with InferenceServer(lambda body, number: reply if number < 2 else None) as server:
        made = stage_for(server, timeout=0.3)(rows(3))
    assert made[NEG_CAPTION] == expected(rows(3))
    assert len(server.received) == 5


@pytest.mark.parametrize("value", ["1", "date"])
def test_retry_after_holds_back_all_requests(value):
    def rule(body, number):
        after = email.utils.formatdate(time.time() + 2, usegmt=True) if value == "date" else value
        return Reply(429, {"error": "slow down"}, {"Retry-After": after}) if number == 0 else None

    with InferenceServer(rule) as server:
        made = stage_for(server, concurrency=1)(rows(3))
        assert made[NEG_CAPTION] == expected(rows(3))
        first, second = server.received[0].time, server.received[1].time
    assert second - first > 0.95


def test_being_held_back_does_not_use_up_the_retries_while_others_get_through():
    """Two requests get through every 60 ms, so some rows are refused more often than they may be retried."""
    windows: Counter[int] = Counter()

    def rule(body, number):
        window = int(time.monotonic() / 0.06)
        windows[window] += 1
        return Reply(429, headers={"Retry-After": "0.07"}) if windows[window] > 2 else None

    with InferenceServer(rule) as server:
        made = stage_for(server, concurrency=8, max_retries=2)(rows(16))
    assert made[NEG_CAPTION] == expected(rows(16))
    assert max(server.asked_for(caption) for caption in rows(16)[CAPTION]) > 3


ROWS_OWN = {
    "HTTP 400: no cats": Reply(400, {"error": "no cats"}),
    "HTTP 422: bad caption": Reply(422, {"error": {"message": "bad caption"}}),
    "HTTP 403: flagged": Reply(403, {"error": "flagged"}),
    "HTTP 404: no": Reply(404, {"error": "no"}),
    "HTTP 500: crash": Reply(500, {"error": "crash"}),
    'HTTP 413: {"detail": "too long"}': Reply(413, {"detail": "too long"}),
    "unreadable answer": Reply(200, b"<html>"),
    "no connection": Reply(hang_up=True),
    "timeout": Reply(delay=0.5),
    "timeout: no whole answer": Reply(*chat("a blue cat")[:2], drip=0.05),
}


@pytest.mark.parametrize("place", [0, 1, 4])
@pytest.mark.parametrize(("error", "reply"), ROWS_OWN.items(), ids=ROWS_OWN)
def test_a_failure_of_one_row_is_its_error(error, reply, place):
    """Also of the first row, and of the last: the probe succeeds."""
    batch = with_bad(5, place)
    with InferenceServer(fails_at_bad(reply)) as server:
        made = stage_for(server, concurrency=1, timeout=0.2, max_retries=1)(batch)
        sent = server.asked_for(BAD)
    assert made[NEG_CAPTION] == expected(batch)
    found = made[ERROR][place]
    assert error.removesuffix(": bad caption") in found
    assert [error is None for error in made[ERROR]] == [caption != BAD for caption in batch[CAPTION]]
    assert sent == (1 if reply.status in (400, 403, 404, 413, 422) else 2)


SERVERS = {
    "HTTP 401: who are you": Reply(401, {"error": "who are you"}),
    "HTTP 402: no credits": Reply(402, {"error": "no credits"}),
    "HTTP 403": Reply(403, {"error": "not for you"}),
    "HTTP 404: no model m": Reply(404, {"error": "no model m"}),
    "HTTP 400: top_p": Reply(400, {"error": "top_p is unknown"}),
    "HTTP 429": Reply(429, {"error": "quota used up"}),
    "HTTP 500": Reply(500, {"error": "out of memory"}),
    "unreadable answer": Reply(200, b"<html>Welcome</html>"),
    "no connection": Reply(hang_up=True),
    "timeout": Reply(delay=0.5),
}


@pytest.mark.parametrize("after", [0, 6])
@pytest.mark.parametrize(("message", "reply"), SERVERS.items(), ids=SERVERS)
def test_a_failure_of_the_server_stops_the_run(message, reply, after):
    """From the first request on, or in the middle of a run; with few requests for many rows."""
    with InferenceServer(lambda body, number: reply if number >= after else None) as server:
        stage = stage_for(server, timeout=0.2, max_retries=1)
        with pytest.raises(ServerError, match=message) as caught:
            stage(rows(200))
        assert server.url in str(caught.value)
        assert len(server.received) <= after + 4 * 2 + 8  # what is under way is not called back
    assert isinstance(caught.value, OSError)


def test_refused_rows_are_no_reason_to_ask_for_more():
    """A probe is sent after the first, as nothing has succeeded yet, and after that other rows succeed."""
    with InferenceServer(fails_at_bad(Reply(400, {"error": "no cats"}))) as server:
        batch = rows(20)
        batch[CAPTION][::4] = [BAD] * 5
        made = stage_for(server, concurrency=1)(batch)
        assert len(server.received) == 21
    assert sum(error == "HTTP 400: no cats" for error in made[ERROR]) == 5


def test_an_unreachable_server_stops_the_run_and_a_later_one_is_used():
    with InferenceServer() as server:
        pass
    stage = stage_for(server, max_retries=1)
    with pytest.raises(ServerError, match=r"fails for any row.*no connection"):
        stage(rows(50))
    with InferenceServer() as other:
        stage = stage_for(other)
        assert stage(rows(3))[ERROR] == [None] * 3


def test_a_name_that_does_not_resolve_stops_the_run():
    stage = InferenceCaptions(model="m", base_url="http://nowhere.invalid/v1", backoff=0.01, max_retries=1)
    with pytest.raises(ServerError, match="no connection"):
        stage(rows(3))


def test_a_wait_of_hours_is_not_waited_for():
    rule = fails_at_bad(Reply(429, {"error": "tomorrow"}, {"Retry-After": "86400"}))
    with InferenceServer(rule) as server:
        started = time.monotonic()
        made = stage_for(server, concurrency=1)(with_bad(2))
        assert made[ERROR][1] == "HTTP 429: tomorrow"
        assert time.monotonic() - started < 5


@pytest.mark.parametrize("headers", [False, True])
def test_a_server_that_drips_does_not_hang_the_run(headers):
    """Neither its body, nor its headers; from every row, and the process may end at once."""
    slow = Reply(*chat("a blue cat")[:2], drip=0.1, drip_headers=headers)
    with InferenceServer(lambda body, number: slow) as server:
        started = time.monotonic()
        with pytest.raises(ServerError, match="timeout"):
            stage_for(server, timeout=0.2, max_retries=0)(rows(40))
    assert time.monotonic() - started < 10


def test_the_answer_that_is_given_up_is_closed():
    """Otherwise its thread and its connection stay for as long as the server likes."""
    before = set(threading.enumerate())
    with InferenceServer(fails_at_bad(Reply(*chat("a blue cat")[:2], drip=0.3))) as server:
        stage_for(server, timeout=0.2, max_retries=0, concurrency=1)(with_bad(2))
        deadline = time.monotonic() + 20  # the whole answer would take a minute
        while any(thread.name == "inference request" for thread in set(threading.enumerate()) - before):
            assert time.monotonic() < deadline
            time.sleep(0.02)


KEY = "sk-proj/Ab+12cd34EF56gh78"
ECHOES = {
    "plain": f"Incorrect API key provided: {KEY}.",
    "in JSON": {"error": {"message": f"headers were {{'Authorization': 'Bearer {KEY}'}}"}},
    "in a URL": f"GET /v1?api_key={quote(KEY, safe='')} is refused",
    "in base64": f"bad header Basic {base64.b64encode(f'user:{KEY}'.encode()).decode()}",
    "masked": f"no such key: {KEY[:7]}****{KEY[-4:]}",
    "cut": f"no such key: {KEY[:15]}",
    "far behind": f"{'x ' * 95}{KEY}",
}


@pytest.mark.parametrize("echo", ECHOES.values(), ids=ECHOES)
@pytest.mark.parametrize("status", [400, 401, 500])
def test_a_key_that_the_server_echoes_is_not_told(echo, status, monkeypatch, caplog):
    monkeypatch.setenv("MY_KEY", KEY)
    reply = Reply(status, echo if isinstance(echo, dict) else {"error": echo})
    settings = {"api_key_env": "MY_KEY", "max_retries": 1, "concurrency": 1}
    with caplog.at_level("INFO"), InferenceServer(lambda body, number: reply) as server:
        with pytest.raises(ServerError, match=f"HTTP {status}") as caught:
            stage_for(server, **settings)(rows(2))
        server.rule = fails_at_bad(reply)
        told = "" if status == 401 else stage_for(server, **settings)(with_bad(2))[ERROR][1]
    shown = "".join(traceback.format_exception(caught.value)) + told + caplog.text
    assert not any(KEY[start : start + 8] in shown for start in range(len(KEY) - 7))
    assert KEY[:7] + "*" not in shown
    assert base64.b64encode(KEY.encode())[4:-8].decode() not in shown


def test_a_key_in_the_address_is_not_told():
    with InferenceServer(lambda body, number: Reply(404, {"error": "no ab12secret"})) as server:
        url = server.url.replace("http://", "http://me:ab12secret@")
        with pytest.raises(ServerError, match="HTTP 404") as caught:
            InferenceCaptions(model="m", base_url=url)(rows(1))
    assert "ab12secret" not in "".join(traceback.format_exception(caught.value))


def test_what_a_terminal_or_a_file_cannot_take_is_replaced():
    with InferenceServer(fails_at_bad(Reply(400, {"error": "bad \ud83d\x1b[2J\x07 end"}))) as server:
        error = stage_for(server)(with_bad(2))[ERROR][1]
    assert error == "HTTP 400: bad \ufffd\ufffd[2J\ufffd end"
    error.encode()


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

# SPDX-License-Identifier: Apache-2.0
"""Keys are removed from foreign texts, and nothing else is."""

from __future__ import annotations

import base64
import html
import json
import logging
import warnings
from urllib.parse import quote, quote_plus

import pytest

from hf_tripletclip.utils.redact import clients_redacted, one_line, redact

KEY = 'sk/Ab+12cd"34EF&56gh 78'
FORMS = {
    "plain": KEY,
    "JSON": json.dumps({"key": KEY}),
    "JSON in JSON": json.dumps(json.dumps(KEY)),
    "URL": quote(KEY, safe=""),
    "form": quote_plus(KEY),
    "URL in URL": quote(quote(KEY, safe=""), safe=""),
    "HTML": html.escape(KEY),
    "hexadecimal": KEY.encode().hex(),
    "base64": base64.b64encode(KEY.encode()).decode(),
    "base64 behind one": base64.b64encode(f"u{KEY}".encode()).decode(),
    "base64 behind two": base64.urlsafe_b64encode(f"u:{KEY}".encode()).decode(),
    "repr": repr(KEY),
    "beginning": KEY[:12],
    "end": f"...{KEY[-10:]}",
    "middle": KEY[5:15],
    "dots": f"{KEY[:4]}...{KEY[-2:]}",
    "stars": f"{KEY[:3]}********{KEY[-3:]}",
    "an ellipsis": f"{KEY[:6]}…",
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_given_key_in_all_its_forms(form):
    told = redact(f"HTTP 401: the key {form} is wrong", KEY)
    assert "[token]" in told
    assert told.startswith("HTTP 401: the key ")
    assert told.endswith(" is wrong")
    letters = "".join(filter(str.isalnum, told.removeprefix("HTTP 401: the key ").removesuffix(" is wrong")))
    assert len(letters.replace("token", "").replace("key", "")) <= 4, told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f"token hf_{'a1B2' * 8} expired", "token [token] expired"),
        (f"token hf_oauth_{'a1B2' * 8}.{'c3D4' * 4}-_.{'e5F6' * 4} expired.", "token [token] expired."),
        ("there is no hf_tripletclip_outputs_2026/model", "there is no hf_tripletclip_outputs_2026/model"),
        (f"key sk-proj-{'a1B2' * 6}", "key [token]"),
        ("Incorrect API key provided: abcdef1234567890.", "Incorrect API key provided: [token]"),
        ("Authorization: Bearer abcdefgh", "Authorization: Bearer [token]"),
        ("{'authorization': 'Basic YWJj'}", "{'authorization': 'Basic [token]'}"),
        ("sent Bearer ab12cd34ef", "sent Bearer [token]"),
        ("x-api-key=123456789, model=m", "x-api-key=[token], model=m"),
        ("GET https://x.org/y?api_key=abc&model=m", "GET https://x.org/y?api_key=[token]&model=m"),
        ("GET https://x.org/y?X-Amz-Signature=abc", "GET https://x.org/y?X-Amz-Signature=[token]"),
        ("https://me:pw@x.org/v1 refused", "https://[token]@x.org/v1 refused"),
        ("jwt eyJhbGciOiJIUzI1.eyJzdWIiOiIxMjM0.SflKxwRJ", "jwt [token]"),
    ],
)
def test_an_unknown_key(text, told):
    assert redact(text) == told


@pytest.mark.parametrize(
    "text",
    [
        "HTTP 400: top_p is unknown",
        "invalid API key",
        "api_key: missing",
        "Basic authentication is required",
        "the bearer token is missing",
        "token limit is 4096, got 5000",
        "the task-specific-thing-2024-is-longer",
        "A man ... with a dog ** and a key",
        "https://x.org/v1?model=m@rev",
    ],
)
def test_other_text_stays(text):
    assert redact(text, KEY, None, True) == text


def test_a_short_key_is_replaced_only_as_a_word():
    assert redact("key abcd: abcde and abcd.", "abcd") == "key [token]: abcde and [token]."
    assert redact("a key of one sign", "a", "") == "a key of one sign"


def test_one_line():
    assert one_line("a\x1b[2J\nb \ud800\t c\r\n") == "a\ufffd[2J b \ufffd c"
    assert one_line("x" * 20, longest=5) == "xxxxx..."
    assert one_line(f"{'x' * 10} {KEY}", KEY, longest=30) == "xxxxxxxxxx [token]"  # blanked before it is cut
    one_line("\udcff").encode()


def test_logging_and_warnings_are_restored_after_the_last_upload(caplog):
    warner, factory = warnings.showwarning, logging.getLogRecordFactory()
    first, second = clients_redacted(KEY), clients_redacted("another-key-of-mine")
    first.__enter__()
    with warnings.catch_warnings(record=True) as told:
        second.__enter__()
        warnings.warn(f"told {KEY} and another-key-of-mine", FutureWarning, stacklevel=1)
        first.__exit__(None, None, None)
        logging.getLogger("httpx").warning("%s, another-key-of-mine", "one")
        logging.getLogger("mine").warning("another-key-of-mine")
    second.__exit__(None, None, None)
    assert [(str(one.message), one.category) for one in told] == [("told [token] and [token]", FutureWarning)]
    assert [record.getMessage() for record in caplog.records] == ["one, [token]", "another-key-of-mine"]
    assert (warnings.showwarning, logging.getLogRecordFactory()) == (warner, factory)


def test_a_clients_traceback_and_a_malformed_record(caplog):
    with clients_redacted(KEY):
        wrong = logging.getLogger("httpx").makeRecord("httpx", logging.INFO, "", 1, "%d", ("no number",), None)
        try:
            raise OSError(f"answered {KEY}")
        except OSError:
            logging.getLogger("huggingface_hub.some").warning("failed", exc_info=True)
    assert wrong.args == ("no number",)  # logging itself says what is wrong when it writes the record
    told = logging.Formatter().format(caplog.records[-1])
    assert "OSError: answered [token]" in told
    assert KEY not in told

# SPDX-License-Identifier: Apache-2.0
"""Remove keys and tokens from the texts of servers, the Hub and libraries before they are printed or stored."""

from __future__ import annotations

import base64
import contextlib
import html
import json
import logging
import re
import threading
import warnings
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, quote_plus

MARK = "[token]"  # replaces a key
PIECE = 8  # length of a part of a key that must not be shown
HUB_TOKEN = re.compile(r"\b(hf|api_org)_[A-Za-z0-9]{20,}")  # tokens of the Hub

_VALUE = r"[^\s\"'`,;&<>(){}\[\]\\]"
# Keys that are known by their shape.
_SHAPES = re.compile(
    r"\b(?:hf|api_org)_(?:[a-z]+_)?[A-Za-z0-9]{16,}[\w-]*(?:\.[\w-]{8,})*"
    r"|\b(?:gh[pousr]|github_pat|glpat|gsk|r8|fw|xox[abprs]|nvapi|tgp|pplx|csk)[_-][A-Za-z0-9_-]{16,}"
    r"|\b[sprk]k[-_](?=[\w-]*\d)[A-Za-z0-9_-]{16,}"
    r"|\bAKIA[0-9A-Z]{16}\b|\bAIza[0-9A-Za-z_-]{30,}"
    r"|\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"
)
# Keys that are known by the text before them, which stays.
_NAMED = (
    re.compile(
        r"(?P<name>\bauthorization\b\\?[\"']?\s*[:=]\s*\\?[\"']?(?:(?:bearer|basic|token|key)\s+)?)"
        rf"(?P<key>{_VALUE}{{4,}})",
        re.IGNORECASE,
    ),
    re.compile(rf"(?P<name>\b(?:bearer|basic)\s+)(?P<key>(?=\S*\d){_VALUE}{{8,}}|{_VALUE}{{24,}})", re.IGNORECASE),
    re.compile(
        r"(?P<name>\b(?:x-)?(?:api|access|auth|secret|private|subscription|hf|hub)[-_ ]?(?:api[-_ ]?)?"
        r"(?:key|token|secret)\b\\?[\"']?\s*(?:[:=]|is|provided:)\s*\\?[\"']?)"
        rf"(?P<key>(?=\S*\d){_VALUE}{{6,}}|{_VALUE}{{16,}})",
        re.IGNORECASE,
    ),
    re.compile(
        r"(?P<name>[?&](?:[\w.-]*(?:key|token|secret|password|signature|credential)|sig|auth)=)(?P<key>[^&\s\"'<>]+)",
        re.IGNORECASE,
    ),
    re.compile(r"(?P<name>\b[a-z][a-z0-9+.-]*://)(?P<key>[^\s/?#@\"'<>]+)(?=@)", re.IGNORECASE),
)
_MASK = re.compile(r"\*{2,}|\.{2,}|…+|•{2,}|[xX]{4,}")  # `sk-ab...wxyz`, `sk-ab****wxyz`


def redact(text: str, *secrets: str | bool | None) -> str:
    """
    Replace keys in a text: the given ones in all their forms, and everything that looks like a key.

    Forms of a given key are those in JSON, in a URL, in HTML and in base64, a masked echo such as `sk-ab...wxyz`, and
    any part of 8 or more characters. Other keys are found by well-known shapes, and after words such as
    `Authorization:`, `Bearer` and `api_key=`, also in URLs.

    Args:
        text (`str`): A message.
        *secrets (`str`, *optional*): Keys and tokens; `None` and `bool` values are ignored.
    """
    for secret in {secret for secret in secrets if isinstance(secret, str) and secret.strip()}:
        text = _without(text, secret.strip())
    for pattern in _NAMED:
        text = pattern.sub(lambda match: f"{match['name']}{MARK}", text)
    return _SHAPES.sub(MARK, text)


CLIENTS = ("huggingface_hub", "httpx", "httpcore")  # libraries that may log a request and its answer
_lock = threading.Lock()
_active: list[tuple[str | bool | None, ...]] = []  # the keys of each active `clients_redacted`


@contextlib.contextmanager
def clients_redacted(*secrets: str | bool | None) -> Iterator[None]:
    """
    Remove keys (see [`redact`]) from warnings, and from the log messages of the Hub's client and its HTTP library. It
    applies to all threads, because an upload has several, and another upload may run at the same time.

    Args:
        *secrets (`str`, *optional*): Keys and tokens.
    """
    with _lock:
        _active.append(secrets)
        # Others replace and restore these functions too, such as `warnings.catch_warnings`.
        if not isinstance(warnings.showwarning, _RedactedWarning):
            warnings.showwarning = _RedactedWarning(warnings.showwarning)
        if not isinstance(logging.getLogRecordFactory(), _RedactedRecord):
            logging.setLogRecordFactory(_RedactedRecord(logging.getLogRecordFactory()))
    try:
        yield
    finally:
        with _lock:
            _active.remove(secrets)
            if not _active:
                if isinstance(warnings.showwarning, _RedactedWarning):
                    warnings.showwarning = warnings.showwarning.original
                if isinstance(factory := logging.getLogRecordFactory(), _RedactedRecord):
                    logging.setLogRecordFactory(factory.original)


class _Redacted:
    def __init__(self, original: Any) -> None:
        self.original = original

    def public(self, text: str) -> str:
        return redact(text, *(secret for secrets in _active for secret in secrets))


class _RedactedWarning(_Redacted):
    def __call__(self, message: Warning | str, *args: Any, **kwargs: Any) -> None:
        public = self.public(str(message))
        self.original(message if public == str(message) else Warning(public), *args, **kwargs)


class _RedactedRecord(_Redacted):
    def __call__(self, *args: Any, **kwargs: Any) -> logging.LogRecord:
        record: logging.LogRecord = self.original(*args, **kwargs)
        if record.name.partition(".")[0] in CLIENTS:
            try:
                text = record.getMessage()
            except Exception:  # the arguments do not fit the message, which logging itself reports
                return record
            if (public := self.public(text)) != text:
                record.msg, record.args = public, ()
            if record.exc_info and record.exc_info[0] is not None:  # handlers write `exc_text` if it is set
                record.exc_text = self.public(logging.Formatter().formatException(record.exc_info))
        return record


def one_line(text: str, *secrets: str | bool | None, longest: int | None = None) -> str:
    """
    Prepare a foreign text for a message of ours: without keys (see [`redact`]), on one line, without control
    characters and lone surrogates, which cannot be written to a file.

    Args:
        text (`str`): The text.
        *secrets (`str`, *optional*): Keys and tokens.
        longest (`int`, *optional*): Length at which the text is cut.
    """
    text = " ".join(printable(redact(text, *secrets)).split())
    return text if longest is None or len(text) <= longest else f"{text[:longest]}..."


def printable(text: str) -> str:
    """Replace characters that cannot be printed or encoded by `\\ufffd`; white space stays."""
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() or sign.isspace() else "\ufffd" for sign in text)


def _without(text: str, secret: str) -> str:
    if len(secret) < PIECE:  # only as a whole word, because it may be one: "EMPTY" is a usual key for open servers
        return re.sub(rf"(?<![\w-]){re.escape(secret)}(?![\w-])", MARK, text) if len(secret) >= 4 else text
    for form in _forms(secret):
        text = text.replace(form, MARK)

    return _without_pieces(_without_masked(text, secret), secret)


def _without_masked(text: str, secret: str) -> str:
    kept, start = [], 0
    for mask in _MASK.finditer(text):
        before, after = text[start : mask.start()], text[mask.end() :]
        head = next((n for n in range(min(len(before), len(secret)), 1, -1) if before.endswith(secret[:n])), 0)
        tail = next((n for n in range(min(len(after), len(secret)), 0, -1) if after.startswith(secret[-n:])), 0)
        if head and head + tail >= 4:
            kept += [before[:-head], MARK]
            start = mask.end() + tail
    return "".join([*kept, text[start:]])


def _forms(secret: str) -> Iterator[str]:
    """The forms of a key, the longest first."""
    plain = {secret, repr(secret)[1:-1], json.dumps(secret)[1:-1], quote(secret, safe=""), quote_plus(secret)}
    plain |= {html.escape(secret), quote(quote(secret, safe=""), safe=""), secret.encode().hex()}
    content = secret.encode("utf-8", "surrogatepass")
    for before in range(3):  # in a longer text, such as `user:key`, base64 depends on the characters before the key
        encoded = base64.b64encode(b"\0" * before + content).decode()
        start = -(-before * 8 // 6)
        whole = (before + len(content)) * 8 // 6
        inside = encoded[start:whole]
        plain |= {inside, inside.replace("+", "-").replace("/", "_")}
    return iter(sorted((form for form in plain if len(form) >= PIECE), key=len, reverse=True))


def _without_pieces(text: str, secret: str) -> str:
    """Replace parts of at least `PIECE` characters of the key, such as in an echo that was cut."""
    pieces = {secret[start : start + PIECE] for start in range(len(secret) - PIECE + 1)}
    kept, place = [], 0
    while place < len(text):
        stop = place
        while text[stop : stop + PIECE] in pieces:
            stop += 1
        if stop == place:
            kept.append(text[place])
            place += 1
        else:
            kept.append(MARK)
            place = stop + PIECE - 1
    return "".join(kept)

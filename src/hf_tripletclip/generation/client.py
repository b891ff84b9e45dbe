# SPDX-License-Identifier: Apache-2.0
"""Requests to an inference server: many at once, with retries. Answers are kept on disk, and a row's own errors are
distinguished from those of the server."""

from __future__ import annotations

import contextlib
import email.utils
import hashlib
import json
import logging
import os
import queue
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

from hf_tripletclip.utils.redact import one_line, redact

logger = logging.getLogger(__name__)

LONGEST_WAIT = 60.0  # seconds between attempts, if the server names none
LONGEST_RETRY_AFTER = 900.0  # seconds; if the server asks for a longer wait, the request fails
RETRIED = frozenset({408, 409, 425, 429})  # and 500 to 599
TOO_MANY = 429
OF_CONTENT = frozenset({400, 403, 413, 422})  # mostly about what a request holds
MAX_DETAIL = 200  # characters of a server's message in an error


class Request(NamedTuple):
    """What is asked for a row; `content` is JSON and all that the answer depends on."""

    id: str
    content: dict[str, Any]


class AnswerCache:
    """
    Answers as they come, one JSON line each, so that none is paid for twice after a `kill -9`.

    Args:
        path (`Path`, *optional*): The file; `None` keeps nothing. A last line that was cut short is skipped.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._answers: dict[str, Any] = {}
        for line in path.read_bytes().split(b"\n") if path is not None and path.exists() else []:
            with contextlib.suppress(ValueError, KeyError, TypeError):  # cut short when the process died
                entry = json.loads(line)
                self._answers[entry["key"]] = entry["value"]

    @staticmethod
    def key(request: Request) -> str:
        return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()

    def __contains__(self, request: Request) -> bool:
        return self.key(request) in self._answers

    def __getitem__(self, request: Request) -> Any:
        return self._answers[self.key(request)]

    def add(self, request: Request, value: Any) -> None:
        """Keep an answer. It is there for the next process when this returns."""
        key = self.key(request)
        self._answers[key] = value
        if self.path is None:
            return
        line = json.dumps({"key": key, "id": request.id, "value": value}).encode() + b"\n"
        with self._lock, open(self.path, "a+b") as file:
            end = file.seek(0, os.SEEK_END)
            if end:
                file.seek(end - 1)
                line = line if file.read(1) == b"\n" else b"\n" + line
            file.write(line)


class ServerError(OSError):
    """The server, the key or the settings are at fault, not a row; the run must stop."""


class Outcome(NamedTuple):
    """An answer, as JSON, or the error of its row."""

    value: Any
    error: str | None = None


class Failure(Exception):
    """A request that failed: words for counting, a colon and detail."""

    def __init__(
        self,
        reason: str,
        *,
        again: bool,
        status: int | None = None,
        after: float | None = None,
        answered: bool = False,
    ) -> None:
        super().__init__(reason)
        self.again = again  # whether the same request may succeed later
        self.answered = answered  # the server works, and what it answered is of no use: the row's own error
        self.status = status
        self.after = after  # seconds that the server asks to wait
        self.successes_before = 0  # requests that had succeeded when this one was sent


class Cancelled(Exception):
    """Another request has shown that the run must stop."""


class Requests:
    """
    Sends requests, at most `concurrency` at once.

    A request is sent again if the failure may pass: a lost or refused connection, a timeout, HTTP 408, 409, 425, 429
    and 5xx, or an answer that cannot be read. The wait before it doubles each time, with jitter, unless the server
    sends `Retry-After`. A 429 holds back all requests; its retries count only while no other request succeeds.

    A failure that is final may be the row's own or the server's. HTTP 401 and 402 are always the key's. After any
    other failure, if no request succeeded since its last attempt began, the `probe` is sent once. If the probe fails
    too, the server is gone, the model is unknown, the quota is used up or a setting is refused, and a [`ServerError`]
    ends the run before a million rows get the same error. If it succeeds, the failure is the row's own. HTTP 400, 403,
    413 and 422 are about a row's content: they need no probe if a request succeeded since the last failure.

    Keys are removed from the server's messages (see [`~hf_tripletclip.utils.redact.redact`]), which become one line.

    Args:
        send (`Callable[[dict], Any]`): Sends the content of a request and returns the answer as JSON. It may raise a
            `Failure` with `answered`: the server works, and its useless answer is the row's own error.
        probe (`dict`): The content of a harmless request with the same settings.
        server (`str`): The server's name in errors.
        concurrency (`int`): Requests at once.
        max_retries (`int`): How often a request is sent again.
        backoff (`float`): Seconds before the first retry.
        deadline (`float`, *optional*): Seconds after which a request is given up, even if bytes still come: a server
            that sends a byte now and then never times out otherwise. Its thread is left behind.
        secrets (`Sequence[str]`): Keys that are removed from all messages.
    """

    def __init__(
        self,
        send: Callable[[dict[str, Any]], Any],
        probe: dict[str, Any],
        *,
        server: str,
        concurrency: int,
        max_retries: int,
        backoff: float,
        deadline: float | None = None,
        secrets: Sequence[str | None] = (),
    ) -> None:
        self.send = send
        self.probe = probe
        self.server = redact(server, *secrets)
        self.deadline = deadline
        self.secrets = tuple(secrets)
        self.concurrency = concurrency
        self.max_retries = max_retries
        self.backoff = backoff
        self._lock = threading.Lock()
        self._probing = threading.Lock()
        self._stop = threading.Event()
        self._successes = 0
        self._successes_at_failure = 0  # at the last failure that was final
        self._held_until = 0.0  # time.monotonic() before which nothing is sent

    def __call__(self, requests: Sequence[Request], cache: AnswerCache) -> list[Outcome]:
        """
        The outcomes of requests, in their order.

        Raises:
            ServerError: The server, the key or a setting is at fault, not a row.
            OSError: An answer could not be written to the cache.
        """
        outcomes: list[Outcome | None] = [Outcome(cache[item]) if item in cache else None for item in requests]
        missing = [place for place, outcome in enumerate(outcomes) if outcome is None]
        if not missing:
            return [outcome for outcome in outcomes if outcome is not None]
        self._stop.clear()
        with ThreadPoolExecutor(min(self.concurrency, len(missing)), "inference") as pool:
            futures = {pool.submit(self._fetch, requests[place], cache): place for place in missing}
            try:
                for future in as_completed(futures):
                    outcomes[futures[future]] = future.result()
            except BaseException as error:
                self._stop.set()
                pool.shutdown(cancel_futures=True)
                if not isinstance(error, Cancelled):
                    raise
                # The request that made this one give up comes to an end a moment later.
                reasons = [future.exception() for future in futures if not future.cancelled()]
                reason = next(reason for reason in reasons if reason and not isinstance(reason, Cancelled))
                raise reason from reason.__cause__
        return [outcome for outcome in outcomes if outcome is not None]

    def _fetch(self, request: Request, cache: AnswerCache) -> Outcome:
        try:
            value = self._attempts(request.content)
        except Failure as failure:
            if failure.answered:
                with self._lock:
                    self._successes += 1
            else:
                self._check_server(failure)
            return Outcome(None, str(failure))
        cache.add(request, value)
        return Outcome(value)

    def _attempts(self, content: dict[str, Any]) -> Any:
        attempt, seen = 0, self._successes
        while True:
            self._wait_while_held()
            before = self._successes
            try:
                value = self._once(content)
            except Failure as failure:
                failure.successes_before = before
                others_got_through = failure.status == TOO_MANY and self._successes > seen
                attempt, seen = (0 if others_got_through else attempt + 1), self._successes
                if not failure.again or attempt > self.max_retries or (failure.after or 0) > LONGEST_RETRY_AFTER:
                    raise
                self._back_off(failure, attempt)
                continue
            with self._lock:
                self._successes += 1
            return value

    def _once(self, content: dict[str, Any]) -> Any:
        try:
            return self.send(content) if self.deadline is None else within(self.deadline, self.send, content)
        except Exception as error:  # clients and decoders raise all kinds on garbage
            failure = as_failure(error, self.secrets)
            shown = "\n".join(map(str, _causes(error)))  # a traceback shows them all
            raise failure from (error if redact(shown, *self.secrets) == shown else None)

    def _back_off(self, failure: Failure, attempt: int) -> None:
        wait = failure.after
        if wait is None:
            wait = min(LONGEST_WAIT, self.backoff * 2 ** max(attempt - 1, 0))
        wait *= random.uniform(1.0, 1.25)  # never earlier than the server asks
        logger.info(f"{self.server}: {failure}; again in {wait:.1f} s")
        if failure.status == TOO_MANY:
            with self._lock:
                self._held_until = max(self._held_until, time.monotonic() + wait)
        else:
            self._sleep(wait)

    def _wait_while_held(self) -> None:
        while (wait := self._held_until - time.monotonic()) > 0:
            self._sleep(wait)
        if self._stop.is_set():
            raise Cancelled

    def _sleep(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise Cancelled

    def _check_server(self, failure: Failure) -> None:
        """Returns if the failure is the row's own."""
        if failure.status in (401, 402):
            raise ServerError(f"{self.server}: {failure}. Check the API key and the account.") from failure
        with self._probing:  # others that fail at the same time wait for the one answer
            before = self._successes_at_failure if failure.status in OF_CONTENT else failure.successes_before
            self._successes_at_failure = self._successes
            if self._successes > before:
                return
            if self._stop.is_set():
                raise Cancelled
            try:
                self._once(self.probe)
            except Failure as second:
                if second.answered:
                    return
                self._stop.set()
                last = "" if str(second) == str(failure) else f", and for a test request: {second}"
                raise ServerError(
                    f"{self.server} fails for any row, so the run stops: {failure}{last}. "
                    "Check the address, the model's name, the API key and the settings; answers so far are kept."
                ) from second
            with self._lock:
                self._successes += 1


def within(seconds: float, function: Callable[[Any], Any], argument: Any) -> Any:
    """
    Call a function in a thread, with a time limit.

    Raises:
        Failure: The function has not returned after `seconds`. The answer that it was reading is closed; a thread that
            does not notice this ends with the process.
    """
    outcome: queue.SimpleQueue[tuple[Any, Exception | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            outcome.put((function(argument), None))
        except Exception as error:
            outcome.put((None, error))

    thread = threading.Thread(target=run, name="inference request", daemon=True)
    thread.start()
    try:
        value, error = outcome.get(timeout=seconds)
    except queue.Empty:
        if (response := getattr(thread, "response", None)) is not None:
            with contextlib.suppress(Exception):  # of what was being read just now
                response.close()
        raise Failure(f"timeout: no whole answer within {seconds:g} s", again=True) from None
    if error is not None:
        raise error
    return value


def remember_response(response: Any) -> None:
    """A hook of the HTTP client: it records which answer this thread is about to read, for [`within`]."""
    threading.current_thread().response = response  # type: ignore[attr-defined]


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def as_failure(error: Exception, secrets: Sequence[str | None] = ()) -> Failure:
    """The failure that an exception of `InferenceClient`, or of reading its answer, means; without the secrets."""
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, InferenceTimeoutError

    def said(text: str) -> str:
        return one_line(text, *secrets, longest=MAX_DETAIL)

    if isinstance(error, Failure):
        return error
    if isinstance(error, HfHubHTTPError):
        response = error.response
        status = response.status_code
        again = status in RETRIED or status >= 500
        return Failure(
            f"HTTP {status}: {said(_message(error))}",
            again=again,
            status=status,
            after=_retry_after(response.headers),
        )
    if isinstance(error, InferenceTimeoutError):
        return Failure(f"timeout: {said(str(error))}", again=True)
    if isinstance(error, HTTPError):
        return Failure(f"no connection: {said(str(error) or type(error).__name__)}", again=True)
    if isinstance(error, UnicodeEncodeError) or type(error) is ValueError:
        # What cannot be sent, or the client's own refusal, such as of a model that a provider does not have.
        return Failure(f"request failed: {said(str(error))}", again=False)
    return Failure(f"unreadable answer: {said(f'{type(error).__name__}: {error}')}", again=True)


def _message(error: Any) -> str:
    """The server's own message; `str(error)` leaves out FastAPI's `detail`."""
    if error.server_message:
        return error.server_message
    try:
        return error.response.text or str(error)
    except RuntimeError:  # it was never read
        return str(error)


def _retry_after(headers: Any) -> float | None:
    """Seconds that `Retry-After` asks to wait, which is a number or a date."""
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None

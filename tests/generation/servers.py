# SPDX-License-Identifier: Apache-2.0
"""An inference server on loopback that chats and draws, and fails as it is told to."""

from __future__ import annotations

import hashlib
import io
import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import numpy as np
from PIL import Image


class Reply(NamedTuple):
    """What a request is answered with."""

    status: int = 200
    body: Any = b""  # bytes, or what JSON can hold
    headers: dict[str, str] = {}  # noqa: RUF012
    delay: float = 0.0  # seconds before it
    hang_up: bool = False  # close the connection instead
    drip: float = 0.0  # seconds between its bytes
    drip_headers: bool = False  # from the first byte on


class Received(NamedTuple):
    """A request that came."""

    path: str
    headers: dict[str, str]
    body: Any
    time: float


def caption_of(body: dict[str, Any]) -> str:
    """The caption that a chat asks about, or the prompt of a picture."""
    return body["inputs"] if "inputs" in body else body["messages"][-1]["content"].removeprefix("Caption: ")


def chat(text: str | None, finish_reason: str = "stop") -> Reply:
    """A chat completion."""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": finish_reason}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    return Reply(body={"id": "1", "created": 0, "model": "m", "choices": [choice], "usage": usage})


def picture(image: Image.Image) -> Reply:
    """A picture as a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, "png")
    return Reply(body=buffer.getvalue(), headers={"Content-Type": "image/png"})


def answer(body: dict[str, Any]) -> Reply:
    """A caption in which red is blue, or noise from the seed and the prompt."""
    if "messages" in body:
        return chat(caption_of(body).replace("red", "blue"))
    parameters = body["parameters"]
    digest = hashlib.sha256(f"{parameters['seed']} {body['inputs']}".encode()).digest()
    shape = (parameters.get("height", 48), parameters.get("width", 64), 3)
    pixels = np.random.default_rng(list(digest)).integers(0, 256, shape, dtype=np.uint8)
    return picture(Image.fromarray(pixels))


class InferenceServer:
    """
    Serves while it is entered.

    Args:
        rule: What a request is answered with, from its JSON body and the number of requests before it; `None` for
            what [`answer`] says.
    """

    def __init__(self, rule: Callable[[dict[str, Any], int], Reply | None] = lambda body, number: None) -> None:
        self.rule = rule
        self.received: list[Received] = []
        self.at_once = self.most_at_once = 0  # requests in work
        self.lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self.server.daemon_threads = True
        self.server.block_on_close = False
        self.server.owner = self  # type: ignore[attr-defined]

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    @property
    def url(self) -> str:
        return f"{self.address}/v1"

    def asked_for(self, caption: str) -> int:
        """How many requests came for a caption."""
        return sum(caption_of(request.body) == caption for request in self.received)

    def __enter__(self) -> InferenceServer:
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.server.shutdown()
        self.server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # an answer is sent at once, not in pieces that wait for each other
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        owner: InferenceServer = self.server.owner  # type: ignore[attr-defined]
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        headers = {name.lower(): value for name, value in self.headers.items()}
        with owner.lock:
            number = len(owner.received)
            owner.received.append(Received(self.path, headers, body, time.monotonic()))
            owner.at_once += 1
            owner.most_at_once = max(owner.most_at_once, owner.at_once)
        reply = owner.rule(body, number) or answer(body)
        time.sleep(reply.delay)
        with owner.lock:
            owner.at_once -= 1
        if reply.hang_up:
            self.close_connection = True
            return
        is_json = not isinstance(reply.body, bytes)
        content = json.dumps(reply.body).encode() if is_json else reply.body
        sent = {"Content-Type": "application/json" if is_json else "text/plain", **reply.headers}
        try:
            self.send_response(reply.status)
            for name, value in {**sent, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            if reply.drip_headers:
                content = b"".join([*self._headers_buffer, b"\r\n", content])  # type: ignore[attr-defined]
            else:
                self.end_headers()
            for place in range(len(content)) if reply.drip else ():
                self.wfile.write(content[place : place + 1])
                self.wfile.flush()
                time.sleep(reply.drip)
            self.wfile.write(b"" if reply.drip else content)
        except OSError:
            self.close_connection = True  # the client has given up waiting
            self.wfile = io.BytesIO()  # what is left to send is not sent when the handler ends

    def log_message(self, *arguments: object) -> None:
        pass

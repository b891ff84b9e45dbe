# SPDX-License-Identifier: Apache-2.0
"""Answers of an inference server on disk, so that none is asked for twice."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
from pathlib import Path
from typing import Any, NamedTuple


class Request(NamedTuple):
    """What is asked for a row; `content` is JSON and all that the answer depends on."""

    id: str
    content: dict[str, Any]


class AnswerCache:
    """
    Answers as they come, one JSON line each, so that none is paid for twice after a `kill -9`.

    Args:
        path (`Path`, *optional*): The file; `None` keeps nothing. A last line that was cut short is passed over.
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

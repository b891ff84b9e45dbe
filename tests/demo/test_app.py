# SPDX-License-Identifier: Apache-2.0
"""The server's limits, and the command."""

from __future__ import annotations

import json
import os
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from hf_tripletclip.cli import main
from hf_tripletclip.demo.app import build_app, launch, require_gradio
from hf_tripletclip.demo.inputs import MAX_BYTES
from hf_tripletclip.demo.negatives import NegativeWriter

# ---- The server ----


@pytest.fixture
def no_network(monkeypatch) -> list[str]:
    """Hosts that anything in this process asked for, other than this machine."""
    asked: list[str] = []
    real = socket.getaddrinfo

    def getaddrinfo(host, *args, **kwargs):
        if host not in (None, "127.0.0.1", "localhost", b"127.0.0.1", b"localhost"):
            asked.append(host)
            raise socket.gaierror(f"{host} is not this machine")
        return real(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


@pytest.fixture
def served(models, no_network) -> Iterator[tuple[str, list[str]]]:
    pytest.importorskip("gradio")
    writer = NegativeWriter()
    app = build_app(models, writer=writer, examples=False)
    try:
        yield launch(app, block=False), no_network
    finally:
        app.close()


def _upload(url: str, name: str, content: bytes) -> int:
    border = b"border"
    body = b'--%b\r\nContent-Disposition: form-data; name="files"; filename="%b"\r\n\r\n%b\r\n--%b--\r\n' % (
        border,
        name.encode(),
        content,
        border,
    )
    headers = {"Content-Type": "multipart/form-data; boundary=border"}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=30) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def test_the_server_is_local_silent_and_limits_uploads(served, capsys):
    url, asked = served
    assert url.startswith("http://127.0.0.1:")
    with urllib.request.urlopen(f"{url}config", timeout=30) as answer:
        config = json.load(answer)
    assert config["analytics_enabled"] is False
    assert config["max_file_size"] == MAX_BYTES
    assert not any(dependency["api_visibility"] == "public" for dependency in config["dependencies"])
    assert _upload(f"{url}gradio_api/upload", "small.png", b"x" * 100) == 200
    assert _upload(f"{url}gradio_api/upload", "large.png", b"x" * (MAX_BYTES + 1)) == 413
    with urllib.request.urlopen(url, timeout=30) as answer:
        page = answer.read().decode()
    assert "fonts.googleapis.com" not in page
    assert "cdn" not in page
    assert asked == []


def test_without_gradio_it_says_what_to_install(monkeypatch, folders, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ImportError, match=r"hf_tripletclip\[demo\]"):
        require_gradio()
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"
    assert main(["demo", str(folders[0])]) == 1
    assert "hf_tripletclip[demo]" in capsys.readouterr().err


# ---- The command ----


def test_the_command_builds_and_launches(folders, monkeypatch):
    pytest.importorskip("gradio")
    launched = []
    monkeypatch.setattr("hf_tripletclip.demo.app.launch", lambda app, **options: launched.append((app, options)))
    assert main(["demo", *map(str, folders), "--port", "7999", "--device", "cpu"]) == 0
    ((app, options),) = launched
    assert options == {"host": "127.0.0.1", "port": 7999, "share": False}
    assert app.title == "TripletCLIP demo"


def test_a_model_that_cannot_be_loaded_stops_the_command(tmp_path, folders, capsys, monkeypatch):
    pytest.importorskip("gradio")
    monkeypatch.setattr("hf_tripletclip.demo.app.launch", lambda *args, **options: pytest.fail("it was served"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").touch()
    for name in "empty", "file.txt", "no/such/folder":
        assert main(["demo", str(folders[0]), str(tmp_path / name)]) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert str(tmp_path / name) in error
    assert main(["demo", *[str(folders[0])] * 3]) == 1
    assert "one, or two to compare" in capsys.readouterr().err
    assert main(["demo", str(folders[0]), "--device", "quantum"]) == 1
    assert "quantum" in capsys.readouterr().err


def test_a_taken_port_is_one_message(models, capsys):
    pytest.importorskip("gradio")
    app = build_app(models, writer=NegativeWriter(), examples=False)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(OSError, match="port"):
            launch(app, port=taken.getsockname()[1], block=False)

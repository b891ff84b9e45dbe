# SPDX-License-Identifier: Apache-2.0
"""The server's limits, and the command."""

from __future__ import annotations

import json
import os
import socket
import sys
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from hf_tripletclip.cli import main
from hf_tripletclip.demo.app import build_app, launch, require_gradio
from hf_tripletclip.demo.inputs import MAX_BYTES, NegativeWriter

# ---- The server ----


@pytest.fixture
def no_network(monkeypatch) -> list[str]:
    """All hosts that this process contacts, except this machine."""
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
def served(models, no_network, uploads) -> Iterator[tuple[str, list[str]]]:
    pytest.importorskip("gradio")
    writer = NegativeWriter()
    app = build_app(models, writer=writer, examples=False)
    try:
        yield launch(app, block=False), no_network
    finally:
        app.close()


def _upload(url: str, name: str, content: bytes) -> tuple[int, str]:
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
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""


def test_the_server_is_local_silent_and_limits_uploads(served, capsys):
    url, asked = served
    assert url.startswith("http://127.0.0.1:")
    with urllib.request.urlopen(f"{url}config", timeout=30) as answer:
        config = json.load(answer)
    assert config["analytics_enabled"] is False
    assert config["max_file_size"] == MAX_BYTES
    assert not any(dependency["api_visibility"] == "public" for dependency in config["dependencies"])
    assert _upload(f"{url}gradio_api/upload", "small.png", b"x" * 100)[0] == 200
    assert _upload(f"{url}gradio_api/upload", "large.png", b"x" * (MAX_BYTES + 1))[0] == 413
    with urllib.request.urlopen(url, timeout=30) as answer:
        page = answer.read().decode()
    assert "fonts.googleapis.com" not in page
    assert "cdn" not in page
    assert asked == []


def _ask(url: str, function: int, data: list[Any]) -> str:
    """The queue's answer to a request, without times and without the request itself."""
    session = uuid.uuid4().hex
    body = json.dumps({"fn_index": function, "data": data, "session_hash": session}).encode()
    request = urllib.request.Request(f"{url}gradio_api/queue/join", body, {"Content-Type": "application/json"})
    urllib.request.urlopen(request, timeout=30).close()
    with urllib.request.urlopen(f"{url}gradio_api/queue/data?session_hash={session}", timeout=60) as events:
        for line in events:
            if b"process_completed" in line:
                answer = json.loads(line.removeprefix(b"data:"))
                return json.dumps([answer["success"], answer["output"].get("data"), answer["output"].get("error")])
    pytest.fail("no answer")


META = {"_type": "gradio.FileData"}


def test_only_uploads_are_read_whoever_asks(served, uploads, picture, tmp_path):
    url, asked = served
    with urllib.request.urlopen(f"{url}config", timeout=30) as answer:
        functions = {one["api_name"]: one["id"] for one in json.load(answer)["dependencies"]}
    questions = {functions["checked"]: [], functions["compare"]: ["a red cat\na blue dog"]}
    questions |= {functions[name]: ["a red cat", "a blue dog", {}, 0] for name in ("kept", "kept_1")}
    (uploaded,) = json.loads(_upload(f"{url}gradio_api/upload", "mine.png", Path(picture).read_bytes())[1])
    for file in ({"path": uploaded}, {"path": uploaded, "meta": META}):
        assert all("tc-problem" not in _ask(url, number, [file, *rest]) for number, rest in questions.items())

    secret, missing = tmp_path / "secret.png", tmp_path / "missing.png"
    Image.new("RGB", (8, 8)).save(secret)
    link = uploads / f"{uuid.uuid4().hex}.png"
    link.symlink_to(secret)
    inside = Path("..") / Path(uploads).resolve().relative_to(Path(uploads).resolve().parent)
    pairs = [  # of a file that exists and of one that does not: the answers are the same
        ({"path": str(secret)}, {"path": str(missing)}),
        ({"path": str(secret), "meta": META}, {"path": str(missing), "meta": META}),
        ({"path": str(secret), "url": f"{url}config"}, {"path": str(missing)}),
        ({"path": f"file://{secret}"}, {"path": f"file://{missing}"}),
        ({"path": str(link)}, {"path": str(missing)}),
        ({"path": f"{uploads}/{inside}/../{secret.name}"}, {"path": f"{uploads}/{inside}/../{missing.name}"}),
        ({"path": "http://example.org/a.png"}, {"path": str(missing)}),
        (str(secret), str(missing)),
        ([str(secret)], [str(missing)]),
        ({"path": [str(secret)]}, {"path": [str(missing)]}),
    ]
    for number, rest in questions.items():
        for file, other in pairs:
            first, second = _ask(url, number, [file, *rest]), _ask(url, number, [other, *rest])
            assert first == second, file
            assert "There is no picture yet" in first or first == "[false, null, null]", file
    # Gradio itself would fetch an address that stands in a file's place, in any field.
    address = {"path": "http://example.org/a.png", "meta": META}
    for number, rest in questions.items():
        assert json.loads(_ask(url, number, [address, *rest]))[0] is False
    assert "is text" in _ask(url, functions["compare"], [{"path": uploaded}, {"a": 1}])
    assert json.loads(_ask(url, functions["compare"], [{"path": uploaded}, address]))[0] is False
    for path in (secret, missing, link, "http://example.org/a.png"):
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(f"{url}gradio_api/file={path}", timeout=30)
    assert asked == []


def test_without_gradio_the_error_says_what_to_install(monkeypatch, folders, capsys):
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

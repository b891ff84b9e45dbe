# SPDX-License-Identifier: Apache-2.0
"""The Space: its header, and the app started as the Hub starts it."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
SPACE = ROOT / "examples" / "space"


def test_the_header_has_the_form_that_the_hub_reads():
    _, header, text = (SPACE / "README.md").read_text().split("---\n", 2)
    fields = yaml.safe_load(header)
    assert fields["sdk"] == "gradio"
    assert (SPACE / fields["app_file"]).is_file()
    assert len(fields["short_description"]) <= 60
    pinned = re.search(r"^gradio==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert fields["sdk_version"] == pinned[1]
    default = re.findall(r"[\w-]+/[\w-]+(?=@| |\")", (SPACE / "app.py").read_text().split("DEFAULT_MODELS")[1])
    assert fields["models"] == default[:2]
    assert "TRIPLETCLIP_MODELS" in text


@pytest.mark.slow
def test_the_app_starts_with_the_models_that_the_variable_names(folders, tmp_path):
    pytest.importorskip("gradio")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = {
        "TRIPLETCLIP_MODELS": " ".join(map(str, folders)),
        "GRADIO_SERVER_NAME": "127.0.0.1",
        "GRADIO_SERVER_PORT": str(port),
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(ROOT / "src"),
    }
    log = tmp_path / "log.txt"
    with log.open("w") as out:
        server = subprocess.Popen(
            [sys.executable, "app.py"], cwd=SPACE, env={**os.environ, **variables}, stdout=out, stderr=out
        )
    try:
        config = _config(f"http://127.0.0.1:{port}/config", server, log)
    finally:
        server.terminate()
        server.wait(timeout=20)
    assert config["title"] == "TripletCLIP demo"
    page = json.dumps(config["components"])
    for folder in folders:
        assert f"<strong>{folder.name}</strong>" in page


def _config(url: str, server: subprocess.Popen[bytes], log: Path) -> dict:
    for _ in range(300):
        assert server.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.load(answer)
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.3)
    pytest.fail(f"it did not start: {log.read_text()}")

# SPDX-License-Identifier: Apache-2.0
"""Looking at pages: their elements, and what a browser makes of them."""

from __future__ import annotations

import base64
import hashlib
import html
import html.parser
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")


class Elements(html.parser.HTMLParser):
    """Tags with their attributes, and whether all are closed."""

    def __init__(self, content):
        super().__init__()
        self.open, self.found, self.words = [], [], []
        self.feed(content)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def stands_alone(page: Path) -> Elements:
    """Check that a page refers to nothing outside itself and runs no script but its own."""
    content = page.read_text(encoding="utf-8")
    elements = Elements(content)
    for tag, attributes in elements.found:
        assert tag not in ("link", "iframe", "object", "base")
        assert not any(name.startswith("on") for name in attributes)
        if "src" in attributes:
            assert attributes["src"].startswith("data:image/jpeg;base64,")
        if "href" in attributes:
            assert attributes["href"].startswith("#")
    assert sum(tag == "script" for tag, _ in elements.found) == 1
    assert "@import" not in content
    assert not re.search(r"url\((?!#)", content)
    script = re.search(r"<script>(.*)</script>", content, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in content
    ids = [attributes["id"] for _, attributes in elements.found if "id" in attributes]
    assert len(set(ids)) == len(ids)
    return elements


def browse(page: Path, folder: Path) -> str:
    """The page's elements after its script ran in a browser, which had nothing to complain of."""
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    ran = subprocess.run(
        [*command, "--enable-logging=stderr", "--dump-dom", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "Content Security Policy" not in ran.stderr
    assert "Uncaught" not in ran.stderr
    return ran.stdout


def visit(page: Path, script: str, folder: Path) -> Any:
    """What a visitor's script leaves as JSON in the title: the page's policy, which lets none in, is taken away."""
    content = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text(encoding="utf-8"))
    visited = folder / f"visited-{page.name}"
    visited.write_text(content.replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8")
    return json.loads(html.unescape(re.search("<title>(.*?)</title>", browse(visited, folder))[1]))

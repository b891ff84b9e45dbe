# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import base64
import hashlib
import html.parser
import json
import os
import re
import shutil
import subprocess

import pytest

from hf_tripletclip.generation.inspect import inspect
from hf_tripletclip.generation.wordnet import load_wordnet
from tests.generation.inspect.datasets_to_look_at import scored_rows, write_dataset, write_rows

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", folder / "cache")
        return inspect(write_dataset(folder / "set"), folder / "new" / "page.html", samples=30, progress=False)


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


def test_the_page_stands_alone(page):
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
    assert "url(" not in content
    script = re.search(r"<script>(.*)</script>", content, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in content
    assert sum(attributes.get("class") == "card" for _, attributes in elements.found) == 30
    assert os.listdir(page.parent) == ["page.html"]


def test_the_page_says_what_was_found(page):
    words = " ".join(Elements(page.read_text(encoding="utf-8")).words)
    for expected in (
        "unreadable image in image",
        "missing image in neg_image",
        "empty caption in neg_caption",
        "row-00051",
        "captions: refusal",
        "a line of left_out.jsonl that cannot be read",
        "captions give it away",
        "at chance",
        "</td>kind",
        "min_clip_score_mean",
        "max_image_similarity",
        "CLIP score of a pair",
        "words of a caption",
    ):
        assert expected in words, expected


def test_concepts_are_counted(page):
    try:
        load_wordnet()
    except (ImportError, FileNotFoundError) as error:
        pytest.skip(f"no WordNet: {error}")
    assert re.search(r"<td class=\"words\">union</td><td>[\d,]{3,}</td>", page.read_text(encoding="utf-8"))


def test_settings(tmp_path):
    path = write_rows(tmp_path / "set.parquet", scored_rows(60))
    first = inspect(path, tmp_path / "a.html", samples=5, seed=1, max_images=10, progress=False).read_bytes()
    assert inspect(path, tmp_path / "b.html", samples=5, seed=1, max_images=10, progress=False).read_bytes() == first
    assert inspect(path, tmp_path / "b.html", samples=5, seed=2, max_images=10, progress=False).read_bytes() != first
    assert b"Not all images were decoded" in first
    few = inspect(path, tmp_path / "c.html", split="train", max_rows=20, samples=0, progress=False).read_text()
    assert "Not all rows were read" in few
    assert "There is no row that can be shown." in few
    with pytest.raises(IsADirectoryError, match="is a folder: name a file"):
        inspect(path, tmp_path)
    with pytest.raises(ValueError, match="`samples` is -1"):
        inspect(path, tmp_path / "d.html", samples=-1)
    with pytest.raises(FileNotFoundError):
        inspect(tmp_path / "nothing", tmp_path / "d.html")
    assert not list(tmp_path.glob("*d.html*"))


def test_a_dataset_with_little_in_it(tmp_path):
    rows = [{"caption": "a cat", "neg_caption": None, "id": "1"}, {"caption": None, "neg_caption": None, "id": "2"}]
    content = inspect(write_rows(tmp_path / "a.parquet", rows), tmp_path / "a.html", progress=False).read_text()
    assert "missing caption in caption" in content
    assert "missing caption in neg_caption" in content
    Elements(content)
    rows = [{**row, "negative_type": f"kind {number}"} for number, row in enumerate(scored_rows(100))]
    content = inspect(write_rows(tmp_path / "b.parquet", rows), tmp_path / "b.html", progress=False).read_text()
    assert "other kinds" in content
    assert "kind 99" not in content


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
def test_the_page_works_in_a_browser(page, tmp_path):
    def dom(path):
        command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
        return subprocess.run(
            [*command, "--enable-logging=stderr", "--dump-dom", path.as_uri()],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )

    ran = dom(page)
    assert "Content Security Policy" not in ran.stderr
    assert "Uncaught" not in ran.stderr
    assert "<title>set: hard negative pairs</title>" in ran.stdout  # no caption's script ran
    assert "24 of 30 rows" in ran.stdout  # ours did
    # The same page with a visitor: the policy lets no script in that the page was not written with.
    content = page.read_text(encoding="utf-8")
    content = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", content)
    visitor = """<script>
      const choose = (name, value) => {
        const box = document.getElementById(name);
        box.value = value;
        box.dispatchEvent(new Event("change", { bubbles: true }));
      };
      choose("sort", "clip_score up");
      choose("kind", "swap_att");
      const seen = [...document.querySelectorAll(".card:not([hidden])")];
      document.title = JSON.stringify([
        seen.map((card) => card.dataset.kinds),
        seen.map((card) => JSON.parse(card.dataset.scores).clip_score),
        document.documentElement.scrollWidth <= document.documentElement.clientWidth,
      ]);
    </script></body>"""
    (tmp_path / "visited.html").write_text(content.replace("</body>", visitor), encoding="utf-8")
    title = html.unescape(re.search("<title>(.*?)</title>", dom(tmp_path / "visited.html").stdout)[1])
    kinds, scores, fits = json.loads(title)
    assert set(kinds) == {'["swap_att"]'}
    assert len(scores) >= 5
    assert scores == sorted(scores)
    assert fits

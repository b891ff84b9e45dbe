# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import re

import pytest

from hf_tripletclip.generation.inspect import inspect
from hf_tripletclip.generation.wordnet import load_wordnet
from tests.generation.inspect.datasets_to_look_at import scored_rows, write_dataset, write_rows
from tests.pages.looking import Elements, browse, needs_browser, stands_alone, visit


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", folder / "cache")
        return inspect(write_dataset(folder / "set"), folder / "new" / "page.html", samples=30, progress=False)


def test_the_page_stands_alone(page):
    elements = stands_alone(page)
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
@needs_browser
def test_the_page_works_in_a_browser(page, tmp_path):
    ran = browse(page, tmp_path)
    assert "<title>set: hard negative pairs</title>" in ran  # no caption's script ran
    assert "24 of 30 rows" in ran  # ours did
    visitor = """
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
    """
    kinds, scores, fits = visit(page, visitor, tmp_path)
    assert set(kinds) == {'["swap_att"]'}
    assert len(scores) >= 5
    assert scores == sorted(scores)
    assert fits

# SPDX-License-Identifier: Apache-2.0
"""The page of examples."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser

import pytest
from datasets import Dataset
from PIL import Image

from hf_tripletclip.evaluation import EvaluationResult
from hf_tripletclip.evaluation.report import write_examples_page

NASTY = "<script>alert(\"1\")</script> & 'x' </th>"
KINDS = ("swap_obj", "add_att", "<i>kind</i>")


def make_dataset(rows: int = 12, **columns: list) -> Dataset:
    data = {
        "image": [Image.new("RGB", (300, 200), (200, index, 0)) for index in range(rows)],
        "caption": [f"caption {index} {NASTY}" for index in range(rows)],
        "neg_image": [Image.new("RGB", (8, 8), (0, index, 200)) for index in range(rows)],
        "neg_caption": [f"negative {index} é <b>" for index in range(rows)],
        "negative_type": [KINDS[index % 3] for index in range(rows)],
        **columns,
    }
    return Dataset.from_dict({name: values for name, values in data.items() if values is not None})


def make_result(rows: list[int], right: list[bool]) -> EvaluationResult:
    high = [0.75 if good else 0.25 for good in right]
    return EvaluationResult(
        "triplets",
        {"group_score": sum(right) / len(right)},
        counts={"rows": len(rows)},
        predictions={
            "row": rows,
            "image_text": high,
            "image_negative_text": [0.5] * len(rows),
            "negative_image_text": [0.5] * len(rows),
            "negative_image_negative_text": high,
            "group_score": right,
        },
    )


class Page(HTMLParser):
    """Counts tags, checks that they nest, collects what is shown."""

    VOID = ("meta", "img")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.images: list[str] = []
        self.shown = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "img":
            self.images.append(dict(attrs)["src"])
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.shown += data


def write(tmp_path, dataset: Dataset, result: EvaluationResult, **options) -> tuple[str, Page]:
    write_examples_page(tmp_path / "page.html", dataset, result, **options)
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    return text, Page(text)


def test_captions_and_kinds_are_text(tmp_path):
    text, page = write(tmp_path, make_dataset(), make_result(list(range(12)), [True, False] * 6))
    assert not {"script", "b", "i"} & set(page.tags)
    assert "<script" not in text
    assert page.tags.count("article") == 12
    for index in range(12):
        assert f"caption {index} {NASTY}" in page.shown
        assert f"negative {index} é <b>" in page.shown
    assert "<i>kind</i>" in page.shown


def test_images_are_embedded_and_small(tmp_path):
    text, page = write(tmp_path, make_dataset(2), make_result([0, 1], [True, True]))
    assert len(page.images) == 4
    sizes = set()
    for source in page.images:
        prefix, _, content = source.partition(",")
        assert prefix == "data:image/png;base64"
        with Image.open(io.BytesIO(base64.b64decode(content, validate=True))) as image:
            image.load()
            sizes.add(image.size)
    assert sizes == {(192, 128), (8, 8)}
    assert not re.search(r"(src|href)\s*=\s*[\"'](?!data:)", text)


def test_it_shows_as_many_as_asked_for_taking_turns(tmp_path):
    result = make_result(list(range(12)), [index < 6 for index in range(12)])
    _, page = write(tmp_path, make_dataset(), result, examples=6)
    assert page.tags.count("article") == 6
    assert page.shown.count("✓ right") == page.shown.count("✗ wrong") == 3
    assert all(page.shown.count(f"{kind}: ") == 2 for kind in KINDS)
    assert "6 of 12 test triplets" in page.shown
    assert "50.0% of all triplets" in page.shown
    _, page = write(tmp_path, make_dataset(), result, examples=100)
    assert page.tags.count("article") == 12


def test_the_choice_depends_on_the_seed_alone(tmp_path):
    dataset, result = make_dataset(), make_result(list(range(12)), [True] * 12)
    pages = [write(tmp_path, dataset, result, examples=3, seed=seed)[0] for seed in (0, 0, 1)]
    assert pages[0] == pages[1]
    assert pages[0] != pages[2]


def test_predictions_find_their_row_when_others_were_broken(tmp_path):
    _, page = write(tmp_path, make_dataset(caption=[""] * 11 + ["the last one"]), make_result([11], [True]))
    assert "the last one" in page.shown
    assert "negative 11" in page.shown
    assert f"{KINDS[11 % 3]}: " in page.shown
    assert page.shown.count("0.750") == page.shown.count("0.500") == 2


def test_without_kinds(tmp_path):
    _, page = write(tmp_path, make_dataset(2, negative_type=None), make_result([0, 1], [True, False]))
    assert page.shown.count("triplet: ") == 2


def test_without_all_four_scores_there_is_no_page(tmp_path):
    result = make_result([0], [True])
    del result.predictions["group_score"]
    with pytest.raises(ValueError, match="all four scores"):
        write_examples_page(tmp_path / "page.html", make_dataset(1), result)
    assert not (tmp_path / "page.html").exists()

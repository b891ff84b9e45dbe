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
SCORES = ("image_text", "image_negative_text", "negative_image_text", "negative_image_negative_text")


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
    high, low = [0.75 if good else 0.25 for good in right], [0.5] * len(rows)
    return EvaluationResult(
        "triplets",
        {"group_score": sum(right) / len(right)},
        counts={"rows": len(rows)},
        predictions={"row": rows, **dict(zip(SCORES, (high, low, low, high), strict=True)), "group_score": right},
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
    assert "://" not in text


def test_images_of_a_path(tmp_path):
    Image.new("RGB", (8, 8), "red").save(tmp_path / "image.png")
    pictures = [{"bytes": None, "path": str(tmp_path / "image.png")}] * 2
    dataset = make_dataset(2, image=pictures, neg_image=pictures)
    assert isinstance(dataset[0]["image"], dict)
    _, page = write(tmp_path, dataset, make_result([0, 1], [True, False]))
    assert [source.partition(",")[0] for source in page.images] == ["data:image/png;base64"] * 4


def test_it_shows_as_many_as_asked_for_taking_turns(tmp_path):
    result = make_result(list(range(12)), [index < 6 for index in range(12)])
    _, page = write(tmp_path, make_dataset(), result, examples=6)
    assert page.tags.count("article") == 6
    assert page.shown.count("✓ right") == page.shown.count("✗ wrong") == 3
    verdicts = [(kind, verdict) for kind in sorted(KINDS) for verdict in ("✗ wrong", "✓ right")]
    assert re.findall(rf"({'|'.join(KINDS)}): (✗ wrong|✓ right)", page.shown) == verdicts
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


@pytest.mark.parametrize(("kinds", "unnamed"), [(None, 2), (["swap_obj", None], 1)])
def test_rows_without_a_kind(tmp_path, kinds, unnamed):
    _, page = write(tmp_path, make_dataset(2, negative_type=kinds), make_result([0, 1], [True, False]))
    assert page.tags.count("article") == 2
    assert page.shown.count("triplet: ") == unnamed


@pytest.mark.parametrize(
    ("scores", "reason"),
    [
        ((0.75, 0.5, 0.5, 0.5), "the caption of an image and the image of a caption"),  # undecided is wrong
        ((0.5, 0.6, 0.1, 0.7), "the caption of an image"),
        ((0.5, 0.1, 0.6, 0.7), "the image of a caption"),
    ],
)
def test_it_says_which_choice_was_wrong(tmp_path, scores, reason):
    result = make_result([0], [False])
    result.predictions.update({name: [score] for name, score in zip(SCORES, scores, strict=True)})
    text, _ = write(tmp_path, make_dataset(1), result)
    assert f'swap_obj: <span class="bad">✗ wrong about {reason}</span>' in text


def test_without_all_four_scores_there_is_no_page(tmp_path):
    result = make_result([0], [True])
    read_again = EvaluationResult.from_dict(result.to_dict())
    del result.predictions["group_score"]
    for incomplete in (result, read_again):
        with pytest.raises(ValueError, match=r"all four scores.*A result read from JSON has no predictions"):
            write_examples_page(tmp_path / "page.html", make_dataset(1), incomplete)
    assert not (tmp_path / "page.html").exists()

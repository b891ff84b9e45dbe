# SPDX-License-Identifier: Apache-2.0
"""Cola: files of the real shape against a naive computation, ties, bad input."""

from __future__ import annotations

import pytest

from hf_tripletclip.evaluation.benchmark import MissingImages
from hf_tripletclip.evaluation.benchmarks.cola import FILE, Cola
from tests.evaluation.benchmarks import HandEncoder, write_images, write_json

CAPTIONS = ["a red cat", "a blue cat", "a red dog", "a blue dog"]
URL = "https://cs-people.bu.edu/array/data/vg_gqa_images/"


def rows(number: int = 6) -> list[list[str]]:
    """The first image and its caption come again."""
    return [
        [f"{URL}{2400 + n // 2}.png", CAPTIONS[n // 2 % 4], f"{URL}{2500 + n}.png", CAPTIONS[(n // 2 + 1 + n % 2) % 4]]
        for n in range(number)
    ]


@pytest.fixture
def data(tmp_path):
    write_json(tmp_path / "data" / FILE, rows())
    write_images(tmp_path / "images", {row[place].removeprefix(URL) for row in rows() for place in (0, 2)})
    return str(tmp_path / "data"), str(tmp_path / "images")


@pytest.mark.parametrize("protocol", ["strict", "official"])
def test_accuracy_is_that_of_a_naive_computation(data, tmp_path, model, processor, naive, protocol):
    annotations, images = data
    result = Cola(annotations=annotations, images=images, protocol=protocol)(model, processor, progress=False)
    right = []
    for one, caption, other, other_caption in rows():
        first, second = (tmp_path / "images" / url.removeprefix(URL) for url in (one, other))
        right.append(
            naive.score(first, caption) > naive.score(second, caption)
            and naive.score(second, other_caption) > naive.score(first, other_caption)
        )
    assert result.predictions["accuracy"] == right
    assert result.metrics == pytest.approx({"accuracy": sum(right) / 6, "tie_rate": 0.0})
    assert (result.chance, result.primary) == ({"accuracy": 0.25}, "accuracy")
    assert result.counts["images"] == 9
    assert result.predictions["cluster"] == [0, 0, 1, 1, 2, 2]
    of_file = Cola(annotations=f"{annotations}/{FILE}", images=images)(model, processor, progress=False)
    assert of_file.metrics == result.metrics


def test_only_captions_choose_and_ties_lose(tmp_path, model, processor):
    write_json(tmp_path / FILE, [[f"{URL}{n}.png", f"p{n}", f"{URL}{n + 10}.png", f"n{n}"] for n in range(3)])
    write_images(tmp_path, [f"{n + place}.png" for n in range(3) for place in (0, 10)])
    scores = {
        "0.png": {"p0": 0.75, "n0": 0.875},  # the image prefers the wrong caption, which is not asked
        "10.png": {"p0": 0.5, "n0": 0.9375},
        "1.png": {"p1": 0.75, "n1": 0.5},
        "11.png": {"p1": 0.75, "n1": 0.875},  # p1 ties
        "2.png": {"p2": 0.75, "n2": 0.5},
        "12.png": {"p2": 0.25, "n2": 0.25},  # n2 chooses the wrong image
    }
    result = Cola(annotations=str(tmp_path))(HandEncoder.of_scores(model, processor, scores))
    assert result.predictions["accuracy"] == [True, False, False]
    assert result.metrics == pytest.approx({"accuracy": 1 / 3, "tie_rate": 1 / 3})


def test_a_collapsed_model_scores_zero(data, collapsed, processor):
    result = Cola(annotations=data[0], images=data[1])(collapsed, processor, progress=False)
    assert result.metrics == {"accuracy": 0.0, "tie_rate": 1.0}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[[1, 2]", "is not valid JSON: .*line 1"),
        ("{}", "a JSON list of rows is expected, not dict"),
        (f'[["{URL}1.png", "a", "{URL}2.png"]]', r"row 0: \[url, caption, url, caption\] is expected"),
        (f'[["{URL}1.png", "a", "{URL}2.png", ""]]', r"row 0: \[url, caption, url, caption\] is expected"),
        ("[]", "has no rows"),
    ],
)
def test_bad_files(tmp_path, content, message):
    (tmp_path / FILE).write_text(content)
    with pytest.raises(ValueError, match=message):
        Cola(annotations=str(tmp_path)).checked_items()


def test_what_is_missing_is_named(data, tmp_path, model, processor):
    with pytest.raises(FileNotFoundError, match=r"there is no .*nowhere: get it from"):
        Cola(annotations=str(tmp_path / "nowhere")).items()
    (tmp_path / "images" / "2501.png").unlink()
    with pytest.raises(MissingImages, match=r"1 images, of 1 of 6 rows, are missing: .*2501.png"):
        Cola(annotations=data[0], images=data[1])(model, processor, progress=False)

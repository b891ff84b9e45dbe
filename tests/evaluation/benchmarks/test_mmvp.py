# SPDX-License-Identifier: Apache-2.0
"""MMVP-VLM: files of the real shape against naive computations of both protocols, ties, order of rows, bad input."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from hf_tripletclip.evaluation.benchmark import MissingImages
from hf_tripletclip.evaluation.benchmarks.mmvp import FILE, IMAGES, MMVP, OFFICIAL_CATEGORIES
from tests.evaluation.benchmarks import HandEncoder, write_csv, write_images

CAPTIONS = ["a", "red blue dog", "cat", "a blue cat a blue cat a blue cat", "dog dog dog dog", "red"]
TYPES = ("Orientation", "Camera Perspective")


def kind_of(number: int) -> str:
    return TYPES[0] if number <= 14 else TYPES[1]


def make(folder, ids, statements=None):
    """Rows of these ids in this order."""
    statements = statements or {number: CAPTIONS[number * number * 5 // 2 % 6] for number in ids}
    rows = [{"Question ID": n, "Type": kind_of(n), "Statement": statements[n]} for n in ids]
    write_csv(folder / FILE, rows)
    write_images(folder / IMAGES, [f"{kind_of(n)}/{n}.jpg" for n in ids])
    return statements


def path(folder, number: int):
    return folder / IMAGES / kind_of(number) / f"{number}.jpg"


def test_scores_and_means_are_those_of_a_naive_computation(tmp_path, model, processor, naive):
    statements = make(tmp_path, range(1, 33))
    result = MMVP(data=str(tmp_path))(model, processor, progress=False)
    right = {kind: [] for kind in TYPES}
    for odd in range(1, 33, 2):
        images = [path(tmp_path, odd), path(tmp_path, odd + 1)]
        one = [naive.score(image, statements[odd]) for image in images]
        other = [naive.score(image, statements[odd + 1]) for image in images]
        right[kind_of(odd)].append(one[0] > one[1] and other[1] > other[0])
    means = {kind: sum(values) / len(values) for kind, values in right.items()}
    micro = sum(map(sum, right.values())) / 16
    assert result.metrics == pytest.approx({**means, "macro": sum(means.values()) / 2, "micro": micro, "tie_rate": 0})
    assert 0 < micro < 1
    assert result.predictions["key"][:2] == ["1-2", "3-4"]
    assert set(result.chance.values()) == {0.25}
    assert (result.counts["Orientation"], result.counts["rows"], result.primary) == (7, 16, "macro")


def test_pairs_are_those_of_the_ids_in_any_order(tmp_path, model, processor):
    ids = [*range(1, 33)]
    make(tmp_path / "straight", ids)
    make(tmp_path / "mixed", [*ids[::2], *ids[1::2]])
    straight, mixed = (
        MMVP(data=str(tmp_path / name))(model, processor, progress=False) for name in ("straight", "mixed")
    )
    assert mixed.metrics == pytest.approx(straight.metrics)


def test_the_official_protocol_is_that_of_the_script(tmp_path, model, processor, naive):
    # a pair with the even id first: the script reads the truth from the odd or even id, the images from the order
    ids = [1, 2, 4, 3, *range(5, 35)]
    statements = make(tmp_path, ids)
    result = MMVP(data=str(tmp_path), protocol="official")(model, processor, progress=False)
    correct = dict.fromkeys(OFFICIAL_CATEGORIES[:2], 0)
    for number, (qid1, qid2) in enumerate(zip(ids[::2], ids[1::2], strict=True)):
        preds = []
        for qid in (qid1, qid2):
            text = "a photo of " + statements[qid]
            first, second = (naive.score(path(tmp_path, image), text) for image in (qid1, qid2))
            preds.append("img1" if first > second else "img2")
        truths = ["img1" if qid % 2 == 1 else "img2" for qid in (qid1, qid2)]
        correct[OFFICIAL_CATEGORIES[number // 15]] += preds == truths
    values = list(correct.values())
    assert result.metrics == pytest.approx(
        {
            OFFICIAL_CATEGORIES[0]: values[0] / 15,
            OFFICIAL_CATEGORIES[1]: values[1] / 2,
            "macro": (values[0] / 15 + values[1] / 2) / 2,
            "micro": sum(values) / 17,
            "tie_rate": 0,
        }
    )
    assert result.settings["scores"].startswith("official: statements begin with 'a photo of '")


@pytest.mark.parametrize(("protocol", "expected"), [("strict", 0.25), ("official", 0.5)])
def test_a_tie_loses_or_chooses_the_second_image(tmp_path, model, processor, protocol, expected):
    make(tmp_path, range(1, 9), {n: f"s{n}" for n in range(1, 9)})
    prefix = "a photo of " if protocol == "official" else ""
    scores = {
        "1.jpg": {"s1": 0.75, "s2": 0.25},  # right
        "2.jpg": {"s1": 0.5, "s2": 0.5},
        "3.jpg": {"s3": 0.75, "s4": 0.5},  # the second statement ties
        "4.jpg": {"s3": 0.5, "s4": 0.5},
        "5.jpg": {"s5": 0.75, "s6": 0.25},  # the first statement ties
        "6.jpg": {"s5": 0.75, "s6": 0.5},
        "7.jpg": {"s7": 0.25, "s8": 0.25},  # the first statement is wrong
        "8.jpg": {"s7": 0.5, "s8": 0.5},
    }
    scores = {image: {prefix + text: value for text, value in of.items()} for image, of in scores.items()}
    result = MMVP(data=str(tmp_path), protocol=protocol)(HandEncoder.of_scores(model, processor, scores))
    assert result.metrics["micro"] == expected
    assert result.metrics["tie_rate"] == 0.5


def test_a_collapsed_model_scores_zero(tmp_path, collapsed, processor):
    make(tmp_path, range(1, 5))
    for protocol in ("strict", "official"):
        result = MMVP(data=str(tmp_path), protocol=protocol)(collapsed, processor, progress=False)
        assert result.metrics.pop("tie_rate") == 1.0
        assert set(result.metrics.values()) == {0.0}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("1,Orientation,a cat\n", "an odd id and the next are a pair of one type"),
        ("1,Orientation,a cat\n2,Color,a cat\n", "an odd id and the next are a pair of one type"),
        ("1,Orientation,a cat\n1,Orientation,a dog\n", "row 3: '1' is no id, or one that an earlier row has"),
        ("one,Orientation,a cat\n", "row 2: 'one' is no id"),
        ("1,Orientation\n", "row 2: id, type, statement are expected"),
        ("", "has no rows"),
    ],
)
def test_bad_files(tmp_path, rows, message):
    (tmp_path / FILE).write_text("Question ID,Type,Statement\n" + rows)
    with pytest.raises(ValueError, match=message):
        MMVP(data=str(tmp_path)).checked_items()


def test_what_is_missing_is_named(tmp_path, model, processor):
    with pytest.raises(FileNotFoundError, match=r"has no Questions.csv: get https://huggingface.co/datasets/MMVP"):
        MMVP(data=str(tmp_path)).items()
    make(tmp_path, range(1, 5))
    path(tmp_path, 3).unlink()
    with pytest.raises(MissingImages, match=r"1 images, of 1 of 2 rows, are missing: .*Orientation/3.jpg"):
        MMVP(data=str(tmp_path))(model, processor, progress=False)
    write_csv(tmp_path / FILE, [{"id": n, "type": "x", "statement": "y"} for n in range(1, 273)])
    with pytest.raises(ValueError, match="136 pairs; the official script takes 135"):
        MMVP(data=str(tmp_path), protocol="official").items()


@pytest.mark.slow
def test_the_dataset_of_the_hub_is_downloaded(tmp_path, hub):
    make(tmp_path / "files", range(1, 5))
    hub.add("dataset", "MMVP/MMVP_VLM", tmp_path / "files")
    code = (
        "from hf_tripletclip.evaluation.benchmarks.mmvp import MMVP\n"
        "items = MMVP().items()\n"
        "print(len(items), all(image.exists() for item in items for image in item.images))\n"
        "try:\n    MMVP(data='MMVP/other').items()\n"
        "except FileNotFoundError as error:\n    print(str(error).partition(' that can')[0])\n"
    )
    environment = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == [
        "2 True",
        "'MMVP/other' is neither a folder that exists nor a dataset of the Hub",
    ], done.stderr

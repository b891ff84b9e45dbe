# SPDX-License-Identifier: Apache-2.0
"""What's Up: accuracies, pairs and sets, the official tie rule, copies of the Hub's layout."""

from __future__ import annotations

import json

import numpy as np
import pytest

from hf_tripletclip.evaluation.benchmarks.whatsup import WhatsUp
from tests.evaluation.benchmarks import HandEncoder, write_images, write_json

SIDES = {"left_of": "left of", "right_of": "right of"}
RELATIONS = {
    "controlled_images": {**SIDES, "on": "on", "under": "under"},
    "controlled_clevr": {**SIDES, "in-front_of": "in front of", "behind": "behind"},
}
OBJECTS = [("cat", "dog"), ("dog", "cat"), ("red", "cat")]


def controlled(part: str, objects: list[tuple[str, str]]) -> list[dict[str, object]]:
    rows = []
    for one, other in objects:
        captions = {name: f"{one} {words} {other}" for name, words in RELATIONS[part].items()}
        for name, caption in captions.items():
            options = [caption, *(false for false in captions.values() if false != caption)]
            rows.append({"image_path": f"data/{part}/{one}_{name}_{other}.jpeg", "caption_options": options})
    return rows


@pytest.fixture
def data(tmp_path):
    for part in RELATIONS:
        rows = controlled(part, OBJECTS)
        write_json(tmp_path / f"{part}_dataset.json", rows)
        write_images(tmp_path / part, [str(row["image_path"]).split("/")[-1] for row in rows])
    coco = [[139, "a cat left", "a cat right"], [285, "a dog top", "a dog bottom"], [139, "dog top", "dog bottom"]]
    write_json(tmp_path / "coco_qa_one_obj.json", coco)
    write_images(tmp_path / "val2017", ["000000000139.jpg", "000000000285.jpg"])
    write_json(tmp_path / "vg_qa_two_obj.json", [[2345, "cat left of dog", "cat right of dog"]])
    write_images(tmp_path / "vg_images", ["2345.jpg"])
    return tmp_path


def test_scores_and_means_are_those_of_a_naive_computation(data, model, processor, naive):
    result = WhatsUp(annotations=str(data))(model, processor, batch_size=7, progress=False)
    expected, rows, scores = {}, [], []
    for part in RELATIONS:
        right = {}
        for entry in json.loads((data / f"{part}_dataset.json").read_text()):
            of_row = naive.scores(data / part / entry["image_path"].split("/")[-1], entry["caption_options"])
            first, relation, *_, last = entry["image_path"].split("/")[-1].removesuffix(".jpeg").split("_")
            right[first, last, relation] = of_row[0] > max(of_row[1:])
            scores.append(of_row)
        down = ("on", "under") if part == "controlled_images" else ("in-front", "behind")
        pairs = {
            (first, last, pair): all(right[first, last, relation] for relation in pair)
            for first, last in OBJECTS
            for pair in (("left", "right"), down)
        }
        sets = [pairs[(*of, ("left", "right"))] and pairs[(*of, down)] for of in OBJECTS]
        expected[part] = sum(right.values()) / 12
        expected[f"pair_{part}"] = sum(pairs.values()) / 6
        expected[f"set_{part}"] = sum(sets) / 3
        rows += right.values()
    for part, folder, digits in (("coco_qa_one_obj", "val2017", 12), ("vg_qa_two_obj", "vg_images", 1)):
        right = []
        for image, *captions in json.loads((data / f"{part}.json").read_text()):
            of_row = naive.scores(data / folder / f"{image:0{digits}}.jpg", captions)
            right.append(of_row[0] > of_row[1])
            scores.append(of_row)
        expected[part] = sum(right) / len(right)
        rows += right
    assert result.predictions["score_i0c0"] == pytest.approx([of_row[0] for of_row in scores], abs=1e-6)
    assert result.predictions["score_i0c1"] == pytest.approx([of_row[1] for of_row in scores], abs=1e-6)
    parts = (*RELATIONS, "coco_qa_one_obj", "vg_qa_two_obj")
    expected |= {"macro": np.mean([expected[part] for part in parts]), "micro": np.mean(rows), "tie_rate": 0.0}
    for name in ("pair", "set"):
        expected[f"{name}_macro"] = np.mean([expected[f"{name}_{part}"] for part in RELATIONS])
    assert result.metrics == pytest.approx(expected)
    assert 0 < result.metrics["micro"] < 1
    assert result.chance["pair_controlled_clevr"] == result.chance["pair_macro"] == 1 / 16
    assert result.chance["set_controlled_images"] == result.chance["set_macro"] == 1 / 256
    assert (result.chance["controlled_images"], result.chance["coco_qa_one_obj"]) == (1 / 4, 1 / 2)
    assert result.chance["macro"] == 3 / 8
    assert result.chance["micro"] == pytest.approx((24 / 4 + 4 / 2) / 28)
    assert len(set(result.predictions["cluster"])) == 6 + 2 + 1  # sets, COCO's images, Visual Genome's


def hand(part: str, right: str, tied: str = "") -> dict[str, dict[str, float]]:
    """Scores of the first objects: these relations are right, these tie with another caption, the others are wrong."""
    scores = {}
    for row in controlled(part, OBJECTS[:1]):
        true, *false = row["caption_options"]
        relation = str(row["image_path"]).split("/")[-1].split("_")[1]
        best = 0.75 if relation in right.split() else 0.5
        others = dict.fromkeys(false, 0.5 if relation in (right + " " + tied).split() else 0.625)
        scores[str(row["image_path"]).split("/")[-1]] = {true: best, **others}
    return scores


def run_by_hand(tmp_path, model, processor, part, scores, **options):
    write_json(tmp_path / f"{part}_dataset.json", controlled(part, OBJECTS[:1]))
    write_images(tmp_path, scores)
    return WhatsUp(annotations=str(tmp_path), **options)(HandEncoder.of_scores(model, processor, scores)).metrics


@pytest.mark.parametrize(
    ("right", "accuracy", "pairs", "sets"),
    [
        ("left right on under", 1, 1, 1),
        ("left right on", 3 / 4, 1 / 2, 0),
        ("left under", 1 / 2, 0, 0),
        ("on under", 1 / 2, 1 / 2, 0),
        ("", 0, 0, 0),
    ],
)
def test_pairs_and_sets(tmp_path, model, processor, right, accuracy, pairs, sets):
    part = "controlled_images"
    metrics = run_by_hand(tmp_path, model, processor, part, hand(part, right))
    assert metrics == pytest.approx(
        {
            **dict.fromkeys(("controlled_images", "macro", "micro"), accuracy),
            **dict.fromkeys(("pair_controlled_images", "pair_macro"), pairs),
            **dict.fromkeys(("set_controlled_images", "set_macro"), sets),
            "tie_rate": 0.0,
        }
    )


def test_a_tie_is_right_officially(tmp_path, model, processor):
    part = "controlled_clevr"
    scores = hand(part, "right in-front behind", tied="left")
    strict = run_by_hand(tmp_path, model, processor, part, scores)
    official = run_by_hand(tmp_path, model, processor, part, scores, protocol="official")
    assert (strict["micro"], strict["pair_macro"], strict["set_macro"]) == (3 / 4, 1 / 2, 0)
    assert (official["micro"], official["pair_macro"], official["set_macro"]) == (1, 1, 1)
    assert strict["tie_rate"] == official["tie_rate"] == 1 / 4


def test_a_collapsed_model(data, collapsed, processor):
    strict = WhatsUp(annotations=str(data))(collapsed, processor, progress=False).metrics
    official = WhatsUp(annotations=str(data), protocol="official")(collapsed, processor, progress=False).metrics
    assert strict.pop("tie_rate") == 1.0
    assert (set(strict.values()), set(official.values())) == ({0.0}, {1.0})


def test_pairs_and_sets_that_are_not_complete_do_not_count(data, model, processor):
    (data / "controlled_images" / "cat_left_of_dog.jpeg").unlink()
    for objects in ("dog_under_cat", "red_on_cat"):
        (data / "controlled_images" / f"{objects}.jpeg").unlink()
    benchmark = WhatsUp(annotations=str(data), parts=("controlled_images",), allow_missing=True)
    result = benchmark(model, processor, progress=False)
    assert result.counts["missing"] == 3
    assert sum(value is not None for value in result.predictions["pair"]) == 3
    assert not any(name.startswith("set_") for name in result.metrics)
    assert "pair_macro" in result.metrics
    without = WhatsUp(annotations=str(data), parts=("coco_qa_one_obj",))(model, processor, progress=False)
    assert without.metrics.keys() == {"coco_qa_one_obj", "macro", "micro", "tie_rate"}


def test_a_copy_of_the_hubs_layout_gives_the_same(data, tmp_path, model, processor):
    of_files = WhatsUp(annotations=str(data), parts=tuple(RELATIONS))(model, processor, progress=False)
    lines = []
    for part in RELATIONS:
        for entry in controlled(part, OBJECTS):
            true, *false = entry["caption_options"]
            name = f"{part}/{str(entry['image_path']).split('/')[-1]}"
            row = {"image_file_name": name, "positive_caption": [true], "negative_caption": false}
            lines.append(json.dumps({**row, "original_file_name": f"{part}_dataset"}) + "\n")
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "examples.jsonl").write_text("".join(lines))
    of_copy = WhatsUp(annotations=str(copy), images=str(data))(model, processor, progress=False)
    assert of_copy.metrics == pytest.approx(of_files.metrics)
    one = WhatsUp(annotations=str(copy), images=str(data), parts="controlled_clevr")(model, processor, progress=False)
    assert one.metrics["pair_macro"] == pytest.approx(of_files.metrics["pair_controlled_clevr"])


@pytest.mark.parametrize(
    ("file", "row", "message"),
    [
        ("controlled_images_dataset.json", {"image_path": "a.jpeg"}, "row 0: no caption_options; it has image_path"),
        (
            "controlled_images_dataset.json",
            {"image_path": "a.jpeg", "caption_options": ["p"]},
            "a list of captions is",
        ),
        ("controlled_clevr_dataset.json", {"image_path": None, "caption_options": ["p", "n"]}, "image_path is None"),
        ("coco_qa_two_obj.json", [139, "p"], r"row 0: \[image, true caption, false caption\] is expected, not \[139"),
        ("vg_qa_one_obj.json", [139, "p", 3], "row 0 is 3; a text is expected"),
    ],
)
def test_bad_rows(tmp_path, file, row, message):
    write_json(tmp_path / file, [row])
    with pytest.raises(ValueError, match=message):
        WhatsUp(annotations=str(tmp_path)).items()


def test_bad_input(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"has none of controlled_images_dataset.json, .* says where to get them"
    ):
        WhatsUp(annotations=str(tmp_path)).items()
    with pytest.raises(ValueError, match=r"there is no coco; the parts are controlled_images, "):
        WhatsUp(annotations=str(tmp_path), parts=("coco",))

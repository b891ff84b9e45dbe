# SPDX-License-Identifier: Apache-2.0
"""SugarCrepe: files of the real shape, scores and means against a naive computation, ties, bad input."""

from __future__ import annotations

import json

import pytest

from hf_tripletclip.data.schema import NEGATIVE_TYPES
from hf_tripletclip.evaluation.benchmark import MissingImages
from hf_tripletclip.evaluation.benchmarks.sugarcrepe import SugarCrepe
from tests.evaluation.benchmarks import HandEncoder, write_images, write_json, write_table

CAPTIONS = ["a red cat", "a blue cat", "a red dog", "a blue dog", "a dog", "a cat"]


def row(image: int, caption: str, negative: str) -> dict[str, str]:
    return {"filename": f"{image:012}.png", "caption": caption, "negative_caption": negative}


@pytest.fixture
def data(tmp_path):
    """Seven files of one to seven rows whose ids have holes; rows share images."""
    folder = tmp_path / "data"
    for size, kind in enumerate(NEGATIVE_TYPES, 1):
        pairs = [(CAPTIONS[n % 6], CAPTIONS[(n + size) % 6 if size % 6 else (n + 1) % 6]) for n in range(size)]
        write_json(folder / f"{kind}.json", {str(3 * n + size): row(n % 4, *pairs[n]) for n in range(size)})
    write_images(tmp_path / "val2017", [f"{n:012}.png" for n in range(4)])
    return folder, tmp_path / "val2017"


def test_scores_and_means_are_those_of_a_naive_computation(data, model, processor, naive):
    folder, images = data
    result = SugarCrepe(annotations=str(folder), images=str(images))(model, processor, batch_size=3, progress=False)
    accuracy, scores = {}, {}
    for kind in NEGATIVE_TYPES:
        right = []
        for number, entry in json.loads((folder / f"{kind}.json").read_text()).items():
            of_row = naive.scores(images / entry["filename"], [entry["caption"], entry["negative_caption"]])
            scores[f"{kind}/{number}"] = of_row
            right.append(of_row[0] > of_row[1])
        accuracy[kind] = right
    assert result.predictions["key"] == list(scores)
    for place in (0, 1):
        expected = [of_row[place] for of_row in scores.values()]
        assert result.predictions[f"score_i0c{place}"] == pytest.approx(expected, abs=1e-6)
    rows = [value for right in accuracy.values() for value in right]
    means = {kind: sum(right) / len(right) for kind, right in accuracy.items()}
    means |= {"macro": sum(means.values()) / 7, "micro": sum(rows) / 28, "tie_rate": 0.0}
    assert result.metrics == pytest.approx(means)
    assert 0 < result.metrics["micro"] < 1
    assert result.counts == {"rows": 28, "images": 4, "captions": 6, "missing": 0} | dict(
        zip(NEGATIVE_TYPES, range(1, 8), strict=True)
    )
    assert set(result.chance.values()) == {0.5}
    assert result.chance.keys() == means.keys() - {"tie_rate"}
    assert (result.benchmark, result.primary) == ("sugarcrepe", "macro")


@pytest.mark.parametrize("protocol", ["strict", "official"])
def test_a_tie_is_wrong_in_either_protocol(tmp_path, model, processor, protocol):
    write_json(tmp_path / "swap_obj.json", {"1": row(0, "p", "n"), "9": row(0, "t", "n")})
    write_json(tmp_path / "add_att.json", {"4": row(1, "p", "t"), "5": row(1, "n", "p"), "7": row(1, "t", "n")})
    write_images(tmp_path, [f"{n:012}.png" for n in range(2)])
    scores = {"p": 0.75, "n": 0.5, "t": 0.5}
    encoder = HandEncoder.of_scores(model, processor, {f"{n:012}.png": scores for n in range(2)})
    result = SugarCrepe(annotations=str(tmp_path), protocol=protocol)(encoder)
    # swap_obj: right, tie; add_att: right, wrong, tie
    expected = {"swap_obj": 1 / 2, "add_att": 1 / 3, "macro": 5 / 12, "micro": 2 / 5, "tie_rate": 2 / 5}
    assert result.metrics == pytest.approx(expected)
    assert "replace_obj" not in result.metrics  # its file is absent


def test_a_collapsed_model_scores_zero(data, collapsed, processor):
    result = SugarCrepe(annotations=str(data[0]), images=str(data[1]))(collapsed, processor, progress=False)
    assert result.metrics.pop("tie_rate") == 1.0
    assert set(result.metrics.values()) == {0.0}


def test_the_table_of_the_hub_gives_the_same(data, tmp_path, model, processor):
    folder, images = data
    columns = {"images": [], "caption": [], "negative_caption": [], "Negative_type": []}
    for kind in NEGATIVE_TYPES:
        for entry in json.loads((folder / f"{kind}.json").read_text()).values():
            values = (str(images / entry["filename"]), entry["caption"], entry["negative_caption"], kind)
            for name, value in zip(columns, values, strict=True):
                columns[name].append(value)
    write_table(tmp_path / "table" / "data" / "train-00000.parquet", columns, "images")
    of_files = SugarCrepe(annotations=str(folder), images=str(images))(model, processor, progress=False)
    of_table = SugarCrepe(annotations=str(tmp_path / "table"))(model, processor, progress=False)
    assert of_table.metrics == pytest.approx(of_files.metrics)
    assert of_table.predictions["score_i0c1"] == pytest.approx(of_files.predictions["score_i0c1"], abs=1e-6)
    assert of_table.counts == of_files.counts  # each image once
    one = SugarCrepe(annotations=str(tmp_path / "table"), parts=("add_att",))(model, processor, progress=False)
    assert one.metrics["micro"] == one.metrics["add_att"] == pytest.approx(of_files.metrics["add_att"])
    write_table(tmp_path / "no.parquet", {name: columns[name] for name in ("images", "caption", "negative_caption")})
    with pytest.raises(ValueError, match="no column Negative_type"):
        SugarCrepe(annotations=str(tmp_path / "no.parquet")).items()


def test_parts(data, model, processor):
    folder, images = (str(path) for path in data)
    result = SugarCrepe(annotations=folder, images=images, parts=["swap_obj"])(model, processor, progress=False)
    assert result.metrics.keys() == {"swap_obj", "macro", "micro", "tie_rate"}
    with pytest.raises(ValueError, match=r"there is no swap, swip; the parts are replace_obj, "):
        SugarCrepe(annotations=folder, parts=("swap", "add_obj", "swip"))
    with pytest.raises(ValueError, match="nothing to evaluate"):
        SugarCrepe(annotations=folder, parts=())
    (data[0] / "swap_obj.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no swap_obj.json: get them from"):
        SugarCrepe(annotations=folder, images=images, parts="swap_obj").items()


def test_missing_images_are_counted(data, model, processor):
    folder, images = data
    (images / "000000000003.png").unlink()
    with pytest.raises(MissingImages, match=r"1 images, of 4 of 28 rows, are missing: .*000000000003.png"):
        SugarCrepe(annotations=str(folder), images=str(images))(model, processor, progress=False)
    benchmark = SugarCrepe(annotations=str(folder), images=str(images), allow_missing=True)
    result = benchmark(model, processor, progress=False)
    assert (result.counts["rows"], result.counts["missing"]) == (24, 4)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"1": {"filename": "a.png",}}', r"swap_obj.json is not valid JSON: .*line 1 column \d+"),
        ("3", "a JSON object of rows by id, or a list, is expected, not int"),
        ('{"7": {"filename": "a.png", "caption": "p"}}', r"swap_obj.json, row '7': no negative_caption; it has"),
        ('{"7": ["a.png"]}', "row '7': a JSON object is expected, not list"),
        ('{"7": {"filename": "a.png", "caption": null, "negative_caption": "n"}}', "caption is None; a text"),
        ("{}", "has no rows"),
    ],
)
def test_bad_files(tmp_path, content, message):
    (tmp_path / "swap_obj.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        SugarCrepe(annotations=str(tmp_path)).checked_items()


def test_folders_that_are_not_there(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"has none of replace_obj.json, .*: get them from"):
        SugarCrepe(annotations=str(tmp_path / "empty")).items()
    with pytest.raises(FileNotFoundError, match=r"nowhere does not exist: get them from"):
        SugarCrepe(annotations=str(tmp_path / "nowhere")).items()
    write_json(tmp_path / "swap_obj.json", {"1": row(0, "p", "n")})
    with pytest.raises(FileNotFoundError, match=r"image folder .*nowhere does not exist"):
        SugarCrepe(annotations=str(tmp_path), images=str(tmp_path / "nowhere")).items()

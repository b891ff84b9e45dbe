# SPDX-License-Identifier: Apache-2.0
"""VALSE: valid rows only, a naive computation, folders of images by source, copies of the Hub's layout."""

from __future__ import annotations

import json

import pytest

from hf_tripletclip.evaluation.benchmarks.valse import VALSE
from tests.evaluation.benchmarks import HandEncoder, write_images, write_json, write_table

PHOTOS = {"existence": "v7w_{}.png", "plurals": "000{}.png", "actant-swap": "exercising_{}.png"}
FOLDERS = {"existence": "visual7w", "plurals": "val2017", "actant-swap": "swig"}
WORDS = ["a red cat", "a blue cat", "a red dog", "a blue dog", "a dog", "a cat", "no dog"]


def row(image: str, caption: str, foil: str, votes: int = 3) -> dict[str, object]:
    mturk = {"foil": 0, "caption": votes, "other": 3 - votes}
    return {"dataset": "d", "image_file": image, "caption": caption, "foil": foil, "mturk": mturk}


@pytest.fixture
def data(tmp_path):
    """Three of the eleven files; every third row is not valid."""
    for size, (piece, photo) in enumerate(PHOTOS.items(), 4):
        rows = {}
        for n in range(size):
            rows[f"{piece}_{7 * n}"] = row(photo.format(n % 2), WORDS[n % 7], WORDS[(n + size) % 7], 3 - n % 3)
        write_json(tmp_path / "data" / f"{piece}.json", rows)
        write_images(tmp_path / "images" / FOLDERS[piece], [photo.format(0), photo.format(1)])
    return tmp_path / "data", tmp_path / "images"


def test_scores_and_means_are_those_of_a_naive_computation(data, model, processor, naive):
    folder, images = data
    result = VALSE(annotations=str(folder), images=str(images))(model, processor, batch_size=5, progress=False)
    by_piece, scores, keys = {}, [], []
    for piece in PHOTOS:
        by_piece[piece] = []
        for key, entry in json.loads((folder / f"{piece}.json").read_text()).items():
            if entry["mturk"]["caption"] < 2:
                continue
            image = images / FOLDERS[piece] / entry["image_file"]
            of_row = naive.scores(image, [entry["caption"], entry["foil"]])
            by_piece[piece].append(of_row[0] > of_row[1])
            scores.append(of_row[1])
            keys.append(f"{piece}/{key}")
    assert result.predictions["key"] == keys
    assert result.counts["rows"] == len(keys) == 3 + 4 + 4  # of 15
    assert result.predictions["score_i0c1"] == pytest.approx(scores, abs=1e-6)
    means = {piece: sum(right) / len(right) for piece, right in by_piece.items()}
    rows = [value for right in by_piece.values() for value in right]
    means |= {"macro": sum(means.values()) / 3, "micro": sum(rows) / len(rows), "tie_rate": 0.0}
    assert result.metrics == pytest.approx(means)
    assert 0 < result.metrics["micro"] < 1
    assert set(result.chance.values()) == {0.5}


def test_ties_and_single_rows(tmp_path, model, processor):
    write_json(tmp_path / "existence.json", {"a": row("i.png", "p", "n"), "b": row("i.png", "t", "n", 2)})
    write_json(tmp_path / "foil-it.json", {"c": row("i.png", "p", "n"), "d": row("i.png", "n", "p", 1)})
    write_json(tmp_path / "plurals.json", {"e": row("i.png", "p", "n", 0)})  # no valid row: an empty category
    write_images(tmp_path, ["i.png"])
    encoder = HandEncoder.of_scores(model, processor, {"i.png": {"p": 0.75, "n": 0.5, "t": 0.5}})
    for protocol in ("strict", "official"):
        metrics = VALSE(annotations=str(tmp_path), protocol=protocol)(encoder).metrics
        expected = {"existence": 1 / 2, "foil-it": 1, "macro": 3 / 4, "micro": 2 / 3, "tie_rate": 1 / 3}
        assert metrics == pytest.approx(expected)


def test_a_collapsed_model_scores_zero(data, collapsed, processor):
    result = VALSE(annotations=str(data[0]), images=str(data[1]))(collapsed, processor, progress=False)
    assert result.metrics["micro"] == 0.0
    assert result.metrics["tie_rate"] == 1.0


def listed(data) -> list[dict[str, object]]:
    """The valid rows as the Hub's copy has them."""
    rows = []
    for piece in PHOTOS:
        for key, entry in json.loads((data[0] / f"{piece}.json").read_text()).items():
            if entry["mturk"]["caption"] >= 2:
                names = {"image_file_name": entry["image_file"], "original_file_name": f"{piece}.json", "key": key}
                captions = {"positive_caption": [entry["caption"]], "negative_caption": [entry["foil"]]}
                rows.append({**names, **captions, "linguistic_phenomena": "actions"})
    return rows


def test_a_copy_of_the_hubs_layout_gives_the_same(data, tmp_path, model, processor):
    of_files = VALSE(annotations=str(data[0]), images=str(data[1]))(model, processor, progress=False)
    copy = tmp_path / "copy"
    copy.mkdir()
    rows = listed(data)
    (copy / "examples.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in rows))
    for photo in PHOTOS.values():
        write_images(copy / "images", [photo.format(0), photo.format(1)])
    for source in (copy, copy / "examples.jsonl"):
        of_copy = VALSE(annotations=str(source))(model, processor, progress=False)
        assert of_copy.metrics == pytest.approx(of_files.metrics)
    one = VALSE(annotations=str(copy), parts=("plurals",))(model, processor, progress=False)
    assert one.metrics["micro"] == pytest.approx(of_files.metrics["plurals"])

    columns = {name: [entry[name] for entry in rows] for name in rows[0] if name != "image_file_name"}
    paths = [str(copy / "images" / str(entry["image_file_name"])) for entry in rows]
    write_table(tmp_path / "table.parquet", {**columns, "images": [[path] for path in paths]}, "images")
    of_table = VALSE(annotations=str(tmp_path / "table.parquet"))(model, processor, progress=False)
    assert of_table.metrics == pytest.approx(of_files.metrics)
    assert of_table.counts["images"] == 6
    columns["original_file_name"] = [None] * len(rows)
    write_table(tmp_path / "no_names.parquet", {**columns, "images": [[path] for path in paths]}, "images")
    by_phenomenon = VALSE(annotations=str(tmp_path / "no_names.parquet"))(model, processor, progress=False)
    assert (
        by_phenomenon.metrics["actions"] == by_phenomenon.metrics["micro"] == pytest.approx(of_files.metrics["micro"])
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mturk": {"foil": 1}}, "row 'k': mturk: no caption; it has foil"),
        ({"mturk": None}, "row 'k': mturk: a JSON object is expected, not NoneType"),
        ({"mturk": {"caption": "three"}}, "mturk.caption is 'three'; a number"),
        ({"foil": ""}, "row 'k': foil is ''; a text is expected"),
    ],
)
def test_bad_rows(tmp_path, change, message):
    write_json(tmp_path / "plurals.json", {"k": {**row("i.png", "p", "n"), **change}})
    with pytest.raises(ValueError, match=message):
        VALSE(annotations=str(tmp_path)).items()


def test_bad_input(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has none of existence.json, .*: get them from"):
        VALSE(annotations=str(tmp_path)).items()
    with pytest.raises(ValueError, match=r"there is no counting; the parts are existence, "):
        VALSE(annotations=str(tmp_path), parts=("counting",))
    (tmp_path / "examples.jsonl").write_text('{"positive_caption": "p", "negative_caption": ["n"], "images": null}\n')
    with pytest.raises(ValueError, match=r"row 0: positive_caption is 'p'; a list of captions is expected"):
        VALSE(annotations=str(tmp_path)).items()

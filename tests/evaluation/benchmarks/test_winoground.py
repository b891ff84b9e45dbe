# SPDX-License-Identifier: Apache-2.0
"""Winoground: tables and the authors' layout against a naive computation, ties, categories, bad input."""

from __future__ import annotations

import json

import pytest
from datasets import Dataset
from datasets import Image as ImageFeature

from hf_tripletclip.evaluation.benchmark import MissingImages
from hf_tripletclip.evaluation.benchmarks.winoground import Winoground
from tests.evaluation.benchmarks import HandEncoder, picture, write_images

CAPTIONS = ["a red cat", "a blue cat", "a red dog", "a blue dog"]
TAGS = ["Object", "Relation", None, "Object", "Both", "Relation", "Object"]


def rows() -> list[dict]:
    return [
        {
            "id": 10 + n,
            "image_0": f"ex_{n}_img_0",
            "image_1": f"ex_{n}_img_1",
            "caption_0": CAPTIONS[n % 4],
            "caption_1": CAPTIONS[(n + 1 + n // 4) % 4],
            "tag": f"tag {n}",
            "secondary_tag": "",
            "num_main_preds": 1 + n % 2,
            "collapsed_tag": TAGS[n],
        }
        for n in range(len(TAGS))
    ]


@pytest.fixture
def folder(tmp_path):
    """The authors' layout: lines of JSON, and images whose names lack the extension."""
    lines = "".join(json.dumps(row) + "\n" for row in rows())
    (tmp_path / "examples.jsonl").write_text(lines)
    write_images(tmp_path / "images", [f"ex_{n}_img_{i}.png" for n in range(len(TAGS)) for i in (0, 1)])
    return tmp_path


@pytest.fixture
def table(tmp_path):
    """The layout of the Hub: parquet with the images in it."""
    pictured = [{**row, **{name: picture(f"{row[name]}.png") for name in ("image_0", "image_1")}} for row in rows()]
    dataset = Dataset.from_list(pictured)
    for name in ("image_0", "image_1"):
        dataset = dataset.cast_column(name, ImageFeature())
    (tmp_path / "hub" / "data").mkdir(parents=True)
    dataset.to_parquet(tmp_path / "hub" / "data" / "test-00000-of-00001.parquet")
    return tmp_path / "hub"


def naive_scores(naive, folder, row) -> list[list[float]]:
    images = [folder / "images" / f"{row[name]}.png" for name in ("image_0", "image_1")]
    return [naive.scores(image, [row["caption_0"], row["caption_1"]]) for image in images]


@pytest.mark.parametrize("protocol", ["strict", "official"])
def test_scores_and_means_are_those_of_a_naive_computation(folder, model, processor, naive, protocol):
    result = Winoground(data=str(folder), protocol=protocol)(model, processor, batch_size=5, progress=False)
    right = {"text_score": [], "image_score": [], "group_score": []}
    for n, row in enumerate(rows()):
        (s00, s01), (s10, s11) = naive_scores(naive, folder, row)
        for pair, value in {"i0c0": s00, "i0c1": s01, "i1c0": s10, "i1c1": s11}.items():
            assert result.predictions[f"score_{pair}"][n] == pytest.approx(value, abs=1e-6)
        right["text_score"].append(s00 > s01 and s11 > s10)
        right["image_score"].append(s00 > s10 and s11 > s01)
        right["group_score"].append(right["text_score"][-1] and right["image_score"][-1])
    expected = {"tie_rate": 0.0}
    for name, values in right.items():
        expected[name] = sum(values) / len(values)
        of_tags = {}
        for tag in ("Object", "Relation", "Both"):
            of_tag = [value for value, other in zip(values, TAGS, strict=True) if other == tag]
            of_tags[f"{name}_{tag}"] = sum(of_tag) / len(of_tag)
        expected |= {**of_tags, f"{name}_macro": sum(of_tags.values()) / 3}
    assert result.metrics == pytest.approx(expected)
    assert result.predictions["key"] == [str(10 + n) for n in range(7)]
    assert result.predictions["num_main_preds"] == [1, 2, 1, 2, 1, 2, 1]
    assert result.counts == {"rows": 7, "images": 14, "captions": 4, "missing": 0} | {
        "Object": 3,
        "Relation": 2,
        "Both": 1,
    }
    assert result.chance["group_score_Object"] == pytest.approx(1 / 6)
    assert (result.chance["text_score"], result.primary) == (0.25, "group_score")
    low, high = result.intervals["text_score"]
    assert low <= result.metrics["text_score"] <= high


def test_the_table_of_the_hub_gives_the_same(folder, table, model, processor):
    of_files = Winoground(data=str(folder))(model, processor, progress=False)
    for data in (table, table / "data" / "test-00000-of-00001.parquet"):
        of_table = Winoground(data=str(data))(model, processor, progress=False)
        assert of_table.metrics == of_files.metrics
        assert of_table.predictions["score_i1c0"] == pytest.approx(of_files.predictions["score_i1c0"], abs=1e-6)


def test_ties_lose(tmp_path, model, processor):
    kept = [{name: row[name] for name in ("image_0", "image_1", "caption_0", "caption_1")} for row in rows()[:3]]
    for n, row in enumerate(kept):
        row |= {"caption_0": f"p{n}", "caption_1": f"n{n}"}
    (tmp_path / "examples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    write_images(tmp_path, [f"ex_{n}_img_{i}.png" for n in range(3) for i in (0, 1)])
    scores = {
        # right in all; the first image cannot decide; the second caption cannot
        "ex_0_img_0.png": {"p0": 0.75, "n0": 0.25},
        "ex_0_img_1.png": {"p0": 0.5, "n0": 0.875},
        "ex_1_img_0.png": {"p1": 0.75, "n1": 0.75},
        "ex_1_img_1.png": {"p1": 0.5, "n1": 0.875},
        "ex_2_img_0.png": {"p2": 0.875, "n2": 0.5},
        "ex_2_img_1.png": {"p2": 0.25, "n2": 0.5},
    }
    result = Winoground(data=str(tmp_path))(HandEncoder.of_scores(model, processor, scores))
    # without tags there are no categories
    assert result.metrics == pytest.approx(
        {"text_score": 2 / 3, "image_score": 2 / 3, "group_score": 1 / 3, "tie_rate": 2 / 3}
    )
    assert result.predictions["key"] == ["0", "1", "2"]


def test_a_collapsed_model_scores_zero(folder, collapsed, processor):
    result = Winoground(data=str(folder))(collapsed, processor, progress=False)
    assert result.metrics.pop("tie_rate") == 1.0
    assert set(result.metrics.values()) == {0.0}


def test_missing_images_are_refused_or_counted(folder, model, processor):
    (folder / "images" / "ex_3_img_1.png").unlink()
    with pytest.raises(MissingImages, match=r"1 images, of 1 of 7 rows, are missing: .*ex_3_img_1.png"):
        Winoground(data=str(folder))(model, processor, progress=False)
    result = Winoground(data=str(folder), allow_missing=True)(model, processor, progress=False)
    assert (result.counts["rows"], result.counts["missing"]) == (6, 1)


def test_images_elsewhere_and_a_broken_one(folder, tmp_path, model, processor):
    (folder / "images").rename(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "ex_0_img_0.png").write_bytes(b"no image")
    benchmark = Winoground(data=str(folder), images=str(tmp_path / "elsewhere"))
    with pytest.raises(MissingImages, match=r"cannot be read: ex_0_img_0\.png"):
        benchmark(model, processor, progress=False)


def test_what_is_no_winoground_is_refused(tmp_path, folder):
    Dataset.from_dict({"image_0": ["a"], "caption_0": ["b"]}).to_parquet(tmp_path / "less.parquet")
    with pytest.raises(ValueError, match="no column image_1, caption_1"):
        Winoground(data=str(tmp_path / "less.parquet")).items()
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Winoground(data=str(tmp_path / "nowhere")).items()
    lines = [{**row, "caption_1": "" if n == 2 else "a"} for n, row in enumerate(rows())]
    (folder / "examples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    with pytest.raises(ValueError, match=r"Winoground: .*, row 2: empty caption in caption_1"):
        Winoground(data=str(folder)).items()

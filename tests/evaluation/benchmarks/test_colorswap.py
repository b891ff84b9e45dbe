# SPDX-License-Identifier: Apache-2.0
"""ColorSwap: the authors' layout and a table against a naive computation, ties, categories."""

from __future__ import annotations

import pytest
from datasets import Dataset
from datasets import Image as ImageFeature

from hf_tripletclip.evaluation.benchmarks.colorswap import ColorSwap
from tests.evaluation.benchmarks import picture, write_images, write_json

CAPTIONS = ["a red cat", "a blue cat", "a red dog", "a blue dog"]
SOURCES = [("midjourney", "human"), ("dalle", "human"), ("midjourney", "gpt"), ("midjourney", "human"), (None, None)]


def rows() -> list[dict]:
    return [
        {
            "id": n,
            "caption_1": CAPTIONS[n % 4],
            "caption_2": CAPTIONS[(n + 2) % 4],
            "image_1": f"images/img_{n}_1.png",
            "image_2": f"images/img_{n}_2.png",
            "image_source": SOURCES[n][0],
            "caption_source": SOURCES[n][1],
        }
        for n in range(len(SOURCES))
    ]


@pytest.fixture
def folder(tmp_path):
    write_json(tmp_path / "test.json", rows())
    write_images(tmp_path, [f"images/img_{n}_{i}.png" for n in range(len(SOURCES)) for i in (1, 2)])
    return tmp_path


def test_scores_and_means_are_those_of_a_naive_computation(folder, model, processor, naive):
    result = ColorSwap(data=str(folder))(model, processor, progress=False)
    right = {"text_score": [], "image_score": [], "group_score": []}
    for row in rows():
        captions = [row["caption_1"], row["caption_2"]]
        (s00, s01), (s10, s11) = (naive.scores(folder / row[name], captions) for name in ("image_1", "image_2"))
        right["text_score"].append(s00 > s01 and s11 > s10)
        right["image_score"].append(s00 > s10 and s11 > s01)
        right["group_score"].append(right["text_score"][-1] and right["image_score"][-1])
    for name, values in right.items():
        assert result.metrics[name] == pytest.approx(sum(values) / 5)
        humans = (values[0] + values[3]) / 2
        assert result.metrics[f"{name}_midjourney/human"] == pytest.approx(humans)
        assert result.metrics[f"{name}_macro"] == pytest.approx((humans + values[1] + values[2]) / 3)
    assert result.counts["midjourney/human"] == 2
    assert "human" not in result.metrics


def test_a_split_of_a_table_gives_the_same(folder, tmp_path, model, processor):
    pictured = [{**row, **{name: picture(row[name]) for name in ("image_1", "image_2")}} for row in rows()]
    dataset = Dataset.from_list(pictured).cast_column("image_1", ImageFeature()).cast_column("image_2", ImageFeature())
    (tmp_path / "hub" / "data").mkdir(parents=True)
    dataset.to_parquet(tmp_path / "hub" / "data" / "test-00000-of-00001.parquet")
    dataset.select(range(2)).to_parquet(tmp_path / "hub" / "data" / "train-00000-of-00001.parquet")
    of_files = ColorSwap(data=str(folder))(model, processor, progress=False)
    of_table = ColorSwap(data=str(tmp_path / "hub"))(model, processor, progress=False)
    assert of_table.metrics == of_files.metrics
    assert len(ColorSwap(data=str(tmp_path / "hub"), split="train").items()) == 2
    with pytest.raises(ValueError, match="no split 'validation'; it has"):
        ColorSwap(data=str(tmp_path / "hub"), split="validation").items()


def test_a_collapsed_model_scores_zero(folder, collapsed, processor):
    result = ColorSwap(data=str(folder))(collapsed, processor, progress=False)
    assert result.metrics.pop("tie_rate") == 1.0
    assert set(result.metrics.values()) == {0.0}

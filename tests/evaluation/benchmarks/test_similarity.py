# SPDX-License-Identifier: Apache-2.0
"""The distributions of cosines and the modality gap, against a naive computation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from datasets import Image as ImageFeature

from hf_tripletclip.evaluation.benchmark import MissingImages
from hf_tripletclip.evaluation.benchmarks.similarity import Similarity, modality_gap, pairs_of, spread
from hf_tripletclip.evaluation.encoder import Encoder
from hf_tripletclip.evaluation.registry import get_benchmark
from tests.evaluation import CAPTIONS
from tests.evaluation.benchmarks import Naive, picture

PAIRS = ["image_neg_image", "image_caption", "image_neg_caption", "neg_image_caption", "neg_image_neg_caption",
         "caption_neg_caption"]  # fmt: skip


def triplets(rows: int = 5, **columns) -> Dataset:
    table = {
        "image": [picture(f"real {row // 2}") for row in range(rows)],
        "caption": [CAPTIONS[row % 4] for row in range(rows)],
        "neg_image": [picture(f"drawn {row}") for row in range(rows)],
        "neg_caption": [CAPTIONS[(row + 1) % 4] for row in range(rows)],
        "negative_type": ["swap_obj", "add_att"] * (rows // 2) + ["swap_obj"] * (rows % 2),
        **columns,
    }
    data = Dataset.from_dict({name: values for name, values in table.items() if values is not None})
    for name in ("image", "neg_image"):
        if name in data.column_names:
            data = data.cast_column(name, ImageFeature())
    return data


def run(data, model, processor, **options):
    return Similarity(data=data, **options)(Encoder(model, processor, progress=False))


def test_it_is_what_a_naive_computation_gives(model, processor):
    data = triplets()
    naive = Naive(model, processor)
    vectors = {
        role: np.stack([
            (naive.image if "image" in role else naive.text)(row[role]) for row in data
        ]) for role in ("image", "neg_image", "caption", "neg_caption")
    }  # fmt: skip
    vectors = {role: values / np.linalg.norm(values, axis=1, keepdims=True) for role, values in vectors.items()}
    result = run(data, model, processor)
    for one, other in pairs_of(list(vectors)):
        cosines = (vectors[one] * vectors[other]).sum(axis=1)
        name = f"{one}_{other}"
        assert result.predictions[name] == pytest.approx(cosines, abs=1e-6)
        assert result.metrics[f"{name}_mean"] == pytest.approx(cosines.mean(), abs=1e-6)
        assert result.metrics[f"{name}_std"] == pytest.approx(cosines.std(), abs=1e-6)
        for label, edge in (("q05", 5), ("q25", 25), ("median", 50), ("q75", 75), ("q95", 95)):
            assert result.metrics[f"{name}_{label}"] == pytest.approx(np.percentile(cosines, edge), abs=1e-6)
        low, high = result.intervals[f"{name}_mean"]
        assert low <= result.metrics[f"{name}_mean"] <= high
    gap = np.linalg.norm(vectors["image"].mean(axis=0) - vectors["caption"].mean(axis=0))
    assert result.metrics["modality_gap"] == pytest.approx(gap, abs=1e-6)
    assert [f"{one}_{other}" for one, other in pairs_of(list(vectors))] == PAIRS
    assert result.primary == "modality_gap"
    assert "no fractions" in result.settings["scores"]
    assert result.chance == result.baselines == {}
    assert "tie_rate" not in result.metrics
    assert result.counts == {"rows": 5, "images": 8, "captions": 4, "missing": 0}
    assert result.predictions["category"] == ["swap_obj", "add_att", "swap_obj", "add_att", "swap_obj"]
    assert result.predictions["cluster"] == [0, 0, 1, 1, 2]


def test_by_hand():
    image = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    caption = torch.tensor([[0.0, 1.0], [0.6, 0.8]])
    assert modality_gap({"image": image, "caption": caption})["modality_gap"] == pytest.approx(
        (0.7**2 + 0.9**2) ** 0.5
    )
    assert modality_gap({"image": image, "neg_caption": caption}) == {}
    found = spread({"x": torch.tensor([0.0, 1.0, 0.5])})
    assert found == pytest.approx(
        {"x_std": (0.5 / 3) ** 0.5, "x_q05": 0.05, "x_q25": 0.25, "x_median": 0.5, "x_q75": 0.75, "x_q95": 0.95}
    )


@pytest.mark.parametrize(
    ("left", "pairs"),
    [
        ({"image": None}, ["neg_image_caption", "neg_image_neg_caption", "caption_neg_caption"]),
        ({"neg_image": None, "neg_caption": None}, ["image_caption"]),
        ({"image": None, "neg_image": None}, ["caption_neg_caption"]),
        ({"caption": None, "neg_caption": None, "negative_type": None}, ["image_neg_image"]),
    ],
)
def test_pairs_are_those_of_the_columns_that_are_there(model, processor, left, pairs):
    result = run(triplets(**left), model, processor)
    assert [name for name in PAIRS if name in result.predictions] == pairs
    assert {f"{name}_mean" for name in pairs} == set(result.means)
    assert ("modality_gap" in result.metrics) == ("image_caption" in pairs)


def test_a_single_row(model, processor):
    result = run(triplets(rows=1), model, processor)
    assert result.metrics["image_caption_std"] == 0
    assert result.metrics["image_caption_q05"] == result.metrics["image_caption_mean"]


def test_files_splits_and_names_of_columns(model, processor, tmp_path):
    folder = tmp_path / "data"
    (folder / "data").mkdir(parents=True)
    data = triplets().rename_columns({"neg_image": "negative_image", "neg_caption": "negative_caption"})
    for split in ("train", "test"):
        data.to_parquet(folder / "data" / f"{split}-0.parquet")
    benchmark = get_benchmark("similarity", {"data": str(folder), "columns": "bivlc"})
    result = benchmark(Encoder(model, processor, progress=False))
    assert result.metrics == pytest.approx(run(triplets(), model, processor).metrics)
    assert result.data["source"] == str(folder)
    assert len(run(str(folder), model, processor, split="train").predictions["key"]) == 5
    DatasetDict({"a": triplets(), "b": triplets()}).save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match="has no split test; it has a, b"):
        run(str(tmp_path / "saved"), model, processor)


def test_several_captions_of_an_image(model, processor):
    several = triplets(neg_caption=[[CAPTIONS[1], "dog"], [CAPTIONS[2]], [CAPTIONS[3]], [CAPTIONS[0]], [CAPTIONS[1]]])
    assert run(several, model, processor).metrics == pytest.approx(run(triplets(), model, processor).metrics)


def test_broken_rows(model, processor):
    images = [{"bytes": b"junk", "path": None}, *({"bytes": None, "path": None} for _ in range(1))]
    data = triplets()
    broken = Dataset.from_dict({"image": images, "caption": data["caption"][:2]}).cast_column("image", ImageFeature())
    from datasets import concatenate_datasets

    both = concatenate_datasets([broken, data.select_columns(["image", "caption"])])
    with pytest.raises(MissingImages, match=r"2 images, of 2 of 7 rows, cannot be read: image of row 0 \(unreadable"):
        run(both, model, processor)
    result = run(both, model, processor, allow_missing=True)
    assert (result.counts["rows"], result.counts["broken"]) == (5, 2)
    assert result.predictions["key"] == ["2", "3", "4", "5", "6"]
    with pytest.raises(ValueError, match="row 0: empty caption in caption"):
        run(triplets(caption=["", "b", "c", "d", "e"]), model, processor)
    with pytest.raises(ValueError, match="has the columns image; at least two of image, neg_image, caption"):
        run(triplets().select_columns(["image"]), model, processor)


def test_the_embedded_data(model, processor):
    result = run("scenes", model, processor, max_rows=12)
    assert result.counts["rows"] == 12
    assert set(PAIRS) < set(result.predictions)

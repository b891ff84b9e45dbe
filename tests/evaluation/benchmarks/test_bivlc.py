# SPDX-License-Identifier: Apache-2.0
"""BiVLC: a table against a naive computation in the official script's terms, ties, types and subtypes."""

from __future__ import annotations

import pytest
from datasets import Dataset
from datasets import Image as ImageFeature

from hf_tripletclip.evaluation.benchmarks.bivlc import BiVLC
from hf_tripletclip.evaluation.registry import BENCHMARKS, benchmark_class
from tests.evaluation.benchmarks import HandEncoder, picture

CAPTIONS = ["a red cat", "a blue cat", "a red dog", "a blue dog", "a dog", "a cat"]
KINDS = [
    ("replace", "obj"),
    ("replace", "att"),
    ("swap", "obj"),
    ("replace", "obj"),
    ("add", "att"),
    ("replace", "rel"),
]
NAMES = ("I2T", "T2I", "group_score", "Ipos_2T", "Ineg_2T", "Tpos_2I", "Tneg_2I")


def make(folder, kinds=KINDS, captions=None, **drop):
    """A table of one row per kind; two rows share their photograph."""
    photographs = ["photo 0.png", *(f"photo {max(n, 1)}.png" for n in range(len(kinds) - 1))]
    table = Dataset.from_dict(
        {
            "image": [picture(name) for name in photographs],
            "caption": [CAPTIONS[n % 6] for n in range(len(kinds))] if captions is None else captions[0],
            "negative_caption": [CAPTIONS[(n + 1) % 6] for n in range(len(kinds))]
            if captions is None
            else captions[1],
            "negative_image": [picture(f"drawn {n}.png") for n in range(len(kinds))],
            "type": [kind for kind, _ in kinds],
            "subtype": [kind for _, kind in kinds],
        }
    )
    table = table.cast_column("image", ImageFeature()).cast_column("negative_image", ImageFeature())
    (folder / "data").mkdir(parents=True)
    table.to_parquet(folder / "data" / "test-00000-of-00001.parquet")
    return table


def naive_outcomes(naive, row) -> dict[str, bool]:
    """In the words of the official script."""
    image_0, image_1 = row["image"], row["negative_image"]
    caption_0, caption_1 = row["caption"], row["negative_caption"]
    found = {
        "Ipos_2T": naive.score(image_0, caption_0) > naive.score(image_0, caption_1),
        "Ineg_2T": naive.score(image_1, caption_1) > naive.score(image_1, caption_0),
        "Tpos_2I": naive.score(image_0, caption_0) > naive.score(image_1, caption_0),
        "Tneg_2I": naive.score(image_1, caption_1) > naive.score(image_0, caption_1),
    }
    found["I2T"] = found["Ipos_2T"] and found["Ineg_2T"]
    found["T2I"] = found["Tpos_2I"] and found["Tneg_2I"]
    return {**found, "group_score": found["I2T"] and found["T2I"]}


def test_scores_and_means_are_those_of_a_naive_computation(tmp_path, model, processor, naive):
    table = make(tmp_path)
    result = BiVLC(data=str(tmp_path))(model, processor, progress=False)
    right = [naive_outcomes(naive, row) for row in table]
    for name in NAMES:
        values = [row[name] for row in right]
        assert result.predictions[name] == values
        assert result.metrics[name] == pytest.approx(sum(values) / 6)
        assert result.metrics[f"{name}_replace"] == pytest.approx((values[0] + values[1] + values[3] + values[5]) / 4)
        assert result.metrics[f"{name}_swap"] == values[2]
        of_kinds = [(values[0] + values[3]) / 2, values[1], values[2], values[4], values[5]]
        assert result.metrics[f"{name}_replace_obj"] == pytest.approx(of_kinds[0])
        assert result.metrics[f"{name}_macro"] == pytest.approx(sum(of_kinds) / 5)
    assert result.counts["rows"] == 6
    assert result.counts["images"] == 11  # two rows have one photograph
    assert result.predictions["cluster"][1] == result.predictions["cluster"][2]
    assert [result.chance[name] for name in NAMES] == pytest.approx([1 / 4, 1 / 4, 1 / 6, *[1 / 2] * 4])
    assert result.chance["Tneg_2I_swap_obj"] == 1 / 2
    assert result.primary == "group_score"


@pytest.mark.parametrize("protocol", ["strict", "official"])
def test_each_direction_loses_its_ties(tmp_path, model, processor, protocol):
    make(tmp_path, [("add", "obj")] * 3, (["p0", "p1", "p2"], ["n0", "n1", "n2"]))
    scores = {
        "image of row 0": {"p0": 0.75, "n0": 0.25},
        "negative_image of row 0": {"p0": 0.5, "n0": 0.875},
        "image of row 1": {"p1": 0.75, "n1": 0.75, "p2": 0.75, "n2": 0.25},
        "negative_image of row 1": {"p1": 0.5, "n1": 0.875},
        "negative_image of row 2": {"p2": 0.75, "n2": 0.5},
    }
    encoder = HandEncoder.of_scores(model, processor, scores)
    result = BiVLC(data=str(tmp_path), protocol=protocol)(encoder)
    # row 0 is right in all; row 1: Ipos ties; row 2: Tpos ties and Ineg is wrong
    expected = {"Ipos_2T": 2, "Ineg_2T": 2, "Tpos_2I": 2, "Tneg_2I": 3, "I2T": 1, "T2I": 2, "group_score": 1}
    for name, count in expected.items():
        assert result.metrics[name] == pytest.approx(count / 3), name
    assert result.metrics["tie_rate"] == pytest.approx(2 / 3)


def test_a_collapsed_model_scores_zero(tmp_path, collapsed, processor):
    make(tmp_path)
    result = BiVLC(data=str(tmp_path))(collapsed, processor, progress=False)
    assert result.metrics.pop("tie_rate") == 1.0
    assert set(result.metrics.values()) == {0.0}


def test_no_other_benchmark_takes_its_photographs_for_drawn():
    assert [name for name in BENCHMARKS if getattr(benchmark_class(name), "drawn_images", False)] == ["bivlc"]

# SPDX-License-Identifier: Apache-2.0
"""Any triplet dataset as a benchmark: sources, several negatives, broken rows, results, items for pages."""

from __future__ import annotations

import json

import pytest
from datasets import Dataset, DatasetDict, List
from datasets import Image as ImageFeature

from hf_tripletclip.data.broken_rows import BrokenRows
from hf_tripletclip.evaluation import evaluate_triplets
from hf_tripletclip.evaluation.benchmarks.triplets import Triplets
from hf_tripletclip.evaluation.encoder import Encoder
from hf_tripletclip.evaluation.registry import build_benchmark, get_benchmark
from hf_tripletclip.results.result import EvaluationResult
from hf_tripletclip.results.scoring import tally
from tests.evaluation.benchmarks import HandEncoder, picture

CAPTIONS = ["a red cat", "a blue cat", "a red dog", "a blue dog"]
KINDS = ["swap_att", "add_obj", "swap_att", None, "colour", "swap_att"]


def make(rows: int = 6, **columns: list) -> Dataset:
    """Rows whose first two share an image."""
    dataset = Dataset.from_dict(
        {
            "id": [f"row {n}" for n in range(rows)],
            "image": [picture(f"image {max(n, 1)}") for n in range(rows)],
            "caption": [CAPTIONS[n % 4] for n in range(rows)],
            "neg_image": [picture(f"negative {n}") for n in range(rows)],
            "neg_caption": [CAPTIONS[(n + 1 + n // 4) % 4] for n in range(rows)],
            "negative_type": KINDS[:rows],
            "held_out": [n in (1, 4) for n in range(rows)],
            **columns,
        }
    )
    return dataset.cast_column("image", ImageFeature()).cast_column("neg_image", ImageFeature())


# The captions of each picture of `make` (its first row), by their first rows: rows 0 and 1 are one picture, and rows 0
# and 4, as rows 1 and 5, have one caption.
TRUE = {0: {0, 1}, 2: {2}, 3: {3}, 4: {0}, 5: {1}}


def naive_metrics(naive, dataset) -> dict[str, float]:
    """Every metric, row by row, in float64."""
    right: dict[str, list[bool]] = {"accuracy": [], "text_score": [], "image_score": [], "group_score": []}
    for row in dataset:
        (s00, s01), (s10, s11) = (
            naive.scores(row[name], [row["caption"], row["neg_caption"]]) for name in ("image", "neg_image")
        )
        right["accuracy"].append(s00 > s01)
        right["text_score"].append(s00 > s01 and s11 > s10)
        right["image_score"].append(s00 > s10 and s11 > s01)
        right["group_score"].append(right["text_score"][-1] and right["image_score"][-1])
    found = {"tie_rate": 0.0, "held_out_tie_rate": 0.0}
    for name, values in right.items():
        found[name] = sum(values) / len(values)
        for kind in ("swap_att", "add_obj", "colour"):
            of_kind = [value for value, other in zip(values, dataset["negative_type"], strict=True) if other == kind]
            found[f"{name}_{kind}"] = sum(of_kind) / len(of_kind)
        held_out = [value for value, held in zip(values, dataset["held_out"], strict=True) if held]
        found[f"held_out_{name}"] = sum(held_out) / len(held_out)
    found["accuracy_macro"] = sum(found[f"accuracy_{kind}"] for kind in ("swap_att", "add_obj", "colour")) / 3
    images = {row: naive.image(dataset[row]["image"]) for row in TRUE}
    texts = {row: naive.text(dataset[row]["caption"]) for row in range(4)}
    of_texts = {row: {image for image, captions in TRUE.items() if row in captions} for row in texts}
    for direction, queries, candidates, true in (
        ("image_to_text", images, texts, TRUE),
        ("text_to_image", texts, images, of_texts),
    ):
        for k in (1, 5):
            hits = 0
            for place, query in queries.items():
                scores = {row: naive.cosine(query, candidate) for row, candidate in candidates.items()}
                best = max(scores[row] for row in true[place])
                others = [score for row, score in scores.items() if row not in true[place]]
                hits += sum(other > best - 1e-9 for other in others) < k  # equal ones count against
            found[f"{direction}_recall@{k}"] = hits / len(queries)
    return found


@pytest.mark.parametrize("protocol", ["strict", "official"])
def test_metrics_are_those_of_a_naive_computation(model, processor, naive, protocol):
    dataset = make()
    result = Triplets(data=dataset, protocol=protocol)(model, processor, batch_size=4, progress=False)
    assert result.metrics == pytest.approx(naive_metrics(naive, dataset))
    assert result.counts == {"rows": 6, "broken": 0, "held_out": 2, "swap_att": 3, "add_obj": 1, "colour": 1}
    assert result.predictions["key"] == [f"row {n}" for n in range(6)]
    assert result.predictions["row"] == [*range(6)]
    assert result.predictions["category"] == KINDS
    assert result.predictions["cluster"][0] == result.predictions["cluster"][1]
    assert result.primary == "group_score"


def test_a_result_says_how_its_metrics_come_about(tmp_path, model, processor):
    result = Triplets(data=make())(model, processor, progress=False)
    for name, mean in result.means.items():
        assert tally(result.predictions, mean) == result.metrics[name], name
        low, high = result.intervals[name]
        assert 0 <= low <= high <= 1
    assert result.model["class"] == "CLIPModel"
    assert len(result.model["fingerprint"]) == len(result.data["fingerprint"]) == 16
    other = Triplets(data=make(neg_caption=["a dog"] * 6))(model, processor, progress=False)
    assert other.data["fingerprint"] != result.data["fingerprint"]
    result.save(tmp_path / "triplets.json")
    again = EvaluationResult.load(tmp_path / "triplets.json")
    assert (again.metrics, again.means, again.predictions) == (result.metrics, result.means, result.predictions)


def test_each_image_and_caption_is_encoded_once(model, processor):
    class Counting(Encoder):
        seen = ()

        def images(self, images):
            self.seen += (len(images),)
            return super().images(images)

        def texts(self, captions):
            self.seen += (len(captions),)
            return super().texts(captions)

    encoder = Counting(model, processor, progress=False)
    Triplets(data=make()).run(encoder)
    assert encoder.seen == (11, 4)  # the first two rows have one image


def test_sources(tmp_path, model, processor):
    dataset = make()
    expected = evaluate_triplets(model, processor, dataset, progress=False).metrics
    DatasetDict({"test": dataset, "train": dataset.select([0])}).save_to_disk(tmp_path / "saved")
    dataset.to_parquet(tmp_path / "one.parquet")
    theirs = dataset.rename_columns({"neg_caption": "negative_caption", "neg_image": "negative_image"})
    theirs.to_parquet(tmp_path / "theirs.parquet")
    for options in (
        {"data": str(tmp_path / "saved")},
        {"data": str(tmp_path / "one.parquet")},
        {"data": str(tmp_path / "theirs.parquet"), "columns": "bivlc"},
        {
            "data": str(tmp_path / "theirs.parquet"),
            "columns": {"neg_caption": "negative_caption", "neg_image": "negative_image"},
        },
    ):
        result = get_benchmark("triplets", options)(model, processor, progress=False)
        assert result.metrics == pytest.approx(expected)
        assert result.data["source"] == options["data"]
    assert len(Triplets(data=str(tmp_path / "saved"), split="train").items()) == 1
    with pytest.raises(ValueError, match="has no split 'dev'"):
        Triplets(data=str(tmp_path / "saved"), split="dev").items()
    with pytest.raises(ValueError, match="lacks 'caption'"):
        Triplets(data=dataset.remove_columns("caption")).items()


def test_one_kind_of_negatives_or_none(model, processor):
    captions = Triplets(data=make().remove_columns("neg_image"))(model, processor, progress=False)
    assert captions.primary == "accuracy"
    assert {"accuracy", "accuracy_macro", "held_out_accuracy"} <= captions.metrics.keys()
    assert not any("score" in name or "image_accuracy" in name for name in captions.metrics)
    images = Triplets(data=make().remove_columns("neg_caption"))(model, processor, progress=False)
    assert images.primary == "image_accuracy"
    assert not any(name.startswith(("accuracy", "text_", "group")) and "recall" not in name for name in images.metrics)
    neither = Triplets(data=make().remove_columns(["neg_caption", "neg_image"]))(model, processor, progress=False)
    assert neither.primary == "image_to_text_recall@1"
    assert all("recall@" in name for name in neither.metrics)
    whole = Triplets(data=make())(model, processor, progress=False).metrics
    assert captions.metrics["accuracy"] == whole["accuracy"]
    assert neither.metrics == {name: value for name, value in whole.items() if "recall@" in name}


def test_of_several_negative_captions_the_first_counts(model, processor):
    first = make().remove_columns("neg_image")
    several = [[caption, "a dog"] if n != 2 else ["", caption] for n, caption in enumerate(first["neg_caption"])]
    several[5] = []
    listed = first.remove_columns("neg_caption").add_column("neg_caption", several)
    with pytest.raises(ValueError, match=r"1 of the 6 rows cannot be used: \{'missing caption in neg_caption': 1\}"):
        Triplets(data=listed)(model, processor, progress=False)
    result = evaluate_triplets(model, processor, listed, progress=False)
    expected = evaluate_triplets(model, processor, first.select(range(5)), progress=False)
    assert result.metrics == expected.metrics
    assert result.counts["broken"] == 1


def test_of_several_negative_pairs_the_first_whole_one_counts(model, processor):
    others, rows = picture("another"), []
    for number, row in enumerate(make()):
        broken = {1: ("", others), 2: (None, others), 4: (" ", others)}.get(number)  # what comes before the pair
        pairs = [*([broken] if broken else []), (row["neg_caption"], row["neg_image"]), ("a dog", others)]
        rows.append({**row, "neg_caption": [text for text, _ in pairs], "neg_image": [image for _, image in pairs]})
    listed = Dataset.from_list(rows)
    assert listed.features["neg_image"] == List(ImageFeature())
    result = evaluate_triplets(model, processor, listed, progress=False)
    expected = evaluate_triplets(model, processor, make(), progress=False)
    assert result.metrics == expected.metrics
    assert result.counts["broken"] == 0


def test_broken_rows_are_refused_or_reported(tmp_path, model, processor):
    rows = list(make().cast_column("neg_image", ImageFeature(decode=False)))
    rows[1]["neg_image"] = {"bytes": b"no image", "path": None}
    rows[3]["caption"] = " "
    rows[4]["neg_caption"] = "a red cat " * 20
    dataset = Dataset.from_list(rows).cast_column("image", ImageFeature()).cast_column("neg_image", ImageFeature())
    with pytest.raises(
        ValueError, match=r"^1 of the 6 rows cannot be used: \{'empty caption in caption': 1\}.*--allow"
    ):
        Triplets(data=dataset)(model, processor, progress=False)
    report = BrokenRows(tmp_path / "broken.jsonl")
    result = evaluate_triplets(model, processor, dataset, progress=False, broken_rows=report)
    assert result.predictions["row"] == [0, 2, 4, 5]
    assert (result.counts["rows"], result.counts["broken"]) == (4, 2)
    reports = {entry["key"]: entry for entry in map(json.loads, (tmp_path / "broken.jsonl").read_text().splitlines())}
    assert reports["row 1"] == {
        "key": "row 1",
        "reason": "unreadable image: not a format that Pillow knows",
        "column": "neg_image",
    }
    assert reports["row 3"] == {"key": "row 3", "reason": "empty caption", "column": "caption"}
    assert reports["row 4"]["skipped"] is False
    assert reports["row 4"]["reason"].startswith("caption cut: ")
    assert len(report) == 2
    whole = [0, 2, 4, 5]
    assert result.metrics == evaluate_triplets(model, processor, dataset.select(whole), progress=False).metrics


def test_a_sample_of_the_rows(model, processor):
    result = Triplets(data=make(), max_rows=3)(model, processor, progress=False)
    assert result.predictions["row"] == [0, 3, 5]
    assert (result.counts["rows"], result.counts["broken"]) == (3, 0)
    assert result.settings["max_rows"] == 3


def test_ties_lose(model, processor):
    dataset = make(2, caption=["p", "q"], neg_caption=["n", "m"], negative_type=["swap_att"] * 2)
    scores = {
        "image of row 1": {},
        "image of row 0": {"p": 0.75, "n": 0.75, "q": 0.75, "m": 0.25},  # the image of both rows
        "neg_image of row 0": {"p": 0.5, "n": 0.875},
        "neg_image of row 1": {"q": 0.75, "m": 0.875},
    }
    metrics = Triplets(data=dataset)(HandEncoder.of_scores(model, processor, scores)).metrics
    # row 0: its image ties between the captions; row 1: its caption ties between the images
    assert [metrics[name] for name in ("accuracy", "text_score", "image_score", "group_score")] == [0.5, 0.5, 0.5, 0]
    assert metrics["tie_rate"] == 1.0


def test_a_collapsed_model_scores_zero(collapsed, processor):
    metrics = Triplets(data=make())(collapsed, processor, progress=False).metrics
    assert metrics.pop("tie_rate") == metrics.pop("held_out_tie_rate") == 1.0
    # Five pictures and four captions: those that are wrong tie and come first, and they are never five.
    assert [metrics.pop(f"{way}_recall@5") for way in ("image_to_text", "text_to_image")] == [1.0, 1.0]
    assert set(metrics.values()) == {0.0}


def test_items_show_images_and_captions(processor):
    dataset = make()
    items = {item.key: item for item in Triplets(data=dataset).items()}
    item = items["row 3"]
    assert [image.load().tobytes() for image in item.images] == [
        dataset[3][name].tobytes() for name in ("image", "neg_image")
    ]
    assert item.captions == (dataset[3]["caption"], dataset[3]["neg_caption"])
    twice = dataset.remove_columns("id").add_column("id", ["same"] * 6)
    assert [item.key for item in Triplets(data=twice).items()] == [str(n) for n in range(6)]


def test_drawn_images_are_probed_on_demand(model, processor):
    assert not any("drawn" in name for name in Triplets(data=make())(model, processor, progress=False).baselines)
    dataset = make(30, negative_type=["swap_att"] * 30)
    found = Triplets(data=dataset, drawn_images=True)(model, processor, progress=False).baselines
    assert any("drawn" in name for name in found)


def test_a_folder_of_images_of_its_own(tmp_path):
    for folder in ("photos", "data"):
        (tmp_path / folder).mkdir()
    for name in ("1.png", "2.png"):
        picture("one").save(tmp_path / "photos" / name)
    (tmp_path / "data" / "pairs.csv").write_text("image,caption,neg_caption\n1.png,a,b\n2.png,c,d\n")
    places = {"data": tmp_path / "data" / "pairs.csv", "images": tmp_path / "photos"}
    benchmark = build_benchmark("triplets", **{name: {"triplets": str(path)} for name, path in places.items()})
    assert isinstance(benchmark, Triplets)
    items = benchmark.items()
    assert [item.images[0].load().size for item in items] == [(20, 16)] * 2

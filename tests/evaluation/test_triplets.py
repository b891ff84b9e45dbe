# SPDX-License-Identifier: Apache-2.0
"""The metrics of triplets, against their definitions, and the evaluation of a model."""

from __future__ import annotations

import math

import pytest
import torch
from datasets import Dataset
from datasets import Image as ImageFeature
from PIL import Image

from hf_tripletclip.evaluation import evaluate_triplets, triplet_metrics
from hf_tripletclip.evaluation.benchmarks.retrieval import Retrieval
from hf_tripletclip.evaluation.triplets import CHANCE, chance_of, recalls
from tests.evaluation import CAPTIONS, recall_of_rows
from tests.evaluation.benchmarks import picture


def embeddings(rows: int, seed: int = 0, dim: int = 6) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.functional.normalize(torch.randn(rows, dim, generator=generator), dim=-1) for _ in range(4)]


def reference(image, text, negative_image, negative_text) -> dict[str, float]:
    """The definitions, row by row in plain Python."""
    right = {"accuracy": 0, "text_score": 0, "image_score": 0, "group_score": 0}
    for v, t, vn, tn in zip(image, text, negative_image, negative_text, strict=True):
        s00, s01, s10, s11 = (float(torch.dot(a, b)) for a, b in ((v, t), (v, tn), (vn, t), (vn, tn)))
        text_right = s00 > s01 and s11 > s10
        image_right = s00 > s10 and s11 > s01
        right["accuracy"] += s00 > s01
        right["text_score"] += text_right
        right["image_score"] += image_right
        right["group_score"] += text_right and image_right
    return {name: count / len(image) for name, count in right.items()}


def test_scores_are_those_of_the_definitions():
    given = embeddings(300)
    metrics = triplet_metrics(*given)
    for name, value in reference(*given).items():
        assert metrics[name] == pytest.approx(value), name
    assert metrics["tie_rate"] == 0.0
    assert all(isinstance(value, float) for value in metrics.values())


def test_random_scores_are_near_chance():
    generator = torch.Generator().manual_seed(0)
    # Four independent random scores per row: one coordinate for each pair of an image and a caption.
    scores = torch.rand(20_000, 2, 2, generator=generator)
    image, negative_image = scores[:, 0], scores[:, 1]
    text, negative_text = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    right = triplet_metrics(image[:3000], text.expand(3000, 2), negative_image[:3000], negative_text.expand(3000, 2))
    for name, chance in CHANCE.items():
        assert right[name] == pytest.approx(chance, abs=0.035), name


def test_a_collapsed_model_scores_zero():
    same = torch.nn.functional.normalize(torch.ones(8, 4), dim=-1)
    metrics = triplet_metrics(same, same, same, same)
    assert metrics.pop("tie_rate") == 1.0
    assert set(metrics.values()) == {0.0}


def test_a_perfect_model_scores_one():
    image, text = torch.eye(8)[:4], torch.eye(8)[:4]
    metrics = triplet_metrics(image, text, torch.eye(8)[4:], torch.eye(8)[4:])
    assert metrics.pop("tie_rate") == 0.0
    assert set(metrics.values()) == {1.0}


def test_kinds_and_their_macro_mean():
    image = torch.eye(4)[[0, 0, 0]]
    text = torch.eye(4)[[0, 0, 1]]
    negative = torch.eye(4)[[1, 1, 0]]
    metrics = triplet_metrics(image, text, negative, negative, ["swap_obj", "swap_obj", "add_att"])
    assert metrics["accuracy"] == pytest.approx(2 / 3)
    assert (metrics["accuracy_swap_obj"], metrics["accuracy_add_att"]) == (1.0, 0.0)
    assert metrics["accuracy_macro"] == 0.5
    assert "accuracy_replace_obj" not in metrics
    assert metrics["group_score_swap_obj"] == 1.0


def test_one_modality_of_negatives():
    image, text, negative_image, negative_text = embeddings(20)
    captions_only = triplet_metrics(image, text, None, negative_text)
    assert "accuracy" in captions_only
    assert "group_score" not in captions_only
    images_only = triplet_metrics(image, text, negative_image)
    assert images_only["image_accuracy"] == pytest.approx(
        ((image * text).sum(1) > (negative_image * text).sum(1)).float().mean().item()
    )
    assert set(triplet_metrics(image, text)) == {
        f"{direction}_recall@{k}" for direction in ("image_to_text", "text_to_image") for k in (1, 5)
    }


def test_recall_is_that_of_a_full_ranking(monkeypatch):
    monkeypatch.setattr("hf_tripletclip.evaluation.recall.CELLS", 350)  # seven rows at a time
    queries, candidates, *_ = embeddings(50)
    order = (queries @ candidates.T).argsort(dim=1, descending=True)
    for k, value in recall_of_rows(queries, candidates).items():
        found = [row in order[row, :k].tolist() for row in range(50)]
        assert value == pytest.approx(sum(found) / 50)
    candidates[1] = candidates[0]  # a duplicate ties with the target, and ties are wrong
    assert recall_of_rows(candidates, candidates)[1] == pytest.approx(48 / 50)


def test_half_precision_is_scored_in_float32():
    given = [value.bfloat16() for value in embeddings(100)]
    assert triplet_metrics(*given) == triplet_metrics(*(value.float() for value in given))


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    rows = []
    for index in range(10):
        picture, other = (Image.new("RGB", (16, 16), (20 * index, 100, 255 * side)) for side in (0, 1))
        rows.append(
            {
                "image": picture,
                "caption": CAPTIONS[index % 4],
                "neg_image": other,
                "neg_caption": CAPTIONS[(index + 1) % 4],
                "negative_type": "swap_att" if index % 2 else "add_obj",
                "held_out": index < 3,
            }
        )
    return Dataset.from_list(rows).cast_column("image", ImageFeature()).cast_column("neg_image", ImageFeature())


def test_evaluation_of_a_model_embeds_every_row_with_its_processor(model, processor, dataset):
    model.train()
    result = evaluate_triplets(model, processor, dataset, batch_size=4, progress=False)
    assert model.training  # left as it was
    assert result.counts == {"rows": 10, "broken": 0, "held_out": 3, "swap_att": 5, "add_obj": 5}
    with torch.no_grad():
        model.eval()
        expected = []
        for row in dataset:
            images = processor(images=[row["image"], row["neg_image"]], return_tensors="pt")
            texts = processor(text=[row["caption"], row["neg_caption"]], return_tensors="pt", padding=True)
            expected.append((model(**images, **texts).logits_per_image / model.logit_scale.exp()).flatten())
    names = ("score_i0c0", "score_i0c1", "score_i1c0", "score_i1c1")
    scores = torch.tensor([result.predictions[name] for name in names]).T
    torch.testing.assert_close(scores, torch.stack(expected), rtol=1e-4, atol=1e-5)
    assert result.metrics["accuracy"] == pytest.approx(sum(result.predictions["accuracy"]) / 10)
    assert "held_out_group_score" in result.metrics
    assert result.chance["held_out_group_score"] == result.chance["group_score"] == 1 / 6
    assert result.chance["image_to_text_recall@5"] == 1.0  # of four captions, not of ten rows


def test_broken_rows_are_left_out_and_counted(model, processor, dataset):
    captions = list(dataset["caption"])
    captions[4] = ""
    broken = dataset.remove_columns("caption").add_column("caption", captions)
    result = evaluate_triplets(model, processor, broken, progress=False)
    assert (result.counts["rows"], result.counts["broken"]) == (9, 1)
    assert result.predictions["row"] == [0, 1, 2, 3, 5, 6, 7, 8, 9]


def test_errors_of_the_dataset(model, processor, dataset):
    with pytest.raises(ValueError, match="lacks 'caption'"):
        evaluate_triplets(model, processor, dataset.remove_columns("caption"))
    with pytest.raises(ValueError, match="empty"):
        evaluate_triplets(model, processor, dataset.select([]))


@pytest.mark.parametrize(
    ("undecided", "accuracy", "text_score", "image_score"),
    [("image", 0, 0, 1), ("negative_image", 1, 0, 1), ("text", 1, 1, 0), ("negative_text", 1, 1, 0)],
)
def test_a_tie_in_any_comparison_is_wrong_and_counted(undecided, accuracy, text_score, image_score):
    # `undecided` is between the pair that it chooses from; whoever shares a row with one of them equals it.
    one, other = torch.tensor([[0.8, 0.6]]), torch.tensor([[0.8, -0.6]])
    given = {"image": one, "text": one, "negative_image": other, "negative_text": other}
    metrics = triplet_metrics(**{**given, undecided: torch.tensor([[1.0, 0.0]])})
    assert metrics["tie_rate"] == 1.0
    assert metrics["group_score"] == 0.0
    assert (metrics["accuracy"], metrics["text_score"], metrics["image_score"]) == (accuracy, text_score, image_score)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("rows", [33, 513, 1025])
def test_a_collapsed_model_recalls_nothing_whatever_the_last_chunk(rows, seed):
    # A chunk of one row is another product for BLAS, which adds in another order.
    image, text, *_ = (value.repeat(rows, 1) for value in embeddings(1, seed=seed, dim=128))
    assert set(recall_of_rows(image, text).values()) == {0.0}


def test_rows_of_one_image_do_not_compete():
    image = torch.eye(3)[[0, 0, 1]]
    text = torch.nn.functional.normalize(torch.tensor([[1.0, 0.2, 0], [1.0, 0, 0], [0, 1.0, 0]]), dim=-1)
    apart, together = triplet_metrics(image, text), triplet_metrics(image, text, image_ids=["a", "a", "b"])
    assert apart["image_to_text_recall@1"] == pytest.approx(2 / 3)
    assert apart["text_to_image_recall@1"] == pytest.approx(1 / 3)  # the same image twice is a tie
    assert together["image_to_text_recall@1"] == together["text_to_image_recall@1"] == 1.0


def test_kinds_of_other_benchmarks_and_rows_without_one():
    image, text = torch.eye(4)[[0, 0, 0]], torch.eye(4)[[0, 1, 0]]
    metrics = triplet_metrics(image, text, None, torch.eye(4)[[1, 0, 1]], ["colour", "swap_att", None])
    kinds = [name for name in metrics if name.startswith("accuracy_")]
    assert kinds == ["accuracy_swap_att", "accuracy_colour", "accuracy_macro"]
    assert (metrics["accuracy"], metrics["accuracy_macro"]) == (pytest.approx(2 / 3), 0.5)


def test_what_does_not_fit_is_refused():
    image, text, _, negative_text = embeddings(4)
    with pytest.raises(ValueError, match=r"text is \(1, 6\), image is \(4, 6\)"):
        triplet_metrics(image, text[:1])
    with pytest.raises(ValueError, match="at least one row"):
        triplet_metrics(image[:0], text[:0])
    with pytest.raises(ValueError, match="at least one row"):
        triplet_metrics(image[0], text[0])
    with pytest.raises(ValueError, match="`negative_types` has 1 entries for 4 rows"):
        triplet_metrics(image, text, None, negative_text, ["swap_att"])
    with pytest.raises(ValueError, match="`image_ids` has 5 entries"):
        triplet_metrics(image, text, image_ids=range(5))
    with pytest.raises(ValueError, match="`caption_ids` has 3 entries"):
        triplet_metrics(image, text, caption_ids=range(3))


def test_kinds_are_scored_as_datasets_of_their_own():
    given = embeddings(60, seed=3)
    kinds = [("swap_att", "add_obj", None)[row % 3] for row in range(60)]
    metrics = triplet_metrics(*given, kinds)
    for kind in ("swap_att", "add_obj"):
        rows = [row for row in range(60) if kinds[row] == kind]
        for name, value in reference(*(side[rows] for side in given)).items():
            assert metrics[f"{name}_{kind}"] == pytest.approx(value), (name, kind)
    assert metrics["accuracy_macro"] == pytest.approx((metrics["accuracy_swap_att"] + metrics["accuracy_add_obj"]) / 2)
    for name, value in reference(*given).items():  # the row without a kind counts here
        assert metrics[name] == pytest.approx(value), name


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("role", range(4))
def test_embeddings_that_are_not_finite_are_named(role, value):
    given = embeddings(9)
    for row in (1, 2, 3, 4, 6, 8):
        given[role][row, -1] = value
    name = ("image", "text", "negative_image", "negative_text")[role]
    for sides in (given, given[: max(2, role + 1)]):
        with pytest.raises(ValueError, match=rf"^{name} embeddings are not finite in rows \[1, 2, 3, 4, 6\]"):
            triplet_metrics(*sides)


def test_held_out_metrics_are_those_of_the_held_out_rows(model, processor, dataset):
    result = evaluate_triplets(model, processor, dataset, progress=False)
    alone = evaluate_triplets(model, processor, dataset.select(range(3)), progress=False)
    for name in ("accuracy", "text_score", "image_score", "group_score", "tie_rate"):
        assert result.metrics[f"held_out_{name}"] == alone.metrics[name]
    assert result.predictions["held_out"] == [True] * 3 + [False] * 7
    without = evaluate_triplets(model, processor, dataset.remove_columns("held_out"), progress=False)
    assert not any("held_out" in name for name in without.metrics)


def test_the_batch_size_changes_nothing(model, processor, dataset):
    one, many = (evaluate_triplets(model, processor, dataset, batch_size=size, progress=False) for size in (1, 64))
    for name in ("score_i0c0", "score_i1c1"):
        assert one.predictions[name] == pytest.approx(many.predictions[name], abs=1e-5)


def test_a_broken_image_and_a_long_caption(model, processor, dataset):
    rows = list(dataset.cast_column("image", ImageFeature(decode=False)))
    rows[0]["image"] = {"bytes": b"no image", "path": None}
    rows[9]["neg_caption"] = "a red cat " * 20  # cut, not left out
    broken = Dataset.from_list(rows).cast_column("image", ImageFeature())
    result = evaluate_triplets(model, processor, broken, progress=False)
    assert result.counts == {"rows": 9, "broken": 1, "held_out": 2, "swap_att": 5, "add_obj": 4}
    assert result.predictions["row"] == list(range(1, 10))
    assert len(result.predictions["group_score"]) == 9


# 40 rows of 4 pictures and 5 captions, chained: 0-0, 0-1, 1-1, 1-2, 2-2, 2-3, 3-3, 3-4.
CHAIN = [(index // 2, (index + 1) // 2) for index in range(8)] * 5


def random_recalls(pairs, seeds):
    found = []
    for seed in range(seeds):
        generator = torch.Generator().manual_seed(seed)
        images, captions = (torch.randn(number, 16, generator=generator) for number in (4, 5))
        one, other = zip(*pairs, strict=True)
        sides = [
            torch.nn.functional.normalize(side, dim=1)[list(ids)] for side, ids in ((images, one), (captions, other))
        ]
        found.append(recalls(*sides, one, other))
    return found


def test_recall_has_several_right_answers_and_the_chance_of_that_rule():
    every = random_recalls(CHAIN, 400)
    assert every[0].chance["image_to_text_recall@1"] == pytest.approx(2 / 5)  # each picture has two of the captions
    assert every[0].chance["text_to_image_recall@1"] == pytest.approx((1 + 2 + 2 + 2 + 1) / 5 / 4)
    for name, guess in every[0].chance.items():
        values = [found.metrics[name] for found in every]
        assert sum(values) / len(values) == pytest.approx(guess, abs=0.04), name
    assert every[0].chance["text_to_image_recall@5"] == 1.0  # there are four pictures


def test_a_shared_caption_does_not_make_others_right():
    image = torch.eye(3)[[0, 1, 1]]
    text = torch.nn.functional.normalize(
        torch.tensor([[0.1, 1, 0], [0.1, 1, 0], [1, 0, 0]], dtype=torch.float32), dim=-1
    )
    found = recalls(image, text, ["a", "b", "b"], ["x", "x", "y"]).metrics
    # Picture a has the caption x, yet y is nearest; picture b has both. x is true of both, y of b only.
    assert found["image_to_text_recall@1"] == 0.5
    assert found["text_to_image_recall@1"] == 0.5


def test_ids_of_other_rows_are_refused():
    embeddings = torch.eye(3)
    with pytest.raises(ValueError, match=r"shorter|longer"):
        recalls(embeddings, embeddings, image_ids=["a", "b"], caption_ids=["a", "b", "c"])


def test_chance_is_known_by_name():
    quarters = dict.fromkeys(("text_score", "held_out_image_score", "text_score_swap_obj"), 1 / 4)
    halves = dict.fromkeys(("accuracy", "accuracy_macro", "held_out_accuracy", "image_accuracy"), 1 / 2)
    known = {
        **quarters,
        **halves,
        "group_score": 1 / 6,
        "image_to_text_recall@1": 1 / 20,
        "text_to_image_recall@5": 1 / 4,
    }
    assert chance_of([*known, "tie_rate", "held_out_tie_rate", "held_out_image_to_text_recall@1"], 20) == known
    assert chance_of(["image_to_text_recall@5"], 5) == chance_of(["image_to_text_recall@5"], 4) != {}
    assert chance_of(["image_to_text_recall@5"], 4) == {"image_to_text_recall@5": 1.0}


def test_recall_of_pairs_of_their_own_is_that_of_rows():
    image, text, *_ = embeddings(30, seed=5)
    found = recalls(image, text)
    expected = {f"image_to_text_recall@{k}": value for k, value in recall_of_rows(image, text).items()}
    assert {name: found.metrics[name] for name in expected} == expected
    assert found.chance == {name: chance_of([name], 30)[name] for name in found.metrics}


def test_recall_of_triplets_is_that_of_retrieval(model, processor, tmp_path):
    words = ["red", "blue", "red dog", "cat", "dog", "blue dog", "cat dog", "dog cat"]
    rows = {"image": [picture(f"{index // 2}") for index in range(8)], "caption": words}
    data = Dataset.from_dict(rows).cast_column("image", ImageFeature())
    data.to_parquet(str(tmp_path / "table.parquet"))
    triplets = evaluate_triplets(model, processor, data, progress=False)
    retrieval = Retrieval(data=str(tmp_path / "table.parquet"))(model, processor, progress=False)
    for name in ("image_to_text_recall@1", "image_to_text_recall@5", "text_to_image_recall@1"):
        assert triplets.metrics[name] == retrieval.metrics[name], name
        assert triplets.chance[name] == pytest.approx(retrieval.chance[name]), name

# SPDX-License-Identifier: Apache-2.0
"""NegBench: the right caption anywhere, kinds of captions, the official tie rule, paths of other machines."""

from __future__ import annotations

import csv

import pytest
from transformers.utils import logging

from hf_tripletclip.evaluation.benchmarks.negbench import NegBench
from tests.evaluation.benchmarks import HandEncoder, write_csv, write_images

COCO, VOC = (NegBench.FILES[part] for part in ("coco", "voc2007"))
BINARY = NegBench.FILES["chexpert"]
WORDS = ["a red cat", "no red cat", "a dog, no cat", "a blue dog", "no dog", "a cat", "red", "a cat, no dog"]
KINDS = ("positive", "negative", "hybrid")


def row(image: str, captions: list[str], answer: int | str, kind: str | None = None) -> dict[str, object]:
    names = {f"caption_{place}": caption for place, caption in enumerate(captions)}
    found = {"image_path": image, "correct_answer": answer, **names}
    return found if kind is None else {**found, "correct_answer_template": kind}


@pytest.fixture
def data(tmp_path):
    """Two files of four captions, with paths of another machine, and one of two captions; and files to be ignored."""
    for name, rows, folder in ((COCO, 9, "val2017"), (VOC, 7, "JPEGImages")):
        table = [
            row(
                f"/data/someone/{folder}/{name[:3]}{n % 3}.png",
                [WORDS[(n + 3 * place) % 8] for place in range(4)],
                n % 4,
                KINDS[n % (3 if name == COCO else 2)],
            )
            for n in range(rows)
        ]
        write_csv(tmp_path / "csv" / name, table)
        write_images(tmp_path / "images" / folder, [f"{name[:3]}{n}.png" for n in range(3)])
    write_csv(tmp_path / "csv" / BINARY, [row("x/VOC0.png", WORDS[:2], n % 2) for n in range(2)])
    write_csv(tmp_path / "csv" / "COCO_val_retrieval.csv", [{"filepath": "a.png", "captions": "['p']"}])
    return tmp_path / "csv", tmp_path / "images"


def test_scores_and_means_are_those_of_a_naive_computation(data, model, processor, naive):
    folder, images = data
    result = NegBench(annotations=str(folder), images=str(images))(model, processor, batch_size=4, progress=False)
    outcomes, true_scores, last_scores = {}, [], []
    for part, name in (("coco", COCO), ("voc2007", VOC), ("chexpert", BINARY)):
        with open(folder / name, newline="") as file:
            for entry in csv.DictReader(file):
                captions = [entry[key] for key in entry if key.startswith("caption_")]
                (path,) = images.rglob(entry["image_path"].split("/")[-1])
                scores = naive.scores(path, captions)
                answer = int(entry["correct_answer"])
                right = all(scores[answer] > score for place, score in enumerate(scores) if place != answer)
                outcomes.setdefault((part, entry.get("correct_answer_template")), []).append(right)
                true_scores.append(scores[answer])
                others = scores[:answer] + scores[answer + 1 :]
                last_scores.append(others[2] if len(others) == 3 else None)
    assert result.predictions["score_i0c0"] == pytest.approx(true_scores, abs=1e-6)
    for found, expected in zip(result.predictions["score_i0c3"], last_scores, strict=True):
        assert found == (None if expected is None else pytest.approx(expected, abs=1e-6))
    of_part = {
        part: [value for (of, _), values in outcomes.items() if of == part for value in values]
        for part in ("coco", "voc2007", "chexpert")
    }
    expected = {part: sum(values) / len(values) for part, values in of_part.items()}
    rows = [value for values in of_part.values() for value in values]
    expected |= {"macro": sum(expected.values()) / 3, "micro": sum(rows) / 18, "tie_rate": 0.0}
    expected |= {f"{part}_{kind}": sum(v) / len(v) for (part, kind), v in outcomes.items() if kind}
    assert result.metrics == pytest.approx(expected)
    assert 0 < result.metrics["micro"] < 1
    assert {"coco_hybrid", "voc2007_negative"} <= result.metrics.keys()
    assert not {"voc2007_hybrid", "chexpert_positive"} & result.metrics.keys()
    assert {part: result.chance[part] for part in of_part} == {"coco": 1 / 4, "voc2007": 1 / 4, "chexpert": 1 / 2}
    assert result.chance["macro"] == pytest.approx(1 / 3)
    assert result.chance["micro"] == pytest.approx((16 / 4 + 2 / 2) / 18)
    assert result.chance["coco_hybrid"] == 1 / 4


@pytest.mark.parametrize(("protocol", "right"), [("strict", [1, 0, 0, 0, 0]), ("official", [1, 1, 0, 0, 1])])
def test_the_first_of_equal_scores_wins_officially(tmp_path, model, processor, protocol, right):
    rows = [
        row("i.png", ["n", "n", "p", "n"], 2),  # right
        row("i.png", ["n", "p", "p2", "n"], 1),  # a tie with a later one
        row("i.png", ["p", "p2", "n", "n"], 1),  # a tie with an earlier one
        row("i.png", ["p", "p2", "n", "m"], 3),  # wrong, and others tie
        row("i.png", ["p", "p2", "p3", "p4"], 0),  # all tie
    ]
    write_csv(tmp_path / COCO, rows)
    write_images(tmp_path, ["i.png"])
    scores = {"n": 0.25, "m": 0.125, **dict.fromkeys(("p", "p2", "p3", "p4"), 0.5)}
    encoder = HandEncoder.of_scores(model, processor, {"i.png": scores})
    result = NegBench(annotations=str(tmp_path / COCO), protocol=protocol)(encoder)
    assert result.predictions["accuracy"] == [bool(value) for value in right]
    assert result.metrics["coco"] == sum(right) / 5
    assert result.predictions["answer"] == [2, 1, 1, 3, 0]
    assert result.predictions["tie"] == [False, True, True, False, True]
    assert ("official: of equal scores" in result.settings["scores"]) == (protocol == "official")


def test_a_collapsed_model(data, collapsed, processor):
    of = {}
    for protocol in ("strict", "official"):
        benchmark = NegBench(annotations=str(data[0]), images=str(data[1]), protocol=protocol)
        of[protocol] = benchmark(collapsed, processor, progress=False).metrics
        assert of[protocol].pop("tie_rate") == 1.0
    assert set(of["strict"].values()) == {0.0}
    assert of["official"]["coco"] == 3 / 9  # where the true caption is the first
    assert of["official"]["chexpert"] == 1 / 2


def test_one_file_and_parts(data, model, processor):
    folder, images = data
    whole = NegBench(annotations=str(folder), images=str(images))(model, processor, progress=False).metrics
    for benchmark in (
        NegBench(annotations=str(folder / VOC), images=str(images)),
        NegBench(annotations=str(folder), images=str(images), parts=("voc2007",)),
    ):
        assert benchmark(model, processor, progress=False).metrics["micro"] == pytest.approx(whole["voc2007"])
    (folder / VOC).rename(folder / "mine.csv")
    metrics = NegBench(annotations=str(folder / "mine.csv"), images=str(images))(
        model, processor, progress=False
    ).metrics
    assert metrics["mine"] == metrics["macro"] == pytest.approx(whole["voc2007"])
    with pytest.raises(FileNotFoundError, match=r"mine.csv is mine, not coco"):
        NegBench(annotations=str(folder / "mine.csv"), parts=("coco",)).items()
    with pytest.raises(FileNotFoundError, match=r"has no synthetic_mcq_llama3.1_rephrased.csv: get them from"):
        NegBench(annotations=str(folder), parts=("coco", "synthetic")).items()


@pytest.mark.parametrize("answer", ["4", "-1", "", "1.0", "b"])
def test_answers_that_are_none(tmp_path, answer):
    write_csv(tmp_path / COCO, [row("i.png", ["p", "n", "n", "n"], 1), row("i.png", ["p", "n", "n", "n"], answer)])
    with pytest.raises(ValueError, match=rf"row 3: correct_answer is '{answer}', which is none of the 4 captions"):
        NegBench(annotations=str(tmp_path)).items()


def test_bad_input(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has none of COCO_val_mcq_llama3.1_rephrased.csv, .*: get them from"):
        NegBench(annotations=str(tmp_path)).items()
    (tmp_path / COCO).write_text("image_path,caption_0\na.png,p\n")
    with pytest.raises(
        ValueError, match=r"has no column caption_1, correct_answer; it has \['image_path', 'caption_0'"
    ):
        NegBench(annotations=str(tmp_path)).items()
    (tmp_path / COCO).write_text("image_path,caption_0,caption_1,correct_answer\na.png,p,,0\n")
    with pytest.raises(ValueError, match=r"row 2: caption_1 is ''; a text is expected"):
        NegBench(annotations=str(tmp_path)).items()
    for source in ("negbench", str(tmp_path / "other.txt")):
        with pytest.raises(FileNotFoundError, match=r"(is no folder and no CSV file|does not exist): get them from"):
            NegBench(annotations=source).items()


@pytest.mark.parametrize("name", ["own.csv", COCO])
def test_one_s_own_file_lacks_no_parts(tmp_path, model, processor, caplog, name):
    write_images(tmp_path, ["a.png"])
    write_csv(tmp_path / name, [row("a.png", WORDS[:3], 1)])
    with caplog.at_level("WARNING"):
        logging.enable_propagation()
        NegBench(annotations=str(tmp_path / name))(model, processor, progress=False)
        if name == COCO:  # of the whole folder it is said
            assert "not there" not in caplog.text
            NegBench(annotations=str(tmp_path))(model, processor, progress=False)
        logging.disable_propagation()
    assert ("voc2007, synthetic, chexpert, chexpert_affirmation are not there" in caplog.text) == (name == COCO)

# SPDX-License-Identifier: Apache-2.0
"""A folder of photographs: its parts, the questions about them, the metrics, and a short run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from hf_tripletclip import TripletCLIPConfig, TripletCLIPModel
from hf_tripletclip.comparison.main import main
from hf_tripletclip.comparison.photos import (
    COLUMNS,
    TRAINED_KINDS,
    Photo,
    Pictures,
    Question,
    measure,
    questions_of,
    read_labels,
    read_photos,
    training_rows,
)
from hf_tripletclip.data import build_processor
from tests.generation.needs import needs_wordnet

COLOURS = ("red", "blue", "green", "black", "white", "orange", "pink", "brown", "yellow", "purple")
CAPTIONS = [f"a {one} dog is running behind a {two} ball" for one in COLOURS for two in COLOURS[:2] if one != two]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos")
    with (root / "captions.jsonl").open("w") as file:
        for number, caption in enumerate(CAPTIONS):
            Image.new("RGB", (20, 20), COLOURS[number % len(COLOURS)]).save(root / f"{number}.png")
            others = [caption, caption.replace("a ", "one ", 1)]
            file.write(json.dumps({"image": f"{number}.png", "captions": others}) + "\n")
    (root / "labels.tsv").write_text("image\tclass_name\n0.png\tdog\n1.png\tball\n")
    (root / "sugar_crepe").mkdir()
    rows = {
        str(number): {"filename": f"{number}.png", "caption": "a dog", "negative_caption": "a cat"}
        for number in range(len(CAPTIONS))
    }
    (root / "sugar_crepe" / "replace_obj.json").write_text(json.dumps(rows))
    (root / "split.json").write_text(json.dumps({"train": [f"{number}.png" for number in range(8)]}))
    return root


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model")
    processor = build_processor(CAPTIONS, image_size=16)
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**tower, "vocab_size": len(processor.tokenizer), "eos_token_id": processor.tokenizer.eos_token_id}
    torch.manual_seed(0)
    config = TripletCLIPConfig(
        text_config={**text, "projection_dim": 8},
        vision_config={**tower, "image_size": 16, "patch_size": 8, "projection_dim": 8},
        projection_dim=8,
    )
    TripletCLIPModel(config).save_pretrained(path)
    processor.save_pretrained(path)
    return path


def test_parts_follow_the_split_or_the_names(folder, tmp_path):
    photos = read_photos(folder, tmp_path)
    parts = {photo.name: photo.part for photo in photos}
    assert [parts[f"{number}.png"] for number in range(8)] == ["train"] * 8
    assert set(parts.values()) == {"train", "dev", "test"}
    assert photos[0].captions[0] == CAPTIONS[0]
    assert read_labels(folder) == [("0.png", "dog"), ("1.png", "ball")]
    assert read_labels(tmp_path) == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"image": "0.png"}', r"line 1: give \{"),
        ("no JSON", r"line 1: give \{"),
        ('{"image": "0.png", "captions": "a dog"}', r"line 1: give \{.*its captions are a str"),
        ('{"image": "gone.png", "captions": ["a"]}', "line 1: there is no .*gone.png"),
        ('{"image": "0.png", "captions": ["a dog"]}', "fewer than two photographs for the part"),
    ],
)
def test_wrong_files_are_named(folder, tmp_path, line, message):
    (tmp_path / "captions.jsonl").write_text(line + "\n")
    (tmp_path / "0.png").write_bytes((folder / "0.png").read_bytes())
    with pytest.raises((ValueError, OSError), match=message):
        read_photos(tmp_path, tmp_path)
    (tmp_path / "split.json").write_text("[]")
    with pytest.raises((ValueError, OSError), match=r"line 1|give \{\"train\""):
        read_photos(tmp_path, tmp_path)
    (tmp_path / "labels.tsv").write_text("picture\tname\n")
    with pytest.raises(ValueError, match="has the columns picture, name; it needs image and class_name"):
        read_labels(tmp_path)


@needs_wordnet
def test_rows_and_questions(folder):
    photos = read_photos(folder, folder)
    rows = training_rows(photos, folder)
    assert len(rows) == 16
    assert all(len(row["dense_caption"]) == 1 for row in rows)
    assert sum(bool(row["neg_caption"]) for row in rows) > 8
    assert all(row["caption"] not in row["neg_caption"] + row["paraphrase"] for row in rows)
    parts = {photo.name: photo.part for photo in photos}
    for part in ("dev", "test"):
        questions = questions_of(photos, folder, part)
        assert {question.group for question in questions} == {"rules_trained", "rules_unseen", "sugar_crepe"}
        for question in questions:
            assert parts[question.image] == part
            assert (question.kind in TRAINED_KINDS) or question.group != "rules_trained"
            assert question.right != question.wrong


class Texts:
    """An encoder that knows some texts."""

    def __init__(self, known: dict[str, list[float]]) -> None:
        self.known = known

    def texts(self, captions: list[str]) -> torch.Tensor:
        return torch.tensor([self.known[caption] for caption in captions])


def test_the_metrics():
    pictures = Pictures({"a": torch.tensor([1.0, 0.0]), "b": torch.tensor([0.0, 1.0])})
    known = {"of a": [1.0, 0.0], "of b": [0.0, 1.0], "long": [0.5, 0.5], "a photo of a A.": [1.0, 0.0]}
    known["a photo of a B."] = [0.0, 1.0]
    photos = [Photo("a", ("of a",), "test"), Photo("b", ("of b",), "test")]
    questions = [
        Question("rules_trained", "replace_obj", "a", "of a", "of b"),
        Question("rules_trained", "replace_obj", "b", "of b", "of a"),
        Question("rules_trained", "replace_att", "a", "long", "of a"),
        Question("rules_trained", "replace_att", "b", "long", "of a"),
        Question("rules_unseen", "swap_obj", "a", "of a", "of a"),
    ]
    found = measure(Texts(known), pictures, photos, questions, [("a", "A"), ("b", "A")])
    assert (found["rules_trained_replace_obj"], found["rules_trained_replace_att"]) == (1.0, 0.5)
    assert found["rules_trained"] == 0.75
    assert 0 <= found["rules_trained_blind"] < 1
    assert found["rules_trained_seen"] == found["rules_trained"] - found["rules_trained_blind"]
    assert found["rules_unseen"] == 0.0  # a tie is wrong
    assert found["image_to_text_recall@5"] == found["text_to_image_recall@5"] == 1.0
    assert found["zeroshot_top5"] == 1.0
    assert set(found) >= {name for name in COLUMNS if not name.startswith("sugar_crepe")}


@needs_wordnet
def test_an_experiment_on_photographs(folder, model, tmp_path):
    arguments = ["--experiment", "recipe", "--scale", "photos", "--data", str(folder), "--model", str(model)]
    arguments += ["--output_dir", str(tmp_path), "--only", "negclip, masked", "--seeds", "0", "--max_steps", "2"]
    text = main([*arguments, "--disable_tqdm", "--threads", "1"], Path("unused"))
    for label in ("start", "clip", "clip, WiSE-FT α = 0.5", "negclip, masked", "negclip, masked, WiSE-FT α = 0.5"):
        assert f"| {label} | 1 |" in text
    metrics = json.loads((tmp_path / "negclip-masked-seed-0" / "metrics.json").read_text())
    assert set(COLUMNS) <= set(metrics)
    assert all(-name.endswith("_seen") <= value <= 1 for name, value in metrics.items())
    assert main([*arguments, "--disable_tqdm"], Path("unused")) == text
    with pytest.raises(ValueError, match=r"other settings \(part: None, not 'dev'\)"):
        main([*arguments, "--part", "dev"], Path("unused"))
    with pytest.raises(ValueError, match="take no further flags: leave out --bf16"):
        main([*arguments, "--output_dir", str(tmp_path / "b"), "--bf16"], Path("unused"))
    with pytest.raises(ValueError, match="Give the folder of photographs"):
        main(["--experiment", "recipe", "--scale", "photos", "--output_dir", str(tmp_path / "c")], Path("unused"))
    with (folder / "captions.jsonl").open("a") as file:
        file.write("\n")
    with pytest.raises(ValueError, match=r"were made before .*captions.jsonl changed"):
        main([*arguments, "--disable_tqdm"], Path("unused"))

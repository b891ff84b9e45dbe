# SPDX-License-Identifier: Apache-2.0
"""The card of a generated dataset."""

from __future__ import annotations

import json
import re

import pytest
import yaml
from datasets import Features, load_dataset_builder
from huggingface_hub import DatasetCard
from PIL import Image

from hf_tripletclip.generation.run import generate
from hf_tripletclip.utils.markdown import code, table, words
from tests.generation.stages_for_tests import settings, write_source

FAKE = "hf_" + "A1b2C3d4" * 4


@pytest.fixture
def pairs(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    return write_source(
        tmp_path / "private" / "pairs", {1: {"caption": "a cat | a dog\nin two $lines"}}, train=40, test=5
    )


def card(source, output, **given):
    generate(settings(source, output, **given), progress=False)
    return (output / "README.md").read_text()


def test_metadata(pairs, tmp_path):
    text = card(pairs, tmp_path / "tripletdata", license="cc-by-4.0")
    data = yaml.safe_load(text.split("---")[1])
    assert data["license"] == "cc-by-4.0"
    assert data["pretty_name"] == "tripletdata"
    assert data["size_categories"] == ["n<1K"]
    assert data["configs"] == [
        {
            "config_name": "default",
            "data_files": [{"split": "train", "path": "data/train-*"}, {"split": "test", "path": "data/test-*"}],
        }
    ]
    splits = {split["name"]: split for split in data["dataset_info"]["splits"]}
    assert {name: split["num_examples"] for name, split in splits.items()} == {"train": 40, "test": 5}
    for name, split in splits.items():
        files = (tmp_path / "tripletdata" / "data").glob(f"{name}-*")
        assert split["num_bytes"] == sum(path.stat().st_size for path in files)
    info = load_dataset_builder(str(tmp_path / "tripletdata")).info
    assert isinstance(info.features, Features)
    assert {"image", "neg_image", "seed"} <= set(info.features)
    assert DatasetCard(text).data.to_dict()["tags"][0] == "clip"


def test_provenance_counts_scores_and_samples(pairs, tmp_path):
    text = card(pairs, tmp_path / "out", reversed={"refused": ["bird"]}, plain={"seed": 7}, filters={"best": 20})
    assert '"stage": "reversed"' in text
    assert '"seed": 7' in text
    assert "- `best`: 20" in text
    assert "| left out: filter: best |" in text
    assert "| `train` | " in text
    assert re.search(r"\| `clip_score` \| 0\.\d{3} \| 0\.\d{3} \| 0\.\d{3} \| `[ ▁▂▃▄▅▆▇█]{24}` \|", text)
    pictures = re.findall(r"!\[\w+\]\((assets/[^)]+)\)", text)
    assert len(pictures) == 8
    for path in pictures:
        assert Image.open(tmp_path / "out" / path).format == "JPEG"
    assert "| all | 20 |" in text  # the blind score
    assert not re.search(r"\$[a-z]+", text.replace("two $lines", ""))


def test_captions_do_not_break_the_table_of_samples(pairs, tmp_path):
    text = card(pairs, tmp_path / "out", lengths=None)
    (line,) = [line for line in text.splitlines() if "1-image.jpg" in line]
    assert "a cat / a dog in two $lines" in line
    assert line.count("|") == 5
    assert "The rows were not scored." in text


def test_paths_of_this_machine_and_tokens_stay_here(pairs, tmp_path):
    text = card(pairs, tmp_path / "out", reversed={"ending": f" {FAKE}"})
    assert str(tmp_path) not in text
    assert '"name": "pairs"' in text
    assert FAKE not in text
    assert "[token]" in text


def test_a_dataset_without_negatives_of_its_own(pairs, tmp_path):
    """Rows without a negative, and captions that make no pair for the blind score."""
    generate(settings(pairs, tmp_path / "out", reversed={"several": True}, plain=None, lengths=None), progress=False)
    text = (tmp_path / "out" / "README.md").read_text()
    assert "| `image` | `caption` | `neg_caption` |" in text
    assert "niart fo 0 rebmun tac a / NIART FO 0 REBMUN TAC A" in text
    assert "| `swap_obj` | 45 |" in text  # one negative of each row


def test_the_same_units_give_the_same_card(pairs, tmp_path):
    assert card(pairs, tmp_path / "one" / "out") == card(pairs, tmp_path / "two" / "out")
    assert json.loads((tmp_path / "one" / "out" / "plan.json").read_text())["source"]["name"] == str(pairs)


HOSTILE = "<img src=x onerror=alert(1)> [go](javascript:alert(1)) ![p](http://x.org/p.png) **b** `c` $$x$$ | <script>"


def test_captions_are_shown_as_they_are(pairs, tmp_path):
    source = write_source(tmp_path / "hostile", {0: {"caption": HOSTILE}}, train=4)
    text = card(source, tmp_path / "out")
    assert re.search(r"^\| .*onerror.*", text, re.MULTILINE)
    outside = re.sub(r"```.*?\n```|`[^`\n]*`", "", text, flags=re.DOTALL)
    for dangerous in ("<img", "<script", "](javascript", "![p]"):
        assert not re.search(rf"(?<!\\){re.escape(dangerous)}", outside), dangerous


@pytest.mark.parametrize("value", [HOSTILE, "a\n# heading", "\udc80", "| a | b |", "`"])
def test_words_and_code_stay_one_cell(value):
    for shown in (words(value), code(value)):
        assert "\n" not in shown
        line = table(["", ""], [(shown, 1)]).split("\n")[2]
        assert len(re.findall(r"(?<!\\)\|", line)) == 3
        line.encode("utf-8")
    assert code(value).count("`") == 2
    assert words(words(value)) == words(value)
    assert words("learning_rate 1e-05, 2.5 $") == "learning_rate 1e-05, 2.5 $"

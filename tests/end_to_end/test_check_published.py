# SPDX-License-Identifier: Apache-2.0
"""`examples/check_published.py` with a tiny model and data of COCO's and SugarCrepe's shape."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image
from transformers import CLIPModel

from hf_tripletclip.cli import run_reporting_errors
from hf_tripletclip.data import build_processor
from hf_tripletclip.evaluation import Retrieval, SugarCrepe
from hf_tripletclip.layouts import PUBLISHED_CHECKPOINTS
from tests.tiny import tiny_config

COLOURS = ("red", "green", "blue", "white", "black")


@pytest.fixture(scope="module")
def script(pytestconfig: pytest.Config) -> ModuleType:
    path = Path(pytestconfig.rootpath) / "examples" / "check_published.py"
    spec = importlib.util.spec_from_file_location("check_published", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def place(tmp_path) -> Path:
    captions = [f"a {colour} cat" for colour in COLOURS]
    processor = build_processor(captions, image_size=16, model_max_length=16)
    config = tiny_config()
    config.text_config.vocab_size = len(processor.tokenizer)
    config.text_config.eos_token_id = processor.tokenizer.eos_token_id
    CLIPModel(config).save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    (tmp_path / "coco" / "val2017").mkdir(parents=True)
    (tmp_path / "coco" / "annotations").mkdir()
    names = [f"{number:012}.jpg" for number in range(1, 6)]
    for name, colour in zip(names, COLOURS, strict=True):
        Image.new("RGB", (20, 20), colour).save(tmp_path / "coco" / "val2017" / name)
    coco = {
        "images": [{"id": number, "file_name": name} for number, name in enumerate(names, 1)],
        "annotations": [
            {"id": 10 * number + copy, "image_id": number, "caption": f"{caption}{'.' * copy}"}
            for number, caption in enumerate(captions, 1)
            for copy in range(2)
        ],
    }
    (tmp_path / "coco" / "annotations" / "captions_val2017.json").write_text(json.dumps(coco))
    (tmp_path / "sugar").mkdir()
    rows = {
        str(number): {"filename": name, "caption": captions[number], "negative_caption": captions[number - 1]}
        for number, name in enumerate(names)
    }
    (tmp_path / "sugar" / "swap_att.json").write_text(json.dumps(rows))
    return tmp_path


def flags(place: Path, *more: str) -> list[str]:
    where = {"--model": "model", "--coco": "coco", "--sugarcrepe": "sugar", "--output": "out"}
    return [part for flag, name in where.items() for part in (flag, str(place / name))] + list(more)


def test_figures_are_met_within_the_tolerance(script):
    expected = {"low": (14.2, 14.6), "one": (74.5, 74.5)}
    for low, one, good in (
        (0.142, 0.745, True),
        (0.1375, 0.7495, True),
        (0.1365, 0.745, False),
        (0.152, 0.745, False),
        (0.144, 0.739, False),
    ):
        lines, met = script.compare({"low": low, "one": one}, expected, 0.5)
        assert met == good
        assert any("NOT MET" in line for line in lines) == (not good)
    assert "14.2 to 14.6" in lines[1]


def test_it_is_a_published_checkpoint_that_is_checked(script):
    assert script.MODEL in PUBLISHED_CHECKPOINTS
    assert script.EXPECTED == {script.I2T: (14.2, 14.6), script.T2I: (11.3, 11.4), script.MACRO: (74.5, 74.5)}


def test_a_tiny_model_is_no_published_checkpoint_but_meets_its_own_figures(script, place, capsys):
    assert script.main(flags(place)) == 1
    assert capsys.readouterr().out.count("NOT MET") >= 1
    photographs = str(place / "coco" / "val2017")
    captions = str(place / "coco" / "annotations" / "captions_val2017.json")
    recall = Retrieval(data=captions, images=photographs)(place / "model", progress=False).metrics
    sugar = SugarCrepe(annotations=str(place / "sugar"), images=photographs)(place / "model", progress=False).metrics
    values = {script.I2T: recall[script.I2T], script.T2I: recall[script.T2I], script.MACRO: sugar["macro"]}
    more = [part for name, value in values.items() for part in ("--expect", f"{name}={100 * value}")]
    assert script.main(flags(place, *more)) == 0
    shown = capsys.readouterr().out
    assert "NOT MET" not in shown
    assert f"{100 * values[script.T2I]:.2f}" in shown


@pytest.mark.parametrize("gone", ["coco/val2017", "coco/annotations/captions_val2017.json", "model", "sugar"])
def test_what_is_missing_is_named(script, place, gone, capsys):
    (place / gone).rename(place / "elsewhere")
    assert run_reporting_errors(lambda: script.main(flags(place))) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert str(place / gone) in error


def test_an_expectation_is_a_known_figure(script, place, capsys):
    assert script.expectation(f"{script.T2I}=11.3..11.4") == (script.T2I, (11.3, 11.4))
    assert script.expectation(f"{script.T2I}=12") == (script.T2I, (12.0, 12.0))
    for wrong in ("recall=3", f"{script.T2I}=x", script.T2I):
        with pytest.raises(SystemExit):
            script.main(flags(place, "--expect", wrong))
        assert "write NAME=LOW..HIGH" in capsys.readouterr().err

# SPDX-License-Identifier: Apache-2.0
"""WiSE-FT: the curve between two models, the choice, and the command that writes it."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from huggingface_hub import ModelCard
from peft import LoraConfig, get_peft_model
from transformers import CLIPModel, CLIPProcessor

from hf_tripletclip.cli import main
from hf_tripletclip.evaluation.wise_ft import Interpolation, merge, named_metric, parse_alphas
from hf_tripletclip.results.curve import Curve, Point, metric_of
from hf_tripletclip.results.result import EvaluationResult
from tests.evaluation.benchmarks import picture
from tests.tiny import tiny_config


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.0:1.0:0.25", [0.0, 0.25, 0.5, 0.75, 1.0]),
        ("0:1:0.1", [round(0.1 * step, 10) for step in range(11)]),
        ("0,0.3,1", [0.0, 0.3, 1.0]),
        ("0.5", [0.5]),
        ("0:1:0.3", [0.0, 0.3, 0.6, 0.9]),
    ],
)
def test_alphas(text, expected):
    assert parse_alphas(text) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["0:1", "1:0:0.1", "0:1:0", "0:1:-1", "a,b", "", "0:1:x", "0,2", "-0.5,1"])
def test_alphas_that_are_none(text):
    with pytest.raises(ValueError, match="give first:last:step"):
        parse_alphas(text)


def test_the_choice_is_the_most_composition_within_the_loss():
    points = [Point(0.0, 0.3, 0.80), Point(0.5, 0.5, 0.79), Point(0.75, 0.55, 0.78), Point(1.0, 0.6, 0.5)]
    curve = Curve("triplets group_score", "zeroshot top1", points)
    assert [curve.choose(loss).alpha for loss in (0.0, 0.01, 0.02, 0.5)] == [0.0, 0.5, 0.75, 1.0]
    table = curve.format_table(points[1])
    assert table.splitlines()[2].split() == ["0.50", "0.500", "0.790", "<-", "chosen"]
    with pytest.raises(ValueError, match="let the alphas include 0"):
        Curve("a", "b", points[1:]).choose(0.1)


def test_metrics_by_name():
    assert named_metric("triplets.group_score") == ("triplets", "group_score")
    assert named_metric("triplets") == ("triplets", None)
    result = EvaluationResult("triplets", {"group_score": 0.5}, primary="group_score")
    assert metric_of(result) == metric_of(result, "group_score") == 0.5
    with pytest.raises(ValueError, match="triplets has no metric 'macro'; it has group_score"):
        metric_of(result, "macro")


@pytest.fixture
def folders(model, processor, tmp_path):
    """A base, a tuned model and an adapter of the base; triplets, and pictures of two classes."""
    from datasets import Dataset, Image

    captions = ["a red cat", "a blue cat", "a red dog", "a blue dog"]
    tuned = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    for name, one in (("base", model), ("tuned", tuned)):
        one.save_pretrained(tmp_path / name)
        processor.save_pretrained(tmp_path / name)
    base = CLIPModel.from_pretrained(tmp_path / "base")
    adapted = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    adapted.save_pretrained(tmp_path / "adapter")
    rows = {
        "image": [picture(f"i{n}") for n in range(8)],
        "caption": [captions[n % 4] for n in range(8)],
        "neg_image": [picture(f"n{n}") for n in range(8)],
        "neg_caption": [captions[(n + 1) % 4] for n in range(8)],
    }
    table = Dataset.from_dict(rows).cast_column("image", Image()).cast_column("neg_image", Image())
    (tmp_path / "data").mkdir()
    table.to_parquet(tmp_path / "data" / "test-0.parquet")
    for label in ("cat", "dog"):
        (tmp_path / "classes" / label).mkdir(parents=True)
        for n in range(3):
            picture(f"{label}{n}").save(tmp_path / "classes" / label / f"{n}.png")
    return tmp_path


PLACES = ("triplets", "zeroshot")


@pytest.mark.parametrize("tuned", ["tuned", "adapter"])
def test_the_command_writes_the_curve_and_the_chosen_model(folders, capsys, tuned):
    arguments = ["merge", str(folders / "base"), str(folders / tuned), "--output", str(folders / "merged")]
    arguments += ["--alpha", "0:1:0.5", "--max_loss", "1", "--disable_tqdm"]
    arguments += ["--data", f"triplets={folders / 'data'}", f"zeroshot={folders / 'classes'}"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    curve = json.loads((folders / "merged" / "interpolation.json").read_text())
    assert curve["composition"] == "triplets group_score"
    assert curve["retention"] == "zeroshot top1"
    assert [point["alpha"] for point in curve["points"]] == [0.0, 0.5, 1.0]
    best = max(point["composition"] for point in curve["points"])
    assert next(p["composition"] for p in curve["points"] if p["alpha"] == curve["chosen"]) == best
    assert f"wrote alpha {curve['chosen']:g}" in printed
    assert (folders / "merged" / "interpolation.png").read_bytes().startswith(b"\x89PNG")
    model, info = CLIPModel.from_pretrained(folders / "merged", output_loading_info=True)
    assert not any(info.values())
    expected = Interpolation(folders / "base", folders / tuned).at(curve["chosen"]).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    CLIPProcessor.from_pretrained(folders / "merged")
    card = ModelCard.load(folders / "merged" / "README.md")
    assert card.data.base_model_relation == "merge"
    assert f"between those of <!-- base:begin -->`base`<!-- base:end --> and of `{tuned}`" in card.text
    assert f"at α = {curve['chosen']:g} " in card.text
    assert "![Composition and retention between base and tuned model](interpolation.png)" in card.text
    assert str(folders) not in str(card)
    assert main(arguments) == 1  # it exists
    assert "exists and is not an empty directory" in capsys.readouterr().err


def test_bad_input_leaves_nothing_behind(folders, processor):
    config = tiny_config()
    config.text_config.vocab_size = len(processor.tokenizer)
    config.text_config.eos_token_id = processor.tokenizer.eos_token_id
    config.text_config.intermediate_size = 48
    CLIPModel(config).save_pretrained(folders / "other")
    processor.save_pretrained(folders / "other")
    data = {"triplets": str(folders / "data"), "zeroshot": str(folders / "classes")}
    given = {"alphas": [0.0, 1.0], "data": data, "progress": False}
    with pytest.raises(ValueError, match="their shapes differ"):
        merge(folders / "base", folders / "other", folders / "merged", **given)
    with pytest.raises(ValueError, match="has no metric 'nothing'"):
        merge(folders / "base", folders / "tuned", folders / "merged", composition="triplets.nothing", **given)
    with pytest.raises(ValueError, match="unknown benchmark 'sugar'"):
        merge(folders / "base", folders / "tuned", folders / "merged", retention="sugar", **{**given, "data": None})
    with pytest.raises(OSError, match="neither a directory that exists"):
        merge(folders / "nowhere" / "at" / "all", folders / "tuned", folders / "merged", **given)
    with pytest.raises(ValueError, match="`max_loss` is -1: give 0 or more"):
        merge(folders / "base", folders / "tuned", folders / "merged", max_loss=-1, **given)
    with pytest.raises(ValueError, match=r"adapter is an adapter of .*base: the base comes first, so swap the two"):
        merge(folders / "adapter", folders / "base", folders / "merged", **given)
    assert not (folders / "merged").exists()
    assert not list(folders.glob(".merged*"))
    for output in ("base", "tuned"):
        with pytest.raises(ValueError, match=r"would be replaced, and .* is read for it"):
            merge(folders / "base", folders / "tuned", folders / output, overwrite=True, **given)
        CLIPModel.from_pretrained(folders / output)


def test_small_steps_from_a_base_in_half_precision_are_not_rounded_away(model, processor, tmp_path):
    base = model.to(torch.bfloat16)
    base.save_pretrained(tmp_path / "base")
    tuned = copy.deepcopy(base).float()
    with torch.no_grad():
        tuned.text_projection.weight.mul_(1.0001)
    tuned.save_pretrained(tmp_path / "tuned")
    for name in ("base", "tuned"):
        processor.save_pretrained(tmp_path / name)
    between = Interpolation(tmp_path / "base", tmp_path / "tuned")
    assert torch.equal(between.at(1.0).text_projection.weight, tuned.text_projection.weight)
    assert torch.equal(between.at(0.0).text_projection.weight, base.text_projection.weight.float())
    half_way = between.at(0.5).text_projection.weight
    assert ((half_way - base.text_projection.weight) != 0).float().mean() > 0.99

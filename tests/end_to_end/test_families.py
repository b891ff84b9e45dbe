# SPDX-License-Identifier: Apache-2.0
"""Every architecture through what a CLIP goes through: tuned, evaluated, interpolated, converted, shown, resumed."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModel, AutoProcessor

from hf_tripletclip import AutoTripletModel, load_processor, load_scenes
from hf_tripletclip.checkpoints.load import tokenize
from hf_tripletclip.cli import main
from hf_tripletclip.data.schema import NEGATIVE_TYPES
from hf_tripletclip.demo.scoring import DemoModels
from hf_tripletclip.results import EvaluationResult
from tests.end_to_end.conftest import ONE_PROCESS, TWO_PROCESSES, Example, losses
from tests.evaluation.benchmarks import write_images, write_json
from tests.families import FAMILIES, IMAGE, write_family
from tests.tiny import images

SIZES = ("--scenes_train_size", "48", "--scenes_validation_size", "12", "--scenes_test_size", "14")
SETTINGS = (
    *("--dataset_name_or_path", "scenes", *SIZES, "--max_steps", "4", "--per_device_train_batch_size", "8"),
    *("--learning_rate", "1e-3", "--warmup_steps", "0", "--logging_steps", "1", "--eval_strategy", "no"),
    *("--dataloader_num_workers", "0", "--report_to", "none", "--disable_tqdm", "true", "--use_cpu", "true"),
    *("--seed", "3", "--save_strategy", "no"),
)
TEXT_ONLY = ("--train_text", "full", "--train_vision", "frozen")  # as in LiT
BENCHMARKS = {"triplets": {"data": "scenes", "max_rows": 8}, "zeroshot": {"data": "scenes", "max_rows": 8}}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("families")


@pytest.fixture(scope="module")
def captions() -> list[str]:
    rows = load_scenes("train", train_size=48, validation_size=12, test_size=14, image_size=32)
    return sorted({*rows["caption"], *rows["neg_caption"], "a cat", "a dog"})


@pytest.fixture(scope="module", params=FAMILIES)
def base(request, place, captions) -> Path:
    """A model whose tokenizer knows the words of `scenes`."""
    return write_family(request.param, place / request.param / "base", captions)


def settings(base: Path, output: Path) -> list[str]:
    objective = "siglip_triplet" if base.parent.name == "siglip" else "tripletclip"
    return ["--model_name_or_path", str(base), "--output_dir", str(output), "--objective", objective, *SETTINGS]


def train(base: Path, name: str, *flags: str) -> Path:
    output = base.with_name(name)
    assert main(["train", "--config", "scenes", *settings(base, output), *flags]) == 0
    return output


@pytest.fixture(scope="module")
def tuned(base) -> Path:
    """Its text tower trained, its image tower locked."""
    return train(base, "tuned", *TEXT_ONLY)


@torch.no_grad()
def cosines(model: Any, processor: Any, captions: list[str]) -> torch.Tensor:
    output = model.eval()(**tokenize(model, processor, captions[:6]), pixel_values=images(3, 1, IMAGE))
    return output.image_embeds @ output.text_embeds.T


def check_plain(folder: Path, captions: list[str]) -> None:
    """Plain transformers opens what was written, and computes the same."""
    processor = AutoProcessor.from_pretrained(folder)
    plain = AutoModel.from_pretrained(folder)
    assert not type(plain).__module__.startswith("hf_tripletclip")
    ours = AutoTripletModel.from_pretrained(folder)
    assert torch.equal(cosines(plain, processor, captions), cosines(ours, load_processor(folder), captions))


def test_the_image_tower_stays_and_plain_transformers_opens_the_result(base, tuned, captions):
    before, after = (load_file(folder / "model.safetensors") for folder in (base, tuned))
    vision = [name for name in before if name.startswith("vision")]
    assert vision
    assert all(torch.equal(before[name], after[name]) for name in vision)
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert list(losses(tuned)) == [1, 2, 3, 4]
    check_plain(tuned, captions)
    card = (tuned / "README.md").read_text()
    assert f"It is a standard `{type(AutoModel.from_pretrained(base)).__name__}`" in card


@pytest.mark.slow
def test_gradient_caching_and_a_cache_of_the_locked_tower_change_nothing(base, tuned, tmp_path):
    cached = train(base, "grad-cached", *TEXT_ONLY, "--mini_batch_size", "3")
    assert losses(cached) == pytest.approx(losses(tuned), abs=1e-5)
    stored = train(base, "tower-cached", *TEXT_ONLY, "--cache_locked_towers", str(tmp_path / "cache"))
    assert losses(stored) == pytest.approx(losses(tuned), abs=1e-5)
    again = train(base, "tower-cached-again", *TEXT_ONLY, "--cache_locked_towers", str(tmp_path / "cache"))
    assert losses(again) == pytest.approx(losses(tuned), abs=1e-5)


@pytest.mark.slow
def test_a_resumed_run_is_one_that_was_not_interrupted(base):
    saving = ("--save_strategy", "steps", "--save_steps", "2")
    whole = train(base, "whole", *saving)
    cut = base.with_name("cut")
    cut.mkdir()
    shutil.copytree(whole / "checkpoint-2", cut / "checkpoint-2")
    train(base, "cut", *saving, "--resume_from_checkpoint", str(cut / "checkpoint-2"))
    assert losses(cut) == losses(whole)
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (cut, whole))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


@pytest.mark.slow
def test_lora_in_both_towers(base, captions):
    output = base.with_name("finetuned")
    arguments = ["--train_text", "lora", "--train_vision", "lora", "--lora_r", "4"]
    arguments += ["--train_logit_scale", "true", "--variants", '{"lora": {}}', "--alpha", "0,1", "--max_loss", "1"]
    arguments += ["--benchmarks", json.dumps(BENCHMARKS)]
    assert main(["finetune", "--config", "finetune_lora_scenes", *settings(base, output), *arguments]) == 0
    adapter = output / "lora"
    plain = AutoModel.from_pretrained(base)
    scale = load_file(adapter / "logit_scale.safetensors")
    for name, value in scale.items():
        getattr(plain, name).data.copy_(value)
    assert ("logit_bias" in scale) == hasattr(plain, "logit_bias")
    adapted = PeftModel.from_pretrained(plain, adapter)
    ours, processor = AutoTripletModel.from_pretrained(adapter), load_processor(adapter)
    found = cosines(ours, processor, captions)
    torch.testing.assert_close(cosines(adapted, processor, captions), found)
    assert not torch.allclose(cosines(AutoTripletModel.from_pretrained(base), processor, captions), found)
    card = (adapter / "README.md").read_text()
    assert f"merges the two into a plain `{type(plain).__name__}`" in card
    assert main(["convert", str(adapter), str(output / "merged")]) == 0
    check_plain(output / "merged", captions)
    merged = AutoTripletModel.from_pretrained(output / "merged")
    torch.testing.assert_close(cosines(merged, processor, captions), found)
    torch.testing.assert_close(merged.logit_scale, ours.logit_scale)


def test_converted_and_interpolated(base, tuned, captions, capsys):
    converted = base.with_name("converted")
    assert main(["convert", str(tuned), str(converted)]) == 0
    check_plain(converted, captions)
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (converted, tuned))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    status = main(["convert", str(tuned), str(base.with_name("openclip")), "--to", "openclip"])
    if base.parent.name == "clip":
        assert status == 0
    else:
        assert status == 1
        assert "OpenCLIP's is a CLIP's" in capsys.readouterr().err
        assert not base.with_name("openclip").exists()
    between = base.with_name("between")
    arguments = ["--alpha", "0.5", "--options", json.dumps(BENCHMARKS)]
    assert main(["merge", str(base), str(tuned), "--output", str(between), *arguments, "--disable_tqdm"]) == 0
    check_plain(between, captions)
    first, last, half = (load_file(folder / "model.safetensors") for folder in (base, tuned, between))
    for name, value in half.items():
        torch.testing.assert_close(value, torch.lerp(first[name], last[name], 0.5))
    assert "and captions are cut after 24 tokens" in (between / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("base", ["siglip", "dual_encoder"], indirect=True)
def test_two_processes_walk_the_curve_of_one(base, example: Example):
    """Both towers train; of a DINOv2, a weight has no gradient."""
    outputs = {}
    for name, launcher, rows in (("one", ONE_PROCESS, "16"), ("two", TWO_PROCESSES, "8")):
        outputs[name] = base.with_name(name)
        flags = [*settings(base, outputs[name]), "--config", "scenes", "--per_device_train_batch_size", rows]
        done = subprocess.run(
            [*launcher, str(example.script), *flags],
            env=example.environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-3000:]
    assert "| world_size | 2 |" in (outputs["two"] / "README.md").read_text()
    assert losses(outputs["two"]) == pytest.approx(losses(outputs["one"]), rel=2e-4)
    first, second = (load_file(folder / "model.safetensors") for folder in outputs.values())
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=1e-3, atol=2e-4)


# ---- Evaluation and the demo ----

COLOURS = ["a red cat", "a blue cat", "a red dog", "a blue dog", "a cat", "a dog"]


@pytest.fixture(scope="module")
def benchmarks(place) -> list[str]:
    """Five benchmarks in files of their own shape; the flags that name them."""
    root = place / "benchmarks"
    names = [f"{number:012}.jpg" for number in range(6)]
    write_images(root / "sugarcrepe" / "val2017", names)
    for kind in NEGATIVE_TYPES:
        rows = {
            str(number): {"filename": name, "caption": COLOURS[number], "negative_caption": COLOURS[number - 1]}
            for number, name in enumerate(names)
        }
        write_json(root / "sugarcrepe" / f"{kind}.json", rows)
    lines = [
        {"id": number, "image_0": f"ex_{number}_img_0", "image_1": f"ex_{number}_img_1", "caption_0": COLOURS[number],
         "caption_1": COLOURS[number + 1], "tag": "", "secondary_tag": "", "num_main_preds": 1,
         "collapsed_tag": "Object"}
        for number in range(5)
    ]  # fmt: skip
    (root / "winoground").mkdir()
    (root / "winoground" / "examples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_images(
        root / "winoground" / "images", [f"{line[name]}.png" for line in lines for name in ("image_0", "image_1")]
    )
    sentences = [
        {"filename": name, "split": "test", "sentences": [{"raw": COLOURS[number], "tokens": []}]}
        for number, name in enumerate(names)
    ]
    write_images(root / "retrieval" / "images", names)
    write_json(root / "retrieval" / "dataset_flickr30k.json", {"images": sentences, "dataset": "flickr30k"})
    for label in ("cat", "dog"):
        write_images(root / "zeroshot" / label, [f"{label}{number}.png" for number in range(3)])
    places = [f"{name}={root / name}" for name in ("sugarcrepe", "winoground", "zeroshot")]
    places += [f"retrieval={root / 'retrieval' / 'dataset_flickr30k.json'}", "triplets=scenes"]
    return ["--benchmarks", "sugarcrepe", "winoground", "zeroshot", "retrieval", "triplets", "--data", *places]


@torch.no_grad()
def plain_cosine(folder: Path, image: Image.Image, caption: str) -> float:
    """Of one image and one caption, by plain transformers in float32."""
    model, processor = AutoModel.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)
    padding = {"padding": "max_length", "max_length": 24} if model.config.model_type == "siglip" else {}
    text = processor.tokenizer([caption], truncation=True, return_tensors="pt", **padding)
    if padding:
        del text["attention_mask"]
    pixels = processor.image_processor(image.convert("RGB"), return_tensors="pt")["pixel_values"]
    one = model.get_image_features(pixel_values=pixels).pooler_output
    other = model.get_text_features(**text).pooler_output
    return torch.cosine_similarity(one, other).item()


def test_five_benchmarks(base, benchmarks, place):
    output = base.with_name("evaluated")
    flags = ["--model", str(base), "--output", str(output), "--max_rows", "14", "--batch_size", "4", "--disable_tqdm"]
    assert main(["evaluate", *flags, *benchmarks]) == 0
    results = {path.stem: EvaluationResult.load(path) for path in output.glob("*/*.json")}
    assert set(results) == {"sugarcrepe", "winoground", "zeroshot", "retrieval", "triplets"}
    assert all(math.isfinite(value) for result in results.values() for value in result.metrics.values())
    found = results["sugarcrepe"].predictions
    image = Image.open(place / "benchmarks" / "sugarcrepe" / "val2017" / "000000000001.jpg")
    row = found["key"].index("swap_att/1")
    for index, caption in enumerate((COLOURS[1], COLOURS[0])):
        assert found[f"score_i0c{index}"][row] == pytest.approx(plain_cosine(base, image, caption), abs=1e-5)


def test_the_demo(base, tmp_path):
    picture = write_images(tmp_path, ["a.png"]) / "a.png"
    models = DemoModels.from_pretrained([base], device="cpu")
    (answer,) = models.compare(str(picture), COLOURS[:3])
    for score in answer.scores:
        assert score.cosine == pytest.approx(plain_cosine(base, Image.open(picture), score.caption), abs=1e-5)
    assert sum(score.probability for score in answer.scores) == pytest.approx(1)
    if base.parent.name != "siglip":  # whose tiny vocabulary spells words letter by letter
        assert answer.notes == ()
    (answer,) = models.compose(str(picture), COLOURS[0], {COLOURS[1]: "swap_att"})
    assert len(answer.trials) == 1
    (answer,) = models.compare(str(picture), [" ".join(COLOURS * 2)])
    assert "is cut after 24 tokens" in answer.notes[-1]

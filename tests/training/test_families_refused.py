# SPDX-License-Identifier: Apache-2.0
"""What a training run of any architecture refuses, each by one line and before it trains."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import BertConfig, BertModel, CLIPProcessor, Siglip2Config, Siglip2Model, SiglipProcessor

from hf_tripletclip import load_processor, load_scenes
from hf_tripletclip.cli import main
from hf_tripletclip.training.trainer import TripletCLIPTrainer
from tests.families import FAMILIES, write_family

SIZES = ("--scenes_train_size", "24", "--scenes_validation_size", "8", "--scenes_test_size", "8")
SIGMOID = ("--objective", "siglip_triplet")
NEW = '{"projection_dim": 16, "vision_config": {"image_size": 32}}'
CODE = "raise SystemExit('the code of a repository was run')\n"


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A model of each family and some that are none."""
    folder = tmp_path_factory.mktemp("refused")
    rows = load_scenes("train", train_size=24, validation_size=8, test_size=8, image_size=32)
    captions = sorted({*rows["caption"], *rows["neg_caption"]})
    for name in FAMILIES:
        write_family(name, folder / name, captions)
    write_family("chinese_clip", folder / "other_words", ["a zebra and a quagga"])
    tower = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    BertModel(BertConfig(vocab_size=9, **tower)).save_pretrained(folder / "bert")
    Siglip2Model(Siglip2Config(text_config={**tower, "vocab_size": 9}, vision_config=tower)).save_pretrained(
        folder / "naflex"
    )
    changed(folder, "siglip", "quantized", quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    changed(folder, "siglip", "code", model_type="own", auto_map={"AutoModel": "code.M", "AutoConfig": "code.C"})
    (folder / "code" / "code.py").write_text(CODE)
    changed(folder, "dual_encoder", "widths", projection_dim=99)
    for name in ("clip", "siglip"):  # a checkpoint of some training script, which transformers takes for no weights
        changed(folder, name, f"nested_{name}")
        weights = folder / f"nested_{name}" / "model.safetensors"
        torch.save({"state_dict": load_file(weights)}, weights.with_name("pytorch_model.bin"))
        weights.unlink()
    for name, kind in (("siglip", CLIPProcessor), ("dual_encoder", SiglipProcessor)):
        processor = load_processor(folder / name)
        kind(processor.image_processor, processor.tokenizer).save_pretrained(folder / f"{name}_padded_otherwise")
    for name in ("clip", "siglip"):
        processor = load_processor(folder / name)
        processor.image_processor.size = {"height": 32, "width": 32}
        processor.image_processor.crop_size = {"height": 32, "width": 32}
        processor.save_pretrained(folder / f"{name}_of_32_pixels")
    return folder


def changed(root: Path, source: str, name: str, **fields) -> None:
    shutil.copytree(root / source, root / name)
    path = root / name / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def command(root: Path, model: str, output: Path, *flags: str) -> list[str]:
    settings = ["--config", "scenes", "--dataset_name_or_path", "scenes", *SIZES, "--use_cpu", "true"]
    settings += ["--per_device_train_batch_size", "8"]
    return ["train", "--model_name_or_path", str(root / model), "--output_dir", str(output), *settings, *flags]


@pytest.mark.parametrize(
    ("model", "flags", "message"),
    [
        ("bert", (), "is of a model of the type 'bert', which cannot be trained here. The types are clip, siglip"),
        ("naflex", (), "of the type 'siglip2', which cannot be trained here"),
        ("code", (), "is of a model of the type 'own', which cannot be trained here"),
        ("quantized", SIGMOID, "is of a quantized model"),
        ("widths", (), "do not fit its config: 'text_projection.weight' is (512, 32) in the file and (99, 32)"),
        ("siglip", (*SIGMOID, "--processor_name_or_path", "clip"), "The tokenizer has ids up to"),
        ("clip", ("--processor_name_or_path", "siglip"), "The tokenizer is not that of"),
        ("siglip", (*SIGMOID, "--processor_name_or_path", "other_words"), "The tokenizer is not that of"),
        ("chinese_clip", ("--processor_name_or_path", "other_words"), "The tokenizer is not that of"),
        (
            *("siglip", (*SIGMOID, "--processor_name_or_path", "siglip_padded_otherwise")),
            "takes captions that are padded to one length and without a mask, and a CLIPProcessor is for others",
        ),
        (
            *("dual_encoder", ("--processor_name_or_path", "dual_encoder_padded_otherwise")),
            "takes captions that are padded to the longest and with a mask, and a SiglipProcessor is for others",
        ),
        (
            *("altclip", ("--train_text", "lora", "--train_vision", "lora", "--lora_target_modules", "q_proj")),
            "matches no linear layer of text_model, which is to train by LoRA: also name some of query",
        ),
        (
            "clip",
            ("--processor_name_or_path", "clip_of_32_pixels"),
            "32 x 32 pixels, and the image tower takes 16",
        ),
        (
            "siglip",
            (*SIGMOID, "--processor_name_or_path", "siglip_of_32_pixels"),
            "32 x 32 pixels, and the image tower",
        ),
        ("siglip", (*SIGMOID, "--train_projections", "true"), "has no projections behind its towers: leave it out"),
        ("siglip", ("--objective_kwargs", '{"local_weight": 0.2}', "--objective", "fsc_clip"), "Choose another obj"),
        ("dual_encoder", ("--objective_kwargs", '{"local_weight": 0.2}', "--objective", "fsc_clip"), "Choose anoth"),
        ("clip", SIGMOID, "the model has no `logit_bias`: give the objective a fixed one, such as `objective_kwargs"),
        ("nested_clip", (), "lacks weights, so that training would start from random ones: logit_scale, text_model"),
        ("nested_siglip", SIGMOID, "lacks weights, so that training would start from random ones: logit_bias"),
        ("clip", ("--max_text_length", "32769"), "`max_text_length` is 32769, 32,768 tokens are the most"),
        ("siglip", (*SIGMOID, "--max_text_length", "9" * 20), "32,768 tokens are the most"),
        ("altclip", ("--max_text_length", "60"), "positions of AltCLIPTextModel are not those of a CLIP"),
    ],
)
def test_one_line_before_training(root, model, flags, message, tmp_path, monkeypatch, capsys):
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("training started")

    monkeypatch.setattr(TripletCLIPTrainer, "training_step", refuse)
    given = [str(root / flag) if (root / flag).is_dir() else flag for flag in flags]
    assert main(command(root, model, tmp_path / "run", *given)) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert message in lines[0]
    assert not (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.parametrize("length", ["0", "-3", "2", "32769"])
def test_a_length_of_a_new_model(length, tmp_path, capsys):
    flags = ["--config", "scenes", *SIZES, "--use_cpu", "true", "--model_config", NEW, "--max_text_length", length]
    assert main(["train", "--output_dir", str(tmp_path), *flags]) == 1
    assert f"error: `max_text_length` is {length}; give 3 to 32,768: a caption has a" in capsys.readouterr().err


def test_a_tokenizer_whose_library_is_missing(root, tmp_path):
    code = f"""
import importlib.util, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "sentencepiece" else find(name, *rest)
sys.modules["sentencepiece"] = None
from hf_tripletclip.cli import main
sys.exit(main({command(root, "siglip", tmp_path / "run", *SIGMOID)!r}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert 'needs sentencepiece, which is not installed: pip install "hf_tripletclip[siglip]"' in done.stderr
    assert "Traceback" not in done.stderr

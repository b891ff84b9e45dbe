# SPDX-License-Identifier: Apache-2.0
"""Folders as training leaves them, with all that lies about in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from PIL import Image

from hf_tripletclip import TripletCLIPConfig, TripletCLIPModel
from hf_tripletclip.layouts.adapters import save_logit_scale
from tests.checkpoints import small_fields, small_processor

FAKE = "hf_" + "A1b2C3d4" * 4  # a token that is none
CAPTIONS = ["a black dog", "a white cat"]


def small_model(seed: int = 0) -> TripletCLIPModel:
    """A CLIP that fits `small_processor`."""
    torch.manual_seed(seed)
    text, vision = small_fields()
    return TripletCLIPModel(TripletCLIPConfig(text_config=text, vision_config=vision, projection_dim=24)).eval()


def adapted(model: TripletCLIPModel) -> PeftModel:
    """The model inside an adapter that changes its outputs, with a scale of its own."""
    found = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    for name, parameter in found.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    model.logit_scale.data.fill_(2.0)
    model.logit_scale.requires_grad_(True)
    return found.eval()


def scores(model: Any) -> list[list[float]]:
    """Logits of the captions for pictures that are always the same."""
    pixels = torch.linspace(-1, 1, 2 * 3 * 16 * 16).reshape(2, 3, 16, 16)
    inputs = small_processor()(text=CAPTIONS, return_tensors="pt", padding=True)
    with torch.no_grad():
        return model(pixel_values=pixels, **inputs).logits_per_image.tolist()


def write_run(folder: Path, *, adapter_of: Path | None = None, seed: int = 0) -> None:
    """
    A folder as a finished training run leaves it.

    Args:
        folder (`Path`): To write.
        adapter_of (`Path`, *optional*): A model's folder; an adapter of it is written instead of a model.
        seed (`int`): Of the model's weights.
    """
    if adapter_of is None:
        small_model(seed).save_pretrained(folder)
    else:
        model = adapted(TripletCLIPModel.from_pretrained(adapter_of))
        model.save_pretrained(folder)
        save_logit_scale(model, folder)
    small_processor().save_pretrained(folder)
    for name in ("loss_curve.png", "evaluation.png", "private.png", "interpolation.png"):
        Image.new("RGB", (4, 4)).save(folder / name)
    (folder / "README.md").write_text(
        f"---\npipeline_tag: zero-shot-image-classification\n---\n\n# A card\n\nLog in with {FAKE}\n\n"
        '![Loss](loss_curve.png) <img src="evaluation.png"> ![away](../away.png) ![net](https://x.org/y.png)\n'
    )
    (folder / "metrics.json").write_text(json.dumps({"accuracy": 0.5, "data": str(folder / "secret-place")}))
    (folder / "examples.html").write_text(f"<p>{FAKE}</p>")
    (folder / ".eval_results").mkdir()
    (folder / ".eval_results" / "winoground.yaml").write_text(
        "- dataset:\n    id: facebook/winoground\n    task_id: default\n  value: 0.5\n"
    )
    for name in ("training_args.bin", "optimizer.pt", "notes.txt", ".env", "trainer_state.json", "run.log"):
        (folder / name).write_text(f"{{}} {FAKE}" if name != "trainer_state.json" else "{}")
    for name in ("checkpoint-5", "_previous", ".cache", "data"):
        (folder / name).mkdir()
        (folder / name / "model.safetensors").write_bytes(b"old")

# SPDX-License-Identifier: Apache-2.0
"""Cards and uploads of every architecture: what opens it, and that it does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from huggingface_hub import ModelCard
from peft import LoraConfig
from PIL import Image

from hf_tripletclip import AutoTripletModel, load_processor
from hf_tripletclip.checkpoints import TripletCLIPPeftModel
from hf_tripletclip.checkpoints.load import tokenize
from hf_tripletclip.hub import create_model_card
from hf_tripletclip.layouts.architectures import ARCHITECTURES
from tests.families import CAPTIONS, FAMILIES, IMAGE, LENGTH, write_family
from tests.hub.test_model_card import python_of
from tests.loopback_hub import run_python
from tests.tiny import images

SCALE = 1.5


def write_adapter(base: Path, folder: Path) -> Path:
    """A LoRA adapter that changes outputs, with a scale (and a bias) of its own."""
    torch.manual_seed(1)
    model = AutoTripletModel.from_pretrained(base)
    targets = r".*\.(q_proj|query)"
    adapted = TripletCLIPPeftModel(model, LoraConfig(r=2, target_modules=targets, init_lora_weights=False))
    model.logit_scale.requires_grad_(True)
    with torch.no_grad():
        model.logit_scale.fill_(SCALE)
        if (bias := getattr(model, "logit_bias", None)) is not None:
            bias.fill_(-SCALE)
    adapted.save_pretrained(folder)
    load_processor(base).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """For each family a model and an adapter, `NAME` and `NAME-lora`."""
    root = tmp_path_factory.mktemp("hub-families")
    for name in FAMILIES:
        write_adapter(write_family(name, root / name), root / f"{name}-lora")
    return root


@pytest.fixture(params=FAMILIES)
def name(request) -> str:
    return request.param


def architecture(folder: Path):
    return ARCHITECTURES[json.loads((folder / "config.json").read_text())["model_type"]]


@torch.no_grad()
def scores(model, processor):
    captions = tokenize(model, processor, CAPTIONS)
    return model.eval()(**captions, pixel_values=images(2, 1, IMAGE)).logits_per_image


def test_the_card_names_the_family_and_the_class_that_opens_it(folders, name):
    known = architecture(folders / name)
    model = AutoTripletModel.from_pretrained(folders / name)
    card = create_model_card(name="user/mine", config=model.config)
    assert f"{known.described[1:]}.".lower() in card.text.lower()
    assert f"It is a standard `{known.base}`, and opens without" in card.text
    assert known.model_type in card.data.tags
    assert f"{IMAGE} × {IMAGE} pixels and captions are cut after {LENGTH} tokens" in card.text
    assert ("pipeline(" in card.text) == (name not in ("dual_encoder", "siglip"))
    assert ("max_length" in card.text) == (name == "siglip")
    of_file = json.loads((folders / name / "config.json").read_text())
    assert create_model_card(name="user/mine", config=of_file).content == card.content
    adapter = create_model_card(
        name="user/mine", kind="peft", base_model="user/base", config=model.config, learned_scale=True
    )
    assert f'base = {known.base}.from_pretrained("user/base")' in adapter.text
    assert f"merges the two into a plain `{known.base}`" in adapter.text


@pytest.mark.parametrize("kind", ["transformers", "peft"])
def test_the_code_of_the_card_runs(folders, name, kind, tmp_path, monkeypatch, capsys):
    """Each block, as it stands, in a folder that holds the model by its name; and it gives this model's scores."""
    known = architecture(folders / name)
    folder = folders / (f"{name}-lora" if kind == "peft" else name)
    for path in {folders / name, folder}:
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    photo = Image.new("RGB", (IMAGE, IMAGE), "red")
    photo.save("photo.jpg")
    config = AutoTripletModel.from_pretrained(folders / name).config
    base = name if kind == "peft" else None
    card = create_model_card(name=folder.name, kind=kind, base_model=base, config=config, learned_scale=True)
    expected = AutoTripletModel.from_pretrained(folder)
    processor = load_processor(folder)
    blocks = python_of(ModelCard(str(card)).text)
    assert len(blocks) == 2
    for block in blocks:
        names: dict = {}
        exec(compile(block, "card", "exec"), names)
        found = names["model"] if "model" in names else names["classifier"].model
        if "captions" in names:
            captions = tokenize(expected, processor, names["captions"])
            pixels = processor.image_processor(Image.open("photo.jpg"), return_tensors="pt")["pixel_values"]
            with torch.no_grad():
                wanted = expected.eval()(**captions, pixel_values=pixels).logits_per_image
            wanted = wanted.sigmoid() if known.sigmoid else wanted.softmax(dim=1)
            printed = capsys.readouterr().out
            if "classifier" in names:
                values = {one["label"]: one["score"] for one in eval(printed)}
                torch.testing.assert_close(
                    torch.tensor([[values[one] for one in names["captions"]]]), wanted, rtol=1e-4, atol=1e-6
                )
            else:
                numbers = eval(printed.replace("tensor", "torch.tensor"))
                torch.testing.assert_close(numbers, wanted, rtol=1e-3, atol=1e-4)
        # An adapter is written into the weights of the second block.
        torch.testing.assert_close(scores(found, processor), scores(expected, processor), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_there_and_back(folders, hub, tmp_path):
    """Models and adapters of all families go to the Hub; plain transformers and peft open them there."""
    code = f"""
from pathlib import Path
from hf_tripletclip import AutoTripletModel, load_processor, push_model
from hf_tripletclip.push import push
root = Path({str(folders)!r})
for name in {list(FAMILIES)!r}:
    push(root / name, "user/" + name)
    push(root / (name + "-lora"), "user/" + name + "-lora", base_model="user/" + name)
    model, processor = AutoTripletModel.from_pretrained(root / name), load_processor(root / name)
    push_model(model, "user/memory-" + name, processor=processor)
"""
    run_python(code, hub, tmp_path / "home")
    code = f"""
import sys
sys.modules["hf_tripletclip"] = None
import torch, transformers
from peft import PeftModel
from transformers import AutoModel, AutoProcessor
pixels = torch.load({str(tmp_path / "pixels.pt")!r})
found = {{}}
for name in {list(FAMILIES)!r}:
    inputs = torch.load({str(tmp_path)!r} + f"/{{name}}.pt")
    whole = AutoModel.from_pretrained("user/" + name)
    AutoProcessor.from_pretrained("user/" + name)
    AutoProcessor.from_pretrained("user/" + name + "-lora")
    adapted = PeftModel.from_pretrained(AutoModel.from_pretrained("user/" + name), "user/" + name + "-lora")
    again = AutoModel.from_pretrained("user/memory-" + name)
    for kind, model in (("", whole), ("-lora", adapted), ("memory-", again)):
        with torch.no_grad():
            output = model.eval()(**inputs, pixel_values=pixels)
        found[name, kind, type(whole).__name__] = output.image_embeds @ output.text_embeds.T
torch.save(found, {str(tmp_path / "found.pt")!r})
"""
    torch.save(images(2, 1, IMAGE), tmp_path / "pixels.pt")
    expected = {}
    for name in FAMILIES:
        processor = load_processor(folders / name)
        for kind in ("", "-lora"):
            model = AutoTripletModel.from_pretrained(folders / f"{name}{kind}").eval()
            inputs = dict(tokenize(model, processor, CAPTIONS))
            torch.save(inputs, tmp_path / f"{name}.pt")
            with torch.no_grad():
                output = model(**inputs, pixel_values=images(2, 1, IMAGE))
            expected[name, kind] = output.image_embeds @ output.text_embeds.T
        expected[name, "memory-"] = expected[name, ""]
        assert not torch.allclose(expected[name, ""], expected[name, "-lora"])
    run_python(code, hub, tmp_path / "other home")
    found = torch.load(tmp_path / "found.pt")
    assert {(name, kind) for name, kind, _ in found} == set(expected)
    for (name, kind, plain), value in found.items():
        assert plain == architecture(folders / name).base
        torch.testing.assert_close(value, expected[name, kind], rtol=1e-5, atol=1e-5)
    for name in FAMILIES:
        known = architecture(folders / name)
        card = hub.files("model", f"user/{name}-lora")["README.md"].decode()
        assert f'base = {known.base}.from_pretrained("user/{name}")' in card
        assert f"A PEFT adapter of {known.described}, from" in card
        assert ('scale["logit_bias"]' in card) == (name == "siglip")
        assert hasattr(transformers, known.base)

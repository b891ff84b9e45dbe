# SPDX-License-Identifier: Apache-2.0
"""Loading whatever embeds images and captions: CLIPs, the published layout, SigLIP, PEFT adapters."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertModel,
    CLIPModel,
    CLIPProcessor,
    SiglipModel,
)

from hf_tripletclip import TripletCLIPModel
from hf_tripletclip.checkpoints.load import (
    image_features,
    load_clip_like,
    max_text_length,
    text_features,
    tokenize,
)
from hf_tripletclip.layouts.files import find_file
from tests.checkpoints import BASE, SMALL, small_processor, write_published
from tests.families import LENGTH, write_family
from tests.loopback_hub import run_python
from tests.tiny import tiny_config

CAPTIONS = ["a black dog", "a white cat"]


def write_clip(folder: Path, *, layers: int = 2, width: int = 32) -> CLIPModel:
    config = tiny_config()
    tokenizer = small_processor().tokenizer
    config.text_config.vocab_size, config.text_config.eos_token_id = len(tokenizer), tokenizer.eos_token_id
    config.text_config.max_position_embeddings = 32
    config.text_config.num_hidden_layers = config.vision_config.num_hidden_layers = layers
    config.vision_config.hidden_size = width
    torch.manual_seed(0)
    model = CLIPModel(config).eval()
    model.save_pretrained(folder)
    small_processor().save_pretrained(folder)
    return model


def write_adapter(folder: Path, base: Path | str) -> torch.nn.Module:
    """A LoRA adapter of random weights; the adapted model."""
    model = TripletCLIPModel.from_pretrained(base, logit_scale=1.0) if (Path(base) / "text-encoder").exists() else None
    model = model or CLIPModel.from_pretrained(base)
    adapted = get_peft_model(model, LoraConfig(target_modules=["q_proj"], r=4, init_lora_weights=False)).eval()
    adapted.save_pretrained(folder, save_embedding_layers=False)  # True looks for the base on the Hub
    return adapted


def change_adapter(folder: Path, **fields: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def embeddings(model, processor) -> tuple[torch.Tensor, torch.Tensor]:
    pixels = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        texts = text_features(model, **tokenize(model, processor, CAPTIONS))
        return image_features(model, pixel_values=pixels), texts


def assert_same(one, other, processor) -> None:
    for left, right in zip(embeddings(one, processor), embeddings(other, processor), strict=True):
        torch.testing.assert_close(left, right)


@pytest.fixture
def base(tmp_path) -> Path:
    write_clip(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def adapter(tmp_path, base) -> Path:
    write_adapter(tmp_path / "adapter", base)
    return tmp_path / "adapter"


def test_a_clip_and_the_published_layout(tmp_path):
    expected = write_clip(tmp_path / "clip")
    model, processor = load_clip_like(tmp_path / "clip")
    assert isinstance(model, TripletCLIPModel)
    assert isinstance(processor, CLIPProcessor)
    assert_same(model, expected, processor)

    text, vision = write_published(tmp_path / "published")
    small_processor().save_pretrained(tmp_path / "published")  # instead of the Hub's
    model, processor = load_clip_like(tmp_path / "published")
    images, texts = embeddings(model, processor)
    pixels = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(images, vision(pixel_values=pixels).image_embeds)
        torch.testing.assert_close(texts, text(**tokenize(model, processor, CAPTIONS)).text_embeds)
    assert not (tmp_path / "published" / "ran").exists()


def test_a_siglip_pads_to_its_limit(tmp_path):
    write_family("siglip", tmp_path)
    expected = SiglipModel.from_pretrained(tmp_path).eval()
    model, processor = load_clip_like(tmp_path)
    assert isinstance(model, SiglipModel)
    assert tokenize(model, processor, CAPTIONS)["input_ids"].shape == (2, LENGTH)
    assert_same(model, expected, processor)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_long_captions_are_cut_at_the_limit_of_tower_or_tokenizer(tmp_path, kind):
    write_clip(tmp_path)
    model, processor = load_clip_like(tmp_path)
    model.config.model_type = kind
    longest = " ".join(["dog"] * 50)
    for limit, of_tokenizer in ((32, 32), (32, 99), (7, 7)):
        processor.tokenizer.model_max_length = of_tokenizer
        assert max_text_length(model, processor) == limit
        ids = tokenize(model, processor, [longest, "a dog"])["input_ids"]
        assert ids.shape == (2, limit)
        assert ids[0, -1] == processor.tokenizer.eos_token_id
    short = tokenize(model, processor, ["a"])["input_ids"]
    assert short.shape == (1, 3 if kind == "clip" else 7)
    processor.tokenizer.model_max_length = 10**30  # as tokenizers say that they have none
    assert max_text_length(SimpleNamespace(config=SimpleNamespace()), processor) == 512


@pytest.mark.parametrize("revision", [None, "v2"])
def test_the_revision_of_a_base_is_looked_at(adapter, base, monkeypatch, revision):
    asked = []

    def find(source, name, hub):
        if source == str(adapter):
            return find_file(source, name, hub)
        asked.append((source, name, hub))
        raise OSError("no more")

    monkeypatch.setattr("hf_tripletclip.layouts.adapters.find_file", find)
    change_adapter(adapter, revision=revision)
    with pytest.raises(OSError, match="which cannot be loaded: no more"):
        load_clip_like(adapter)
    assert asked == [(str(base), "adapter_config.json", {"revision": revision})]


def test_a_model_without_an_image_tower_is_refused(tmp_path):
    config = BertConfig(**SMALL, vocab_size=50)
    BertModel(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="BertModel, which does not embed images"):
        load_clip_like(tmp_path)


def test_missing_weights_are_refused(base):
    tensors = load_file(base / "model.safetensors")
    del tensors["text_projection.weight"]
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks weights, so that scores would be random: text_projection\.weight"):
        load_clip_like(base)


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/folder", "a/b/c"])
def test_what_is_neither_a_directory_nor_a_repository_is_said_to_be_neither(name):
    with pytest.raises(FileNotFoundError, match="neither a directory that exists nor the id of a Hub repository"):
        load_clip_like(name)


def test_an_adapter_is_loaded_over_its_base(tmp_path, base):
    adapted = write_adapter(tmp_path / "adapter", base)
    model, processor = load_clip_like(tmp_path / "adapter")
    assert_same(model, adapted, processor)
    plain, _ = load_clip_like(base)
    assert not torch.allclose(embeddings(model, processor)[0], embeddings(plain, processor)[0])
    assert processor.tokenizer.get_vocab() == small_processor().tokenizer.get_vocab()


def test_an_adapter_of_the_published_layout_and_its_own_processor(tmp_path):
    write_published(tmp_path / "published")
    adapted = write_adapter(tmp_path / "adapter", tmp_path / "published")
    change_adapter(tmp_path / "adapter", base_model_name_or_path=str(tmp_path / "published"))
    small_processor().save_pretrained(tmp_path / "published")
    own = CLIPProcessor.from_pretrained(tmp_path / "published")
    own.image_processor.image_mean = [0.1, 0.2, 0.3]
    own.save_pretrained(tmp_path / "adapter")
    model, processor = load_clip_like(tmp_path / "adapter")
    assert_same(model, adapted, processor)
    assert list(processor.image_processor.image_mean) == [0.1, 0.2, 0.3]


@pytest.mark.parametrize(
    ("layers", "width", "problem"),
    [
        (3, 32, "4 weights are missing or of another model"),  # PEFT itself would only warn
        (1, 32, "4 weights are missing or of another model"),  # and here it would say nothing
        (2, 64, "size mismatch"),
    ],
)
def test_an_adapter_of_another_model_is_refused(tmp_path, adapter, layers, width, problem):
    write_clip(tmp_path / "other", layers=layers, width=width)
    change_adapter(adapter, base_model_name_or_path=str(tmp_path / "other"))
    with pytest.raises(ValueError, match=rf"adapter that does not fit {tmp_path / 'other'}: .*{problem}") as raised:
        load_clip_like(adapter)
    assert "\n" not in str(raised.value)


def test_adapters_that_cannot_be_loaded_say_why(adapter, base, tmp_path, monkeypatch):
    own = json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert own == str(base)
    for name, error, problem in (
        (None, ValueError, "does not say of which model"),
        (str(adapter), ValueError, "names itself"),
        (str(tmp_path / "gone"), OSError, "is a PEFT adapter of .*gone, which cannot be loaded"),
    ):
        change_adapter(adapter, base_model_name_or_path=name)
        with pytest.raises(error, match=problem):
            load_clip_like(adapter)
    change_adapter(adapter, base_model_name_or_path=own, target_modules=["no_such_layer"])
    with pytest.raises(ValueError, match="does not fit"):
        load_clip_like(adapter)
    change_adapter(adapter, target_modules=["q_proj"])
    weights = adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"weights of the PEFT adapter .* cannot be read"):
        load_clip_like(adapter)
    weights.unlink()
    with pytest.raises(OSError, match=r"adapter_config\.json but no adapter_model\.safetensors"):
        load_clip_like(adapter)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match="is a PEFT adapter: install `peft`"):
        load_clip_like(adapter)
    (adapter / "adapter_config.json").write_text("{")
    monkeypatch.undo()
    with pytest.raises(ValueError, match="not valid JSON"):
        load_clip_like(adapter)


def test_an_adapter_from_the_hub(hub, adapter, base, tmp_path):
    change_adapter(adapter, base_model_name_or_path=BASE)
    hub.add("model", BASE, base)
    hub.add("model", "someone/adapter", adapter, revision="v2")
    code = """
from hf_tripletclip.checkpoints.load import load_clip_like
model, processor = load_clip_like("someone/adapter", revision="v2")
print(type(model).__name__, sum("lora_" in name for name in model.state_dict()), type(processor).__name__)
"""
    done = run_python(code, hub, tmp_path / "home")
    assert done.stdout.split() == ["TripletCLIPPeftModel", "8", "CLIPProcessor"]


def test_a_file_and_a_hub_that_cannot_be_reached_are_said_at_once(tmp_path, monkeypatch):
    (tmp_path / "text.txt").write_text("no model")
    with pytest.raises(FileNotFoundError, match=r"text\.txt is a file: give the directory of a model"):
        load_clip_like(tmp_path / "text.txt")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    before = time.monotonic()
    with pytest.raises(
        OSError, match=r"nobody/clip is no directory here, and the Hub \(http://127\.0\.0\.1:9\) cannot"
    ):
        load_clip_like("nobody/clip")
    assert time.monotonic() - before < 15  # the client's own retries take minutes

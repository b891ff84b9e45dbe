# SPDX-License-Identifier: Apache-2.0
"""Embeddings: each input once, in any grouping, from the cache, and in several processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPModel
from transformers.utils import logging

from hf_tripletclip.evaluation.encoder import Encoder
from hf_tripletclip.evaluation.images import ImageFile

CAPTIONS = [
    " ".join(["a", "red", "cat", "blue", "dog"][: 1 + index % 5] + ["cat"] * (index // 5)) for index in range(13)
]


@pytest.fixture
def pictures(tmp_path) -> list[ImageFile]:
    generator = np.random.default_rng(0)
    for index in range(7):
        pixels = generator.integers(0, 255, (16 + index, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    return [ImageFile(str(tmp_path / f"{index}.png")) for index in range(7)]


class Rows:
    """How many images and captions go through the towers of a model."""

    def __init__(self, model: CLIPModel) -> None:
        self.images = self.captions = 0
        self.lengths: list[tuple[int, int]] = []
        model.vision_model.register_forward_pre_hook(self._image, with_kwargs=True)
        model.text_model.register_forward_pre_hook(self._text, with_kwargs=True)

    def _image(self, module, positional, named) -> None:
        self.images += len(named["pixel_values"])

    def _text(self, module, positional, named) -> None:
        self.captions += len(named["input_ids"])
        self.lengths.append(tuple(named["input_ids"].shape))


def encoder(model, processor, **options) -> Encoder:
    return Encoder(model, processor, **{"batch_size": 4, "progress": False, **options})


def alone(model, processor, images=(), captions=()) -> torch.Tensor:
    """The embeddings, one by one, as transformers has them."""
    found = []
    with torch.no_grad():
        for image in images:
            pixels = processor.image_processor(images=Image.open(image.path).convert("RGB"), return_tensors="pt")
            found.append(model.eval().get_image_features(**pixels).pooler_output)
        for caption in captions:
            inputs = processor.tokenizer([caption], truncation=True, max_length=16, return_tensors="pt")
            found.append(model.eval().get_text_features(**inputs).pooler_output)
    return torch.nn.functional.normalize(torch.cat(found), dim=-1)


def test_batches_of_similar_length_are_what_each_is_alone(model, processor, pictures):
    rows = Rows(model)
    embeddings, reasons = encoder(model, processor).images(pictures)
    texts = encoder(model, processor).texts(CAPTIONS)
    assert (rows.images, rows.captions) == (7, 11)  # two pairs of captions have the same tokens
    assert [length for _, length in rows.lengths] == sorted(length for _, length in rows.lengths)
    assert rows.lengths[0][1] < rows.lengths[-1][1]  # no batch is padded to the longest of all
    assert reasons == {}
    assert embeddings.dtype == texts.dtype == torch.float32
    torch.testing.assert_close(embeddings, alone(model, processor, images=pictures), rtol=0, atol=1e-6)
    torch.testing.assert_close(texts, alone(model, processor, captions=CAPTIONS), rtol=0, atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_the_batch_size_does_not_matter(model, processor, pictures, batch_size):
    one, other = encoder(model, processor), encoder(model, processor, batch_size=batch_size)
    torch.testing.assert_close(one.images(pictures)[0], other.images(pictures)[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(one.texts(CAPTIONS), other.texts(CAPTIONS), rtol=0, atol=1e-6)


def test_workers_that_read_images_change_nothing(model, processor, pictures):
    expected = encoder(model, processor).images(pictures)[0]
    assert torch.equal(encoder(model, processor, num_workers=2).images(pictures)[0], expected)


def test_captions_that_are_too_long_are_cut(model, processor):
    long = "red " * 40
    texts = encoder(model, processor).texts([long, "a cat"])
    torch.testing.assert_close(texts, alone(model, processor, captions=[long, "a cat"]), rtol=0, atol=1e-6)


def test_nothing_to_encode(model, processor, tmp_path):
    for options in ({}, {"cache_dir": tmp_path}):
        assert len(encoder(model, processor, **options).images([])[0]) == 0
        assert len(encoder(model, processor, **options).texts([])) == 0


def test_broken_images_have_a_reason_and_no_embedding(model, processor, pictures, tmp_path):
    whole = encoder(model, processor).images(pictures)[0]
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:200])
    for index in (4, 5, 6, 3):
        (tmp_path / f"{index}.png").write_text("no image")
    pictures.append(ImageFile(str(tmp_path / "absent.png")))
    for options in ({}, {"cache_dir": tmp_path / "cache"}, {"cache_dir": tmp_path / "cache"}):
        embeddings, reasons = encoder(model, processor, **options).images(pictures)
        assert sorted(reasons) == [1, 3, 4, 5, 6, 7]
        assert reasons[3] == "unreadable image: not a format that Pillow knows"
        assert "absent.png" in reasons[7]
        assert embeddings[sorted(reasons)].isnan().all()
        torch.testing.assert_close(embeddings[[0, 2]], whole[[0, 2]], rtol=0, atol=1e-6)
    only_broken = encoder(model, processor).images(pictures[3:])
    assert sorted(only_broken[1]) == [0, 1, 2, 3, 4]
    assert only_broken[0].shape == (5, 0)


def test_modules_are_left_in_their_modes(model, processor, pictures):
    model.train()
    model.text_model.eval()
    modes = [module.training for module in model.modules()]
    first = encoder(model, processor).texts(CAPTIONS)
    assert [module.training for module in model.modules()] == modes
    assert not first.requires_grad
    with torch.no_grad():
        model.visual_projection.weight[0] = torch.nan
    with pytest.raises(ValueError, match="diverged"):
        encoder(model, processor).images(pictures)
    assert [module.training for module in model.modules()] == modes


def test_a_model_that_has_diverged_is_named(model, processor, pictures):
    with torch.no_grad():
        model.text_projection.weight.fill_(torch.inf)
    with pytest.raises(ValueError, match=r"mine: embeddings are not finite in rows \[0, 1, 2, 3, 4\]"):
        encoder(model, processor, name="mine").texts(CAPTIONS)


def test_embeddings_come_from_the_cache(model, processor, pictures, tmp_path):
    first = encoder(model, processor, cache_dir=tmp_path / "cache")
    images, texts = first.images(pictures)[0], first.texts(CAPTIONS)
    files = sorted((tmp_path / "cache" / first.fingerprint[:16]).iterdir())
    assert [file.name.partition("-")[0] for file in files] == ["images", "texts"]
    assert all(file.suffix == ".safetensors" for file in files)
    assert torch.equal(load_file(files[1])["embeddings"], texts)

    rows = Rows(model)
    again = encoder(model, processor, cache_dir=tmp_path / "cache", batch_size=3)
    assert torch.equal(again.images(pictures)[0], images)
    assert torch.equal(again.texts(CAPTIONS), texts)
    assert (rows.images, rows.captions) == (0, 0)  # no forward pass at all


def change_weights(model, processor, pictures):
    with torch.no_grad():
        model.text_projection.weight[0, 0] += 1e-3


def change_preprocessing(model, processor, pictures):
    processor.image_processor.image_mean = [0.5, 0.5, 0.5]


def change_file(model, processor, pictures):
    Image.new("RGB", (16, 16), "red").save(pictures[0].path)


def change_tokenizer(model, processor, pictures):
    from tokenizers import normalizers

    processor.tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()


@pytest.mark.parametrize(
    ("change", "encoded"),
    [(change_weights, (7, 11)), (change_preprocessing, (7, 11)), (change_tokenizer, (7, 11)), (change_file, (7, 0))],
)
@pytest.mark.parametrize("same_encoder", [True, False])
def test_what_has_changed_is_encoded_anew(model, pictures, tmp_path, change, encoded, same_encoder):
    from hf_tripletclip.data import build_processor
    from tests.evaluation import CAPTIONS as WORDS

    own = build_processor(WORDS, image_size=16, model_max_length=16)  # it is changed
    first = encoder(model, own, cache_dir=tmp_path / "cache")
    before = first.fingerprint
    first.images(pictures)
    first.texts(CAPTIONS)
    assert first.fingerprint == before  # the settings of a call are none of the model's
    change(model, own, pictures)
    rows = Rows(model)
    second = first if same_encoder and change is change_weights else encoder(model, own, cache_dir=tmp_path / "cache")
    second.images(pictures)
    second.texts(CAPTIONS)
    assert (rows.images, rows.captions) == encoded


def test_precision_is_part_of_the_key(model, processor, tmp_path):
    exact = encoder(model, processor, cache_dir=tmp_path)
    rough = encoder(model, processor, cache_dir=tmp_path, autocast="bfloat16")
    assert exact.fingerprint != rough.fingerprint
    assert not torch.equal(exact.texts(CAPTIONS), rough.texts(CAPTIONS))


@pytest.mark.parametrize("damage", ["bit", "rows", "without a digest", "of another"])
def test_a_cache_that_is_not_what_was_written_is_named_and_made_again(model, processor, tmp_path, caplog, damage):
    expected = encoder(model, processor, cache_dir=tmp_path).texts(CAPTIONS)
    (file,) = tmp_path.rglob("*.safetensors")
    kept = file.read_bytes()
    tensor = load_file(file)["embeddings"]
    if damage == "bit":
        file.write_bytes(kept[:-5] + bytes([kept[-5] ^ 1]) + kept[-4:])
    elif damage == "rows":
        save_file({"embeddings": tensor[:2].clone()}, file)
    elif damage == "without a digest":
        save_file({"embeddings": tensor}, file)
    else:
        encoder(model, processor, cache_dir=tmp_path).texts(CAPTIONS[::-1])
        (other,) = {*tmp_path.rglob("*.safetensors")} - {file}
        file.write_bytes(other.read_bytes())
    with caplog.at_level("WARNING"):
        logging.enable_propagation()
        assert torch.equal(encoder(model, processor, cache_dir=tmp_path).texts(CAPTIONS), expected)
        logging.disable_propagation()
    assert f"{file} are damaged and are computed again" in caplog.text
    assert file.read_bytes() == kept


def test_a_damaged_cache_is_written_anew(model, processor, tmp_path, caplog):
    expected = encoder(model, processor, cache_dir=tmp_path).texts(CAPTIONS)
    (file,) = tmp_path.rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:50])
    assert torch.equal(encoder(model, processor, cache_dir=tmp_path).texts(CAPTIONS), expected)
    assert torch.equal(load_file(file)["embeddings"], expected)


def test_autocast_and_half_precision_give_float32_near_the_exact_ones(model, processor, pictures):
    exact = encoder(model, processor).images(pictures)[0]
    rough = encoder(model, processor, autocast="bfloat16").images(pictures)[0]
    assert rough.dtype == torch.float32
    assert 0 < (exact - rough).abs().max() < 0.05
    torch.testing.assert_close(rough.norm(dim=1), torch.ones(7))
    half = encoder(model.bfloat16(), processor)
    assert half.description()["dtype"] == "bfloat16"
    assert half.images(pictures)[0].dtype == torch.float32
    assert (exact - half.images(pictures)[0]).abs().max() < 0.05


def test_adapters(model, processor, pictures):
    from peft import LoraConfig, get_peft_model

    plain = encoder(model, processor)
    before, texts = plain.fingerprint, plain.texts(CAPTIONS)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    of_adapter = encoder(adapted, processor)
    assert of_adapter.description()["class"] == "PeftModel"
    assert of_adapter.fingerprint != before
    assert (of_adapter.texts(CAPTIONS) - texts).abs().max() > 1e-4
    assert of_adapter.images(pictures)[0].shape == (7, 24)


def test_settings_out_of_range(model, processor):
    with pytest.raises(ValueError, match="`batch_size` is 0; give at least 1"):
        Encoder(model, processor, batch_size=0)
    with pytest.raises(ValueError, match="`autocast` is 'int8'; give float32, bfloat16, float16"):
        Encoder(model, processor, autocast="int8")
    with pytest.raises(ValueError, match="`device` is 'nonsense'"):
        Encoder(model, processor, device="nonsense")
    with pytest.raises(ValueError, match="does not embed images"):
        Encoder(model.text_model, processor)


def test_a_folder_is_loaded_and_named(model, processor, tmp_path):
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded = Encoder.from_pretrained(tmp_path, progress=False)
    assert loaded.description() == {
        "name": str(tmp_path),
        "class": "TripletCLIPModel",
        "fingerprint": loaded.fingerprint[:16],
        "dtype": "float32",
        "parameters": model.num_parameters(),
    }
    torch.testing.assert_close(loaded.texts(CAPTIONS), encoder(model, processor).texts(CAPTIONS), rtol=0, atol=1e-6)
    with pytest.raises(OSError, match="cannot be loaded as a CLIP-like model"):
        Encoder.from_pretrained(tmp_path / "absent")


WORKER = """
import json, sys
from pathlib import Path
import torch
from hf_tripletclip.evaluation.encoder import Encoder
from hf_tripletclip.evaluation.images import ImageFile
folder, output, cache = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
captions = json.loads((folder / "captions.json").read_text())
encoder = Encoder.from_pretrained(folder, batch_size=2, cache_dir=cache)
for _ in range(2):  # the second time from the cache
    images, reasons = encoder.images([ImageFile(str(folder / f"{index}.png")) for index in range(7)])
    texts = encoder.texts(captions)
    state = encoder.state
    torch.save({"images": images, "reasons": reasons, "texts": texts, "processes": state.num_processes},
               f"{output}-{state.process_index}-{_}.pt")
state.wait_for_everyone()
state.destroy_process_group()
"""


def test_two_processes_give_what_one_gives_to_the_bit(model, processor, pictures, tmp_path):
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    (tmp_path / "captions.json").write_text(json.dumps(CAPTIONS))
    (tmp_path / "3.png").write_text("no image")
    (tmp_path / "worker.py").write_text(WORKER)
    # MKL's results depend on where in memory its inputs happen to lie, in the last bit, unless it is told not to.
    reproducible = {"OMP_NUM_THREADS": "1", "MKL_CBWR": "AUTO,STRICT"}
    environment = {**os.environ, **reproducible, "HF_HUB_OFFLINE": "1"}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for name, launcher in (("one", [sys.executable]), ("two", torchrun)):
        command = [
            *launcher,
            str(tmp_path / "worker.py"),
            str(tmp_path),
            str(tmp_path / name),
            str(tmp_path / f"c{name}"),
        ]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stderr.count("7/7") <= 1, "one process shows the progress"
    one = torch.load(tmp_path / "one-0-0.pt")
    assert one["processes"] == 1
    assert list(one["reasons"]) == [3]
    for process in (0, 1):
        for turn in (0, 1):
            two = torch.load(tmp_path / f"two-{process}-{turn}.pt")
            assert two["processes"] == 2
            assert two["reasons"] == one["reasons"]
            assert torch.equal(two["texts"], one["texts"])
            assert torch.equal(two["images"].nan_to_num(9), one["images"].nan_to_num(9))
    assert len(list(Path(tmp_path / "ctwo").rglob("*.safetensors"))) == 1  # not of images of which one is broken


def test_models_of_equal_weights_that_differ_otherwise_are_told_apart(model, processor):
    import copy

    from peft import LoraConfig, get_peft_model

    base = encoder(model, processor).fingerprint
    other = copy.deepcopy(model)
    other.config.text_config.hidden_act = "gelu"
    assert encoder(other, processor).fingerprint != base

    def adapted(alpha: int):
        torch.manual_seed(0)
        config = LoraConfig(r=2, lora_alpha=alpha, target_modules=["q_proj"], init_lora_weights=False)
        return get_peft_model(copy.deepcopy(model), config)

    one, two = encoder(adapted(1), processor), encoder(adapted(64), processor)
    assert one.fingerprint != two.fingerprint
    before = one.fingerprint
    one.model.disable_adapter_layers()
    assert one.fingerprint != before


def test_a_cache_that_cannot_be_written_costs_only_a_warning(model, processor, pictures, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    found, _ = encoder(model, processor, cache_dir=tmp_path / "file" / "cache").images(pictures)
    assert found.isfinite().all()
    assert "could not be kept" in caplog.text


FAILING = """
import sys
import torch
from hf_tripletclip.evaluation import Encoder
from hf_tripletclip.evaluation.images import ImageFile

encoder = Encoder.from_pretrained(sys.argv[1], device="cpu", progress=False, batch_size=1)
if encoder.state.process_index == 1:
    encoder._features = lambda *args: (_ for _ in ()).throw(torch.OutOfMemoryError("no memory left"))
try:
    encoder.texts(["a red cat", "a blue dog"])
except (ValueError, torch.OutOfMemoryError) as error:
    print(f"process {encoder.state.process_index}: {type(error).__name__}: {error}", flush=True)
encoder.state.destroy_process_group()
"""


def test_an_error_in_one_process_is_one_in_all(model, processor, tmp_path):
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    (tmp_path / "worker.py").write_text(FAILING)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, str(tmp_path / "worker.py"), str(tmp_path / "model")],
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    # What two processes print may come in between each other.
    assert "process 0: ValueError: in another process: OutOfMemoryError: no memory left" in done.stdout
    assert "process 1: OutOfMemoryError: no memory left" in done.stdout


def test_special_tokens_in_captions_are_text(model, processor):
    one, other = encoder(model, processor).texts(["<|endoftext|> cat", "<|endoftext|> dog"])
    assert torch.cosine_similarity(one, other, dim=0) < 0.9999

# SPDX-License-Identifier: Apache-2.0
"""Files of others: what would fetch code is passed over, and what is no model is one clear line."""

from __future__ import annotations

import json
import logging
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel, SiglipConfig, SiglipModel

from hf_tripletclip import TripletCLIPModel
from hf_tripletclip.checkpoints import convert
from hf_tripletclip.checkpoints.load import load_clip_like
from hf_tripletclip.generation.captions.llm import load_model
from hf_tripletclip.generation.chat import ChatModel
from hf_tripletclip.generation.images.diffusers import DiffusersImages
from hf_tripletclip.layouts.configs import read_config
from hf_tripletclip.layouts.processor import load_processor
from hf_tripletclip.layouts.weights import check_weights, find_weights, read_weights
from tests.checkpoints import SMALL, write_published
from tests.checkpoints.test_load import change_adapter, write_adapter, write_clip
from tests.generation.captions.tiny_lm import save_random_lm
from tests.generation.images.tiny_pipelines import save_stable_diffusion

KERNEL = "kernels-community/anything"


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sound") / "clip"
    write_clip(folder)
    return folder


@pytest.fixture
def clip(sound, tmp_path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "clip"))


def change(folder: Path, name: str = "config.json", **fields: Any) -> None:
    path = folder / name
    content = json.loads(path.read_text())
    for field, value in fields.items():
        *parts, last = field.split("__")
        place = content
        for part in parts:
            place = place[part]
        place[last] = value
    path.write_text(json.dumps(content))


def one_line(error: pytest.ExceptionInfo, *names: object) -> None:
    assert "\n" not in str(error.value)
    assert "weights_only" not in str(error.value)
    for name in names:
        assert str(name) in str(error.value)


# ---- Implementations of attention ----

SPELLINGS: list[dict[str, Any]] = [
    {"attn_implementation": KERNEL},
    {"_attn_implementation": KERNEL},
    {"_attn_implementation_internal": KERNEL, "_attn_implementation_autoset": True},
    {"attn_implementation": {"": KERNEL, "text_config": KERNEL}},
    {"_attn_implementation": {"vision_config": KERNEL}},
    {"text_config__attn_implementation": KERNEL, "vision_config___attn_implementation": KERNEL},
    {"attn_implementation": "flash_attention_2"},
    {"experts_implementation": KERNEL},
]


@pytest.fixture
def no_kernels(monkeypatch) -> list[object]:
    asked: list[object] = []

    def ask(*args: Any, **kwargs: Any) -> None:
        asked.append(args)
        raise RuntimeError("a kernel was asked for")

    monkeypatch.setattr("transformers.modeling_utils.lazy_import_flash_attention", ask)
    monkeypatch.setattr("transformers.integrations.hub_kernels.get_kernel", ask)
    return asked


@pytest.mark.parametrize("fields", SPELLINGS, ids=str)
def test_no_config_names_the_implementation(clip, no_kernels, fields):
    change(clip, **fields)
    model = TripletCLIPModel.from_pretrained(clip)
    chosen = {part._attn_implementation for part in (model.config, model.text_model.config, model.vision_model.config)}
    assert chosen == {"sdpa"}
    assert no_kernels == []
    assert TripletCLIPModel.from_pretrained(clip, attn_implementation="eager").config._attn_implementation == "eager"


def test_no_config_of_another_kind_names_it_either(tmp_path, clip, no_kernels):
    config = SiglipConfig(
        text_config={**SMALL, "vocab_size": 30, "projection_size": 32},
        vision_config={**SMALL, "image_size": 16, "patch_size": 8},
    )
    SiglipModel(config).save_pretrained(tmp_path / "siglip")
    for fields in SPELLINGS:
        change(tmp_path / "siglip", **fields)
    found = read_config(tmp_path / "siglip")
    assert {one._attn_implementation for one in (found, found.text_config, found.vision_config)} == {None}
    with pytest.raises(OSError):  # noqa: PT011, it has no processor; the model is whole
        load_clip_like(tmp_path / "siglip")
    write_adapter(tmp_path / "adapter", clip)
    change(clip, _attn_implementation=KERNEL)
    assert load_clip_like(tmp_path / "adapter")[0].config._attn_implementation == "sdpa"
    assert TripletCLIPModel.from_pretrained(tmp_path / "adapter").config._attn_implementation == "sdpa"
    write_published(tmp_path / "published")
    change(tmp_path / "published", "text-encoder/config.json", _attn_implementation=KERNEL, attn_implementation=KERNEL)
    loaded = TripletCLIPModel.from_pretrained(tmp_path / "published", logit_scale=1.0)
    assert loaded.config.text_config._attn_implementation == "sdpa"
    assert no_kernels == []


# ---- Weights ----


class Bomb:
    def __reduce__(self):
        return (Path.touch, (Path("ran"),))


def as_torchscript(path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(path))


WRONG = {
    "empty": (lambda path: path.write_bytes(b""), "is empty"),
    "pointer": (
        lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid"),
        "pointer of Git LFS",
    ),
    "page": (lambda path: path.write_bytes(b"\n <!DOCTYPE html><html>Sign in</html>"), "is a web page"),
    "torchscript": (as_torchscript, "is a (TorchScript archive|pickle under the name of a safetensors file)"),
    "code": (lambda path: path.write_bytes(pickle.dumps(Bomb())), "would run code|is a pickle under the name"),
    "list": (lambda path: torch.save([1], path), "holds no state dict|is a pickle under the name"),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-9]), "that can be read|that torch can read"),
}


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("kind", WRONG)
def test_what_is_no_weights_is_said_in_our_words(clip, monkeypatch, name, kind):
    monkeypatch.chdir(clip)
    if name == "pytorch_model.bin":
        torch.save(load_file(clip / "model.safetensors"), clip / name)
        (clip / "model.safetensors").unlink()
    write, message = WRONG[kind]
    write(clip / name)
    for load in (TripletCLIPModel.from_pretrained, load_clip_like):
        with pytest.raises(ValueError, match=message) as error:
            load(clip)
        one_line(error, clip / name)
    assert not (clip / "ran").exists()


TENSOR = "text_model.encoder.layers.0.mlp.fc1.weight"


@pytest.mark.parametrize("layout", ["plain", "sharded", "pickle", "adapter"])
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda value: value.index_fill(0, torch.tensor([0]), torch.nan), "not finite"),
        (lambda value: value.half() * torch.inf, "not finite"),
        (lambda value: value.to(torch.int8), "has the type int8"),
    ],
)
def test_weights_that_are_no_finite_numbers_are_refused_in_every_layout(clip, tmp_path, layout, spoil, message):
    path = clip / "model.safetensors"
    if layout == "adapter":
        write_adapter(tmp_path / "adapter", clip)
        clip = tmp_path / "adapter"
        path = clip / "adapter_model.safetensors"
    tensors = load_file(path)
    name = TENSOR if layout != "adapter" else next(iter(tensors))
    tensors[name] = spoil(tensors[name])
    save_file(tensors, path, metadata={"format": "pt"})
    if layout == "pickle":
        torch.save(tensors, clip / "pytorch_model.bin")
        path.unlink()
    if layout == "sharded":
        parts = {"model-1.safetensors": {name: tensors.pop(name)}, "model-2.safetensors": tensors}
        for shard, part in parts.items():
            save_file(part, clip / shard, metadata={"format": "pt"})
        index = {key: shard for shard, part in parts.items() for key in part}
        (clip / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
        path.unlink()
    for load, options in (
        (TripletCLIPModel.from_pretrained, {}),
        (TripletCLIPModel.from_pretrained, {"dtype": torch.float16}),
        (TripletCLIPModel.from_pretrained, {"device_map": "meta"} if layout != "adapter" else {}),
        (load_clip_like, {}),
    ):
        with pytest.raises(ValueError, match=message) as error:
            load(clip, **options)
        one_line(error, name, clip)


def test_shards_are_named(clip):
    shutil.move(clip / "model.safetensors", clip / "elsewhere.safetensors")
    index = clip / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {TENSOR: "part.safetensors"}}))
    with pytest.raises(OSError, match=r"lacks part\.safetensors, which its model\.safetensors\.index\.json names"):
        TripletCLIPModel.from_pretrained(clip)
    for content in ({"weight_map": {TENSOR: "../elsewhere.safetensors"}}, {"weight_map": []}, {}, []):
        index.write_text(json.dumps(content))
        with pytest.raises(ValueError, match=r"index\.json must"):
            find_weights(clip, {})


def test_a_length_that_looks_like_the_mark_of_a_pickle_is_none(tmp_path):
    path = tmp_path / "w.safetensors"
    for fill in range(256):  # of a header that is as long as 0x80 and some times 256
        save_file({"a": torch.ones(2)}, path, metadata={"fill": "-" * fill})
        if path.read_bytes()[0] == 0x80:
            break
    assert path.read_bytes()[0] == 0x80
    check_weights([path])
    assert list(read_weights(path)) == ["a"]


def test_integer_buffers_are_no_weights(tmp_path):
    save_file({"text_model.embeddings.position_ids": torch.arange(4), "a": torch.ones(2)}, tmp_path / "w.safetensors")
    check_weights([tmp_path / "w.safetensors"])


# ---- Configs ----


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "JSON"),
        ("{", "JSON"),
        ("[]", "JSON object|describes no"),
        ("[1, 2]", "JSON object|describes no"),
        ('"text"', "JSON object|describes no"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "nested too deeply"),
    ],
    ids=["empty", "cut", "list", "numbers", "text", "deep"],
)
def test_a_file_that_holds_no_config(clip, content, message):
    (clip / "config.json").write_text(content)
    for load in (TripletCLIPModel.from_pretrained, load_clip_like):
        with pytest.raises((ValueError, OSError), match=message) as error:
            load(clip)
        one_line(error, clip)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("text_config", [1]),
        ("vision_config", "large"),
        ("text_config__hidden_size", "32"),
        ("text_config__hidden_size", 0),
        ("text_config__num_attention_heads", 0),
        ("text_config__num_hidden_layers", 10**9),
        ("text_config__vocab_size", -1),
        ("text_config__hidden_act", "none"),
        ("text_config__dtype", "load"),
        ("text_config__id2label", [1]),
        ("vision_config__patch_size", 64),
        ("vision_config__image_size", [16, 16]),
        ("vision_config__layer_norm_eps", float("nan")),
        ("vision_config__num_channels", None),
        ("vision_config__num_labels", 10**9),
        ("num_labels", 10**9),
        ("projection_dim", True),
        ("logit_scale_init_value", float("inf")),
        ("dtype", "nothing"),
        ("quantization_config", {"quant_method": "bitsandbytes"}),
        ("objective_kwargs", 3),
        ("objective", 7),
        ("logit_scale_max", float("nan")),
        ("logit_scale_max", 0),
        ("logit_scale_max", "100"),
        ("logit_scale_init_value", 10**400),
    ],
)
def test_a_field_that_makes_no_clip_is_named(clip, field, value):
    change(clip, **{field: value})
    with pytest.raises(ValueError, match=r"config\.json of .*") as error:
        TripletCLIPModel.from_pretrained(clip)
    one_line(error, clip)
    assert field.rpartition("__")[2] in str(error.value) or "object has no attribute" in str(error.value)


KINDS = {
    "number as text": lambda value: 7 if isinstance(value, str) else str(value),
    "negative": lambda value: -1,
    "zero": lambda value: 0,
    "true": lambda value: True,
    "false": lambda value: False,
    "null": lambda value: None,
    "fraction": lambda value: 1.5,
    "list": lambda value: [value],
    "no list": lambda value: [],
    "huge": lambda value: 10**400,
    "infinite": lambda value: float("inf"),
    "not a number": lambda value: float("nan"),
    "nested": lambda value: {"a": {"b": [value]}},
    "other family": lambda value: "siglip_text_model",
}
SENSIBLE = {
    "zero": {"attention_dropout", "bos_token_id", "eos_token_id", "pad_token_id"},
    "null": {"bos_token_id", "pad_token_id", "model_type"},
    "fraction": {"initializer_factor", "initializer_range"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_nonsense_in_a_tower_is_named(clip, tmp_path, kind):
    original = json.loads((clip / "config.json").read_text())
    fields = [(tower, name) for tower in ("text_config", "vision_config") for name in original[tower]]
    assert len(fields) > 25
    for tower, name in fields:
        value = KINDS[kind](original[tower][name])
        (clip / "config.json").write_text(json.dumps(original | {tower: original[tower] | {name: value}}))
        if name in SENSIBLE.get(kind, ()):
            TripletCLIPModel.from_pretrained(clip)
            continue
        for load, options in ((TripletCLIPModel.from_pretrained, {}), (convert, {"target": tmp_path / "target"})):
            with pytest.raises(ValueError, match=f"describes no CLIP: .*{name}") as error:
                load(clip, **options)
            one_line(error, clip)
    assert not (tmp_path / "target").exists()


def test_notes_beside_the_towers_are_no_towers(clip):
    change(clip, notes={"model_type": "blog", "hidden_size": None, "dtype": "any", "layer_norm_eps": "1e-5"})
    TripletCLIPModel.from_pretrained(clip)


def test_a_size_that_the_weights_do_not_have_is_not_built(clip):
    change(clip, text_config__vocab_size=2**24)  # 2 GB, were it built
    with pytest.raises(ValueError, match=r"token_embedding.weight' is \(\d+, 32\) in the file and \(16777216, 32\)"):
        TripletCLIPModel.from_pretrained(clip)


def test_another_kind_of_model_is_named(tmp_path):
    SiglipModel(
        SiglipConfig(
            text_config={**SMALL, "vocab_size": 30, "projection_size": 32},
            vision_config={**SMALL, "image_size": 16, "patch_size": 8},
        )
    ).save_pretrained(tmp_path / "siglip")
    BertModel(BertConfig(**SMALL, vocab_size=50)).save_pretrained(tmp_path / "bert")
    for name in ("siglip", "bert"):
        with pytest.raises(ValueError, match=f"'{name}', and TripletCLIPConfig is for the type 'clip'") as error:
            TripletCLIPModel.from_pretrained(tmp_path / name)
        one_line(error, tmp_path / name)
    with pytest.raises(ValueError, match="is a BertModel, which does not embed images"):
        load_clip_like(tmp_path / "bert")
    change(tmp_path / "bert", model_type="no such type")
    with pytest.raises(ValueError, match="describes no model that can be loaded") as error:
        load_clip_like(tmp_path / "bert")
    one_line(error, tmp_path / "bert")
    (tmp_path / "pictures").mkdir()
    with pytest.raises(ValueError, match=r"pictures holds no model: it has no config\.json\."):
        read_config(tmp_path / "pictures")


@pytest.fixture
def told(caplog, monkeypatch):
    """What transformers logs, once: it hands records on to the root's handlers only if the environment says ``CI``."""
    logger = logging.getLogger("transformers")
    monkeypatch.setattr(logger, "propagate", False)
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


def test_weights_of_another_family_are_refused_in_one_line(clip, tmp_path, told):
    sizes = json.loads((clip / "config.json").read_text())
    config = SiglipConfig(
        text_config={**SMALL, "vocab_size": 30, "projection_size": 32},
        vision_config={**SMALL, "image_size": 16, "patch_size": 8},
    )
    SiglipModel(config).save_pretrained(tmp_path / "siglip")
    shutil.copytree(tmp_path / "siglip", tmp_path / "other")
    shutil.copy(clip / "model.safetensors", tmp_path / "siglip")
    shutil.copy(tmp_path / "other" / "model.safetensors", clip)
    for load, source in (
        (load_clip_like, tmp_path / "siglip"),
        (load_clip_like, clip),
        (TripletCLIPModel.from_pretrained, clip),
        (lambda source: convert(source, tmp_path / "target"), clip),
    ):
        with pytest.raises(
            ValueError, match=f"The weights of {source} do not fit its config: 'logit_scale' is"
        ) as error:
            load(source)
        one_line(error, source)
    tensors = load_file(tmp_path / "siglip" / "model.safetensors")
    del tensors["text_projection.weight"]
    save_file(tensors, clip / "model.safetensors", metadata={"format": "pt"})
    for load in (load_clip_like, lambda source: convert(source, tmp_path / "target")):
        with pytest.raises(ValueError, match="lacks weights"):
            load(clip)
    assert "LOAD REPORT" not in told.text
    assert TripletCLIPModel.from_pretrained(clip).config.projection_dim == sizes["projection_dim"]
    assert told.text.count("LOAD REPORT") == 1  # of a model that is given, transformers' own word stays


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("tokenizer_config.json", "eos_token", {"a": 1}),
        ("tokenizer_config.json", "eos_token", None),
        ("tokenizer_config.json", "tokenizer_class", [1]),
        ("tokenizer_config.json", "model_max_length", "many"),
        ("processor_config.json", "image_processor", "x"),
    ],
)
def test_a_processor_that_is_none_is_named(clip, name, field, value):
    change(clip, name, **{field: value})
    for load in (load_processor, load_clip_like):
        with pytest.raises(ValueError, match=r"the processor of .* cannot be read: ") as error:
            load(clip)
        one_line(error, clip)


# ---- Adapters ----


def test_an_adapter_that_cannot_be_merged(clip, tmp_path):
    write_adapter(tmp_path / "adapter", clip)
    change_adapter(tmp_path / "adapter", alora_invocation_tokens=[1])
    with pytest.raises(ValueError, match="the PEFT adapter cannot be merged into its model: aLoRA"):
        convert(tmp_path / "adapter", tmp_path / "whole")
    change_adapter(tmp_path / "adapter", bias="a\nb")
    with pytest.raises(ValueError, match="that does not fit") as error:
        load_clip_like(tmp_path / "adapter")
    one_line(error, tmp_path)


@pytest.mark.parametrize("load", [TripletCLIPModel.from_pretrained, load_clip_like])
def test_bases_of_adapters(clip, tmp_path, monkeypatch, load):
    first, second = tmp_path / "first", tmp_path / "second"
    write_adapter(first, clip)
    shutil.copytree(first, second)
    change_adapter(first, base_model_name_or_path=str(second))
    change_adapter(second, base_model_name_or_path=str(first))
    with pytest.raises(ValueError, match=r"is a PEFT adapter of .*second, which is itself an adapter") as error:
        load(first)
    one_line(error, first)
    change_adapter(first, base_model_name_or_path=f"{first}/../first")
    with pytest.raises(ValueError, match="names itself"):
        load(first)
    for value in (5, ["a"], {"a": 1}):
        change_adapter(first, base_model_name_or_path=value)
        with pytest.raises(
            ValueError, match=r"adapter_config\.json: `base_model_name_or_path` is .* a text is needed"
        ):
            load(first)
    monkeypatch.chdir(tmp_path)
    change_adapter(first, base_model_name_or_path="clip")
    assert load(first)
    monkeypatch.chdir(first)
    with pytest.raises(OSError, match="stored relative to the working directory of the training run"):
        load(first)
    (first / "adapter_config.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"adapter_config\.json is not valid JSON: it is nested too deeply"):
        load(first)


def test_no_model_of_generation_takes_a_kernel_from_a_config(tmp_path, no_kernels):
    source = save_random_lm(tmp_path / "lm")
    change(Path(source), _attn_implementation=KERNEL, attn_implementation=KERNEL)
    assert load_model(source, None, "float32", "cpu").model.config._attn_implementation == "sdpa"
    assert ChatModel.from_pretrained(source, device="cpu").model.config._attn_implementation == "sdpa"
    pytest.importorskip("diffusers")
    pipeline = save_stable_diffusion(tmp_path / "painter")
    change(Path(pipeline), "text_encoder/config.json", _attn_implementation=KERNEL)
    stage = DiffusersImages(model=pipeline, device="cpu")
    stage.setup()
    assert stage._pipeline.text_encoder.config._attn_implementation == "sdpa"
    assert no_kernels == []

# SPDX-License-Identifier: Apache-2.0
"""What of a folder is uploaded, and what is refused before the Hub is asked for anything."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from hf_tripletclip import push_model
from hf_tripletclip.checkpoints import convert
from hf_tripletclip.hub.model_folder import ModelFolder, pictures_of
from hf_tripletclip.layouts.files import OPENCLIP_WEIGHTS
from hf_tripletclip.push import push
from hf_tripletclip.utils.files import read_json_object, without_paths, without_tokens
from tests.checkpoints import small_processor, write_published
from tests.hub import FAKE, small_model, write_run
from tests.loopback_hub import LoopbackHub, run_python

RECORDS = {
    "README.md",
    "metrics.json",
    "interpolation.png",
    "examples.html",
    ".eval_results/winoground.yaml",
    "loss_curve.png",
    "evaluation.png",
}
PROCESSOR = {"processor_config.json", "tokenizer.json", "tokenizer_config.json"}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "run"
    write_run(folder)
    write_run(folder.with_name("lora"), adapter_of=folder)
    return folder


@pytest.fixture
def run(made, tmp_path) -> Path:
    """One to break."""
    return shutil.copytree(made, tmp_path / "run")


def staged(path: Path, layout: str, target: Path, **adapter: object) -> set[str]:
    folder = ModelFolder.read(path)
    assert folder.layout == layout
    target.mkdir()
    folder.stage(target, None if folder.card is None else folder.card.content, adapter)
    return {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()}


def test_a_model_goes_without_what_lies_about(made, tmp_path):
    assert staged(made, "transformers", tmp_path / "to") == {"config.json", "model.safetensors"} | PROCESSOR | RECORDS
    assert read_json_object(tmp_path / "to" / "metrics.json") == {"accuracy": 0.5, "data": "secret-place"}
    assert (tmp_path / "to" / "examples.html").read_text() == "<p>[token]</p>"
    assert FAKE in (made / "examples.html").read_text()  # the folder stays as it is
    for path in (tmp_path / "to").rglob("*"):
        assert path.is_dir() or str(made).encode() not in path.read_bytes()


def test_an_adapter_goes_with_its_scale(made, tmp_path):
    lora = made.with_name("lora")
    names = {"adapter_config.json", "adapter_model.safetensors", "logit_scale.safetensors"}
    assert staged(lora, "peft", tmp_path / "to", base_model_name_or_path="user/base") == names | PROCESSOR | RECORDS
    assert read_json_object(tmp_path / "to" / "adapter_config.json") == {"base_model_name_or_path": "user/base"}


def test_shards_and_their_index_go_together(tmp_path):
    small_model().save_pretrained(tmp_path / "run", max_shard_size="100KB")
    found = staged(tmp_path / "run", "transformers", tmp_path / "to")
    shards = {name for name in found if name.startswith("model-00")}
    assert len(shards) > 1
    assert found == {"config.json", "model.safetensors.index.json"} | shards
    index = tmp_path / "run" / "model.safetensors.index.json"
    written = index.read_text()
    for content, message in (
        ("{}", "has no `weight_map`"),
        ('{"weight_map": {"a": "../out.safetensors"}}', r"names '\.\./out\.safetensors', which is no file beside it"),
        (
            json.dumps({"weight_map": {"a": str(tmp_path / "x.safetensors")}}),
            "names '/.*', which is no file",
        ),
    ):
        index.write_text(content)
        refused(tmp_path / "run", rf"model\.safetensors\.index\.json {message}")
    index.write_text(written)
    lost = min(shards)
    (tmp_path / "run" / lost).unlink()
    with pytest.raises(ValueError, match=rf"has no {lost}, which its model.safetensors.index.json names"):
        ModelFolder.read(tmp_path / "run")


def test_openclips_layout(made, tmp_path):
    convert(made, tmp_path / "run", to="openclip")
    found = staged(tmp_path / "run", "open_clip", tmp_path / "to")
    assert found == {"open_clip_config.json", OPENCLIP_WEIGHTS[0], "tokenizer.json", "tokenizer_config.json"}


def test_pictures_of_a_card():
    text = "![a](one.png) ![b](./two/b.JPG 'title') <IMG width=3 src='c.svg'> ![x](/etc/x.png) ![y](../y.png)"
    assert pictures_of("![a](<mit leer.png>) ![b](mit%20leer.png) <img src='b c.png'> ![c](%2e%2e/d.png)") == [
        "mit leer.png",
        "b c.png",
    ]
    assert pictures_of(f"{text} ![z](z.txt) ![w](http://h/w.png) ![a](one.png) [link](link.png)") == [
        "one.png",
        "two/b.JPG",
        "c.svg",
    ]


def test_paths_and_tokens_are_nobodys_business():
    content = {"a": ["/home/me/data/val2017", "user/data", 1], "b": {"c": "/x"}}
    assert without_paths(content) == {"a": ["val2017", "user/data", 1], "b": {"c": "x"}}
    assert without_tokens(f"a {FAKE} b api-key-of-mine", "api-key-of-mine") == "a [token] b [token]"


def refused(folder: Path, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        push(folder, "user/x", token=False)


def test_folders_without_a_finished_model(run, made, tmp_path):
    (run / "metrics.json").rename(run / "evaluation_before.json")
    refused(run, r"is not finished, it has no metrics.json: continue it")
    (run / "model.safetensors").unlink()
    refused(run, r"only checkpoints of a training that is not finished.*checkpoint-5")
    shutil.rmtree(run / "checkpoint-5")
    refused(run, r"has config.json but no weights \(model.safetensors\)")
    torch.save({}, run / "pytorch_model.bin")
    refused(run, r"has its weights in pytorch_model.bin, a pickle")
    (tmp_path / "photos").mkdir()
    refused(tmp_path / "photos", r"holds no CLIP model and no adapter")
    write_published(tmp_path / "published")
    refused(tmp_path / "published", r"the layout `published`: push what `tripletclip convert")
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        push(tmp_path / "nowhere", "user/x")


def test_damaged_and_foreign_models(run):
    weights = run / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    refused(run, r"model.safetensors is damaged")
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "model_type": "bert"}))
    refused(run, r"is no CLIP: `model_type` in its config.json is 'bert'")
    (run / "config.json").write_text("{")
    refused(run, r"config.json is not valid JSON")
    (run / "plan.json").write_text("{}")
    refused(run, r"has no report.json: it is not finished")
    with pytest.raises(ValueError, match="is a dataset, which has no base model"):
        push(run, "user/x", base_model="user/base")
    with pytest.raises(ValueError, match=r"is a dataset, whose license `tripletclip generate --license` sets"):
        push(run, "user/x", license="mit")


def test_arguments_that_do_not_fit(made):
    with pytest.raises(TypeError, match=r"Only a CLIPModel or another .*, or .* can be pushed, not a Linear"):
        push_model(torch.nn.Linear(1, 1), "user/x")
    with pytest.raises(ValueError, match="leave `processor` out"):
        push_model(made, "user/x", processor=small_processor())
    with pytest.raises(ValueError, match="`base_model` is '/a/b'"):
        push_model(made, "user/x", base_model="/a/b")
    with pytest.raises(ValueError, match="is no id of a repository"):
        push_model(made, "not/an/id")
    with pytest.raises(ValueError, match="leave `revision` out"):
        small_model().push_to_hub("user/x", revision="v1", create_pr=True)


def test_both_layouts_of_a_folder_go(made, tmp_path):
    convert(made, tmp_path / "run", to="openclip")
    for name in ("config.json", "model.safetensors"):
        shutil.copy(made / name, tmp_path / "run")
    found = staged(tmp_path / "run", "transformers", tmp_path / "to")
    assert {"config.json", "model.safetensors", "open_clip_config.json", OPENCLIP_WEIGHTS[0]} <= found
    (tmp_path / "run" / OPENCLIP_WEIGHTS[0]).unlink()
    assert "open_clip_config.json" not in staged(tmp_path / "run", "transformers", tmp_path / "again")


def test_a_pushed_adapter_names_a_base_on_the_hub(made, monkeypatch):
    lora = made.with_name("lora")
    refused(lora, rf"is of {made}, which is no model on the Hub that you can see: push its base first")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match=r"The Hub cannot be reached to look for user/base"):
        push_model(lora, "user/x", base_model="user/base")


def test_pushes_need_no_extra(made, tmp_path):
    """Nothing of generation is imported for a model, and for a dataset only the names of its files."""
    code = f"""
import sys
for name in ("datatrove", "nltk", "diffusers", "matplotlib"):
    sys.modules[name] = None
from hf_tripletclip.push import push
print(push({str(made)!r}, "user/model"))
try:
    push({str(tmp_path)!r}, "user/data")
except ValueError as error:
    print(error)
"""
    (tmp_path / "plan.json").write_text("{}")
    with LoopbackHub() as hub:
        lines = run_python(code, hub, tmp_path / "home").stdout.splitlines()
        assert lines[0] == f"{hub.endpoint}/user/model"
        assert "has no report.json: it is not finished" in lines[1]

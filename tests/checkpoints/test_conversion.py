# SPDX-License-Identifier: Apache-2.0
"""`convert`: any checkpoint as a CLIP directory, whole or not at all."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoProcessor, CLIPModel

from hf_tripletclip import TripletCLIPModel
from hf_tripletclip.checkpoints import convert
from tests.checkpoints import small_processor, write_published


@pytest.fixture
def source(tmp_path) -> Path:
    write_published(tmp_path / "source")
    return tmp_path / "source"


@pytest.fixture
def processor(tmp_path) -> Path:
    small_processor().save_pretrained(tmp_path / "processor")
    return tmp_path / "processor"


def test_the_result_is_a_clip_directory(source, processor, tmp_path):
    target = convert(source, tmp_path / "new" / "target", processor=processor, logit_scale=2.0)
    assert target == tmp_path / "new" / "target"
    assert stat.S_IMODE(target.stat().st_mode) == stat.S_IMODE(source.stat().st_mode)
    assert [path.name for path in target.parent.iterdir()] == ["target"]
    model, info = AutoModel.from_pretrained(target, output_loading_info=True)
    assert type(model) is CLIPModel
    assert not any(info.values())
    expected = TripletCLIPModel.from_pretrained(source, logit_scale=2.0).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    assert AutoProcessor.from_pretrained(target).tokenizer.get_vocab() == small_processor().tokenizer.get_vocab()
    assert not list(target.rglob("*.py"))
    assert "auto_map" not in json.loads((target / "config.json").read_text())
    assert not (source / "ran").exists()


def test_a_clip_directory_is_converted_too(source, processor, tmp_path):
    first = convert(source, tmp_path / "first", processor=processor, logit_scale=2.0)
    second = convert(first, tmp_path / "second")
    for path in first.iterdir():
        assert (second / path.name).read_bytes() == path.read_bytes(), path.name


def test_the_model_alone(source, tmp_path):
    target = convert(source, tmp_path / "target", with_processor=False)
    assert {path.name for path in target.iterdir()} == {"config.json", "model.safetensors"}


def test_an_empty_target_is_filled(source, tmp_path):
    (tmp_path / "target").mkdir()
    convert(source, tmp_path / "target", with_processor=False)
    assert CLIPModel.from_pretrained(tmp_path / "target")


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_an_existing_target_is_kept_unless_told(source, tmp_path, kind):
    target = tmp_path / "target"
    if kind == "file":
        target.write_text("mine")
    else:
        target.mkdir()
        (target / "mine").write_text("mine")
    with pytest.raises(FileExistsError, match="target exists"):
        convert(source, target, with_processor=False)
    assert (target if kind == "file" else target / "mine").read_text() == "mine"
    convert(source, target, with_processor=False, overwrite=True)
    assert {path.name for path in target.iterdir()} == {"config.json", "model.safetensors"}


@pytest.mark.parametrize(
    "error", [OSError("No space left on device"), Exception("No space left on device (os error 28)")]
)
def test_a_failure_leaves_everything_as_it_was(source, tmp_path, monkeypatch, error):
    target = tmp_path / "target"
    target.mkdir()
    (target / "mine").write_text("mine")
    with pytest.raises(OSError, match="no_processor_here"):
        convert(source, target, processor=tmp_path / "no_processor_here", overwrite=True)

    def fail(self, folder, **kwargs):
        (Path(folder) / "half").write_text("half")
        raise error

    monkeypatch.setattr(TripletCLIPModel, "save_pretrained", fail)
    with pytest.raises(OSError, match="No space left"):
        convert(source, target, with_processor=False, overwrite=True)
    assert [path.name for path in target.iterdir()] == ["mine"]
    assert {path.name for path in tmp_path.iterdir()} == {"source", "target"}


def test_logit_scale_is_refused_where_the_source_has_its_own(source, tmp_path):
    first = convert(source, tmp_path / "first", with_processor=False, logit_scale=2.0)
    with pytest.raises(ValueError, match="logit_scale"):
        convert(first, tmp_path / "second", with_processor=False, logit_scale=3.0)
    assert not (tmp_path / "second").exists()


def test_a_target_that_holds_the_source_is_refused(source, tmp_path):
    (tmp_path / "mine").write_text("mine")
    before = sorted(source.iterdir())
    for target in (tmp_path, source):
        with pytest.raises(ValueError, match=r"would be replaced, and .*source is read for it: name another target"):
            convert(source, target, with_processor=False, overwrite=True)
    assert sorted(source.iterdir()) == before
    assert {path.name for path in tmp_path.iterdir()} == {"source", "mine"}


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_the_old_target_is_put_back_if_the_new_one_cannot_take_its_place(source, tmp_path, monkeypatch, kind):
    target = tmp_path / "target"
    mine = target if kind == "file" else target / "mine"
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("mine")
    replace = os.replace

    def fail(old, new):
        if Path(old).name == "new":
            raise OSError("Device busy")
        replace(old, new)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="Device busy"):
        convert(source, target, with_processor=False, overwrite=True)
    assert mine.read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {"source", "target"}


def test_the_working_directory_and_a_link_are_targets_too(source, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    convert(source, ".", with_processor=False, overwrite=True)
    (tmp_path / "link").symlink_to(tmp_path / "here")
    convert(source, tmp_path / "link", with_processor=False, overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert {path.name for path in (tmp_path / "here").iterdir()} == {"config.json", "model.safetensors"}
    assert {path.name for path in tmp_path.iterdir()} == {"source", "here", "link"}


def test_a_missing_processor_says_what_to_do(source, tmp_path):
    with pytest.raises(OSError, match=r"no_processor_here[\s\S]*`--processor`[\s\S]*`--no-processor`"):
        convert(source, tmp_path / "target", processor=tmp_path / "no_processor_here")
    assert not (tmp_path / "target").exists()


def test_a_source_that_lacks_weights_is_refused(source, tmp_path):
    first = convert(source, tmp_path / "first", with_processor=False, logit_scale=2.0)
    tensors = load_file(first / "model.safetensors")
    del tensors["visual_projection.weight"]
    save_file(tensors, first / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks weights, .*: visual_projection\.weight"):
        convert(first, tmp_path / "second", with_processor=False)
    (first / "model.safetensors").write_bytes((first / "model.safetensors").read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"model\.safetensors is no safetensors file that can be read"):
        convert(first, tmp_path / "second", with_processor=False)
    assert not (tmp_path / "second").exists()

# SPDX-License-Identifier: Apache-2.0
"""`load_processor`: a checkpoint's own processor, or that of the model it is based on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hf_tripletclip import TripletCLIPModel, load_processor
from tests.checkpoints import BASE, failing, small_processor
from tests.loopback_hub import run_python

REPO = "TripletCLIP/CC12M_TripletCLIP_ViTB12"
IDS = small_processor().tokenizer("a black dog").input_ids
LOAD = """
from hf_tripletclip import load_processor
processor = load_processor({!r}{})
print(type(processor).__name__, processor.tokenizer("a black dog").input_ids)
"""


def save_processor(folder: Path) -> Path:
    small_processor().save_pretrained(folder)
    return folder


def test_the_processor_of_a_clip_directory(published, tmp_path):
    TripletCLIPModel.from_pretrained(published, logit_scale=1.0).save_pretrained(tmp_path / "clip")
    assert load_processor(save_processor(tmp_path / "clip")).tokenizer("a black dog").input_ids == IDS


def test_its_own_processor_wins_in_the_published_layout(published):
    config = published / "text-encoder" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "model_name": "no/such-model"}))
    assert load_processor(str(save_processor(published))).tokenizer("a black dog").input_ids == IDS


def test_the_base_named_in_the_config_may_be_a_directory(published, tmp_path):
    config = published / "text-encoder" / "config.json"
    base = save_processor(tmp_path / "base")
    config.write_text(json.dumps({**json.loads(config.read_text()), "model_name": str(base)}))
    assert load_processor(published).tokenizer("a black dog").input_ids == IDS


@pytest.mark.parametrize("name", [None, ""])
def test_a_checkpoint_that_names_no_base(published, name):
    config = published / "text-encoder" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "model_name": name}))
    with pytest.raises(ValueError, match=r"no processor.*model_name"):
        load_processor(published)


def test_a_directory_without_processor(tmp_path):
    with pytest.raises(OSError, match=str(tmp_path)):
        load_processor(tmp_path)


def test_the_base_comes_from_the_hub_silently(hub, published, tmp_path):
    hub.add("model", REPO, published, revision="v2")
    hub.add("model", BASE, save_processor(tmp_path / "base"))
    home = tmp_path / "home"
    # The revision is the checkpoint's; the base has no v2.
    done = run_python(LOAD.format(REPO, ", revision='v2'"), hub, home, HF_HUB_DISABLE_PROGRESS_BARS="1")
    assert done.stdout.split(maxsplit=1) == ["CLIPProcessor", f"{IDS}\n"]
    assert done.stderr == ""
    assert not any("safetensors" in path or path.endswith(".py") for path in hub.downloads())

    hub.log.clear()
    again = run_python(LOAD.format(REPO, ", revision='v2'"), hub, home, HF_HUB_OFFLINE="1")
    assert (again.stdout, again.stderr) == (done.stdout, "")
    assert not hub.log


@pytest.mark.parametrize("kwargs", [{}, {"trust_remote_code": True}], ids=str)
@pytest.mark.parametrize(
    ("name", "section", "auto_class", "kind"),
    [
        ("tokenizer_config.json", None, "AutoTokenizer", "tokenizer_class"),
        ("processor_config.json", "image_processor", "AutoImageProcessor", "image_processor_type"),
    ],
)
def test_code_of_the_repository_is_never_run(published, kwargs, name, section, auto_class, kind):
    path = save_processor(published) / name
    fields = json.loads(path.read_text())
    code = ["utils.Custom", None] if auto_class == "AutoTokenizer" else "utils.Custom"
    (fields[section] if section else fields).update({"auto_map": {auto_class: code}, kind: "Custom"})
    path.write_text(json.dumps(fields))
    with pytest.raises(ValueError, match="custom code"):
        load_processor(published, **kwargs)
    assert not (published / "ran").exists()


def test_an_error_of_the_hub_does_not_lead_to_another_processor(hub, published, tmp_path):
    hub.add("model", REPO, save_processor(published))
    hub.add("model", BASE, save_processor(tmp_path / "base"))
    with failing(hub, f"/{REPO}/resolve/main/processor_config.json"):
        done = run_python(LOAD.format(REPO, ""), hub, tmp_path / "home", check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "OSError: We couldn't connect to" in done.stderr
    assert not any(path.startswith(BASE) for path in hub.downloads())


@pytest.mark.parametrize("env", [{}, {"HF_HUB_OFFLINE": "1"}], ids=["missing", "offline"])
def test_a_base_that_cannot_be_loaded_is_named(hub, published, tmp_path, env):
    done = run_python(LOAD.format(str(published), ""), hub, tmp_path / "home", check=False, **env)
    assert done.returncode == 1
    message = done.stderr[done.stderr.rindex("\nOSError") :]
    assert f"{published} uses the processor of {BASE}, which cannot be loaded" in message
    assert f"hf download {BASE}" in message

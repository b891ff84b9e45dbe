# SPDX-License-Identifier: Apache-2.0
"""The published layout from the Hub: the four files alone, the cache, and the errors on the way."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from hf_tripletclip import TripletCLIPModel
from hf_tripletclip.layouts import PUBLISHED_CHECKPOINTS
from tests.checkpoints import FOUR_FILES, change_tensors, failing
from tests.loopback_hub import LoopbackHub, run_python

REPO = "TripletCLIP/CC3M_TripletCLIP_ViTB12"
UNKNOWN = f"OSError {REPO} is not a local folder and is not a valid model identifier listed on"


def load(*calls: str) -> str:
    """Code that prints one number of the model for each call's arguments, or the error's type and message."""
    return f"""
from hf_tripletclip import TripletCLIPModel
for kwargs in [{", ".join(f"dict({call})" for call in calls or [""])}]:
    try:
        model = TripletCLIPModel.from_pretrained({REPO!r}, logit_scale=1.0, **kwargs)
        print(model.text_projection.weight.double().sum().item())
    except Exception as error:
        print(type(error).__name__, str(error).splitlines()[0])
"""


def number(folder: Path) -> str:
    weight = load_file(folder / "text-encoder" / "model.safetensors")["model.text_projection.weight"]
    return f"{weight.double().sum().item()}\n"


def test_nine_names():
    assert len(set(PUBLISHED_CHECKPOINTS)) == 9
    assert REPO in PUBLISHED_CHECKPOINTS


def test_only_the_four_files_are_downloaded_once(hub, published, tmp_path):
    hub.add("model", REPO, published)
    home = tmp_path / "home"
    assert run_python(load(), hub, home).stdout == number(published)
    files = {f"{REPO}/resolve/main/{name}" for name in FOUR_FILES}
    assert sorted(hub.downloads()) == sorted(files)
    assert {path[1:] for path in hub.requests("HEAD")} == files | {f"{REPO}/resolve/main/config.json"}
    assert {method for method, _ in hub.log} == {"GET", "HEAD"}

    hub.log.clear()
    assert run_python(load(), hub, home).stdout == number(published)
    assert not hub.downloads()

    hub.log.clear()
    assert run_python(load(), hub, home, HF_HUB_OFFLINE="1").stdout == number(published)
    assert not hub.log


@pytest.mark.parametrize("name", ["config.json", "text-encoder/config.json"])
def test_an_error_of_the_hub_does_not_lead_to_another_layout(hub, published, tmp_path, name):
    TripletCLIPModel.from_pretrained(published, logit_scale=1.0).save_pretrained(tmp_path / "clip")
    files = {"config.json": (tmp_path / "clip" / "config.json").read_bytes()} if name == "config.json" else {}
    hub.add("model", REPO, files | {path: (published / path).read_bytes() for path in FOUR_FILES})
    with failing(hub, f"/{REPO}/resolve/main/{name}"):
        out = run_python(load(), hub, tmp_path / "home").stdout
    assert out.startswith(f"OSError We couldn't connect to '{hub.endpoint}' to load the files")
    assert not hub.downloads()


def test_an_error_of_the_hub_leaves_a_warm_cache_usable(hub, published, tmp_path):
    hub.add("model", REPO, published)
    run_python(load(), hub, tmp_path / "home")
    with failing(hub, f"/{REPO}/resolve/main/config.json"):
        assert run_python(load(), hub, tmp_path / "home").stdout == number(published)


def test_a_cold_cache_offline_gives_one_clear_error(hub, published, tmp_path):
    hub.add("model", REPO, published)
    out = run_python(load(), hub, tmp_path / "home", HF_HUB_OFFLINE="1").stdout
    assert out == f"OSError There is no directory {REPO}, and the Hub cannot be reached to find it.\n"
    assert not hub.log


@pytest.mark.slow
def test_an_unreachable_hub_gives_the_same_error(tmp_path):  # after the client's retries
    out = run_python(load(), None, tmp_path / "home").stdout
    assert out == f"OSError There is no directory {REPO}, and the Hub cannot be reached to find it.\n"


def test_revisions(hub, published, tmp_path):
    first = number(published)
    commit = hub.add("model", REPO, published)
    change_tensors(published, lambda tensors: tensors["model.text_projection.weight"].fill_(0.0))
    hub.add("model", REPO, published, revision="v2")
    calls = "revision='v2'", "", f"revision='{commit}'", "revision='v3'"
    out = run_python(load(*calls), hub, tmp_path / "home").stdout.splitlines(keepends=True)
    assert out[:3] == ["0.0\n", first, first]
    assert out[3].startswith("OSError v3 is not a valid git identifier")


def test_a_token(published, tmp_path):
    with LoopbackHub(token="hf_secret") as hub:
        hub.add("model", REPO, published)
        out = run_python(load("", "token='hf_wrong'"), hub, tmp_path / "home", HF_TOKEN=None).stdout.splitlines()
        assert out[0].startswith(UNKNOWN)
        assert out[1].startswith("OSError")
        assert not hub.downloads()
        assert run_python(load("token='hf_secret'"), hub, tmp_path / "a", HF_TOKEN=None).stdout == number(published)
        assert run_python(load(), hub, tmp_path / "b").stdout == number(published)


def test_a_repository_that_does_not_exist(hub, tmp_path):
    assert run_python(load(), hub, tmp_path / "home").stdout.startswith(UNKNOWN)


def test_pushed_it_opens_in_plain_transformers(hub, published, tmp_path):
    hub.add("model", REPO, published)
    run_python(load() + "model.push_to_hub('someone/converted')", hub, tmp_path / "home")
    assert {"config.json", "model.safetensors"} <= hub.files("model", "someone/converted").keys()
    code = """
import sys
from transformers import AutoModel
print(AutoModel.from_pretrained("someone/converted").text_projection.weight.double().sum().item())
assert "hf_tripletclip" not in sys.modules
"""
    assert run_python(code, hub, tmp_path / "other home").stdout == number(published)

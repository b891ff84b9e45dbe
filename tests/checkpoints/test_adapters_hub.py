# SPDX-License-Identifier: Apache-2.0
"""Adapters and models by way of a Hub on this machine: the scale comes along, and the card is ours."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import ModelCard

from tests.checkpoints import BASE
from tests.checkpoints.test_load import change_adapter, write_clip
from tests.checkpoints.test_peft_model import adapted
from tests.loopback_hub import run_python

LOAD = """
from hf_tripletclip import TripletCLIPModel, load_processor, push_model
from hf_tripletclip.checkpoints.load import load_clip_like

def scale(model):
    return round(model.logit_scale.item(), 4)

"""


def add_adapter(hub, folder: Path) -> None:
    """A base and an adapter with a scale of 2; the adapter lies at a revision that the base does not have."""
    write_clip(folder / "base")
    adapted(folder / "base", 2.0).save_pretrained(folder / "lora")
    change_adapter(folder / "lora", base_model_name_or_path=BASE)
    hub.add("model", BASE, folder / "base")
    hub.add("model", "user/lora", folder / "lora")


def test_a_loaded_adapter_is_pushed_with_its_scale_and_our_card(hub, tmp_path):
    add_adapter(hub, tmp_path)
    code = """
model, processor = load_clip_like("user/lora")
push_model(model, "user/pushed")
commit = model.push_to_hub("user/own", processor=processor, commit_message="One", tags="shapes", private=True)
print(commit.commit_message)
print(model.push_to_hub("user/own", create_pr=True).pr_url)
model.push_to_hub("user/own", revision="v2", base_model="user/else", tags=["colours", "kinds"])
for name, revision in (("user/pushed", None), ("user/own", None), ("user/own", "v2")):
    print(scale(load_clip_like(name, revision=revision)[0]))
print(scale(TripletCLIPModel.from_pretrained("user/own")))
print(load_processor("user/own").tokenizer.model_max_length)
"""
    hub.add("model", "user/else", tmp_path / "base")
    lines = run_python(LOAD + code, hub, tmp_path / "home").stdout.split()
    assert lines == ["One", f"{hub.endpoint}/user/own/discussions/1", *["2.0"] * 4, "32"]
    assert hub.repos["model", "user/own"].private
    for name in ("user/pushed", "user/own"):
        files = hub.files("model", name)
        assert {"adapter_config.json", "adapter_model.safetensors", "logit_scale.safetensors"} <= files.keys()
        card = ModelCard(files["README.md"].decode())
        assert "More Information Needed" not in card.text
        assert name in card.text
        assert card.data.base_model == BASE
    assert "shapes" in card.data.tags
    assert b"user/else" in hub.files("model", "user/own", "v2")["adapter_config.json"]
    card = ModelCard(hub.files("model", "user/own", "v2")["README.md"].decode())
    assert {"colours", "kinds"} <= set(card.data.tags)


def test_a_model_saved_and_pushed_at_once_has_our_card(hub, tmp_path):
    add_adapter(hub, tmp_path)
    folder = tmp_path / "saved"
    code = f"""
model = TripletCLIPModel.from_pretrained({BASE!r})
model.save_pretrained({str(folder)!r})  # no upload
load_processor({BASE!r}).save_pretrained({str(folder)!r})
zeros = {{name: value * 0 for name, value in model.state_dict().items()}}
model.save_pretrained(
    {str(folder)!r}, state_dict=zeros, push_to_hub=True, repo_id="user/named", commit_message="Two", private=True
)
model.save_pretrained({str(tmp_path / "sharded")!r}, push_to_hub=True, token="hf_test", max_shard_size="50KB")
inside = TripletCLIPModel.from_pretrained("user/lora")
inside.save_pretrained({str(tmp_path / "inside")!r}, push_to_hub=True, repo_id="user/inside")
inside.push_to_hub("user/inside2")
print(scale(load_clip_like("user/inside")[0]), scale(load_clip_like("user/inside2")[0]))
print(TripletCLIPModel.from_pretrained("user/named").text_projection.weight.abs().sum().item())
print(TripletCLIPModel.from_pretrained("user/sharded").text_projection.weight.abs().sum().item() > 0)
"""
    lines = run_python(LOAD + code, hub, tmp_path / "home").stdout.split()
    assert lines == ["2.0", "2.0", "0.0", "True"]
    for name in ("user/named", "user/sharded"):
        card = ModelCard(hub.files("model", name)["README.md"].decode())
        assert "More Information Needed" not in card.text
        assert name in card.text
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= hub.files("model", "user/named").keys()
    assert "model.safetensors.index.json" in hub.files("model", "user/sharded")
    assert hub.repos["model", "user/named"].private

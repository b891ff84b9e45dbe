# SPDX-License-Identifier: Apache-2.0
"""Uploads to repositories that hold something: what goes, what stays, and what becomes of the card."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from transformers.utils import logging

from hf_tripletclip import push_model
from hf_tripletclip.checkpoints import convert
from hf_tripletclip.hub import create_model_card
from hf_tripletclip.hub.repository import Destination
from hf_tripletclip.layouts.files import OPENCLIP_WEIGHTS
from hf_tripletclip.push import push
from hf_tripletclip.results import EvaluationResult
from tests.checkpoints import small_processor, write_published
from tests.hub import adapted, small_model, write_run


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A model, an adapter of it, and the model in OpenCLIP's layout."""
    folder = tmp_path_factory.mktemp("made") / "clip"
    write_run(folder)
    write_run(folder.with_name("lora"), adapter_of=folder)
    convert(folder, folder.with_name("openclip"), to="openclip")
    return folder


def card_of(hub, repo_id: str) -> ModelCard:
    return ModelCard(hub.files("model", repo_id)["README.md"].decode())


def test_both_layouts_lie_side_by_side(near, made):
    push(made.with_name("openclip"), "user/clip")
    assert card_of(near, "user/clip").data.library_name == "open_clip"
    push_model(small_model(), "user/clip")
    files = near.files("model", "user/clip")
    assert {"config.json", "model.safetensors", "open_clip_config.json", OPENCLIP_WEIGHTS[0]} <= files.keys()
    card = card_of(near, "user/clip")
    assert 'pipeline("zero-shot-image-classification", model="user/clip")' in card.text
    assert 'create_model_from_pretrained("hf-hub:user/clip")' in card.text
    push(made.with_name("openclip"), "user/clip")
    assert near.files("model", "user/clip").keys() == files.keys()
    assert card_of(near, "user/clip").text == card.text
    push(made, "user/clip")
    assert files.keys() <= near.files("model", "user/clip").keys()


def test_weights_of_an_older_model_go_and_other_files_stay(near, made):
    others = {"notes.bin": b"", "onnx/model.onnx": b"", "LICENSE": b"", "model.fp16.safetensors": b""}
    shards = {f"model-0000{i}-of-00002.safetensors": b"old" for i in (1, 2)}
    old = {**shards, "model.safetensors.index.json": b"{}", "pytorch_model.bin": b"old"}
    near.add("model", "user/clip", {**others, **old})
    push_model(small_model(), "user/clip")
    assert near.files("model", "user/clip").keys() == {*others, "config.json", "model.safetensors", "README.md"}
    near.add("model", "user/openclip", dict.fromkeys((*others, *OPENCLIP_WEIGHTS, "pytorch_model.bin"), b"old"))
    push(made.with_name("openclip"), "user/openclip")
    files = near.files("model", "user/openclip")
    assert {*OPENCLIP_WEIGHTS} & files.keys() == {OPENCLIP_WEIGHTS[0]}
    assert {*others, "pytorch_model.bin"} <= files.keys()
    push_model(small_model(), "user/base")
    old = {"adapter_model.bin": b"old", "logit_scale.safetensors": b"old", "model.safetensors": b"theirs"}
    near.add("model", "user/lora", old)
    model = adapted(small_model())
    model.logit_scale.requires_grad_(False)  # it is the base's
    push_model(model, "user/lora", base_model="user/base")
    names = {"adapter_config.json", "adapter_model.safetensors", "README.md", "model.safetensors"}
    assert near.files("model", "user/lora").keys() == names


def test_results_of_an_older_upload_go_with_its_card(near, made, tmp_path):
    folder = shutil.copytree(made, tmp_path / "clip")
    create_model_card(name="clip", plots=["loss_curve.png", "evaluation.png"]).save(folder / "README.md")
    for name in ("a", "b"):
        EvaluationResult("triplets", {"accuracy": 0.5}).save_json(folder / f"evaluation_{name}.json")
    push(folder, "user/clip")
    theirs = {"evaluation_people.json": b'{"asked": 5}', "people.png": b"", ".eval_results/x.yaml": b"[]"}
    near.add("model", "user/clip", {**near.files("model", "user/clip"), **theirs})
    (folder / "evaluation_a.json").unlink()
    (folder / "examples.html").unlink()
    (folder / "loss_curve.png").unlink()
    push(folder, "user/clip")
    files = near.files("model", "user/clip")
    assert {"evaluation_b.json", "evaluation.png", "metrics.json", *theirs} <= files.keys()
    assert not {"evaluation_a.json", "examples.html", "loss_curve.png"} & files.keys()
    push_model(small_model(1), "user/clip")  # which tells of no results: the card stays, with what it shows
    assert files.keys() == near.files("model", "user/clip").keys()
    # Beside what somebody wrote only what we can read is ours.
    near.add("model", "user/clip", {**files, "README.md": b"# By hand\n"})
    (folder / "evaluation_b.json").unlink()
    (folder / "evaluation.png").unlink()
    push(folder, "user/clip")
    files = near.files("model", "user/clip")
    assert "evaluation_b.json" not in files
    assert {"evaluation.png", *theirs} <= files.keys()


BROKEN = [
    ("README.md", b"---\n- a\n---\nx", r"metadata at the head of .*README\.md cannot be read"),
    ("README.md", b"---\ntags: 5\n---\nx", r"metadata at the head of .*README\.md cannot be read"),
    ("README.md", "# Müll".encode("latin-1"), r"README\.md is not UTF-8"),
    ("metrics.json", b"{", r"metrics\.json is not valid JSON"),
    ("evaluation_bad.json", b"\xff", r"evaluation_bad\.json is not UTF-8"),
    ("examples.html", b"\xff", r"examples\.html is not UTF-8"),
]


@pytest.mark.parametrize(("name", "content", "message"), BROKEN)
def test_a_refused_upload_makes_nothing(near, made, tmp_path, name, content, message):
    folder = shutil.copytree(made, tmp_path / "clip")
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        push(folder, "user/clip", private=True, revision="v1")
    assert near.repos == {}
    assert near.requests("POST") == []


def test_a_pull_request_of_a_mistyped_repository(near, made):
    with pytest.raises(OSError, match=r"The Hub refuses user/typo: there is no such repository"):
        push(made, "user/typo", revision="refs/pr/3")
    assert near.repos == {}


def test_a_card_that_cannot_be_read_in_the_repository(near):
    near.add("model", "user/clip", {"README.md": b"---\n- a\n---\nx"})
    with pytest.raises(ValueError, match=r"the metadata at the head of the README.md of user/clip cannot be read"):
        small_model().push_to_hub("user/clip", tags=["a"])
    near.add("model", "user/clip", {"README.md": b"\xff"})
    with pytest.raises(ValueError, match=r"the README.md of user/clip is not UTF-8"):
        small_model().push_to_hub("user/clip")


def test_our_card_is_brought_up_to_date(near):
    for name in ("base", "base2"):
        push_model(small_model(), f"user/{name}")
    model = adapted(small_model())
    push_model(model, "user/lora", base_model="user/base", license="mit")
    files = near.files("model", "user/lora")
    edited = files["README.md"].replace(b"## Limits", b"## Mine\n\n```sh\n# a comment\n```\n\n## Limits")
    near.add("model", "user/lora", {**files, "README.md": edited})
    push_model(model, "user/lora", base_model="user/base2")
    card = card_of(near, "user/lora")
    assert (card.data.base_model, card.data.license) == ("user/base2", "mit")
    assert 'CLIPModel.from_pretrained("user/base2")' in card.text
    assert "from <!-- base:begin -->[`user/base2`]" in card.text
    assert '"user/base"' not in card.text
    assert "# a comment" in card.text
    # One without a base gets it.
    push_model(small_model(), "user/clip")
    push_model(small_model(1), "user/clip", base_model="user/base")
    card = card_of(near, "user/clip")
    assert card.data.base_model == "user/base"
    assert "A CLIP model, from <!-- base:begin -->[`user/base`]" in card.text


def test_a_run_of_its_own_replaces_our_card(near, made, tmp_path):
    push_model(small_model(), "user/clip", license="mit")
    folder = shutil.copytree(made, tmp_path / "clip")
    (folder / "README.md").unlink()
    EvaluationResult("triplets", {"accuracy": 0.75}).save_json(folder / "evaluation_after.json")
    push(folder, "user/clip")
    card = card_of(near, "user/clip")
    assert "| accuracy | 0.750 |" in card.text
    assert card.data.license == "mit"


def test_a_card_that_somebody_wrote_in_the_repository(near):
    theirs = b"---\nlanguage: 'no'\nlibrary_name: transformers\nbase_model: other/base\n---\n\n# By hand\n"
    near.add("model", "user/lora", {"README.md": theirs})
    push_model(small_model(), "user/base")
    push_model(adapted(small_model()), "user/lora", base_model="user/base")
    changed = theirs.replace(b"other/base", b"user/base").replace(b"name: transformers", b"name: peft")
    changed = changed.replace(b"\n---\n\n#", b"\nbase_model_relation: adapter\n---\n\n#")
    assert near.files("model", "user/lora")["README.md"] == changed
    near.add("model", "user/clip", {"README.md": theirs})
    push_model(small_model(), "user/clip")
    assert near.files("model", "user/clip")["README.md"] == theirs
    small_model().push_to_hub("user/clip", tags=["a"])
    assert near.files("model", "user/clip")["README.md"] == theirs.replace(b"\n---\n\n", b"\ntags:\n- a\n---\n\n")


@pytest.mark.parametrize("header", [b"---\nlicense: mit\n---\n", b"---\n---\n", b""])
def test_metadata_without_a_text(near, header):
    near.add("model", "user/clip", {"README.md": header})
    push_model(small_model(), "user/clip", base_model="user/base")
    card = near.files("model", "user/clip")["README.md"].decode()
    assert card.startswith(header.decode().removesuffix("---\n").replace("---\n---\n", "---\n"))
    data = ModelCard(card).data
    assert data.library_name == "transformers"
    assert data.base_model == "user/base"
    assert data.license == ("mit" if header.startswith(b"---\nlicense") else None)
    assert ModelCard(card).text.startswith("\n# clip\n\nA CLIP model, from")


def test_a_template_in_the_repository_is_replaced(near, made, tmp_path):
    adapted(small_model()).save_pretrained(tmp_path / "lora")
    template = (tmp_path / "lora" / "README.md").read_bytes()
    assert b"More Information Needed" in template
    template = template.replace(b"---\n", b"---\nlanguage: de\n", 1)
    near.add("model", "user/clip", {"README.md": template})
    push_model(small_model(), "user/clip")
    card = card_of(near, "user/clip")
    assert "More Information Needed" not in card.text
    assert card.data.language == "de"
    trainers = b"---\n---\n<!-- This model card has been generated automatically according to the `Trainer` -->\n\n# x"
    near.add("model", "user/clip", {"README.md": trainers})
    push_model(small_model(), "user/clip")
    assert card_of(near, "user/clip").text.startswith("\n# clip\n")


def test_the_base_of_an_adapter(near, made, tmp_path):
    push(made, "user/base", revision="v1")
    folder = shutil.copytree(made.with_name("lora"), tmp_path / "lora")
    (folder / "README.md").unlink()
    config = json.loads((folder / "adapter_config.json").read_text())

    def named(base: str | None, revision: str | None) -> None:
        changed = {"base_model_name_or_path": base, "revision": revision}
        (folder / "adapter_config.json").write_text(json.dumps({**config, **changed}))

    named("user/base", "v2")
    with pytest.raises(ValueError, match=r"of user/base at the revision 'v2', which the Hub does not have"):
        push(folder, "user/lora")
    named("user/base", None)
    with pytest.raises(ValueError, match=r"of user/base, which holds no CLIP: it has no config\.json"):
        push(folder, "user/lora")
    near.add("model", "user/bert", {"config.json": b'{"model_type": "bert"}'})
    with pytest.raises(ValueError, match=r"of user/bert, which is no CLIP: its `model_type` is 'bert'"):
        push(folder, "user/lora", base_model="user/bert")
    named("user/base", "v1")
    push(folder, "user/lora")
    assert json.loads(near.files("model", "user/lora")["adapter_config.json"])["revision"] == "v1"
    assert 'CLIPModel.from_pretrained("user/base", revision="v1")' in card_of(near, "user/lora").text
    write_published(tmp_path / "published")
    near.add("model", "user/split", tmp_path / "published")
    push(folder, "user/split-lora", base_model="user/split")
    assert json.loads(near.files("model", "user/split-lora")["adapter_config.json"])["revision"] is None
    text = card_of(near, "user/split-lora").text
    assert 'base = TripletCLIPModel.from_pretrained("user/split")' in text
    assert "opens without" not in text
    with pytest.raises(ValueError, match=r"^The adapter names no base model: push its base first"):
        push_model(adapted(small_model()), "user/lora")


def test_an_id_that_is_a_folder_here_too(near, made, tmp_path, monkeypatch):
    push(made, "user/base")
    monkeypatch.chdir(tmp_path)
    for name in ("user/base", "user/lora"):
        Path(name).mkdir(parents=True)
    push_model(adapted(small_model()), "user/lora", base_model="user/base")
    card = card_of(near, "user/lora")
    assert card.data.base_model == "user/base"
    assert 'CLIPModel.from_pretrained("user/base")' in card.text
    assert 'hf_hub_download("user/lora", "logit_scale.safetensors")' in card.text
    # What an adapter names without anybody's saying so is the folder.
    config = json.loads((made.with_name("lora") / "adapter_config.json").read_text())
    folder = shutil.copytree(made.with_name("lora"), tmp_path / "lora")
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "user/base"}))
    with pytest.raises(ValueError, match=r"is of user/base, which is no model on the Hub that you can see"):
        push(folder, "user/lora")


def test_a_model_with_an_image_processor_alone(near, tmp_path):
    small_model().save_pretrained(tmp_path)
    small_processor().image_processor.save_pretrained(tmp_path)
    push_model(tmp_path, "user/pictures")
    assert "preprocessor_config.json" in near.files("model", "user/pictures")


def test_a_name_without_a_user_a_private_one_and_branches(near, made, caplog):
    assert push(made, "clip", private=True) == f"{near.endpoint}/user/clip"
    assert near.repos["model", "user/clip"].private
    push(made, "user/clip", private=True)
    assert "is public" not in caplog.text
    assert push_model(small_model(), "plain", revision="of mine/1") == (
        f"{near.endpoint}/user/plain/tree/of%20mine%2F1"
    )
    branch = near.files("model", "user/plain", "of mine/1")
    assert b'model="user/plain"' in branch["README.md"]
    logging.enable_propagation()
    try:
        push_model(small_model(), "plain", private=True)
    finally:
        logging.disable_propagation()
    assert "user/plain exists and is public: what is uploaded can be seen by everyone" in caplog.text


def test_a_token_that_is_none_is_not_shown(made):
    assert "secret" not in repr(Destination("user/x", token="secret"))
    with pytest.raises(OSError, match="The token holds characters that no token of the Hub has") as failed:
        Destination("user/x", token="tökensecret").model_at("user/y")
    assert "kensecret" not in str(failed.value)


def test_an_adapter_without_a_processor_has_its_bases(near, made):
    push(made, "user/base")
    push_model(adapted(small_model()), "user/lora", base_model="user/base")
    assert 'processor = CLIPProcessor.from_pretrained("user/base")' in card_of(near, "user/lora").text
    push_model(adapted(small_model()), "user/lora", base_model="user/base", processor=small_processor())
    assert 'processor = CLIPProcessor.from_pretrained("user/lora")' in card_of(near, "user/lora").text


def test_other_kinds_are_kept_apart(near, made):
    push(made.with_name("openclip"), "user/openclip")
    push(made, "user/base")
    with pytest.raises(ValueError, match=r"user/openclip holds a model already \(open_clip_config.json\)"):
        push(made.with_name("lora"), "user/openclip", base_model="user/base")


def test_pickled_weights_stay_here(near, made, tmp_path):
    folder = shutil.copytree(made.with_name("lora"), tmp_path / "lora")
    (folder / "adapter_model.safetensors").unlink()
    shutil.rmtree(folder / "checkpoint-5")
    with pytest.raises(ValueError, match=r"has adapter_config.json but no weights \(adapter_model.safetensors\)"):
        push(folder, "user/lora", base_model="user/base")
    torch.save({}, folder / "adapter_model.bin")
    with pytest.raises(ValueError, match=r"has its weights in adapter_model.bin, a pickle"):
        push(folder, "user/lora", base_model="user/base")
    assert near.log == []

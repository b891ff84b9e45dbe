# SPDX-License-Identifier: Apache-2.0
"""A trainer's uploads to a Hub on this machine: the model and what belongs to it, and nothing else."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from transformers.trainer_utils import HubStrategy

from hf_tripletclip import TripletCLIPModel
from hf_tripletclip.hub.repository import Destination
from hf_tripletclip.training import pushing, record
from tests.loopback_hub import run_python
from tests.tiny import tiny_config
from tests.training.test_trainer import make_trainer

HEAD = """
from pathlib import Path
from hf_tripletclip import TripletCLIPModel
from hf_tripletclip.training.towers import TowerArguments, prepare_towers
from tests.hub import small_processor
from tests.training.test_trainer import make_trainer
"""


@pytest.mark.slow
def test_other_files_are_not_uploaded_and_an_adapter_names_its_base_on_the_hub(hub, tmp_path):
    TripletCLIPModel(tiny_config()).save_pretrained(tmp_path / "base")
    hub.add("model", "user/base", tmp_path / "base")
    code = f"""
out = Path({str(tmp_path / "out")!r})
out.mkdir()
(out / ".env").write_text("secret")
(out / "notes.txt").write_text("notes")
model = TripletCLIPModel.from_pretrained({str(tmp_path / "base")!r})
lora = TowerArguments(train_text="lora", train_vision="lora", train_logit_scale=True)
trainer = make_trainer(
    out, prepare_towers(model, lora), push_to_hub=True, hub_model_id="user/lora", hub_base_model="user/base",
    save_strategy="steps", save_steps=2, save_total_limit=1, hub_always_push=True,
)
trainer.processing_class = small_processor()
trainer.train()
commit = trainer.push_to_hub("Done", tags="shapes", revision="v7")
print(type(commit).__name__, commit.commit_message)
print(type(trainer.push_to_hub(blocking=False).result()).__name__)
"""
    done = run_python(HEAD + code, hub, tmp_path / "home")
    assert "CommitInfo Done" in done.stdout
    for revision in ("main", "v7"):
        files = hub.files("model", "user/lora", revision)
        assert {"adapter_model.safetensors", "logit_scale.safetensors", "tokenizer.json", "README.md"} <= files.keys()
        assert not {".env", "notes.txt", "training_args.bin"} & files.keys()
        config = json.loads(files["adapter_config.json"])
        assert config["base_model_name_or_path"] == "user/base"
        card = ModelCard(files["README.md"].decode())
        assert card.data.base_model == "user/base"
        assert "| learning_rate | 0.001 |" in card.text
        assert str(tmp_path).encode() not in b"".join(files.values())
    assert "shapes" in ModelCard(hub.files("model", "user/lora", "v7")["README.md"].decode()).data.tags
    commits = [files for files in hub.repos["model", "user/lora"].commits.values() if "adapter_config.json" in files]
    assert len(commits) >= 4  # at two checkpoints, too
    assert not list((tmp_path / "out").glob("_push-*"))


@pytest.mark.slow
def test_an_upload_that_fails_during_training_is_logged_and_the_last_one_raises(hub, tmp_path):
    TripletCLIPModel(tiny_config()).save_pretrained(tmp_path / "base")
    code = f"""
model = TripletCLIPModel.from_pretrained({str(tmp_path / "base")!r})
trainer = make_trainer(
    Path({str(tmp_path / "out")!r}), prepare_towers(model, TowerArguments(train_text="lora", train_vision="lora")),
    push_to_hub=True, hub_model_id="user/lora", save_strategy="steps", save_steps=2,
)
trainer.train()
try:
    trainer.push_to_hub()
except ValueError as error:
    print("ValueError", error)
"""
    done = run_python(HEAD + code, hub, tmp_path / "home")
    assert "Training in progress, step 2: it was not uploaded. The adapter" in done.stderr
    assert "ValueError The adapter" in done.stdout
    assert "push its base first" in done.stdout


# ---- Without a Hub: what is handed to it ----


@pytest.fixture
def hub_calls(monkeypatch) -> list[tuple[Any, ...]]:
    """What would have been made or sent: what it is, where to, and what belongs to it."""
    calls: list[tuple[Any, ...]] = []

    def place(destination: Destination) -> tuple[Any, ...]:
        return destination.repo_id, destination.private, destination.revision, destination.token

    def upload(folder: str, destination: Destination, **kwargs: Any) -> str:
        files = sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())
        calls.append(("model", *place(destination), kwargs, files))
        return "commit"

    def send(destination: Destination, folder: Path, message: str, **kwargs: Any) -> None:
        calls.append(("checkpoint", folder.name, message, kwargs))

    monkeypatch.setattr(pushing, "upload_model", upload)
    monkeypatch.setattr(Destination, "prepare", lambda destination: calls.append(("made", *place(destination))))
    monkeypatch.setattr(Destination, "send", send)
    return calls


OF_THE_HUB = {"hub_token": "hf_a", "hub_private_repo": True, "hub_revision": "dev", "hub_base_model": "user/base"}


def test_an_upload_follows_the_arguments_and_the_call(tmp_path, hub_calls):
    trainer = make_trainer(tmp_path / "small", **OF_THE_HUB)
    trainer.model.model_tags = ["of-the-model", "mine"]
    assert trainer.push_to_hub() == "commit"
    given = {"base_model": "user/base", "commit_message": "End of training"}
    made, (kind, *where, kwargs, files) = hub_calls
    assert made == ("made", "small", True, "dev", "hf_a")
    assert (kind, where, kwargs) == ("model", ["small", True, "dev", "hf_a"], given)
    assert {"model.safetensors", "README.md"} <= set(files)
    assert {"of-the-model", "mine"} <= set(ModelCard.load(tmp_path / "small" / "README.md").data.tags)
    done = trainer.push_to_hub("Done", blocking=False, token="hf_b", revision="v2", private=False, tags=["a", "mine"])
    assert done.result() == "commit"
    assert hub_calls[2][:5] == ("model", "small", False, "v2", "hf_b")  # it is there, and not made again
    assert hub_calls[2][5] == {**given, "commit_message": "Done"}
    tags = ModelCard.load(tmp_path / "small" / "README.md").data.tags
    assert [tag for tag in tags if tag in ("a", "mine", "of-the-model")] == ["a", "mine", "of-the-model"]
    trainer.hub_model_id, trainer.args.hub_model_id = None, "user/named"
    trainer.push_to_hub(token="hf_c", private=False)
    assert hub_calls[3] == ("made", "user/named", False, "dev", "hf_c")


def test_other_processes_upload_nothing(tmp_path, hub_calls, monkeypatch):
    trainer = make_trainer(tmp_path / "run")
    monkeypatch.setattr(trainer, "is_world_process_zero", lambda: False)
    assert trainer.push_to_hub() is None
    trainer.create_model_card()
    trainer.push_in_progress = None
    trainer.args.hub_strategy = HubStrategy.EVERY_SAVE
    trainer._push_from_checkpoint(str(tmp_path))
    assert hub_calls == []
    assert not (tmp_path / "run" / "README.md").exists()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"tags": [], "dataset": None}),
        ({"tags": "a", "dataset": "shapes"}, {"tags": ["a"], "dataset": "shapes"}),
        ({"tags": ["a", "b"], "dataset": ["x", "y"]}, {"tags": ["a", "b"], "dataset": "x"}),
        ({"dataset_tags": "user/x", "dataset": "x"}, {"dataset": "user/x"}),
        ({"dataset_tags": [], "dataset": "x"}, {"dataset": "x"}),
        ({"model_name": "n", "license": "mit"}, {"name": "n", "license": "mit"}),
        ({"finetuned_from": "b"}, {"base_model": "b"}),
    ],
)
def test_arguments_of_a_card(tmp_path, monkeypatch, given, expected):
    told: dict[str, Any] = {}
    monkeypatch.setattr(record, "write_trainer_card", lambda trainer, **kwargs: told.update(kwargs))
    make_trainer(tmp_path).create_model_card(**given)
    assert {name: told[name] for name in expected} == expected


@pytest.fixture
def saved(tmp_path) -> Any:
    """A trainer with a checkpoint of step 2, and the checkpoint."""
    checkpoint = tmp_path / "checkpoint-2"
    (checkpoint / "global_step2").mkdir(parents=True)
    for name in ("model.safetensors", "optimizer.pt", "rng_state.pth", "training_args.bin", "global_step2/a"):
        (checkpoint / name).write_text("")
    trainer = make_trainer(tmp_path, save_strategy="steps", hub_private_repo=False)
    trainer.hub_model_id, trainer.push_in_progress = "user/m", None
    trainer.state.global_step, trainer.state.epoch = 2, 1.5
    return trainer, checkpoint


@pytest.mark.parametrize(
    ("strategy", "beside"),
    [("end", None), ("every_save", []), ("checkpoint", ["last-checkpoint"]), ("all_checkpoints", ["checkpoint-2"])],
)
@pytest.mark.parametrize(("saves", "when"), [("steps", "step 2"), ("epoch", "epoch 1")])
def test_a_checkpoint_uploads_what_the_strategy_asks_for(saved, tmp_path, hub_calls, strategy, beside, saves, when):
    trainer, checkpoint = saved
    trainer.args.hub_strategy, trainer.args.save_strategy = HubStrategy(strategy), saves
    trainer._push_from_checkpoint(str(checkpoint))
    if beside is None:
        assert (hub_calls, trainer.push_in_progress) == ([], None)
        return
    trainer.push_in_progress.wait_until_done()
    message = f"Training in progress, {when}"
    [model] = [call for call in hub_calls if call[0] == "model"]
    assert model[1:6] == ("user/m", False, None, None, {"base_model": None, "commit_message": message})
    assert model[6] == ["model.safetensors"]
    sent = [call[1:] for call in hub_calls if call[0] == "checkpoint"]
    assert sent == [("checkpoint-2", f"{message}, checkpoint", {"path_in_repo": name}) for name in beside]
    assert len(os.listdir(checkpoint)) == 5


@pytest.mark.parametrize(
    ("busy", "always", "uploads"), [(True, False, 0), (True, True, 1), (False, False, 1), (False, True, 1)]
)
def test_one_upload_at_a_time_unless_hub_always_push(saved, hub_calls, busy, always, uploads):
    trainer, checkpoint = saved
    trainer.args.hub_strategy, trainer.args.hub_always_push = HubStrategy.EVERY_SAVE, always
    before = SimpleNamespace(is_done=lambda: not busy, jobs=[])
    trainer.push_in_progress = before
    trainer._push_from_checkpoint(str(checkpoint))
    assert (trainer.push_in_progress is before) == busy
    jobs = trainer.push_in_progress.jobs
    assert len(jobs) == uploads
    for job in jobs:
        job.result()
    assert len(hub_calls) == uploads


def test_a_failed_upload_is_logged_without_the_token_and_leaves_no_copy(saved, tmp_path, monkeypatch, caplog):
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("403 for hf_abcdefgh12345678")

    trainer, checkpoint = saved
    trainer.args.hub_strategy, trainer.args.hub_token = HubStrategy.EVERY_SAVE, "hf_abcdefgh12345678"
    monkeypatch.setattr(pushing, "upload_model", refuse)
    trainer._push_from_checkpoint(str(checkpoint))
    trainer.push_in_progress.wait_until_done()
    trainer.push_in_progress.jobs[0].exception()
    assert "Training in progress, step 2: it was not uploaded. 403 for" in caplog.text
    assert "hf_abcdefgh12345678" not in caplog.text
    assert not list(tmp_path.glob("_push-*"))


def test_a_disk_without_links_gets_copies(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("x")
    pushing.link_or_copy(str(tmp_path / "a"), str(tmp_path / "b"))
    assert (tmp_path / "b").samefile(tmp_path / "a")

    def refuse(*_: Any) -> None:
        raise OSError(errno.EPERM, "no links")

    monkeypatch.setattr(os, "link", refuse)
    pushing.link_or_copy(str(tmp_path / "a"), str(tmp_path / "c"))
    assert (tmp_path / "c").read_text() == "x"
    assert not (tmp_path / "c").samefile(tmp_path / "a")


def test_the_token_is_not_saved_with_the_arguments(tmp_path):
    trainer = make_trainer(tmp_path, hub_token="hf_secret")
    trainer.save_model()
    assert b"hf_secret" not in (tmp_path / "training_args.bin").read_bytes()
    assert torch.load(tmp_path / "training_args.bin", weights_only=False).hub_token is None
    assert type(trainer.args.hub_token) is str

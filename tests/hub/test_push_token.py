# SPDX-License-Identifier: Apache-2.0
"""A token that a training run was given is in none of its files, on the Hub neither, and in nothing it says."""

from __future__ import annotations

import base64
import copy
import logging
import pickle
import threading
import time
import traceback
import warnings
from pathlib import Path

import pytest
import torch
from huggingface_hub.utils import logging as hub_logging

from hf_tripletclip.hub.repository import Destination, Snapshot
from hf_tripletclip.training import TripletCLIPTrainingArguments
from hf_tripletclip.training.pushing import tokens_not_pickled
from tests.hub import FAKE
from tests.loopback_hub import run_python
from tests.training.test_trainer import make_trainer

SECRET = "my-own-hubs-token-1234"  # of no shape that is known


def holders(folder: Path) -> list[str]:
    return [str(path) for path in folder.rglob("*") if path.is_file() and FAKE.encode() in path.read_bytes()]


def test_no_file_of_a_run_has_it(tmp_path, caplog, capsys):
    with caplog.at_level(logging.DEBUG):
        trainer = make_trainer(tmp_path, hub_token=FAKE, save_strategy="steps", save_steps=2)
        trainer.train()
        trainer.save_model(str(tmp_path / "final"))
        trainer.save_state()
        trainer.create_model_card()
        print(trainer.args)
    saved = torch.load(tmp_path / "final" / "training_args.bin", weights_only=False)
    assert saved.hub_token is None
    assert saved.max_steps == trainer.args.max_steps
    assert (tmp_path / "checkpoint-2" / "training_args.bin").is_file()
    assert holders(tmp_path) == []
    assert FAKE not in caplog.text + "".join(capsys.readouterr())
    # The arguments themselves still have it, and so have their copies.
    assert trainer.args.hub_token == copy.deepcopy(trainer.args).hub_token == FAKE
    assert FAKE.encode() in pickle.dumps(trainer.args)


ECHOES = {
    "plain": SECRET,
    "in a header": f"{{'authorization': 'Bearer {SECRET}'}}",
    "in base64": base64.b64encode(f"user:{SECRET}".encode()).decode(),
    "in a URL": f"https://user:{SECRET}@hub.example/x",
    "masked": f"{SECRET[:6]}****{SECRET[-4:]}",
}


@pytest.mark.parametrize("given", [True, False], ids=["given", "of the environment"])
@pytest.mark.parametrize("echo", ECHOES.values(), ids=ECHOES)
def test_what_the_hub_says_of_a_card_is_told_without_it(echo, given, monkeypatch, tmp_path, recwarn):
    """Its answer to `validate-yaml` comes as a `ValueError` and as warnings of the client."""
    monkeypatch.setenv("HF_TOKEN", "" if given else SECRET)

    def refuses(*arguments, **options):
        warnings.warn(f"Warnings while validating metadata in README.md:\n- {echo}", stacklevel=2)
        raise ValueError(f"Invalid metadata in README.md.\n- {echo}")

    monkeypatch.setattr("huggingface_hub.HfApi.upload_folder", refuses)
    with pytest.raises(ValueError, match="The Hub refuses user/name: Invalid metadata") as caught:
        Destination("user/name", token=SECRET if given else None).send(tmp_path, "upload")
    (warned,) = recwarn
    shown = "".join(traceback.format_exception(caught.value)) + str(warned.message)
    assert "Warnings while validating metadata" in str(warned.message)
    assert "[token]" in str(warned.message)
    assert not any(SECRET[start : start + 8] in shown for start in range(len(SECRET) - 7))
    assert ECHOES["in base64"] not in shown
    assert ECHOES["masked"] not in shown


@pytest.mark.parametrize("strategy", ["every_save", "checkpoint", "all_checkpoints"])
def test_what_is_said_while_training_goes_on_has_no_token(strategy, monkeypatch, tmp_path, capsys, recwarn):
    """In threads of the client, by its warnings, by its log and that of its HTTP library, and by what goes wrong."""
    parts = []

    def refuses(*arguments, path_in_repo=None, **options):
        assert threading.current_thread() is not threading.main_thread()
        parts.append(path_in_repo)
        warnings.warn(f"Warnings while validating metadata in README.md:\n- {SECRET}", stacklevel=2)
        hub_logging.get_logger("huggingface_hub.lfs").warning("thrown while requesting PUT %s", f"https://h/{SECRET}")
        told = threading.Thread(target=logging.getLogger("httpx").warning, args=(f"Request: PUT {SECRET}",))
        told.start()
        told.join()
        raise RuntimeError(f"refused to {SECRET}")

    monkeypatch.setattr("huggingface_hub.HfApi.upload_folder", refuses)
    monkeypatch.setattr("hf_tripletclip.hub.repository.Destination.look", lambda _: Snapshot(frozenset(), None))
    monkeypatch.setattr("hf_tripletclip.hub.repository.Destination.prepare", lambda _: None)
    heard: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: heard.append(record.getMessage())
    names = ("huggingface_hub", "httpx", "hf_tripletclip")
    for name in names:
        logging.getLogger(name).addHandler(handler)
    try:
        trainer = make_trainer(
            tmp_path, hub_token=SECRET, push_to_hub=True, hub_model_id="user/m", max_steps=1, save_strategy="steps",
            save_steps=1, hub_strategy=strategy,
        )  # fmt: skip
        trainer.hub_model_id = "user/m"
        trainer.train()
        end = time.monotonic() + 10  # whoever waits for a job goes on before what is called at its end
        while sum("was not uploaded" in line for line in heard) < len(parts) and time.monotonic() < end:
            time.sleep(0.01)
    finally:
        for name in names:
            logging.getLogger(name).removeHandler(handler)
    expected = {"every_save": [], "checkpoint": ["last-checkpoint"], "all_checkpoints": ["checkpoint-1"]}[strategy]
    assert parts == [None, *expected]
    shown = [*heard, *(str(warned.message) for warned in recwarn)]
    for part in (
        "Warnings while validating",
        "while requesting PUT https://h/",
        "Request: PUT",
        "it was not uploaded",
    ):
        assert any(part in line and "[token]" in line for line in shown), part
    assert SECRET not in "".join(shown)


def test_while_it_is_not_pickled_it_is_of_use(tmp_path):
    args = TripletCLIPTrainingArguments(output_dir=str(tmp_path), hub_token=FAKE, use_cpu=True)
    with tokens_not_pickled(args):
        assert f"Bearer {args.hub_token}" == f"Bearer {FAKE}"
        assert pickle.loads(pickle.dumps(args)).hub_token is None
    assert type(args.hub_token) is str


@pytest.mark.slow
def test_pushed_at_every_save(hub, tmp_path):
    hub.accounts = {FAKE: {"user"}}
    code = f"""
from pathlib import Path
from tests.training.test_trainer import make_trainer
trainer = make_trainer(
    Path({str(tmp_path / "run")!r}), hub_token={FAKE!r}, push_to_hub=True, hub_model_id="user/run", save_steps=2,
    save_strategy="steps", hub_strategy="all_checkpoints", hub_always_push=True, hub_private_repo=True,
)
trainer.train()
trainer.push_to_hub()
print(trainer.args)
"""
    done = run_python(code, hub, tmp_path / "home", HF_TOKEN=None)
    assert FAKE not in done.stdout + done.stderr
    assert "<HUB_TOKEN>" in done.stdout
    assert holders(tmp_path) == []
    repo = hub.repos["model", "user/run"]
    assert repo.private
    files = hub.files("model", "user/run")
    assert {"model.safetensors", "checkpoint-2/training_args.bin"} <= files.keys()
    assert "training_args.bin" not in files  # nor what else lies in the output folder
    # Also not in what a later commit has replaced, nor in what was only sent.
    contents = [*hub.objects.values(), *(content for commit in repo.commits.values() for content in commit.values())]
    assert not any(FAKE.encode() in content for content in contents)

# SPDX-License-Identifier: Apache-2.0
"""A trainer's uploads to a Hub on this machine: the model and what belongs to it, and nothing else."""

from __future__ import annotations

import json

import pytest
from huggingface_hub import ModelCard

from hf_tripletclip import TripletCLIPModel
from tests.loopback_hub import run_python
from tests.tiny import tiny_config

HEAD = """
from pathlib import Path
from hf_tripletclip import TripletCLIPModel
from hf_tripletclip.training.towers import TowerArguments, prepare_towers
from tests.hub import small_processor
from tests.training.test_trainer import make_trainer
"""


@pytest.mark.slow
def test_what_lies_about_stays_and_an_adapter_names_its_base_on_the_hub(hub, tmp_path):
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
def test_an_upload_that_fails_while_training_is_said_and_the_last_one_raises(hub, tmp_path):
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

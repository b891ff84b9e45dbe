# SPDX-License-Identifier: Apache-2.0
"""What a run's card tells beyond its evaluation; and what is refused before a run that is to be pushed."""

from __future__ import annotations

import importlib.util
import logging
import os
import re
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from huggingface_hub import ModelCard
from peft import LoraConfig, get_peft_model

from hf_tripletclip import TripletCLIPModel, TripletCLIPTrainingArguments
from hf_tripletclip.hub.model_card import Part
from hf_tripletclip.results import EvaluationResult
from hf_tripletclip.training import record
from hf_tripletclip.training.record import check_push, describe_bound, describe_hardware, describe_lora, part_of
from hf_tripletclip.training.run import run_training
from hf_tripletclip.training.script_arguments import DataArguments, ModelArguments
from tests.tiny import tiny_config
from tests.training.test_trainer import Rows, make_trainer


def arguments(tmp_path, **settings) -> TripletCLIPTrainingArguments:
    return TripletCLIPTrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none", **settings)


def test_hardware_and_time(tmp_path):
    args = arguments(tmp_path)
    found = describe_hardware(args, 90.0)
    assert list(found) == ["hardware", "training time", "software"]
    assert found["hardware"].endswith(f", {os.cpu_count()} cores")
    assert found["training time"] == "1.5 minutes"
    assert f"torch {torch.__version__}" in found["software"]
    assert re.match(r"hf_tripletclip \d+\.\d+", found["software"])
    assert describe_hardware(args, 90.0, resumed_from=1500)["training time"] == "1.5 minutes, from step 1,500 on"
    assert "training time" not in describe_hardware(args)
    assert describe_hardware(args, 3540.0)["training time"] == "59.0 minutes"
    assert describe_hardware(args, 0.0, resumed_from=0)["training time"] == "0.0 minutes"
    two = SimpleNamespace(world_size=2, device=torch.device("cpu"))
    assert describe_hardware(two)["hardware"].endswith("cores, 2 processes")
    assert describe_hardware(SimpleNamespace(world_size=1, device=torch.device("mps")))["hardware"] == "mps"


@pytest.mark.parametrize(("processes", "named"), [(1, "H100"), (2, "2 × H100")])
def test_gpus_are_named_with_the_memory_of_one_process(monkeypatch, processes, named):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "H100")
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 100 * 1024**3)
    found = describe_hardware(SimpleNamespace(world_size=processes, device=torch.device("cuda", 0)))
    assert (found["hardware"], found["peak GPU memory"]) == (named, "100.0 GiB per process")


@pytest.mark.parametrize(
    ("text", "machine", "named"),
    [
        ("processor : 0\nmodel name\t: Fast 9: new\n", "", "Fast 9: new"),
        ("model name :  \n", "x86_64", "x86_64"),
        ("model : name\n", "", "CPU"),
        (None, "arm64", "arm64"),
    ],
)
def test_the_kind_of_the_cpu(tmp_path, monkeypatch, text, machine, named):
    monkeypatch.setattr(record, "CPU_INFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(record.platform, "processor", lambda: "")
    monkeypatch.setattr(record.platform, "machine", lambda: machine)
    if text is not None:
        (tmp_path / "cpuinfo").write_text(text)
    assert record._cpu() == named


@pytest.mark.gpu
def test_a_gpu_is_named_with_its_memory(tmp_path):
    args = TripletCLIPTrainingArguments(output_dir=str(tmp_path), report_to="none")
    torch.ones(2**28, device=args.device)
    found = describe_hardware(args)
    assert torch.cuda.get_device_name() in found["hardware"]
    assert float(found["peak GPU memory"].split()[0]) >= 1.0


def test_the_card_has_what_is_set_of_our_own_and_decides_the_course(tmp_path):
    def shown(**settings) -> dict:
        args = arguments(tmp_path, max_steps=5, **settings)
        return record._of_training(tiny_config(objective="negclip"), args, [])["hyperparameters"]

    plain = shown()
    assert plain["max_steps"] == 5
    assert not {"max_negatives", "num_train_epochs", "objective", "neighbours"} & plain.keys()
    changed = shown(max_negatives=2, batch_neighbours=1, neighbours="mined", objective="negclip")
    assert changed.items() - plain.items() == {("max_negatives", 2), ("batch_neighbours", 1)}


def test_adapters_are_described():
    assert describe_lora(ModelArguments()) == ""
    plain = ModelArguments(train_text="lora", lora_r=4, lora_target_modules=["q_proj", "v_proj"])
    assert describe_lora(plain) == " LoRA of rank 4, alpha 32, on `q_proj`, `v_proj`."
    dora = ModelArguments(train_vision="lora", use_dora=True, use_rslora=True, lora_dropout=0.1, load_in_4bit=True)
    assert describe_lora(dora).endswith(", dropout 0.1, on `attention`, DoRA, rsLoRA, on weights of 4 bits (QLoRA).")


def test_the_bound_on_retention_is_described(tmp_path):
    bound = {"retention_metric": "zeroshot_top1", "max_retention_loss": 0.1, "eval_strategy": "steps"}
    args = arguments(tmp_path, **bound)
    log = [{"step": step, "eval_zeroshot_top1": value} for step, value in ((0, 0.5), (10, 0.45))]
    assert describe_bound(args, log) == (
        "Training was to stop if `zeroshot_top1`, 0.5000 before it, fell by more than 0.1. It did not: at the last "
        "evaluation, step 10, it was 0.4500."
    )
    stopped = describe_bound(args, [*log, {"step": 20, "eval_zeroshot_top1": 0.3}])
    assert stopped.endswith("It did so at step 20 (0.3000), and the model went back to weights within the bound.")
    exact = [{"step": 0, "eval_zeroshot_top1": 0.5}, {"step": 1, "eval_zeroshot_top1": 0.25}]
    args.max_retention_loss = 0.25  # the bound itself may be lost
    assert "It did not: at the last evaluation, step 1" in str(describe_bound(args, exact))
    assert describe_bound(args, []) is None
    assert describe_bound(arguments(tmp_path), log) is None


def test_an_adapter_of_a_folder_needs_the_id_of_its_base(tmp_path):
    pushed = {"push_to_hub": True, "hub_model_id": "user/lora"}
    with pytest.raises(ValueError, match=r"would be of no use to others: push that model .* `--hub_base_model`"):
        check_push(arguments(tmp_path, **pushed), str(tmp_path), adapter=True)
    for args, base, adapter in (
        (arguments(tmp_path, **pushed, hub_base_model="user/clip"), str(tmp_path), True),
        (arguments(tmp_path, **pushed), "user/clip", True),
        (arguments(tmp_path, **pushed), str(tmp_path), False),
        (arguments(tmp_path), str(tmp_path), True),
    ):
        check_push(args, base, adapter=adapter)
    with pytest.raises(ValueError, match="`hub_base_model` is 'a/b/c', which is no id of the Hub"):
        check_push(arguments(tmp_path, hub_base_model="a/b/c"), None, adapter=False)


@pytest.mark.parametrize(
    ("asked", "main", "repo_id", "pushed"),
    [(True, True, "user/m", "user/m"), (True, True, None, "out"), (True, False, "m", None), (False, True, "m", None)],
)  # fmt: skip
def test_the_main_process_pushes_a_run_if_that_is_asked_for(
    tmp_path, monkeypatch, capsys, asked, main, repo_id, pushed
):
    calls: list[object] = []
    state = SimpleNamespace(is_main_process=main, wait_for_everyone=lambda: calls.append("wait"))
    monkeypatch.setattr(record, "PartialState", lambda: state)
    monkeypatch.setattr(record, "push_model", lambda *given, **kwargs: calls.append((given, kwargs)) or "URL")
    args = arguments(tmp_path, hub_private_repo=True, hub_revision="v1", hub_token="hf_x", hub_base_model="user/b")
    args.push_to_hub = asked
    run = record.RunRecord(tmp_path / "out", tiny_config(), args, "scenes", [], None, None, None, repo_id=repo_id)
    record.push_run(run)
    kwargs = {"base_model": "user/b", "private": True, "revision": "v1", "token": "hf_x"}
    upload = [] if pushed is None else [((tmp_path / "out", pushed), kwargs)]
    assert calls == ([*upload, "wait"] if asked else [])
    assert ("Pushed to URL" in capsys.readouterr().out) == bool(upload)


def test_a_run_refuses_such_an_adapter_before_it_starts(tmp_path):
    args = arguments(tmp_path / "out", push_to_hub=True, hub_model_id="user/lora")
    model = ModelArguments(model_name_or_path=str(tmp_path), train_text="lora")
    with pytest.raises(ValueError, match="--hub_base_model"):
        run_training(model, DataArguments(), args)
    assert not (tmp_path / "out").exists()


def test_the_trainer_writes_the_card_of_this_package(tmp_path):
    model = TripletCLIPModel(tiny_config(objective="negclip"))
    trainer = make_trainer(tmp_path, model, eval_strategy="steps", eval_steps=2, eval_dataset=Rows())
    trainer.train()
    trainer.create_model_card(license="mit", tags="mine", dataset_tags=["me/triplets"], finetuned_from="user/clip")
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.license == "mit"
    assert card.data.datasets == ["me/triplets"]
    assert card.data.base_model == "user/clip"
    assert "mine" in card.data.tags
    assert r"\mathrm{CE}(v \to T \cup T')" in card.text
    assert "On the validation data, at step 4:" in card.text
    assert "| group_score | " in card.text
    assert "| max_steps | 4 |" in card.text
    assert "Trained on 12 rows." in card.text
    assert "num_train_epochs" not in card.text
    assert "training time" in card.text
    assert "![Loss](loss_curve.png)" in card.text
    assert (tmp_path / "loss_curve.png").is_file()
    total = sum(parameter.numel() for parameter in model.parameters())
    assert f"{total:,} of {total:,} parameters were trained." in card.text
    assert str(tmp_path) not in str(card)

    (tmp_path / "README.md").write_text("# By hand\n")
    trainer.create_model_card()
    assert (tmp_path / "README.md").read_text() == "# By hand\n"


def test_a_card_names_the_rows_and_the_splits(tmp_path):
    rows, held = (Dataset.from_dict({"row": list(range(n))}, split=name) for n, name in ((7, "train"), (3, "dev")))
    assert part_of(rows) == Part(7, "train")
    assert part_of(rows, "tune") == Part(7, "tune")
    assert part_of(rows.to_iterable_dataset(), "train") == Part(None, "train")
    assert part_of(Rows(5)) == Part(5)
    assert part_of({"x": rows}) is None
    assert part_of(None, "test") is None
    args = arguments(tmp_path, max_steps=4)
    log = [{"step": 2, "eval_loss": 2.0}, {"step": 4, "eval_loss": 1.0}, {"step": 4, "loss": 1.5}]
    run = record.RunRecord(tmp_path, tiny_config(), args, "scenes", log, None, None, None)
    run.trained_on, run.evaluated_on = part_of(rows), part_of(held)
    record.write_card(run)
    text = ModelCard.load(tmp_path / "README.md").text
    assert "Trained on 7 rows of the split `train`." in text
    assert "On the validation data, 3 rows of the split `dev`, at step 4:" in text
    assert "| loss | 1.0000 |" in text
    run.after = EvaluationResult("triplets", {"accuracy": 0.5}, counts={"rows": 9})
    run.evaluated_on = Part(9, "test")
    record.write_card(run)
    text = ModelCard.load(tmp_path / "README.md").text
    assert "9 triplets of the split `test`." in text
    assert "validation data" not in text


def test_the_card_of_an_adapter_replaces_pefts_template(tmp_path):
    model = get_peft_model(TripletCLIPModel(tiny_config()), LoraConfig(r=2, target_modules=["q_proj"]))
    trainer = make_trainer(tmp_path, model, max_steps=1, objective_kwargs={"distillation": {"kind": "embedding"}})
    trainer.train()
    trainer.save_model()
    assert "More Information Needed" in (tmp_path / "README.md").read_text()
    trainer.overlap = ["All of it was seen."]
    trainer.create_model_card()
    card = ModelCard.load(tmp_path / "README.md")
    total, trained = (model.num_parameters(only_trainable=only) for only in (False, True))
    assert trained < total
    assert f"{trained:,} of {total:,} parameters were trained." in card.text
    assert "All of it was seen." in card.text
    assert card.data.library_name == "peft"
    assert "More Information Needed" not in card.text
    assert r"\rVert^2" in card.text  # of distillation


def test_a_run_without_matplotlib_trains_and_warns_that_it_draws_no_picture(tmp_path, monkeypatch, caplog):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find(name))
    record.logger.warning_once.cache_clear()
    monkeypatch.setattr(logging.getLogger("hf_tripletclip"), "propagate", True)
    args = arguments(tmp_path)
    args.max_steps = 1
    run = record.RunRecord(tmp_path, tiny_config(), args, "scenes", [{"step": 1, "loss": 1.0}], None, None, None)
    with caplog.at_level("WARNING"):
        record.write_run_record(run)
    assert "No picture of this run is drawn" in caplog.text
    assert "hf_tripletclip[plots]" in caplog.text
    assert (tmp_path / "metrics.json").is_file()
    assert "loss_curve.png" not in ModelCard.load(tmp_path / "README.md").text
    assert not (tmp_path / "loss_curve.png").exists()

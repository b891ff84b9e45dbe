# SPDX-License-Identifier: Apache-2.0
"""The trainer on batches that are tensors already; what needs images is in tests/end_to_end."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import CLIPModel
from transformers.trainer_utils import get_last_checkpoint

from hf_tripletclip import TripletCLIPModel, TripletCLIPTrainer, TripletCLIPTrainingArguments
from hf_tripletclip.evaluation import triplet_metrics
from hf_tripletclip.layouts.files import LOGIT_SCALE_FILE
from hf_tripletclip.training import last_complete_checkpoint
from hf_tripletclip.training.checkpointing import is_complete
from hf_tripletclip.training.towers import TowerArguments, prepare_towers
from tests.tiny import negatives, positives, tiny_config


class Rows(torch.utils.data.Dataset):
    """Rows of tensors by the model's input names."""

    def __init__(self, rows: int = 12, drop: tuple[str, ...] = ()) -> None:
        batch = {**positives(rows), **negatives(rows)}
        self.batch = {name: value for name, value in batch.items() if name not in drop}
        self.rows = rows

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {name: value[index] for name, value in self.batch.items()}


def make_trainer(tmp_path: Path, model=None, **kwargs) -> TripletCLIPTrainer:
    torch.manual_seed(0)
    of_trainer = ("train_dataset", "eval_dataset", "data_collator", "processing_class", "compute_metrics")
    given = {name: kwargs.pop(name) for name in (*of_trainer, "optimizers") if name in kwargs}
    arguments = {
        "output_dir": str(tmp_path),
        "max_steps": 4,
        "per_device_train_batch_size": 6,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        **kwargs,
    }
    return TripletCLIPTrainer(
        model=model if model is not None else TripletCLIPModel(tiny_config()),
        args=TripletCLIPTrainingArguments(**arguments),
        **{"train_dataset": Rows(), **given},
    )


def losses(trainer: TripletCLIPTrainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_trains_on_tensors_and_logs_the_parts(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=30, learning_rate=3e-3)
    trainer.train()
    history = losses(trainer)
    assert history[-1] < 0.7 * history[0]
    first = next(entry for entry in trainer.state.log_history if "loss" in entry)
    expected = trainer.model(**Rows().batch, return_loss=True).loss_parts
    assert expected.keys() <= first.keys()
    assert first["logit_scale"] == pytest.approx(math.exp(2.6592), rel=0.02)


@pytest.mark.parametrize("mini_batch_size", [4, 6, 1])
def test_gradient_caching_gives_the_same_training(tmp_path, mini_batch_size):
    # Adam makes steps of full size from gradients that are nothing but rounding.
    plain, cached = (
        make_trainer(tmp_path, mini_batch_size=size, optim="sgd", learning_rate=0.05)
        for size in (None, mini_batch_size)
    )
    plain.train()
    cached.train()
    assert losses(cached) == pytest.approx(losses(plain), rel=1e-4)
    for ours, theirs in zip(cached.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_gradient_accumulation_averages(tmp_path):
    trainers = [
        make_trainer(tmp_path, gradient_accumulation_steps=2, max_steps=1, mini_batch_size=size, max_grad_norm=0.0)
        for size in (None, 2)
    ]
    for trainer in trainers:
        trainer.train()
    assert losses(trainers[0]) == pytest.approx(losses(trainers[1]), rel=1e-5)


def test_evaluation_reports_the_compositional_metrics(tmp_path):
    trainer = make_trainer(tmp_path, eval_dataset=Rows(10), per_device_eval_batch_size=4)
    metrics = trainer.evaluate()
    assert math.isfinite(metrics["eval_loss"])
    with torch.no_grad():
        output = trainer.model(**Rows(10).batch)
    expected = triplet_metrics(
        output.image_embeds, output.text_embeds, output.negative_image_embeds, output.negative_text_embeds
    )
    for name, value in expected.items():
        assert metrics[f"eval_{name}"] == pytest.approx(value), name


def test_recall_of_tensors_knows_repeats(tmp_path):
    once, twice = Rows(5), Rows(5)
    twice.batch = {name: torch.cat([values, values]) for name, values in once.batch.items()}
    twice.rows = 10
    found = [
        make_trainer(tmp_path, eval_dataset=data, per_device_eval_batch_size=4).evaluate() for data in (once, twice)
    ]
    recall = {name: value for name, value in found[0].items() if "recall" in name}
    assert recall["eval_image_to_text_recall@5"] == 1
    assert {name: found[1][name] for name in recall} == recall


def test_objective_comes_from_the_arguments_or_the_model(tmp_path):
    model = TripletCLIPModel(tiny_config(objective="clip"))
    drop = ("negative_input_ids", "negative_attention_mask", "negative_pixel_values")
    trainer = make_trainer(tmp_path, model=model, train_dataset=Rows(drop=drop))
    assert trainer.core.objective.name == "clip"
    trainer.train()
    trainer = make_trainer(tmp_path, objective="clip_all", objective_kwargs={"chunk_size": 3})
    assert trainer.core.config.objective == "clip_all"
    assert trainer.core.config.objective_kwargs == {"chunk_size": 3}


def test_weight_decay_is_on_matrices_only(tmp_path):
    trainer = make_trainer(tmp_path, weight_decay=0.5)
    decayed = set(trainer.get_decay_parameter_names(trainer.model))
    assert "text_projection.weight" in decayed
    parameters = dict(trainer.model.named_parameters())
    assert "logit_scale" not in decayed
    assert all(parameters[name].ndim >= 2 for name in decayed)


@pytest.mark.parametrize(
    ("config", "arguments", "start", "end"),
    [
        ({}, {}, 1000.0, 100.0),
        ({"logit_scale_max": 15.0}, {}, 1000.0, 15.0),
        ({"logit_scale_max": 15.0}, {"logit_scale_max": 30.0}, 1000.0, 30.0),
        ({"logit_scale_max": None}, {}, 1000.0, 1000.0),
        ({}, {}, 0.5, 1.0),
        ({}, {}, 99.0, 99.0),
    ],
)
def test_logit_scale_stays_within_its_bound(tmp_path, config, arguments, start, end):
    model = TripletCLIPModel(tiny_config(logit_scale_init_value=math.log(start), **config))
    trainer = make_trainer(tmp_path, model=model, learning_rate=1e-5, max_steps=1, **arguments)
    trainer.train()
    assert trainer.model.logit_scale.exp().item() == pytest.approx(end, rel=1e-4)


def test_trains_inside_peft(tmp_path):
    adapted = get_peft_model(
        TripletCLIPModel(tiny_config()), LoraConfig(target_modules=["q_proj", "v_proj"], r=4, init_lora_weights=True)
    )
    frozen = adapted.get_base_model().visual_projection.weight.clone()
    for size in (None, 4):
        trainer = make_trainer(tmp_path, model=adapted, mini_batch_size=size, max_steps=2)
        trainer.train()
        assert all(math.isfinite(loss) for loss in losses(trainer))
    assert torch.equal(adapted.get_base_model().visual_projection.weight, frozen)


def test_checkpoints_are_complete_and_rotated(tmp_path):
    trainer = make_trainer(tmp_path, save_strategy="steps", save_steps=1, save_total_limit=2, max_steps=3)
    trainer.train()
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-3"]
    assert all(is_complete(path) for path in tmp_path.glob("checkpoint-*"))
    assert trainer.args.save_total_limit == 2


def test_resume_repeats_the_curve_exactly_even_if_saves_fall_between_logs(tmp_path):
    kwargs = {"save_strategy": "steps", "save_steps": 3, "logging_steps": 4, "max_steps": 10}
    whole = make_trainer(tmp_path / "whole", **kwargs)
    whole.train()
    first = make_trainer(tmp_path / "cut", **kwargs)
    first.train()
    for step in (6, 9, 10):  # as if it had been killed in the middle of writing step 6
        (tmp_path / "cut" / f"checkpoint-{step}" / "checkpoint_complete.json").unlink()
    assert get_last_checkpoint(str(tmp_path / "cut")).endswith("checkpoint-10")
    second = make_trainer(tmp_path / "cut", **kwargs)
    second.train(resume_from_checkpoint=last_complete_checkpoint(tmp_path / "cut"))

    def curve(trainer: TripletCLIPTrainer) -> list[tuple[int, float, float]]:
        return [(entry["step"], entry["loss"], entry["logit_scale"]) for entry in trainer.state.log_history[:-1]]

    assert curve(second) == curve(whole)
    for ours, theirs in zip(second.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_resuming_a_finished_run_trains_no_further(tmp_path):
    kwargs = {"save_strategy": "steps", "save_steps": 3, "max_steps": 3, "lr_scheduler_type": "constant"}
    first = make_trainer(tmp_path, **kwargs)
    first.train()
    again = make_trainer(tmp_path, **kwargs)
    again.train(resume_from_checkpoint=last_complete_checkpoint(tmp_path))
    assert again.state.global_step == 3
    assert losses(again) == losses(first)
    for ours, theirs in zip(again.model.parameters(), first.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_an_epochs_checkpoint_resumes_the_exact_curve_too(tmp_path):
    kwargs = {"save_strategy": "epoch", "logging_steps": 3, "max_steps": 6}  # two steps an epoch
    whole = make_trainer(tmp_path / "whole", **kwargs)
    whole.train()
    again = make_trainer(tmp_path / "cut", **kwargs)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert losses(again) == losses(whole)


def test_negatives_across_devices_may_be_set_by_either_argument(tmp_path):
    assert make_trainer(tmp_path).core.objective.negatives_across_devices
    kwargs = {"objective_kwargs": {"negatives_across_devices": False}}
    assert not make_trainer(tmp_path, **kwargs).core.objective.negatives_across_devices
    assert not make_trainer(tmp_path, negatives_across_devices=False).core.objective.negatives_across_devices


def test_saved_folder_is_a_plain_clip(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.train()
    trainer.save_model()
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "clip"
    CLIPModel.from_pretrained(tmp_path)


def test_errors_before_training(tmp_path):
    with pytest.raises(ValueError, match=r"negclip'? needs \['negative_input_ids'\]"):
        make_trainer(tmp_path, objective="negclip", train_dataset=Rows(drop=("negative_input_ids",)))
    with pytest.raises(ValueError, match=r"`train_dataset` is empty"):
        make_trainer(tmp_path, train_dataset=Rows(0))
    with pytest.raises(ValueError, match=r"`eval_dataset` is empty"):
        make_trainer(tmp_path, eval_dataset=Rows(0))
    with pytest.raises(ValueError, match="at least two rows"):
        make_trainer(tmp_path, per_device_train_batch_size=1)
    with pytest.raises(ValueError, match=r"12 rows, fewer than one batch of 64"):
        make_trainer(tmp_path, per_device_train_batch_size=64)
    with pytest.raises(ValueError, match="no_such"):
        make_trainer(tmp_path, objective="no_such")
    with pytest.raises(TypeError, match="CLIPModel"):
        make_trainer(tmp_path, model=CLIPModel(tiny_config()))
    with pytest.raises(ValueError, match="`train_dataset` has no column 'length' of lengths"):
        make_trainer(tmp_path, train_sampling_strategy="group_by_length")
    with pytest.raises(ValueError, match="`include_for_metrics` is for your own"):
        make_trainer(tmp_path, include_for_metrics=["loss"])
    with pytest.raises(ValueError, match="`optim` is lomo"):
        make_trainer(tmp_path, optim="lomo", mini_batch_size=2)


LORA = {"train_text": "lora", "train_vision": "lora", "lora_r": 4, "train_logit_scale": True}
DISTILLED = {"objective_kwargs": {"distillation": {"kind": "similarity", "weight": 2.0}}, "objective": "tripletclip"}


def tuned(**options) -> object:
    torch.manual_seed(0)
    return prepare_towers(TripletCLIPModel(tiny_config()), TowerArguments(**options))


@pytest.mark.parametrize("mini_batch_size", [None, 4])
@pytest.mark.parametrize(
    "towers",
    [{**LORA, "lora_dropout": 0.3}, {"train_vision": "frozen"}, {"train_text": "full", "train_vision": "lora"}],
)
def test_resume_is_exact_whatever_trains_with_a_teacher(tmp_path, towers, mini_batch_size):
    kwargs = {"save_strategy": "steps", "save_steps": 2, "mini_batch_size": mini_batch_size, **DISTILLED}
    whole = make_trainer(tmp_path / "whole", model=tuned(**towers), **kwargs)
    whole.train()
    assert all(entry["distillation"] >= 0 for entry in whole.state.log_history if "loss" in entry)
    second = make_trainer(tmp_path / "whole", model=tuned(**towers), **kwargs)
    second.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    for (name, ours), theirs in zip(second.model.named_parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(ours, theirs), name
    assert losses(second) == losses(whole)


def test_qlora_resumes_exactly_with_its_teacher(tmp_path):
    pytest.importorskip("bitsandbytes")
    TripletCLIPModel(tiny_config()).save_pretrained(tmp_path / "base")
    args = TowerArguments(**LORA, load_in_4bit=True)
    kwargs = {"save_strategy": "steps", "save_steps": 2, "mini_batch_size": 4, "eval_dataset": Rows(10)}
    kwargs |= {"eval_strategy": "steps", "eval_steps": 2, "eval_on_start": True, "learning_rate": 1e-2, **DISTILLED}

    def make() -> TripletCLIPTrainer:
        torch.manual_seed(0)
        model = TripletCLIPModel.from_pretrained(tmp_path / "base", **args.loading_arguments())
        return make_trainer(tmp_path / "run", model=prepare_towers(model, args), **kwargs)

    whole, second = make(), make()
    whole.train()
    assert max(entry["distillation"] for entry in whole.state.log_history if "loss" in entry) > 0
    assert not list((tmp_path / "run").rglob("model*.safetensors"))
    second.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert losses(second) == losses(whole)
    for name, value in second.model.named_parameters():
        assert torch.equal(value, whole.model.get_parameter(name)), name


def test_the_teacher_is_the_model_before_training_with_and_without_adapters(tmp_path):
    teachings = {}
    for kind, towers in (("full", {}), ("lora", LORA)):
        model = tuned(**towers)
        with torch.no_grad():
            expected = model.eval()(**positives(), **negatives()).image_embeds.clone()
        trainer = make_trainer(tmp_path, model=model, learning_rate=1e-2, **DISTILLED)
        trainer.train()
        taught = trainer.teacher(trainer.model, {**positives(), **negatives()})
        torch.testing.assert_close(taught["image"], expected)
        assert set(taught) == {"image", "text", "negative_image", "negative_text"}
        with torch.no_grad():
            now = trainer.model.eval()(**positives(), **negatives()).image_embeds
        assert (now - expected).abs().max() > 1e-3
        teachings[kind] = taught
    torch.testing.assert_close(teachings["full"]["text"], teachings["lora"]["text"])


def test_distillation_holds_the_model_back(tmp_path):
    moved = {}
    for weight in (None, 50.0):
        kwargs = {} if weight is None else {"distillation": {"kind": "embedding", "weight": weight}}
        model = tuned()
        before = model.eval()(**positives()).image_embeds.detach().clone()
        trainer = make_trainer(
            tmp_path, model=model, max_steps=10, learning_rate=3e-3, objective="tripletclip", objective_kwargs=kwargs
        )
        trainer.train()
        moved[weight] = (model.eval()(**positives()).image_embeds - before).square().sum().item()
    assert moved[50.0] < 0.5 * moved[None]


def test_best_model_and_scale_come_back_beside_an_adapter(tmp_path):
    trainer = make_trainer(
        tmp_path, model=tuned(**LORA), save_strategy="steps", save_steps=1, eval_strategy="steps", eval_steps=1,
        load_best_model_at_end=True, metric_for_best_model="eval_loss", learning_rate=0.3, eval_dataset=Rows(10),
        max_steps=3,
    )  # fmt: skip
    trainer.train()
    best = Path(trainer.state.best_model_checkpoint)
    saved = load_file(best / LOGIT_SCALE_FILE)["logit_scale"]
    assert trainer.core.logit_scale.item() == saved.item()


def test_only_the_writing_process_writes_the_scale_beside_an_adapter(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path, model=tuned(**LORA))
    trainer.save_model(str(tmp_path / "main"))
    assert (tmp_path / "main" / LOGIT_SCALE_FILE).exists()
    monkeypatch.setattr(type(trainer.args), "should_save", False)
    trainer.save_model(str(tmp_path / "other"))  # as in the other processes, where the folder may not be there yet
    assert not (tmp_path / "other").exists()

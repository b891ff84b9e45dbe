# SPDX-License-Identifier: Apache-2.0
"""Training on patches and words, and with a decoder: LoRA, locked towers, a teacher; what cannot be is refused."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file

from hf_tripletclip import TripletCLIPModel
from hf_tripletclip.modeling.decoder_input import FILE
from hf_tripletclip.objectives import reconstruction
from hf_tripletclip.training.checkpointing import mark_complete
from hf_tripletclip.training.towers import TowerArguments, prepare_towers
from hf_tripletclip.training.trainer_setup import check_decoder
from tests.tiny import captions, decoder_labels, tiny_config
from tests.tiny_decoder import tiny_decoder
from tests.training.test_methods import losses_of, make_model, processor, rows  # noqa: F401
from tests.training.test_trainer import Rows, losses, make_trainer

LOCAL = {"objective": "fsc_clip", "objective_kwargs": json.dumps({"local_weight": 0.2})}
DISTILLED = {
    "objective": "fsc_clip",
    "objective_kwargs": json.dumps({"local_weight": 0.2, "distillation": {"kind": "embedding"}}),
}
LORA = {"train_text": "lora", "train_vision": "lora", "lora_target_modules": ["all-linear"]}


def tuned(**towers):
    torch.manual_seed(0)
    return prepare_towers(TripletCLIPModel(tiny_config()), TowerArguments(**towers))


@pytest.mark.parametrize(
    "towers", [LORA, {"train_vision": "frozen"}, {"train_text": "frozen"}], ids=["lora", "vision", "text"]
)
def test_adapters_and_locked_towers_train_whole_and_cached(tmp_path, towers):
    curves = []
    for size in (None, 3):
        trainer = make_trainer(tmp_path / str(size), model=tuned(**towers), mini_batch_size=size, **LOCAL)
        trainer.train()
        assert all("image_to_own_text_locally" in log for log in trainer.state.log_history if "loss" in log)
        curves.append(losses(trainer))
    assert curves[0] == pytest.approx(curves[1], rel=1e-4)


@pytest.mark.parametrize(
    ("towers", "said"),
    [
        ({"train_vision": "frozen"}, "what the image tower puts out"),
        ({"train_text": "frozen"}, "what the text tower puts out"),
    ],
)
def test_pooled_outputs_are_not_enough(tmp_path, towers, said):
    with pytest.raises(ValueError, match=r"^`cache_locked_towers` keeps a tower's pooled output only") as caught:
        make_trainer(tmp_path, model=tuned(**towers), cache_locked_towers=str(tmp_path / "cache"), **LOCAL)
    assert said in str(caught.value)
    assert "'fsc_clip' with its settings {'local_weight': 0.2}" in str(caught.value)
    assert "\n" not in str(caught.value)
    without = {"objective": "fsc_clip", "cache_locked_towers": str(tmp_path / "cache")}
    make_trainer(tmp_path / "without", model=tuned(**towers), **without).train()


def test_a_teacher_may_be_cached(tmp_path):
    curves = []
    for cache in (None, str(tmp_path / "cache")):
        trainer = make_trainer(tmp_path / str(bool(cache)), model=tuned(), cache_locked_towers=cache, **DISTILLED)
        trainer.train()
        curves.append(losses(trainer))
    assert curves[0] == pytest.approx(curves[1], rel=1e-4)


# ---- A decoder ----

WRITING = {"objective_kwargs": json.dumps({"decoder": tiny_decoder(), "reconstruction_weight": 0.5})}


def writing(folder, processor, towers=None, model=None, **arguments):  # noqa: F811
    model = prepare_towers(make_model(processor) if model is None else model, TowerArguments(**(towers or {})))
    return make_trainer(
        folder,
        model,
        objective="read_alignment",
        train_dataset=Dataset.from_list(rows()),
        processing_class=processor,
        **{"remove_unused_columns": False, "per_device_train_batch_size": 4, **WRITING, **arguments},
    )


@pytest.mark.parametrize("towers", [{}, LORA, {"train_vision": "frozen"}], ids=["full", "lora", "vision"])
def test_a_resumed_run_with_a_decoder_has_the_same_losses(tmp_path, processor, towers):  # noqa: F811
    whole = writing(tmp_path / "whole", processor, towers, max_steps=4)
    before = whole.core.decoder_input.weight.detach().clone()
    whole.train()
    assert (whole.core.decoder_input.weight - before).abs().max() > 1e-3
    first = writing(tmp_path / "run", processor, towers, max_steps=4, save_strategy="steps", save_steps=2)
    first.train()
    checkpoint = tmp_path / "run" / "checkpoint-2"
    assert (checkpoint / FILE).is_file()
    resumed = writing(tmp_path / "run", processor, towers, max_steps=4)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert losses(resumed)[-2:] == pytest.approx(losses(whole)[-2:], rel=1e-5)
    torch.testing.assert_close(resumed.core.decoder_input.weight, whole.core.decoder_input.weight)
    whole.save_model()
    for weights in (*checkpoint.glob("*model*.safetensors"), *(tmp_path / "whole").glob("*model*.safetensors")):
        assert not any("decoder" in name for name in load_file(weights))
    assert not (tmp_path / "whole" / FILE).exists()


def test_a_checkpoint_without_the_matrix_is_refused(tmp_path, processor):  # noqa: F811
    writing(tmp_path, processor, max_steps=2, save_strategy="steps", save_steps=1).train()
    (tmp_path / "checkpoint-1" / FILE).unlink()
    mark_complete(tmp_path / "checkpoint-1")
    with pytest.raises(ValueError, match=f"has no {FILE}, which the decoder of the objective needs"):
        writing(tmp_path, processor, max_steps=2).train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))


def test_locked_towers_are_cached_beside_a_decoder(tmp_path, processor):  # noqa: F811
    curves = []
    for cache in (None, str(tmp_path / "cache")):
        towers = {"train_vision": "frozen"}
        trainer = writing(tmp_path / str(bool(cache)), processor, towers, cache_locked_towers=cache, max_steps=3)
        trainer.train()
        curves.append(losses(trainer))
        assert trainer.evaluate(Dataset.from_list(rows()))["eval_loss"] > 0
    assert curves[0] == pytest.approx(curves[1], rel=1e-4)


def test_a_decoder_computes_as_precisely_by_mini_batches(tmp_path, processor, monkeypatch):  # noqa: F811
    seen, cost = [], reconstruction._cost

    def watched(*args):
        seen.append((torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")))
        return cost(*args)

    monkeypatch.setattr(reconstruction, "_cost", watched)
    curves = [
        losses_of(writing(tmp_path / str(size), processor, mini_batch_size=size, bf16=True, max_steps=2))
        for size in (None, 3)
    ]
    assert set(seen) == {(True, torch.bfloat16)}
    assert curves[0] == pytest.approx(curves[1], rel=1e-2)


def test_an_optimizer_without_the_matrix_is_refused(tmp_path, processor):  # noqa: F811
    model = make_model(processor)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="does not have the matrix of the objective's decoder, which would not be"):
        writing(tmp_path, processor, model=model, optimizers=(optimizer, None))
    model.set_objective("read_alignment", decoder=tiny_decoder())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = model.decoder_input.weight.detach().clone()
    writing(tmp_path, processor, model=model, optimizers=(optimizer, None), max_steps=1).train()
    assert (model.decoder_input.weight - before).abs().max() > 0


def test_rows_of_tensors_need_their_labels(tmp_path):
    given = {"objective": "read_alignment", "train_dataset": Rows(), "max_steps": 1, **WRITING}
    paraphrases = {f"paraphrase_{name}": value for name, value in captions(12, 8, 4).items()}
    given["train_dataset"].batch |= paraphrases
    with pytest.raises(ValueError, match=r"labels=\{'paraphrase'.*adds `paraphrase_decoder_targets` to batches"):
        make_trainer(tmp_path, **given).train()
    given["train_dataset"].batch["paraphrase_decoder_targets"] = decoder_labels(torch.arange(12))
    trainer = make_trainer(tmp_path, **given)
    trainer.train()
    assert trainer.state.log_history[0]["text_writes_paraphrase"] > 0


def test_a_decoder_that_cannot_be_loaded_stops_before_training(tmp_path, processor):  # noqa: F811
    nowhere = json.dumps({"decoder": str(tmp_path / "nowhere")})
    with pytest.raises(ValueError, match=r"^`decoder` is '.*nowhere', whose config cannot be loaded") as caught:
        writing(tmp_path, processor, objective_kwargs=nowhere)
    assert "\n" not in str(caught.value)
    for left_out, said in (
        ("tokenizer*", "whose tokenizer knows no words"),
        ("*.safetensors", "whose weights cannot be loaded"),
    ):
        folder = tmp_path / said.replace(" ", "-")
        shutil.copytree(tiny_decoder(), folder, ignore=shutil.ignore_patterns(left_out))
        with pytest.raises(ValueError, match=rf"^`decoder` is '.*', {said}") as caught:
            writing(tmp_path, processor, objective_kwargs=json.dumps({"decoder": str(folder)}))
        assert "\n" not in str(caught.value)


def test_deepspeed_is_refused(processor):  # noqa: F811
    model = make_model(processor)
    trainer = SimpleNamespace(core=model, is_deepspeed_enabled=True, optimizer=None)
    model.set_objective("read_alignment", decoder=tiny_decoder())
    with pytest.raises(ValueError, match=r"'read_alignment' with a decoder trains .* not with DeepSpeed"):
        check_decoder(trainer)
    model.set_objective("read_alignment")
    check_decoder(trainer)

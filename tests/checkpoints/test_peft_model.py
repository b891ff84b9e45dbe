# SPDX-License-Identifier: Apache-2.0
"""The `logit_scale` of adapters: written beside them, read again, kept by copies and by transformers' own way."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModel, LoraConfig, PeftModel
from safetensors.torch import load_file, save_file
from transformers import CLIPModel, Trainer, TrainingArguments
from transformers.trainer_utils import unwrap_peft_model

from hf_tripletclip import TripletCLIPModel
from hf_tripletclip.checkpoints import TripletCLIPPeftModel
from hf_tripletclip.checkpoints.load import load_clip_like
from hf_tripletclip.layouts.adapters import load_logit_scale, save_logit_scale
from hf_tripletclip.layouts.files import LOGIT_SCALE_FILE
from tests.checkpoints import small_processor, write_published
from tests.checkpoints.test_load import assert_same, change_adapter, embeddings, write_clip
from tests.tiny import positives, tiny_config

BASE_SCALE = 2.6592


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("peft") / "base"
    write_clip(folder)
    return folder


def lora(**options) -> LoraConfig:
    return LoraConfig(**{"target_modules": ["q_proj"], "r": 2, "init_lora_weights": False, **options})


def adapted(base: Path, scale: float | None = None, **options) -> TripletCLIPPeftModel:
    """A model with an adapter of random weights, and a scale that trains where one is given."""
    model = TripletCLIPPeftModel(TripletCLIPModel.from_pretrained(base), lora(**options)).eval()
    if scale is not None:
        model.logit_scale.requires_grad_(True)
        model.logit_scale.data.fill_(scale)
    return model


def scale_of(model) -> float:
    return round(unwrap_peft_model(model).logit_scale.item(), 4)


def saved_scale(folder: Path) -> float | None:
    path = folder / LOGIT_SCALE_FILE
    return load_file(path)["logit_scale"].item() if path.exists() else None


def test_a_trained_scale_is_saved_read_and_saved_again(base, tmp_path):
    model = adapted(base, 2.0)
    assert model.peft_config["default"].base_model_name_or_path == str(base)
    model.save_pretrained(tmp_path / "first")
    loaded, processor = load_clip_like(tmp_path / "first")
    assert type(loaded) is TripletCLIPPeftModel
    assert scale_of(loaded) == 2.0
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert_same(loaded, model, processor)
    loaded.save_pretrained(tmp_path / "second")  # though nothing of it trains
    assert saved_scale(tmp_path / "second") == 2.0
    again = TripletCLIPPeftModel.from_pretrained(TripletCLIPModel.from_pretrained(base), tmp_path / "second")
    assert scale_of(again) == 2.0
    assert scale_of(again.merge_and_unload()) == 2.0
    # Without this package the directory is a peft one.
    plain = PeftModel.from_pretrained(CLIPModel.from_pretrained(base), tmp_path / "second").eval()
    assert_same(plain, model, processor)


def test_a_scale_that_is_frozen_after_training_is_saved_too(base, tmp_path):
    model = adapted(base, 2.0)
    model.requires_grad_(False)
    model.save_pretrained(tmp_path)
    assert saved_scale(tmp_path) == 2.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_scale_that_was_not_trained_is_not_written(base, tmp_path, dtype):
    adapted(base, 2.0).save_pretrained(tmp_path)
    adapted(base).to(dtype).save_pretrained(tmp_path)
    assert saved_scale(tmp_path) is None  # and that of the adapter before is gone
    assert scale_of(load_clip_like(tmp_path)[0]) == BASE_SCALE


def test_only_the_main_process_writes(base, tmp_path):
    adapted(base, 2.0).save_pretrained(tmp_path / "lora", is_main_process=False)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_several_adapters_have_a_scale_each(base, tmp_path):
    model = adapted(base, 2.0)
    model.add_adapter("other", lora(r=4))
    model.add_adapter("third", lora())
    model.set_adapter("other")
    assert scale_of(model) == BASE_SCALE  # it starts from the base's
    model.logit_scale.data.fill_(3.0)
    model.set_adapter("default")
    assert scale_of(model) == 2.0
    model.requires_grad_(False)
    model.save_pretrained(tmp_path)
    assert [saved_scale(tmp_path / name) for name in ("", "other", "third")] == [2.0, 3.0, None]
    model.save_pretrained(tmp_path / "one", selected_adapters=["other"])
    assert [path.parent.name for path in (tmp_path / "one").rglob(LOGIT_SCALE_FILE)] == ["other"]

    loaded = TripletCLIPPeftModel.from_pretrained(TripletCLIPModel.from_pretrained(base), tmp_path)
    loaded.load_adapter(tmp_path, "other", subfolder="other")
    loaded.load_adapter(tmp_path / "third", "third")
    assert scale_of(loaded) == 2.0  # not of what was loaded last
    for name, scale in {"other": 3.0, "third": BASE_SCALE, "default": 2.0}.items():
        loaded.set_adapter(name)
        assert scale_of(loaded) == scale
    loaded.load_adapter(tmp_path / "third", "default")  # in the place of one with a scale
    assert scale_of(loaded) == BASE_SCALE
    loaded.delete_adapter("default")
    loaded.set_adapter("other")
    assert scale_of(loaded) == 3.0
    loaded.delete_adapter("other")
    assert (loaded.active_adapter, scale_of(loaded)) == ("third", BASE_SCALE)


def test_copies_keep_it(base, tmp_path):
    model = adapted(base, 2.0)
    model.requires_grad_(False)
    for index, clone in enumerate((copy.deepcopy(model), pickle.loads(pickle.dumps(model)))):
        clone.save_pretrained(tmp_path / str(index))
        assert saved_scale(tmp_path / str(index)) == 2.0
        assert_same(clone, model, small_processor())
    assert not [name for name in model.state_dict() if "scale" in name and not name.endswith("model.logit_scale")]


def test_the_base_class_in_its_config_is_that_of_transformers(base, tmp_path):
    model = adapted(base)
    model.save_pretrained(tmp_path)
    mapping = json.loads((tmp_path / "adapter_config.json").read_text())["auto_mapping"]
    assert mapping == {"base_model_class": "CLIPModel", "parent_library": CLIPModel.__module__}
    opened = AutoPeftModel.from_pretrained(tmp_path)
    assert type(opened.get_base_model()) is CLIPModel
    assert_same(opened.eval(), model, small_processor())


def test_a_task_type_does_not_change_the_class(base, tmp_path):
    adapted(base, 2.0, task_type="FEATURE_EXTRACTION").save_pretrained(tmp_path)
    loaded = load_clip_like(tmp_path)[0]
    assert type(loaded) is TripletCLIPPeftModel
    assert scale_of(loaded) == 2.0


def test_the_trainer_of_transformers_saves_and_resumes_it(tmp_path):
    torch.manual_seed(0)
    TripletCLIPModel(tiny_config()).save_pretrained(tmp_path / "base")
    rows = [{name: value[index] for name, value in positives().items()} for index in range(4)]

    def trainer(steps: int) -> Trainer:
        model = adapted(tmp_path / "base", BASE_SCALE)
        args = TrainingArguments(
            str(tmp_path / "run"),
            max_steps=steps,
            save_steps=1,
            learning_rate=0.1,
            per_device_train_batch_size=2,
            use_cpu=True,
            report_to=[],
            remove_unused_columns=False,
            disable_tqdm=True,
        )

        def collate(batch):
            return {**{key: torch.stack([row[key] for row in batch]) for key in batch[0]}, "return_loss": True}

        return Trainer(model, args, train_dataset=rows, data_collator=collate)

    first = trainer(1)
    first.train()
    trained = first.model.logit_scale.item()
    assert trained != pytest.approx(BASE_SCALE, abs=1e-3)
    assert saved_scale(tmp_path / "run" / "checkpoint-1") == trained
    resumed = trainer(1)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-1"))
    assert resumed.model.logit_scale.item() == trained
    assert resumed.model.logit_scale.requires_grad


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({"logit_scale": torch.tensor(torch.inf)}, "one finite number"),
        ({"logit_scale": torch.ones(2)}, "one finite number"),
        ({"scale": torch.tensor(2.0)}, "must hold `logit_scale`"),
        (None, "no safetensors file that can be read"),
    ],
)
def test_a_file_without_a_scale_is_refused(base, tmp_path, content, problem):
    adapted(base, 2.0).save_pretrained(tmp_path)
    if content is None:
        (tmp_path / LOGIT_SCALE_FILE).write_bytes(b"nothing")
    else:
        save_file(content, tmp_path / LOGIT_SCALE_FILE)
    with pytest.raises(ValueError, match=rf"logit_scale\.safetensors .*{problem}"):
        load_clip_like(tmp_path)


def test_what_is_no_clip_is_refused():
    with pytest.raises(TypeError, match="`model` is a Linear, which has no `logit_scale`"):
        TripletCLIPPeftModel(torch.nn.Linear(2, 2), lora())


def test_a_model_of_pefts_own_class_needs_the_two_functions(base, tmp_path):
    plain = PeftModel(TripletCLIPModel.from_pretrained(base), lora())
    plain.logit_scale.data.fill_(2.0)
    save_logit_scale(plain, tmp_path)
    assert saved_scale(tmp_path) is None
    plain.logit_scale.requires_grad_(True)
    save_logit_scale(plain, tmp_path)
    assert saved_scale(tmp_path) == 2.0
    other = PeftModel(TripletCLIPModel.from_pretrained(base), lora())
    load_logit_scale(other, tmp_path)
    assert scale_of(other) == 2.0
    ours = adapted(base)
    load_logit_scale(ours, tmp_path)  # it has read its own
    assert scale_of(ours) == BASE_SCALE


# ---- transformers' own way: the adapter inside of the model ----


def test_a_model_loaded_by_its_adapter_has_the_scale(base, tmp_path):
    expected = adapted(base, 2.0)
    expected.save_pretrained(tmp_path / "lora")
    model, info = TripletCLIPModel.from_pretrained(tmp_path / "lora", output_loading_info=True)
    assert not info["missing_keys"]
    assert type(model) is TripletCLIPModel
    assert scale_of(model) == 2.0
    assert_same(model, expected, small_processor())
    model.save_pretrained(tmp_path / "again")
    assert saved_scale(tmp_path / "again") == 2.0
    assert not (tmp_path / "again" / "model.safetensors").exists()
    assert_same(load_clip_like(tmp_path / "again")[0], expected, small_processor())

    adapted(base).save_pretrained(tmp_path / "plain")
    assert scale_of(TripletCLIPModel.from_pretrained(tmp_path / "plain")) == BASE_SCALE
    second = TripletCLIPModel.from_pretrained(base)
    second.load_adapter(tmp_path / "lora")
    assert scale_of(second) == 2.0


@pytest.mark.parametrize("scale", [2.0, None])
def test_an_adapter_of_the_published_layout(tmp_path, caplog, scale):
    write_published(tmp_path / "published")
    small_processor().save_pretrained(tmp_path / "published")  # instead of the Hub's
    expected = adapted(tmp_path / "published", scale)
    expected.save_pretrained(tmp_path / "lora")
    caplog.clear()
    model, info = TripletCLIPModel.from_pretrained(tmp_path / "lora", output_loading_info=True, dtype=torch.float32)
    assert not info["missing_keys"]
    assert scale_of(model) == (scale or 4.6052)  # ln(100)
    assert ("holds no `logit_scale`" in caplog.text) is (scale is None)
    assert_same(model, expected, small_processor())
    assert model.name_or_path == str(tmp_path / "published")
    assert embeddings(model, small_processor())[0].dtype == torch.float32
    change_adapter(tmp_path / "lora", base_model_name_or_path=None)
    with pytest.raises(ValueError, match="does not say of which model"):
        TripletCLIPModel.from_pretrained(tmp_path / "lora")

# SPDX-License-Identifier: Apache-2.0
"""`TripletCLIPModel` against `CLIPModel`, and everything a CLIP model can do, with and without negatives."""

from __future__ import annotations

import copy
import importlib
import inspect
import json
import subprocess
import sys
import typing
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModel, CLIPConfig, CLIPModel
from transformers.utils import TransformersKwargs
from transformers.utils import logging as transformers_logging

import hf_tripletclip
from hf_tripletclip import TripletCLIPConfig, TripletCLIPModel, TripletCLIPOutput, objectives
from hf_tripletclip.objectives import Embeddings, get_objective
from hf_tripletclip.objectives.negclip import NegCLIPObjective
from tests.tiny import images, negatives, positives, tiny_config


@pytest.fixture
def model() -> TripletCLIPModel:
    torch.manual_seed(0)
    return TripletCLIPModel(tiny_config()).eval()


@pytest.fixture
def clip(model: TripletCLIPModel) -> CLIPModel:
    reference = CLIPModel(CLIPConfig.from_dict(model.config.to_dict())).eval()
    reference.load_state_dict(model.state_dict())
    return reference


# ---- Without negatives: CLIPModel, bit for bit ----


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_outputs_and_gradients_are_bitwise_those_of_clip(model, clip, attention):
    model.set_attn_implementation(attention)
    clip.set_attn_implementation(attention)
    kwargs = {"return_loss": True, "output_hidden_states": True, "output_attentions": attention == "eager"}
    ours, theirs = model(**positives(), **kwargs), clip(**positives(), **kwargs)
    assert list(ours.keys()) == list(theirs.keys())
    for name in ("loss", "logits_per_image", "logits_per_text", "text_embeds", "image_embeds"):
        assert torch.equal(ours[name], theirs[name]), name
    for tower in ("text_model_output", "vision_model_output"):
        assert torch.equal(ours[tower].pooler_output, theirs[tower].pooler_output)
        assert all(map(torch.equal, ours[tower].hidden_states, theirs[tower].hidden_states))
    ours.loss.backward()
    theirs.loss.backward()
    for (name, parameter), reference in zip(model.named_parameters(), clip.parameters(), strict=True):
        assert torch.equal(parameter.grad, reference.grad), name


def test_state_dict_and_config_are_those_of_clip(model, clip, tmp_path):
    assert list(model.state_dict()) == list(clip.state_dict())
    model.set_objective("negclip", chunk_size=64)
    model.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["model_type"] == "clip"
    assert saved["objective"] == "negclip"
    again = TripletCLIPModel.from_pretrained(tmp_path)
    assert (again.config.objective, again.config.objective_kwargs) == ("negclip", {"chunk_size": 64})
    assert again.objective.name == "negclip"
    with torch.no_grad():
        for name, value in clip(**positives()).items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(value, again(**positives())[name])


def test_plain_transformers_opens_a_saved_model(model, tmp_path):
    model.save_pretrained(tmp_path)
    plain = CLIPModel.from_pretrained(tmp_path)
    assert type(AutoModel.from_pretrained(tmp_path)) is CLIPModel
    assert isinstance(AutoConfig.from_pretrained(tmp_path), CLIPConfig)
    with torch.no_grad():
        assert torch.equal(plain(**positives()).logits_per_image, model(**positives()).logits_per_image)


def test_every_clip_checkpoint_opens(clip, tmp_path):
    clip.save_pretrained(tmp_path)
    model, info = TripletCLIPModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert model.config.objective == "tripletclip"
    assert model.objective.name == "tripletclip"


def test_a_plain_clip_config_works(clip):
    model = TripletCLIPModel(clip.config)
    assert model(**positives(), **negatives(), return_loss=True).loss.isfinite()


def test_config_round_trip():
    config = tiny_config(objective="clip_all", objective_kwargs={"chunk_size": 8}, logit_scale_max=None)
    again = TripletCLIPConfig.from_dict(config.to_dict())
    assert again.to_dict() == config.to_dict()
    assert TripletCLIPConfig().logit_scale_max == 100.0  # as in CLIP's paper
    assert (again.objective, again.objective_kwargs, again.logit_scale_max) == ("clip_all", {"chunk_size": 8}, None)
    whole = TripletCLIPModel(tiny_config(logit_scale_init_value=2))
    assert whole.logit_scale.item() == 2.0


# ---- With negatives ----


def separately(model: TripletCLIPModel) -> Embeddings:
    """The four embeddings, each tower asked for each of them alone."""
    positive, negative = positives(), negatives()
    text = model.get_text_features(positive["input_ids"], positive["attention_mask"]).pooler_output
    image = model.get_image_features(positive["pixel_values"]).pooler_output
    negative_text = model.get_text_features(
        negative["negative_input_ids"], negative["negative_attention_mask"]
    ).pooler_output
    negative_image = model.get_image_features(negative["negative_pixel_values"]).pooler_output
    return Embeddings(
        **{
            role: torch.nn.functional.normalize(value, dim=-1)
            for role, value in {
                "image": image,
                "text": text,
                "negative_image": negative_image,
                "negative_text": negative_text,
            }.items()
        }
    )


@pytest.mark.parametrize("name", ["clip", "negclip", "negclip_image", "tripletclip", "clip_all"])
def test_loss_is_the_objective_of_separate_embeddings(model, name):
    model.set_objective(name)
    output = model(**positives(), **negatives(), return_loss=True)
    expected = get_objective(name)(separately(model), model.logit_scale.exp())
    torch.testing.assert_close(output.loss, expected.loss)
    assert output.logits_per_image is None
    assert set(output.loss_parts) == {*expected.parts, "logit_scale"}


def test_each_tower_runs_once(model):
    calls = []
    model.text_model.register_forward_hook(lambda *_: calls.append("text"))
    model.vision_model.register_forward_hook(lambda *_: calls.append("vision"))
    model(**positives(), **negatives(), return_loss=True)
    assert sorted(calls) == ["text", "vision"]


@pytest.mark.parametrize("length", [6, 10, 14])
def test_positive_rows_are_those_of_clip_whatever_the_negatives(model, clip, length):
    kwargs = {"output_hidden_states": True}
    output = model(**positives(), **negatives(3, length), return_logits=True, **kwargs)
    reference = clip(**positives(), **kwargs)
    for name in ("logits_per_image", "logits_per_text", "text_embeds", "image_embeds"):
        torch.testing.assert_close(output[name], reference[name])
    assert len(output.negative_text_embeds) == len(output.negative_image_embeds) == 3
    hidden = output.vision_model_output.hidden_states
    assert len(hidden) == len(reference.vision_model_output.hidden_states)
    for ours, theirs in zip(hidden, reference.vision_model_output.hidden_states, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert len(output.text_model_output.pooler_output) == 5


def test_legacy_pooling_by_the_highest_id_is_not_disturbed_by_padding():
    config = tiny_config()
    config.text_config.eos_token_id = 2
    model = TripletCLIPModel(config).eval()
    output = model(**positives(), **negatives(5, 14))
    torch.testing.assert_close(output.text_embeds, model(**positives()).text_embeds)


def test_without_masks_captions_of_different_lengths_join(model):
    positive, negative = positives(), negatives(5, 14)
    del positive["attention_mask"], negative["negative_attention_mask"]
    output = model(**positive, **negative)
    torch.testing.assert_close(output.text_embeds, model(**positive).text_embeds)
    alone = model(input_ids=negative["negative_input_ids"], pixel_values=positive["pixel_values"])
    torch.testing.assert_close(output.negative_text_embeds, alone.text_embeds)


def test_position_ids_of_either_side_are_used(model):
    shifted = torch.arange(1, 13).expand(5, 12)
    output = model(**positives(), **negatives(), negative_position_ids=shifted)
    assert not torch.allclose(output.negative_text_embeds, model(**positives(), **negatives()).negative_text_embeds)
    torch.testing.assert_close(output.text_embeds, model(**positives()).text_embeds)


def test_one_modality_of_negatives_where_the_objective_allows_it(model):
    text_only = {name: value for name, value in negatives().items() if "pixel" not in name}
    image_only = {"negative_pixel_values": negatives()["negative_pixel_values"]}
    model.set_objective("negclip")
    output = model(**positives(), **text_only, return_loss=True)
    assert output.negative_image_embeds is None
    assert output.loss.isfinite()
    with pytest.raises(ValueError, match="negative_input_ids"):
        model(**positives(), **image_only, return_loss=True)
    model.set_objective("negclip_image")
    assert model(**positives(), **image_only, return_loss=True).negative_text_embeds is None
    model.set_objective("tripletclip")
    with pytest.raises(ValueError, match=r"tripletclip.*negative_image"):
        model(**positives(), **text_only, return_loss=True)


def test_without_negatives_and_logits_the_objective_decides(model, clip):
    model.set_objective("clip")
    output = model(**positives(), return_loss=True, return_logits=False)
    assert output.logits_per_text is None
    torch.testing.assert_close(output.loss, clip(**positives(), return_loss=True).loss)
    model.set_objective("tripletclip")
    with pytest.raises(ValueError, match="tripletclip"):
        model(**positives(), return_loss=True, return_logits=False)


@pytest.mark.parametrize("locked", [("vision",), ("text",), ("vision", "text")])
@pytest.mark.parametrize("with_negatives", [False, True])
def test_what_a_tower_has_put_out_may_stand_for_its_inputs(model, locked, with_negatives):
    inputs = {**positives(), **(negatives() if with_negatives else {})}
    ends = {"vision": "pixel_values", "text": "input_ids"}
    known = dict(inputs)
    for tower in locked:
        for name in [name for name in inputs if name.endswith(ends[tower])]:
            front = name.removesuffix(ends[tower])
            beside = {} if tower == "vision" else {"attention_mask": known.pop(f"{front}attention_mask")}
            run = getattr(model, f"{tower}_model")
            known[name] = run(**{ends[tower]: inputs[name]}, **beside).pooler_output.detach()
    expected, found = (model(**given, return_loss=True) for given in (inputs, known))
    for name in ("loss", "image_embeds", "text_embeds", "negative_image_embeds", "negative_text_embeds"):
        if (wanted := getattr(expected, name)) is not None:
            torch.testing.assert_close(getattr(found, name), wanted)
    found.loss.backward()
    for tower in ("vision", "text"):
        trained = [value.grad is not None for value in getattr(model, f"{tower}_model").parameters()]
        assert any(trained) == (tower not in locked)
    assert model.visual_projection.weight.grad is not None
    assert isinstance(model.get_image_features(torch.ones(2, 32), return_dict=False), tuple)


@pytest.mark.parametrize(("rows", "others"), [(0, 0), (0, 5), (5, 0)])
def test_a_process_may_have_no_rows(model, rows, others):
    some = {name: value[:rows] for name, value in positives().items()}
    some |= {name: value[:others] for name, value in negatives().items()}
    output = model(**some, return_logits=False)
    for name, count in (("", rows), ("negative_", others)):
        assert output[f"{name}text_embeds"].shape == output[f"{name}image_embeds"].shape == (count, 24)
    if rows:
        torch.testing.assert_close(output.text_embeds, model(**positives()).text_embeds)
    sum(output[name].sum() for name in ("text_embeds", "image_embeds")).backward()
    assert model.text_projection.weight.grad.isfinite().all()


def test_errors_name_what_is_wrong(model):
    with pytest.raises(ValueError, match="no_such_objective"):
        model.set_objective("no_such_objective")
    assert model.config.objective == "tripletclip"
    with pytest.raises(ValueError, match="positive pairs"):
        model(**negatives())
    with pytest.raises(ValueError, match=r"negative_pixel_values.*\(3, 24, 24\)"):
        model(**positives(), negative_pixel_values=images(5, 0, size=24))


# ---- What CLIPModel can, with negatives too ----

BOTH = pytest.mark.parametrize("inputs", [{}, negatives()], ids=["positives", "triplets"])


@BOTH
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(model, inputs, dtype):
    output = model.to(dtype)(**positives(), **inputs, return_loss=True)
    assert output.loss.isfinite()
    assert output.text_embeds.dtype == dtype
    output.loss.backward()
    assert model.visual_projection.weight.grad.dtype == dtype


@BOTH
def test_autocast(model, inputs):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(**positives(), **inputs, return_loss=True).loss
    expected = model(**positives(), **inputs, return_loss=True).loss
    torch.testing.assert_close(loss.float(), expected, rtol=0.05, atol=0.05)


@BOTH
def test_eager_equals_sdpa(model, inputs):
    losses = []
    for attention in ("eager", "sdpa"):
        model.set_attn_implementation(attention)
        losses.append(model(**positives(), **inputs, return_loss=True).loss)
    torch.testing.assert_close(*losses)


@BOTH
@pytest.mark.parametrize("use_reentrant", [True, False])
def test_gradient_checkpointing(model, inputs, use_reentrant):
    model.train()
    checkpointed = copy.deepcopy(model)
    checkpointed.activation_checkpointing_enable({"use_reentrant": use_reentrant})
    for network in (model, checkpointed):
        network(**positives(), **inputs, return_loss=True).loss.backward()
    for (name, parameter), reference in zip(checkpointed.named_parameters(), model.parameters(), strict=True):
        assert parameter.grad is not None, name
        torch.testing.assert_close(parameter.grad, reference.grad)


@BOTH
def test_interpolate_pos_encoding(model, inputs):
    larger = {**positives(), **inputs, "pixel_values": images(5, 1, size=24)}
    if "negative_pixel_values" in larger:
        larger["negative_pixel_values"] = images(5, 3, size=24)
    output = model(**larger, interpolate_pos_encoding=True, return_loss=True)
    assert output.vision_model_output.last_hidden_state.shape == (5, 10, 32)
    assert output.loss.isfinite()
    with pytest.raises(ValueError, match="doesn't match model"):
        model(**larger)


@BOTH
def test_hidden_states_attentions_and_tuples(model, inputs):
    model.set_attn_implementation("eager")
    output = model(**positives(), **inputs, output_hidden_states=True, output_attentions=True)
    for tower in (output.text_model_output, output.vision_model_output):
        assert [len(state) for state in tower.hidden_states] == [5, 5, 5]
        assert [len(attention) for attention in tower.attentions] == [5, 5]
    selected = model(**positives(), **inputs, output_hidden_states=[1]).text_model_output.hidden_states
    assert [state is None for state in selected] == [True, False, True]
    as_tuple = model(**positives(), **inputs, return_dict=False)
    assert isinstance(as_tuple, tuple)
    assert torch.equal(as_tuple[0], output.logits_per_image)
    assert len(as_tuple) == len(output)


@BOTH
def test_device_map(model, tmp_path, inputs):
    model.save_pretrained(tmp_path)
    mapped = TripletCLIPModel.from_pretrained(tmp_path, device_map="cpu", dtype=torch.float32)
    expected = model(**positives(), **inputs, return_loss=True).loss
    assert torch.equal(mapped(**positives(), **inputs, return_loss=True).loss, expected)


@BOTH
def test_resized_embeddings(model, tmp_path, inputs):
    before = model(**positives(), **inputs, return_loss=True).loss
    model.resize_token_embeddings(120)
    assert model.config.text_config.vocab_size == 120
    assert torch.equal(model(**positives(), **inputs, return_loss=True).loss, before)
    more = positives()
    more["input_ids"][0, 0] = 119
    assert model(**more, **inputs, return_loss=True).loss.isfinite()
    model.save_pretrained(tmp_path)
    assert TripletCLIPModel.from_pretrained(tmp_path).config.text_config.vocab_size == 120


@BOTH
def test_peft(model, inputs):
    adapted = get_peft_model(model, LoraConfig(target_modules=["q_proj", "v_proj"], modules_to_save=[]))
    output = adapted(**positives(), **inputs, return_loss=True)
    output.loss.backward()
    trained = [name for name, parameter in adapted.named_parameters() if parameter.grad is not None]
    assert trained
    assert all("lora_" in name for name in trained)


@pytest.mark.slow
@BOTH
def test_torch_compile(model, inputs):
    compiled = torch.compile(model)
    expected = model(**positives(), **inputs, return_loss=True)
    output = compiled(**positives(), **inputs, return_loss=True)
    torch.testing.assert_close(output.loss, expected.loss, rtol=1e-4, atol=1e-4)
    output.loss.backward()
    assert model.text_projection.weight.grad is not None


@pytest.mark.gpu
@BOTH
def test_flash_attention(model, inputs):
    pytest.importorskip("flash_attn")
    model.to("cuda", torch.bfloat16).set_attn_implementation("flash_attention_2")
    on_device = {name: value.to("cuda") for name, value in {**positives(), **inputs}.items()}
    assert model(**on_device, return_loss=True).loss.isfinite()


def test_output_is_a_clip_output(model):
    output = model(**positives(), **negatives(), return_loss=True)
    assert isinstance(output, TripletCLIPOutput)
    assert output.to_tuple()[0] is output.loss


def test_import_is_lazy():
    code = (
        "import sys, hf_tripletclip; assert hf_tripletclip.__version__;"
        "heavy = {'torch', 'transformers', 'datasets', 'diffusers', 'peft', 'matplotlib'} & set(sys.modules);"
        "assert not heavy, heavy; dir(hf_tripletclip)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_imports():
    import hf_tripletclip

    for name in hf_tripletclip.__all__:
        assert getattr(hf_tripletclip, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = hf_tripletclip.no_such_name


def test_no_module_hides_a_public_name_of_its_package():
    root = Path(hf_tripletclip.__file__).parent
    for folder in (path.parent for path in root.rglob("__init__.py")):
        package = importlib.import_module(".".join(("hf_tripletclip", *folder.relative_to(root).parts)))
        modules = {path.stem for path in folder.iterdir()}
        assert not modules & set(getattr(package, "__all__", ())), folder


def test_misshaped_weights_are_named(model, tmp_path):
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"]["vocab_size"] = 50
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"token_embedding\.weight' is \(99, 32\) in the file and \(50, 32\)"):
        TripletCLIPModel.from_pretrained(tmp_path)


def test_transformers_sees_the_keyword_arguments_of_forward():
    annotation = inspect.signature(TripletCLIPModel.forward).parameters["kwargs"].annotation
    assert annotation == inspect.signature(CLIPModel.forward).parameters["kwargs"].annotation
    assert typing.get_args(annotation)[0] is TransformersKwargs
    assert typing.get_type_hints(TripletCLIPModel)["config"] is TripletCLIPConfig
    ours = inspect.signature(TripletCLIPModel.from_pretrained).parameters
    assert next(iter(ours)) == next(iter(inspect.signature(CLIPModel.from_pretrained).parameters))


class Mine(NegCLIPObjective):
    name = "mine"


def test_an_objective_may_be_given_as_an_instance(model, monkeypatch, tmp_path):
    monkeypatch.setattr(objectives, "OBJECTIVES", dict(objectives.OBJECTIVES))
    mine = Mine(chunk_size=3)
    model.set_objective(mine)
    assert model.objective is mine
    batch = {**positives(), **negatives()}
    loss = model(**batch, return_loss=True).loss
    model.save_pretrained(tmp_path)
    again = TripletCLIPModel.from_pretrained(tmp_path)
    assert (type(again.objective), again.objective.chunk_size) == (Mine, 3)
    torch.testing.assert_close(again(**batch, return_loss=True).loss, loss)
    model.set_objective("negclip")
    torch.testing.assert_close(model(**batch, return_loss=True).loss, loss)
    with pytest.raises(TypeError, match="name of an objective or an instance"):
        model.set_objective(Mine)
    with pytest.raises(ValueError, match="leave out chunk_size"):
        model.set_objective(mine, chunk_size=2)
    assert model.config.objective == "negclip"
    monkeypatch.setattr(objectives, "OBJECTIVES", {})
    with pytest.raises(ValueError, match="once `register_objective` has registered them"):
        TripletCLIPModel.from_pretrained(tmp_path).objective  # noqa: B018


def test_negatives_in_training_mode_without_a_loss_are_told(model, caplog):
    transformers_logging.warning_once.cache_clear()
    model(**positives(), **negatives())
    model.train()
    model(**positives())
    model(**positives(), **negatives(), return_loss=False)
    with torch.no_grad():
        model(**positives(), **negatives())
    assert not caplog.text
    assert model(**positives(), **negatives()).loss is None
    assert "TripletCollator(..., return_loss=True)" in caplog.text


@pytest.mark.parametrize("objective", ["cyclip", "laclip", "clip"])
@pytest.mark.parametrize("kwargs", [{}, {"repeats": "mask"}])
def test_the_loss_of_pairs_is_the_objectives_whether_or_not_there_are_logits(model, objective, kwargs):
    model.set_objective(objective, **kwargs)
    pairs = {name: torch.cat([values, values]) for name, values in positives().items()}
    with torch.no_grad():
        output = model(**pairs, return_loss=True)
        expected = model(**pairs, return_loss=True, return_logits=False).loss
    torch.testing.assert_close(output.loss, expected)
    assert output.logits_per_image.shape == (len(pairs["input_ids"]), len(pairs["input_ids"]))


def test_captions_in_three_dimensions_are_named(model):
    given = {**positives(), "negative_input_ids": positives()["input_ids"][:, None].expand(-1, 2, -1)}
    with pytest.raises(ValueError, match=r"`negative_input_ids` has the shape .* the mask that tells whose they are"):
        model(**given)

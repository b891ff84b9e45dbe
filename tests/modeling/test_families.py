# SPDX-License-Identifier: Apache-2.0
"""Every architecture against its class in transformers, without negatives, and with them against the objectives."""

from __future__ import annotations

import copy
import json

import pytest
import torch
import transformers
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModel,
    DistilBertConfig,
    DistilBertModel,
    Siglip2Config,
    Siglip2Model,
    VisionTextDualEncoderModel,
)

from hf_tripletclip import AutoTripletModel, load_processor
from hf_tripletclip.checkpoints.load import load_clip_like, tokenize
from hf_tripletclip.layouts.architectures import ARCHITECTURES
from hf_tripletclip.modeling.dual_encoder import TripletDualEncoderModel
from hf_tripletclip.objectives import Embeddings, get_objective
from tests.families import CAPTIONS, FAMILIES, IMAGE, LENGTH, write_family
from tests.tiny import images

SHORT = ("a cat", "two dogs", "a cup", "green")
LOCAL = {"local_weight": 0.2}
FEW = ("a black cat", "a white cup on a car")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("families")
    return {name: write_family(name, folder / name) for name in FAMILIES}


@pytest.fixture(params=FAMILIES)
def folder(request, folders):
    return folders[request.param]


def pairs(model, processor):
    return {**tokenize(model, processor, CAPTIONS), "pixel_values": images(len(CAPTIONS), 1, IMAGE)}


def triplets(model, processor, negative_captions=SHORT):
    texts = tokenize(model, processor, negative_captions)
    texts = {f"negative_{name}": value for name, value in texts.items() if name != "token_type_ids"}
    negative_images = images(len(negative_captions), 2, IMAGE)
    return {**pairs(model, processor), **texts, "negative_pixel_values": negative_images}


def reference(folder):
    """What plain transformers opens."""
    model = AutoModel.from_pretrained(folder).eval()
    return model, getattr(transformers, ARCHITECTURES[model.config.model_type].base)


def opened(folder):
    return AutoTripletModel.from_pretrained(folder).eval(), load_processor(folder)


# ---- Without negatives: the class of transformers, bit for bit ----


def test_outputs_and_gradients_are_those_of_transformers(folder):
    model, processor = opened(folder)
    plain, plain_class = reference(folder)
    assert type(plain) is plain_class
    assert isinstance(model, plain_class)
    assert list(model.state_dict()) == list(plain.state_dict())
    inputs = pairs(model, processor)
    model.set_objective("tripletclip")  # so that the loss of pairs is that of transformers
    ours, theirs = (one(**inputs, return_loss=True, output_hidden_states=True) for one in (model, plain))
    assert list(ours.keys()) == list(theirs.keys())
    for name in ("loss", "logits_per_image", "logits_per_text", "text_embeds", "image_embeds"):
        assert torch.equal(ours[name], theirs[name]), name
    for tower in ("text_model_output", "vision_model_output"):
        assert all(map(torch.equal, ours[tower].hidden_states, theirs[tower].hidden_states))
    ours.loss.backward()
    theirs.loss.backward()
    for (name, parameter), other in zip(model.named_parameters(), plain.parameters(), strict=True):
        if parameter.grad is None or other.grad is None:
            assert parameter.grad is other.grad, name
        else:
            assert torch.equal(parameter.grad, other.grad), name


def test_plain_transformers_opens_what_is_saved(folder, tmp_path):
    model, processor = opened(folder)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)
    model.save_pretrained(tmp_path)
    plain, plain_class = reference(tmp_path)
    assert type(plain) is plain_class
    inputs = pairs(model, processor)
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits_per_image, plain(**inputs).logits_per_image)
    assert plain.config.model_type == model.config.model_type
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["architectures"] == [plain_class.__name__]
    again = AutoTripletModel.from_pretrained(tmp_path)
    assert type(again) is type(model)
    assert again.config.objective == model.config.objective == type(model).config_class.objective


def test_a_config_of_transformers_gets_the_fields_of_ours(folder):
    """Such as the bound on the scale, and the implementation of attention that was asked for stays."""
    expected = AutoTripletModel.from_pretrained(folder)
    config = AutoConfig.from_pretrained(folder)
    model = AutoTripletModel.from_config(config, attn_implementation="eager")
    for made in (model, type(model)(config), type(model).from_pretrained(folder, config=config)):
        assert type(made.config) is type(expected.config)
        assert made.config.logit_scale_max == expected.config.logit_scale_max
        assert made.config.objective == expected.config.objective
    assert {one._attn_implementation for one in (model.config, model.config.text_config)} == {"eager"}
    assert model.vision_model.config._attn_implementation == "eager"
    assert expected.config._attn_implementation != "eager"


def test_weights_are_loaded_by_their_names_in_files(folder):
    """As `Trainer` reads a checkpoint, in one file or in several."""
    weights = load_file(folder / "model.safetensors")
    expected = AutoTripletModel.from_pretrained(folder).state_dict()
    names = sorted(weights)
    shards = [{name: weights[name] for name in part} for part in (names[::2], names[1::2])]
    for parts, strict in (([weights], True), (shards, False)):
        model = opened(folder)[0]
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
        for part in parts:
            assert not model.load_state_dict(part, strict).unexpected_keys
        assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    with pytest.raises(RuntimeError, match="strange"):
        model.load_state_dict({**weights, "strange": torch.zeros(1)})
    with pytest.raises(RuntimeError, match="Missing key"):
        model.load_state_dict(shards[0])


def test_token_embeddings_can_be_resized(folder):
    model, processor = opened(folder)
    size = model.get_input_embeddings().num_embeddings
    expected = model(**pairs(model, processor)).text_embeds
    model.resize_token_embeddings(size + 3)
    assert model.get_input_embeddings().num_embeddings == model.config.text_config.vocab_size == size + 3
    torch.testing.assert_close(model(**pairs(model, processor)).text_embeds, expected)


def test_features_are_those_of_any_loader(folder):
    """What evaluation embeds."""
    model, processor = load_clip_like(folder)
    plain, _ = reference(folder)
    inputs = pairs(model, processor)
    pixels = inputs.pop("pixel_values")
    with torch.no_grad():
        for method, given in (("get_text_features", inputs), ("get_image_features", {"pixel_values": pixels})):
            assert torch.equal(
                getattr(model.eval(), method)(**given).pooler_output, getattr(plain, method)(**given).pooler_output
            )


# ---- With negatives ----


def cosines(model, inputs):
    embeds = {
        "image": model.get_image_features(inputs["pixel_values"]),
        "negative_image": model.get_image_features(inputs["negative_pixel_values"]),
        "text": model.get_text_features(inputs["input_ids"], inputs.get("attention_mask")),
        "negative_text": model.get_text_features(inputs["negative_input_ids"], inputs.get("negative_attention_mask")),
    }
    return {role: torch.nn.functional.normalize(value.pooler_output, dim=-1) for role, value in embeds.items()}


@pytest.mark.parametrize("objective", [None, "negclip", "clip_all"])
def test_the_loss_is_the_objective_of_separate_embeddings(folder, objective):
    model, processor = opened(folder)
    model.set_objective(objective or type(model).config_class.objective)
    inputs = triplets(model, processor)
    output = model(**inputs, return_loss=True)
    bias = getattr(model, "logit_bias", None)
    expected = model.objective(Embeddings(**cosines(model, inputs)), model.logit_scale.exp(), bias)
    torch.testing.assert_close(output.loss, expected.loss, rtol=1e-5, atol=1e-5)
    output.loss.backward()
    grads = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert all(grad.isfinite().all() for grad in grads)
    assert any(grad.abs().sum() > 0 for grad in grads)


def test_texts_of_other_lengths_do_not_change_an_embedding(folder):
    model, processor = opened(folder)
    inputs = triplets(model, processor, FEW)
    found = model(**inputs, return_loss=False)
    expected = cosines(model, inputs)
    torch.testing.assert_close(found.text_embeds, expected["text"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.negative_text_embeds, expected["negative_text"], rtol=1e-5, atol=1e-5)
    if not model.text_length_is_fixed and not model.text_is_causal:  # also if nobody gave masks
        for name in ("attention_mask", "negative_attention_mask"):
            del inputs[name]
        short = inputs["input_ids"].shape[1] - 3
        inputs["negative_input_ids"] = inputs["negative_input_ids"][:, :short]
        found = model(**inputs, return_loss=False)
        torch.testing.assert_close(found.text_embeds, cosines(model, inputs)["text"], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(
            found.negative_text_embeds, cosines(model, inputs)["negative_text"], rtol=1e-5, atol=1e-5
        )


def test_what_a_tower_has_pooled_may_stand_for_its_inputs(folder):
    model, processor = opened(folder)
    inputs = triplets(model, processor)
    expected = model(**inputs, return_loss=True).loss
    with torch.no_grad():
        text = {name: inputs[name] for name in ("input_ids", "attention_mask") if name in inputs}
        negative = {name: inputs[f"negative_{name}"] for name in text}
        vision = model.vision_model(pixel_values=inputs["pixel_values"])
        pooled = {
            "input_ids": model.pooled("text", model.text_model(**text)),
            "negative_input_ids": model.pooled("text", model.text_model(**negative)),
            "pixel_values": model.pooled("vision", vision),
            "negative_pixel_values": model.pooled("vision", model.vision_model(inputs["negative_pixel_values"])),
        }
    assert pooled["input_ids"].shape[1] == model.pooled_width("text")
    assert pooled["pixel_values"].shape[1] == model.pooled_width("vision")
    torch.testing.assert_close(model(**pooled, return_loss=True).loss, expected, rtol=1e-5, atol=1e-5)


def test_patches_and_words_where_there_are_any(folder):
    model, processor = opened(folder)
    if not model.gives_tokens:
        with pytest.raises(ValueError, match=r"'fsc_clip' looks at patches or words .* Choose another objective"):
            model.set_objective("fsc_clip", **LOCAL)
        assert model.config.objective != "fsc_clip"
        return
    model.set_objective("fsc_clip", **LOCAL)
    output = model(**pairs(model, processor), return_loss=False, return_tokens=True)
    patches, words = output.tokens["image"], output.tokens["text"]
    assert patches.shape == (len(CAPTIONS), (IMAGE // 8) ** 2, 24)
    assert words.shape[::2] == (len(CAPTIONS), 24)
    ids = pairs(model, processor)["input_ids"]
    mask = pairs(model, processor)["attention_mask"]
    # All tokens but the first; of a CLIP up to and with the end of the text.
    assert torch.equal(output.token_masks["text"], mask.bool() & (torch.arange(ids.shape[1]) > 0))


# ---- SigLIP ----


def test_the_loss_of_a_siglip_is_its_own_by_default(folders):
    model, processor = opened(folders["siglip"])
    inputs = pairs(model, processor)
    plain, _ = reference(folders["siglip"])
    model.set_objective("siglip")
    torch.testing.assert_close(
        model(**inputs, return_loss=True).loss, plain(**inputs, return_loss=True).loss, rtol=1e-5, atol=1e-5
    )
    model.set_objective("clip")  # a softmax, also without negatives
    expected = get_objective("clip")(
        Embeddings(image=model(**inputs).image_embeds, text=model(**inputs).text_embeds), model.logit_scale.exp()
    )
    torch.testing.assert_close(model(**inputs, return_loss=True).loss, expected.loss)


def test_captions_of_a_siglip_have_one_length(folders):
    model, processor = opened(folders["siglip"])
    inputs = triplets(model, processor)
    assert inputs["input_ids"].shape[1] == inputs["negative_input_ids"].shape[1] == LENGTH
    assert "attention_mask" not in inputs
    inputs["negative_input_ids"] = inputs["negative_input_ids"][:, :10]
    with pytest.raises(ValueError, match=r'input_ids: 24, negative_input_ids: 10.*pad all .*`padding="max_length"`'):
        model(**inputs)


def test_the_scale_of_a_siglip_has_no_bound(folders):
    model, _ = opened(folders["siglip"])
    assert model.config.logit_scale_max is None
    assert model.logit_scale.exp().item() > 100


# ---- What is refused, and what any tower may be ----


def test_other_architectures_are_refused(tmp_path):
    tower = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    Siglip2Model(Siglip2Config(text_config={**tower, "vocab_size": 9}, vision_config=tower)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"type 'siglip2', which cannot be trained here\. The types are clip.*NaFlex"):
        AutoTripletModel.from_pretrained(tmp_path)
    with pytest.raises(TypeError, match="use `from_pretrained`"):
        AutoTripletModel()


def test_a_class_names_the_type_that_it_does_not_load(folders):
    with pytest.raises(ValueError, match="of the type 'siglip', and TripletDualEncoderConfig is for"):
        TripletDualEncoderModel.from_pretrained(folders["siglip"])


def test_a_tower_that_does_not_pool_is_named(folders):
    vision = copy.deepcopy(opened(folders["dual_encoder"])[0].vision_model)
    text = DistilBertModel(DistilBertConfig(vocab_size=30, dim=32, n_layers=1, n_heads=2, hidden_dim=32))
    model = TripletDualEncoderModel(vision_model=vision, text_model=text)
    with pytest.raises(ValueError, match="DistilBertModel does not pool its output"):
        model(input_ids=torch.ones(2, 4, dtype=torch.long), pixel_values=images(2, 0, IMAGE))


def test_a_tower_that_transformers_does_not_open_alone_is_named(folders):
    siglip = opened(folders["siglip"])[0]
    with pytest.raises(ValueError, match="of the type 'siglip_text_model' cannot be a tower of a dual encoder"):
        TripletDualEncoderModel(vision_model=siglip.vision_model, text_model=siglip.text_model)


def test_two_towers_make_a_dual_encoder(folders, tmp_path):
    for name, tower in (("dinov2", "vision_model"), ("bert", "text_model")):
        getattr(opened(folders["dual_encoder"])[0], tower).save_pretrained(tmp_path / name)
    model = TripletDualEncoderModel.from_vision_text_pretrained(tmp_path / "dinov2", tmp_path / "bert")
    assert model.config.objective == "tripletclip"
    model.save_pretrained(tmp_path / "both")
    assert type(AutoModel.from_pretrained(tmp_path / "both")) is VisionTextDualEncoderModel
    assert type(AutoTripletModel.from_pretrained(tmp_path / "both")) is TripletDualEncoderModel
    with pytest.raises(ValueError, match="`interpolate_pos_encoding` is not passed"):
        model(torch.ones(2, 4, dtype=torch.long), images(2, 0, IMAGE), interpolate_pos_encoding=True)


def test_every_architecture_is_tried_here():
    assert {name.replace("dual_encoder", "vision-text-dual-encoder") for name in FAMILIES} == set(ARCHITECTURES)


def test_a_folder_without_a_model_is_named(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing")
    for load in (AutoTripletModel.from_pretrained, TripletDualEncoderModel.from_pretrained, load_clip_like):
        with pytest.raises(OSError, match=r"holds no model: it has none of config\.json, text-encoder/config\.json"):
            load(tmp_path)

# SPDX-License-Identifier: Apache-2.0
"""Patches and words that the model hands to objectives."""

from __future__ import annotations

import pytest
import torch
from transformers import CLIPModel

from hf_tripletclip import TripletCLIPModel
from hf_tripletclip.objectives import Embeddings, Tokens, get_objective
from tests.tiny import EOS, captions, further_texts, negatives, positives, tiny_config

LOCAL = {"local_weight": 0.2}


def make_model(**text_config) -> TripletCLIPModel:
    torch.manual_seed(0)
    config = tiny_config()
    for name, value in text_config.items():
        setattr(config.text_config, name, value)
    model = TripletCLIPModel(config).double().eval()
    model.set_objective("fsc_clip", **LOCAL)
    return model


def make_batch() -> dict[str, torch.Tensor]:
    batch = {**positives(5), **negatives(5)}
    return {key: value.double() if value.is_floating_point() else value for key, value in batch.items()}


def by_hand(model: TripletCLIPModel, batch: dict[str, torch.Tensor]) -> dict[str, Tokens]:
    """Each role alone through transformers' own towers."""
    found = {}
    hidden = model.vision_model(batch["pixel_values"]).last_hidden_state[:, 1:]
    values = model.visual_projection(model.vision_model.post_layernorm(hidden))
    found["image"] = Tokens(values, torch.ones(values.shape[:2], dtype=torch.bool))
    for role, prefix in (("text", ""), ("negative_text", "negative_")):
        ids, attention = batch[f"{prefix}input_ids"], batch[f"{prefix}attention_mask"]
        values = model.text_projection(model.text_model(ids, attention).last_hidden_state)
        mask = torch.zeros_like(ids, dtype=torch.bool)
        for row in range(len(ids)):
            mask[row, 1 : ids[row].tolist().index(EOS) + 1] = True
        found[role] = Tokens(values, mask)
    return found


def test_patches_and_words_are_the_towers_own():
    model, batch = make_model(), make_batch()
    expected = by_hand(model, batch)
    output = model(**batch, return_loss=False, return_tokens=True)
    assert output.tokens.keys() == output.token_masks.keys() == expected.keys()
    for role, one in expected.items():
        length = one.mask.shape[1]
        mask = output.token_masks[role]
        assert torch.equal(mask[:, :length], one.mask)
        assert not mask[:, length:].any()
        torch.testing.assert_close(output.tokens[role][mask], one.values[one.mask], msg=role)
    # The last word is where the tower pools.
    last = expected["text"].mask.sum(dim=1)
    pooled = output.tokens["text"][torch.arange(5), last]
    torch.testing.assert_close(torch.nn.functional.normalize(pooled, dim=-1), output.text_embeds)


def test_the_loss_is_that_of_the_tokens():
    model, batch = make_model(), make_batch()
    output = model(**batch, return_loss=True, return_tokens=True)
    embeddings = Embeddings(
        output.image_embeds,
        output.text_embeds,
        negative_text=output.negative_text_embeds,
        tokens=by_hand(model, batch),
    )
    expected = get_objective("fsc_clip", **LOCAL)(embeddings, model.logit_scale.exp())
    torch.testing.assert_close(output.loss, expected.loss)
    assert output.loss_parts["image_to_own_text_locally"] > 0
    again = model(**batch, return_loss=True)
    assert torch.equal(again.loss, output.loss)
    assert again.tokens is None
    assert again.token_masks is None


def test_any_number_of_negatives_and_none_in_a_batch():
    model = make_model()
    batch = {**make_batch(), **further_texts(5)}
    loss = model(**batch, return_loss=True).loss
    assert loss.isfinite()
    none = {**make_batch(), **{f"negative_{name}": value for name, value in captions(0, 4, 0, []).items()}}
    output = model(**none, negative_mask=torch.zeros(5, 0, dtype=torch.bool), return_loss=True)
    assert output.loss_parts["image_to_own_text_locally"] == 0
    output.loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("attention", [True, False])
@pytest.mark.parametrize("end", [EOS, 2])
def test_words_end_where_the_tower_pools(attention, end):
    model, batch = make_model(eos_token_id=end), make_batch()
    model.text_model.eos_token_id = end
    if not attention:
        batch = {name: value for name, value in batch.items() if "attention" not in name}
    masks = model(**batch, return_loss=False, return_tokens=True).token_masks
    for role, prefix in (("text", ""), ("negative_text", "negative_")):
        for ids, mask in zip(batch[f"{prefix}input_ids"], masks[role], strict=True):
            assert mask.nonzero().flatten().tolist() == list(range(1, ids.tolist().index(EOS) + 1))


def test_other_objectives_get_none():
    model, batch = make_model(), make_batch()
    model.set_objective("negclip")
    output = model(**batch, return_loss=False, return_tokens=True)
    assert output.tokens == {}
    assert torch.equal(model(**batch, return_loss=False).text_embeds, output.text_embeds)


def test_kept_outputs_have_no_words():
    model, batch = make_model(), make_batch()
    del batch["negative_pixel_values"]
    kept = {
        "vision": {"pixel_values": torch.zeros(5, 32).double()},
        "text": {name: torch.zeros(5, 32).double() for name in ("input_ids", "negative_input_ids")},
    }
    for tower, message in (("vision", "patches.*image tower.*pixels"), ("text", "words.*text tower.*token ids")):
        given = {**batch, **kept[tower]}
        if tower == "text":
            given = {name: value for name, value in given.items() if "attention" not in name}
        with pytest.raises(ValueError, match=message):
            model(**given, return_loss=True)


def test_the_model_without_tokens_is_transformers_own():
    model, batch = make_model(), make_batch()
    plain = CLIPModel(model.config).double().eval()
    plain.load_state_dict(model.state_dict())
    pairs = {name: batch[name] for name in ("input_ids", "attention_mask", "pixel_values")}
    assert torch.equal(model(**pairs).logits_per_text, plain(**pairs).logits_per_text)

# SPDX-License-Identifier: Apache-2.0
"""Rows that share a picture or a caption: they count as wrong answers, or are masked."""

from __future__ import annotations

import pytest
import torch

from hf_tripletclip.objectives import OBJECTIVES, Embeddings, Term, available_objectives, get_objective
from hf_tripletclip.objectives.contents import digests, input_contents
from tests.objectives.reference import make_batch, make_objective

SCALE = torch.tensor(5.0, dtype=torch.float64)


def contents_of(batch, **same: list[tuple[int, int]]) -> dict[str, torch.Tensor]:
    """Different contents for all rows, except equal ones for the pairs that are given by role."""
    found = {
        role: torch.arange(len(values)) + 1000 * number for number, (role, values) in enumerate(batch.values.items())
    }
    for role, pairs in same.items():
        for one, other in pairs:
            found[role][other] = found[role][one]
            with torch.no_grad():
                batch.values[role][other] = batch.values[role][one]
    return found


def masked_ce(queries: torch.Tensor, keys: torch.Tensor, out: list[tuple[int, int]]) -> torch.Tensor:
    logits = SCALE * queries @ keys.T
    for row, column in out:
        logits[row, column] = -torch.inf
    return torch.nn.functional.cross_entropy(logits, torch.arange(len(queries)))


@pytest.mark.parametrize("chunk_size", [2, 2048])
def test_captions_of_one_photograph_are_not_its_wrong_answers(chunk_size):
    batch = make_batch()
    contents = contents_of(batch, image=[(0, 2), (1, 5)])
    objective = get_objective("clip", repeats="mask", chunk_size=chunk_size)
    loss = objective(batch.embeddings(masks=False, contents=contents), SCALE).loss
    out = [(0, 2), (2, 0), (1, 5), (5, 1)]
    v, t = batch.values["image"], batch.values["text"]
    torch.testing.assert_close(loss, (masked_ce(v, t, out) + masked_ce(t, v, out)) / 2)
    loss.backward()
    assert not torch.equal(loss, get_objective("clip")(batch.embeddings(masks=False), SCALE).loss)


def test_the_same_caption_of_other_pictures_and_as_a_negative():
    batch = make_batch()
    contents = contents_of(batch, text=[(0, 3)])
    contents["negative_text"][4] = contents["text"][0]
    loss = get_objective("negclip", repeats="mask")(batch.embeddings(masks=False, contents=contents), SCALE).loss
    v, t, n = (batch.values[role] for role in ("image", "text", "negative_text"))
    forth = masked_ce(v, torch.cat([t, n]), [(0, 3), (3, 0), (0, 10), (3, 10)])
    torch.testing.assert_close(loss, (forth + masked_ce(t, v, [(0, 3), (3, 0)])) / 2)


def test_other_paraphrases_of_a_row_are_not_wrong_answers():
    batch = make_batch(ragged=True)
    contents = contents_of(batch)
    objective = get_objective("tsvlc", repeats="mask")
    found = objective(batch.embeddings(contents=contents), SCALE).parts["image_to_paraphrase"]
    owners, p = batch.owners["paraphrase"], batch.values["paraphrase"]
    losses = []
    for n, row in enumerate(owners):
        logits = SCALE * batch.values["image"][row] @ p.T
        others = torch.stack([logits[m] for m in range(len(p)) if owners[m] != row])
        losses.append(torch.logsumexp(torch.cat([logits[n : n + 1], others]), 0) - logits[n])
    torch.testing.assert_close(found, torch.stack(losses).mean())


@pytest.mark.parametrize("name", available_objectives())
@pytest.mark.parametrize("ragged", [False, True])
def test_without_repeats_only_what_belongs_to_the_row_is_masked(name, ragged):
    if ragged and name == "clip_all":
        pytest.skip("pairs with one negative pair each")
    batch = make_batch(name, ragged=ragged)
    contents = contents_of(batch)
    arguments = {"masks": ragged, "contents": contents}
    plain = make_objective(name)(batch.embeddings(**arguments), SCALE).loss
    masked = make_objective(name, repeats="mask")(batch.embeddings(**arguments), SCALE).loss
    # Each of a row's paraphrases is a target.
    several = ragged and any(isinstance(one, Term) and one.keys[0] == "paraphrase" for one in OBJECTIVES[name].terms)
    assert torch.allclose(plain, masked) != several
    masked.backward()
    assert all(value.grad is None or value.grad.isfinite().all() for value in batch.values.values())


def test_a_batch_of_one_photograph_has_a_loss_of_zero():
    batch = make_batch()
    contents = contents_of(batch, image=[(0, row) for row in range(1, 6)])
    loss = get_objective("clip", repeats="mask")(batch.embeddings(masks=False, contents=contents), SCALE).loss
    assert loss.item() == pytest.approx(0, abs=1e-12)


def test_missing_contents_are_an_error():
    batch = make_batch()
    objective = get_objective("negclip", repeats="mask")
    contents = contents_of(batch)
    for wrong in (None, {}, {**contents, "text": contents["text"][:3]}):
        with pytest.raises(ValueError, match=r"which captions are the same|which images are the same"):
            objective(batch.embeddings(masks=False, contents=wrong), SCALE)
    with pytest.raises(ValueError, match=r"`repeats` is 'drop'; it can be 'negative' or 'mask'"):
        get_objective("clip", repeats="drop")
    assert objective.settings == {"repeats": "mask"}


def test_contents_follow_from_pixels_and_tokens():
    ids, mask = torch.tensor([[5, 6, 9, 0], [5, 6, 9, 9], [5, 7, 9, 9]]), torch.tensor([[1, 1, 1, 0]] * 3)
    pixels = torch.randn(3, 3, 4, 4)
    pixels[2] = pixels[0]
    inputs = {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels}
    found = input_contents(inputs, ["image", "text"])
    assert (found["image"] == found["image"][0]).tolist() == [True, False, True]
    assert (found["text"] == found["text"][0]).tolist() == [True, True, False]
    assert all((values >= 0).all() for values in found.values())
    given = input_contents({**inputs, "contents": {"image": torch.tensor([1, 2, 3])}}, ["image", "text"])
    assert given["image"].tolist() == [1, 2, 3]
    assert torch.equal(digests(pixels.bfloat16())[:1], digests(pixels.bfloat16())[2:])


def test_numbers_that_do_not_fit_are_named():
    batch = make_batch("tsvlc", ragged=True)
    masks = batch.masks()
    values = {role: batch.values[role] for role in ("image", "text", "negative_text", "paraphrase")}
    objective = get_objective("tsvlc")
    with pytest.raises(ValueError, match=r"hard negative captions row by row.*6 rows.*`masks=\{'negative_text'"):
        objective(Embeddings(**values, masks={"paraphrase": masks["paraphrase"]}), SCALE)
    for wrong in (masks["negative_text"].long(), masks["negative_text"][:, :1], masks["negative_text"][0]):
        with pytest.raises(ValueError, match="The mask of negative_text tells which row each of its"):
            objective(Embeddings(**values, masks={**masks, "negative_text": wrong}), SCALE)
    with pytest.raises(ValueError, match="Each row has one text"):
        objective(Embeddings(**values, masks={**masks, "text": torch.ones(6, 1, dtype=torch.bool)}), SCALE)
    uneven = make_batch("tsvlc", ragged=True)
    with pytest.raises(ValueError, match="one by one, but some row does not have as many"):
        get_objective("tripletclip")(uneven.embeddings(), SCALE)


@pytest.mark.parametrize("name", ["tsvlc", "fsc_clip", "ce_clip", "dac", "clic", "degla", "read_alignment"])
def test_a_batch_without_any_negative_or_paraphrase(name):
    batch = make_batch(name)
    none = torch.zeros(6, 0, dtype=torch.bool)
    empty = {role: batch.values[role][:0] for role in ("negative_text", "paraphrase", "dense_text")}
    values = {**batch.values, **empty}
    teacher = {role: value[: len(values[role])] for role, value in batch.teacher.items()}
    output = get_objective(name)(Embeddings(**values, masks=dict.fromkeys(empty, none), teacher=teacher), SCALE)
    output.loss.backward()
    assert output.loss.isfinite()
    assert batch.values["image"].grad.isfinite().all()
    counts = {key: float(value) for key, value in output.parts.items() if key.startswith("rows_without")}
    assert set(counts.values()) == {6.0}
    clip = get_objective("clip")(batch.embeddings(masks=False), SCALE).loss
    further = 0.005 * sum((batch.values[r] - batch.teacher[r]).square().sum() for r in ("image", "text"))
    expected = {"clic": clip / 4, "degla": clip + further}.get(name, clip)
    torch.testing.assert_close(output.loss, expected)


@pytest.mark.parametrize("chunk_size", [2, 2048])
def test_a_caption_that_is_another_rows_negative_is_not_a_wrong_answer_within_its_modality(chunk_size):
    batch = make_batch()
    contents = contents_of(batch)
    contents["negative_text"][4] = contents["text"][0]
    objective = get_objective("ce_clip", repeats="mask", chunk_size=chunk_size)
    found = objective(batch.embeddings(masks=False, contents=contents), SCALE).parts["text_within_negative_text"]
    v, t, n = (batch.values[role] for role in ("image", "text", "negative_text"))
    logits = SCALE * t @ n.T
    logits[0, 4] = -torch.inf
    pairs = SCALE * (v * t).sum(dim=1)
    torch.testing.assert_close(found, (torch.logsumexp(torch.cat([pairs[:, None], logits], 1), 1) - pairs).mean())


@pytest.mark.parametrize("chunk_size", [2, 2048])
@pytest.mark.parametrize("repeated", [False, True])
def test_dense_captions_of_one_photograph_are_not_its_wrong_answers(chunk_size, repeated):
    batch = make_batch("dac", ragged=True)
    owners, rows = batch.owners["dense_text"], range(6)
    contents = contents_of(batch, image=[(0, 2)] if repeated else [])
    if repeated:  # a row says in part what another says
        contents["dense_text"][owners.index(4)] = contents["dense_text"][owners.index(1)]
    objective = get_objective("dac", repeats="mask", chunk_size=chunk_size)
    output = objective(batch.embeddings(contents=contents), SCALE)
    pictures, parts = contents["image"], contents["dense_text"]
    logits = SCALE * batch.values["image"] @ batch.values["dense_text"].T
    losses = []
    for i in rows:
        mine = [m for m, owner in enumerate(owners) if owner == i]
        if not mine:
            continue
        said = {int(parts[m]) for m in mine}
        forth = [
            m for m, j in enumerate(owners) if j == i or (pictures[j] != pictures[i] and int(parts[m]) not in said)
        ]
        back = [(j, m) for m in mine for j in rows if j == i or pictures[j] != pictures[i]]
        everything = torch.stack([*(logits[i, m] for m in forth), *(logits[j, m] for j, m in back)])
        losses.append(torch.logsumexp(everything, 0) - torch.logsumexp(logits[i, mine], 0))
    found = output.parts["image_to_any_dense_text"]
    if repeated:
        plain = get_objective("dac")(batch.embeddings(contents=contents), SCALE).parts["image_to_any_dense_text"]
        assert found < plain
    torch.testing.assert_close(found, torch.stack(losses).mean())
    output.loss.backward()
    assert all(value.grad is None or value.grad.isfinite().all() for value in batch.values.values())


@pytest.mark.parametrize("chunk_size", [2, 2048])
@pytest.mark.parametrize("name", available_objectives())
def test_a_batch_without_any_keys_left_has_finite_gradients(name, chunk_size):
    batch = make_batch(name)
    contents = {role: torch.zeros(len(values), dtype=torch.long) for role, values in batch.values.items()}
    objective = make_objective(name, repeats="mask", chunk_size=chunk_size)
    output = objective(batch.embeddings(masks=False, contents=contents), SCALE)
    output.loss.backward()
    assert output.loss.isfinite()
    assert all(value.grad is None or value.grad.isfinite().all() for value in batch.values.values())

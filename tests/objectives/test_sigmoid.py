# SPDX-License-Identifier: Apache-2.0
"""The sigmoid kernel, and `siglip` and `siglip_triplet` against transformers' SigLIP and plain torch."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.nn.functional import logsigmoid, normalize
from transformers import SiglipConfig, SiglipModel

from hf_tripletclip.objectives import Embeddings, Objective, Rows, SigmoidTerm, get_objective, sigmoid_loss
from hf_tripletclip.objectives.chunks import Codes
from hf_tripletclip.objectives.describe import describe_objective
from tests.objectives.reference import make_batch
from tests.objectives.test_infonce import LargestTensor, Products


def dense(queries, keys, scale, bias, targets, kept=None) -> torch.Tensor:
    """The loss of each query on the whole matrix."""
    logits = scale * queries @ keys.T + bias
    signs = -torch.ones_like(logits)
    signs[torch.arange(len(queries)), targets] = 1
    losses = -logsigmoid(signs * logits)
    return (losses if kept is None else losses * kept).sum(dim=1)


def leaves_of(*shapes: tuple[int, ...], dtype=torch.float64) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_the_loss_of_transformers(dtype):
    torch.manual_seed(0)
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**tower, "vocab_size": 50, "projection_size": 16}
    vision = {**tower, "image_size": 8, "patch_size": 4}
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision)).to(dtype)
    with torch.no_grad():
        model.logit_scale.fill_(1.7)
        model.logit_bias.fill_(-3.0)
    inputs = {"input_ids": torch.randint(50, (6, 8)), "pixel_values": torch.randn(6, 3, 8, 8, dtype=dtype)}
    output = model(**inputs, return_loss=True)
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    expected = torch.autograd.grad(output.loss, [model.get_parameter(name) for name in names], retain_graph=True)
    embeddings = Embeddings(output.image_embeds, output.text_embeds)
    ours = get_objective("siglip", chunk_size=4)(embeddings, model.logit_scale.exp(), model.logit_bias).loss
    torch.testing.assert_close(ours, output.loss)
    found = torch.autograd.grad(ours, [model.get_parameter(name) for name in names])
    for name, one, other in zip(names, found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6, msg=lambda text, n=name: f"{n}: {text}")
    whole = dense(output.image_embeds.double(), output.text_embeds.double(), model.logit_scale.exp().double(),
                  model.logit_bias.double(), torch.arange(6)).mean()  # fmt: skip
    torch.testing.assert_close(ours.double(), whole, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("chunk_size", [1, 2, 4, 100])
@pytest.mark.parametrize(("reduction", "first"), [("mean", 5), ("sum", 5), ("none", 0), ("mean", 6)])
def test_value_and_gradients_for_any_chunks_and_targets(chunk_size, reduction, first):
    queries, keys, others, scale, bias = leaves = leaves_of((3, 4), (9, 4), (5, 4), (1,), (1, 1))
    loss = sigmoid_loss(queries, [keys, others], scale, bias, first_target=first, chunk_size=chunk_size,
                        reduction=reduction)  # fmt: skip
    wanted = dense(queries, torch.cat([keys, others]), scale, bias, torch.arange(first, first + 3))
    expected = {"mean": wanted.mean, "sum": wanted.sum, "none": lambda: wanted}[reduction]()
    torch.testing.assert_close(loss, expected)
    weights = torch.arange(1.0, 1 + loss.numel(), dtype=torch.float64)
    found, wanted = (torch.autograd.grad((value.flatten() * weights).sum(), leaves) for value in (loss, expected))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("chunk_size", [2, 100])
def test_targets_anywhere_and_keys_that_are_left_out(chunk_size):
    queries, keys, others, scale, bias = leaves = leaves_of((3, 4), (4, 4), (2, 4), (), ())
    targets = torch.tensor([5, 0, 3])
    of_queries = torch.tensor([[1, 10], [2, 11], [3, 12]])
    of_keys = torch.tensor([[2, 20], [1, 21], [9, 12], [9, 22], [3, 23], [1, 24]])
    kept = torch.tensor([[1, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1], [1, 1, 0, 1, 0, 1]])  # own targets stay
    codes = Codes(of_queries, [of_keys[:4], of_keys[4:]])
    loss = sigmoid_loss(queries, [keys, others], scale, bias, targets=targets, excluded=codes, chunk_size=chunk_size)
    expected = dense(queries, torch.cat([keys, others]), scale, bias, targets, kept).mean()
    torch.testing.assert_close(loss, expected)
    for one, other in zip(torch.autograd.grad(loss, leaves), torch.autograd.grad(expected, leaves), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("chunk_size", [2, 100])
def test_gradcheck(chunk_size):
    leaves = leaves_of((3, 3), (3, 3), (2, 3), (), ())

    def loss(queries, keys, others, scale, bias):
        return sigmoid_loss(queries, [keys, others], scale, bias, chunk_size=chunk_size)

    assert torch.autograd.gradcheck(loss, leaves)


@pytest.mark.parametrize("chunk_size", [2, 100])
@pytest.mark.parametrize("needed", range(5))
def test_only_what_needs_a_gradient_gets_one(needed, chunk_size):
    leaves = [leaf.detach() for leaf in leaves_of((3, 4), (3, 4), (2, 4), (), ())]
    leaves[needed].requires_grad_()
    queries, keys, others, scale, bias = leaves
    loss = sigmoid_loss(queries, [keys, others], scale, bias, chunk_size=chunk_size)
    expected = dense(queries, torch.cat([keys, others]), scale, bias, torch.arange(3)).mean()
    (found,), (wanted,) = (torch.autograd.grad(value, leaves[needed]) for value in (loss, expected))
    torch.testing.assert_close(found, wanted)
    assert not sigmoid_loss(torch.randn(3, 4), [torch.randn(3, 4)], 2.0, -1.0).requires_grad


@pytest.mark.parametrize(("scale", "bias"), [(1e4, -10.0), (1e4, 1e4), (1.0, -1e4), (117.0, -12.9), (1e-6, 0.0)])
@pytest.mark.parametrize("chunk_size", [3, 100])
def test_extreme_scales_and_biases_do_not_overflow(scale, bias, chunk_size):
    queries, keys = (normalize(leaf.detach(), dim=-1) for leaf in leaves_of((8, 4), (8, 4), dtype=torch.float32))
    keys[:4] = -queries[:4]  # the worst of the keys
    leaves = [queries.requires_grad_(), keys.requires_grad_(), torch.tensor(scale, requires_grad=True)]
    leaves.append(torch.tensor(bias, requires_grad=True))
    loss = sigmoid_loss(leaves[0], [leaves[1]], *leaves[2:], chunk_size=chunk_size)
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    expected = dense(*exact, torch.arange(8)).mean()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    for one, other in zip(torch.autograd.grad(loss, leaves), torch.autograd.grad(expected, exact), strict=True):
        assert one.isfinite().all()
        torch.testing.assert_close(one.double(), other, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("blocks", [(14,), (9, 5)])
@pytest.mark.parametrize(("chunk_size", "forward", "backward"), [(100, 1, 2), (14, 1, 2), (13, 2, 6)])
def test_keys_that_fit_into_one_chunk_are_one_product_that_is_kept(blocks, chunk_size, forward, backward):
    queries, *keys = (torch.randn(rows, 4, requires_grad=True) for rows in (3, *blocks))
    with Products() as seen:
        loss = sigmoid_loss(queries, keys, 2.0, -1.0, chunk_size=chunk_size)
    assert seen.number == forward
    with Products() as seen:
        loss.backward()
    assert seen.number == backward


@pytest.mark.parametrize("name", ["siglip", "siglip_triplet"])
def test_memory_is_rows_times_chunk_and_never_the_whole_matrix(name):
    rows, chunk = 256, 16
    leaves = [normalize(torch.randn(rows, 8), dim=-1).requires_grad_() for _ in range(4)]
    with LargestTensor() as seen:
        get_objective(name, chunk_size=chunk)(Embeddings(*leaves), 10.0, -5.0).loss.backward()
    assert seen.numel <= 2 * rows * chunk


@pytest.mark.parametrize("chunk_size", [16, 100])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_nothing(dtype, chunk_size):
    queries, keys = (normalize(leaf.detach(), dim=-1).requires_grad_() for leaf in leaves_of((64, 8), (64, 8)))
    for to in (torch.float32, torch.float64):
        inputs = [leaf.detach().to(to).requires_grad_() for leaf in (queries, keys)]
        leaves = [*inputs, torch.tensor(100.0, requires_grad=True), torch.tensor(-10.0, requires_grad=True)]
        results = []
        for enabled in (False, True):
            with torch.autocast("cpu", dtype=dtype, enabled=enabled):
                loss = sigmoid_loss(leaves[0], [leaves[1]], *leaves[2:], chunk_size=chunk_size)
                results.append([loss, *torch.autograd.grad(loss, leaves)])
        assert results[0][0].dtype == to
        for one, other in zip(*results, strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_are_computed_in_float32(dtype):
    values = [normalize(torch.randn(8, 4), dim=-1).to(dtype) for _ in range(2)]
    half, full = ([value.to(to, copy=True).requires_grad_() for value in values] for to in (dtype, torch.float32))
    losses = [sigmoid_loss(queries, [keys], 14.3, -10.7) for queries, keys in (half, full)]
    assert losses[0].dtype == torch.float32
    assert torch.equal(*losses)
    for loss in losses:
        loss.backward()
    for one, other in zip(half, full, strict=True):
        assert torch.equal(one.grad, other.grad.to(dtype))


def test_backward_twice_over_a_retained_graph():
    queries, keys = leaves_of((6, 4), (6, 4))
    loss = sigmoid_loss(queries, [keys], 3.0, -1.0)
    (first,) = torch.autograd.grad(loss, queries, retain_graph=True)
    (second,) = torch.autograd.grad(loss, queries)
    assert torch.equal(first, second)


def test_impossible_arguments():
    queries, keys = torch.randn(4, 3), torch.randn(5, 3)
    with pytest.raises(ValueError, match=r"4 queries start at row 2 .* has only 5 rows"):
        sigmoid_loss(queries, [keys, torch.randn(9, 3)], 1.0, 0.0, first_target=2)
    with pytest.raises(ValueError, match="`reduction` is 'max'"):
        sigmoid_loss(queries, [keys], 1.0, 0.0, reduction="max")
    with pytest.raises(ValueError, match="`chunk_size` is 0"):
        sigmoid_loss(queries, [keys], 1.0, 0.0, chunk_size=0)
    with pytest.raises(ValueError, match="`keys` must be a list of blocks"):
        sigmoid_loss(queries, keys, 1.0, 0.0)
    with pytest.raises(ValueError, match="give the factor on the cosines"):
        sigmoid_loss(queries, [keys], 0.0, 0.0)
    for bias in (float("nan"), float("inf"), True, None, "1", 1j, torch.ones(2), torch.tensor(1j)):
        with pytest.raises(ValueError, match=r"`bias` is .*: give what is added to the logits"):
            sigmoid_loss(queries, [keys], 1.0, bias)


def test_the_models_bias_wins_over_the_setting():
    batch = make_batch().embeddings(masks=False)
    plain, fixed = get_objective("siglip"), get_objective("siglip", bias=-4)
    of_model = torch.tensor([-2.0], dtype=torch.float64, requires_grad=True)
    loss = plain(batch, 7.0, of_model).loss
    assert torch.equal(fixed(batch, 7.0, of_model).loss, loss)
    assert torch.equal(fixed(batch, 7.0).loss, plain(batch, 7.0, -4.0).loss)
    assert not torch.equal(fixed(batch, 7.0).loss, loss)
    loss.backward()
    assert of_model.grad.shape == (1,)
    assert fixed.settings == {"bias": -4}
    assert plain.settings == {}


@pytest.mark.parametrize("name", ["siglip", "siglip_triplet"])
def test_a_missing_bias_is_one_clear_error(name):
    batch = make_batch().embeddings(masks=False)
    assert get_objective(name).uses_bias
    with pytest.raises(ValueError, match=rf"'{name}' uses a bias, and the model has no `logit_bias`: give .*'bias'"):
        get_objective(name)(batch, 7.0)
    for wrong in (float("nan"), "1", True, torch.ones(2)):
        with pytest.raises(ValueError, match="`bias` is"):
            get_objective(name)(batch, 7.0, wrong)
    for wrong in (float("inf"), "-10", False, torch.tensor(1.0)):
        with pytest.raises(ValueError, match=r"`bias` is .*; give a number such as -10"):
            get_objective(name, bias=wrong)
    term = get_objective(name).terms[0]
    own = dict.fromkeys(term.roles, torch.eye(3))
    with pytest.raises(ValueError, match="The term sigmoid uses a bias"):
        term.value(Rows(own, own, dict.fromkeys(own, 0), 1), torch.tensor(1.0))


@pytest.mark.parametrize("name", ["clip", "tripletclip", "cyclip", "tsvlc", "dac", "ce_clip", "clic", "pairwise"])
@pytest.mark.parametrize("distilled", [False, True])
def test_other_objectives_ignore_a_bias(name, distilled):
    batch = make_batch().embeddings(masks=False)
    objective = get_objective(name, **({"distillation": {"kind": "similarity"}} if distilled else {}))
    assert not objective.uses_bias
    bias = torch.tensor(-10.0, requires_grad=True)
    assert torch.equal(objective(batch, 7.0, bias=bias).loss, objective(batch, 7.0).loss)


def test_a_users_own_objective_with_the_term():
    class Both(Objective):
        name = "both"
        terms = (*get_objective("clip").terms, SigmoidTerm(("image",), ("text",), 0.5))

    batch = make_batch().embeddings(masks=False)
    found = Both()(batch, 7.0, -2.0).loss
    torch.testing.assert_close(
        found, get_objective("clip")(batch, 7.0).loss + 0.5 * get_objective("siglip")(batch, 7.0, -2.0).loss
    )
    with pytest.raises(ValueError, match="'both' uses a bias"):
        Both()(batch, 7.0)
    text = describe_objective(Both())
    assert "must find its target" in text
    assert r"\\(b\\) is `logit_bias`." in text
    fixed = describe_objective(get_objective("siglip", bias=-10))
    assert r"\\(b\\) is `logit_bias`, or -10 if the model has none." in fixed
    assert "must find its target" not in fixed


def test_any_number_of_negative_pairs_is_one_batch_of_pairs():
    batch = make_batch("siglip_triplet", ragged=True)
    v, t = (torch.cat([batch.values[f"{side}{role}"] for side in ("", "negative_")]) for role in ("image", "text"))
    assert len(v) == len(t) > 12
    found = get_objective("siglip_triplet")(batch.embeddings(), 7.0, -2.0)
    torch.testing.assert_close(found.loss, get_objective("siglip")(Embeddings(v, t), 7.0, -2.0).loss)
    assert found.parts["rows_without_negative_text"] == batch.masks()["negative_text"].any(dim=1).logical_not().sum()


def test_a_batch_without_negative_pairs_is_siglip():
    batch, none = make_batch(), torch.zeros(6, 0, dtype=torch.bool)
    empty = {role: batch.values[role][:0] for role in ("negative_image", "negative_text")}
    embeddings = Embeddings(batch.values["image"], batch.values["text"], **empty, masks=dict.fromkeys(empty, none))
    found = get_objective("siglip_triplet")(embeddings, 7.0, -2.0).loss
    torch.testing.assert_close(found, get_objective("siglip")(batch.embeddings(masks=False), 7.0, -2.0).loss)


def test_pairs_that_do_not_fit_are_named():
    objective, batch = get_objective("siglip_triplet", bias=-2), make_batch("tsvlc", ragged=True)
    message = "pairs hard negative images with hard negative captions one by one, but some row does not"
    with pytest.raises(ValueError, match=message):
        objective(batch.embeddings(), 7.0)
    whole = make_batch()
    for role in ("negative_image", "negative_text"):
        with pytest.raises(ValueError, match=r"hard negative images with .* but there are [56] rows .* and [56] of"):
            objective(dataclasses.replace(whole.embeddings(masks=False), **{role: whole.values[role][:5]}), 7.0)
    with pytest.raises(ValueError, match=r"pairs images with captions row by row, but there are 5 rows .* and 6"):
        get_objective("siglip", bias=-2)(Embeddings(whole.values["image"][:5], whole.values["text"]), 7.0)
    paired = make_batch("siglip_triplet", ragged=True)  # as many in all, but of other rows
    mask = paired.masks()["negative_text"].flip(0)
    masks = {"negative_image": paired.masks()["negative_image"], "negative_text": mask}
    with pytest.raises(ValueError, match=message):
        objective(dataclasses.replace(paired.embeddings(), masks=masks), 7.0)


def test_a_mask_of_one_per_row_changes_nothing():
    objective, whole = get_objective("siglip_triplet", bias=-2), make_batch()
    ones = {role: torch.ones(6, 1, dtype=torch.bool) for role in ("negative_image", "negative_text")}
    loss = objective(whole.embeddings(masks=False), 7.0).loss
    for given in (ones, *({role: mask} for role, mask in ones.items())):
        assert torch.equal(objective(Embeddings(**whole.values, masks=given), 7.0).loss, loss)


@pytest.mark.parametrize("role", ["negative_image", "negative_text"])
def test_several_of_one_role_and_one_of_the_other_are_a_pair_each(role):
    several, whole = make_batch("siglip_triplet", ragged=True), make_batch()
    values = {**whole.values, role: several.values[role]}
    found = get_objective("siglip_triplet")(Embeddings(**values, masks={role: several.masks()[role]}), 7.0, -2.0).loss
    owners = torch.tensor(several.owners[role])
    v, t = (torch.cat([values[one], values[f"negative_{one}"]]) for one in ("image", "text"))
    if role == "negative_text":
        v = torch.cat([values["image"], values["negative_image"][owners]])
        targets = torch.arange(len(t))
    else:
        targets = torch.cat([torch.arange(6), 6 + owners])
    torch.testing.assert_close(found, dense(v, t, 7.0, -2.0, targets).mean())


@pytest.mark.parametrize("chunk_size", [2, 2048])
def test_pairs_of_other_rows_that_are_right_too_are_left_out(chunk_size):
    batch = make_batch()
    numbers = {role: torch.arange(6) + 1000 * n for n, role in enumerate(batch.values)}
    numbers["image"][2] = numbers["image"][0]  # two captions of one photograph
    numbers["text"][5] = numbers["text"][4]  # two photographs with one caption
    numbers["negative_text"][3] = numbers["text"][1]  # a negative that is the caption of another row
    objective = get_objective("siglip_triplet", repeats="mask", chunk_size=chunk_size)
    embeddings = batch.embeddings(masks=False, contents=numbers)
    found = objective(embeddings, 5.0, -2.0).loss
    v, t = (torch.cat([batch.values[f"{side}{role}"] for side in ("", "negative_")]) for role in ("image", "text"))
    kept = torch.ones(12, 12)
    for i, j in ((0, 2), (2, 0), (4, 5), (5, 4), (1, 9), (9, 1)):
        kept[i, j] = 0
    torch.testing.assert_close(found, dense(v, t, 5.0, -2.0, torch.arange(12), kept).mean())
    assert found < get_objective("siglip_triplet")(embeddings, 5.0, -2.0).loss


@pytest.mark.slow
@pytest.mark.parametrize("chunk_size", [5, 100])
def test_torch_compile(chunk_size):
    leaves = leaves_of((16, 8), (16, 8), (), (), dtype=torch.float32)

    def loss(queries, keys, scale, bias):
        return sigmoid_loss(queries, [keys], scale, bias, chunk_size=chunk_size)

    expected, compiled = loss(*leaves), torch.compile(loss)(*leaves)
    torch.testing.assert_close(compiled, expected)
    gradients = [torch.autograd.grad(value, leaves) for value in (compiled, expected)]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("chunk_size", [100, 4096])
def test_cuda_equals_cpu(chunk_size):
    values = [normalize(torch.randn(256, 64), dim=-1) for _ in range(4)]
    objective, results = get_objective("siglip_triplet", chunk_size=chunk_size), []
    for device in ("cpu", "cuda"):
        leaves = [value.to(device).requires_grad_() for value in values]
        bias = torch.tensor(-10.0, device=device, requires_grad=True)
        loss = objective(Embeddings(*leaves), torch.tensor(50.0, device=device), bias).loss
        loss.backward()
        results.append([loss.detach().cpu(), bias.grad.cpu(), *(leaf.grad.cpu() for leaf in leaves)])
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-5)

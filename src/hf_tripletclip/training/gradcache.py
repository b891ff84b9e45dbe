# SPDX-License-Identifier: Apache-2.0
"""Gradient caching: the loss and gradients of a large contrastive batch in the memory of a small one.

Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup", arXiv 2101.06983.
(1) Embed the batch in mini-batches without a graph. (2) Compute the loss and its gradient with respect to the
embeddings. (3) Embed each mini-batch again, now with a graph, and send its part of that gradient through it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import get_device_states, set_device_states

from hf_tripletclip.layouts.adapters import LOGIT_BIAS, LOGIT_SCALE, scale_of
from hf_tripletclip.modeling import TripletCLIPOutput, TripletMixin
from hf_tripletclip.objectives import Embeddings, Tokens
from hf_tripletclip.objectives.contents import input_contents
from hf_tripletclip.objectives.embeddings import ObjectiveOutput
from hf_tripletclip.roles import MASKS, ROLES

Batch = dict[str, Any]

# Role of an embedding in an objective -> field of `TripletCLIPOutput`.
FIELDS = {role.name: role.output for role in ROLES.values()}
WITHOUT_LOSS = {"return_loss": False, "return_logits": False, "return_tokens": True}
TOKENS = "tokens of "  # before a role: patches or words, which an objective may need beside embeddings
STATES = "states of "  # before a role: what a decoder reads


class RandomState:
    """The random state of CPU and devices when it is made, for a second forward that draws the same dropout."""

    def __init__(self, batch: Batch) -> None:
        self.cpu = torch.get_rng_state()
        self.devices, self.states = get_device_states(*batch.values())

    @contextlib.contextmanager
    def restored(self) -> Iterator[None]:
        with torch.random.fork_rng(devices=self.devices):
            torch.set_rng_state(self.cpu)
            set_device_states(self.devices, self.states)
            yield


@dataclass(frozen=True)
class WholeBatch:
    """What an objective needs of a batch as a whole; see [`~hf_tripletclip.objectives.Embeddings`]."""

    masks: dict[str, torch.Tensor]
    contents: dict[str, torch.Tensor]
    labels: dict[str, torch.Tensor]


def of_whole_batch(core: TripletMixin, batch: Batch) -> tuple[Batch, WholeBatch]:
    """A batch without the entries that cannot be cut into mini-batches, and these entries."""
    batch = {name: value for name, value in batch.items() if value is not None}
    contents = input_contents(
        batch, [role for role in core.objective.content_roles if ROLES[role].model_input in batch]
    )
    masks = {role.name: batch.pop(mask) for mask, role in MASKS.items() if mask in batch}
    texts = [role for role in ROLES.values() if not role.is_image]
    labels = {role.name: batch.pop(role.decoder_targets) for role in texts if role.decoder_targets in batch}
    batch.pop("contents", None)
    return batch, WholeBatch(masks, contents, labels)


def split_batch(batch: Batch, mini_batch_size: int, passes: int | None = None) -> list[Batch]:
    """
    Cut a batch into mini-batches.

    Args:
        batch (`dict`): Tensors by name. Those of the positives have B rows. Those of the negatives may have another
            number, which is cut in proportion: the towers embed each row by itself.
        mini_batch_size (`int`): Positive rows per mini-batch; it need not divide B.
        passes (`int`, *optional*): How many mini-batches, at least as many as it takes: the last ones have no rows.
    """
    rows = len(batch["pixel_values"])
    number = passes_of(rows, mini_batch_size) if passes is None else passes
    return [
        {
            name: value[start * len(value) // max(rows, 1) : end * len(value) // max(rows, 1)]
            if isinstance(value, torch.Tensor)
            else value
            for name, value in batch.items()
        }
        for start, end in (
            (min(index * mini_batch_size, rows), min((index + 1) * mini_batch_size, rows)) for index in range(number)
        )
    ]


def passes_of(rows: int, mini_batch_size: int) -> int:
    """How many mini-batches it takes."""
    return -(-rows // mini_batch_size)


def cached_backward(
    model: nn.Module,
    core: TripletMixin,
    batch: Batch,
    *,
    mini_batch_size: int,
    backward: Callable[[torch.Tensor], None],
    no_sync: Callable[[], contextlib.AbstractContextManager[Any]],
    loss_weight: float = 1.0,
    teach: Callable[[Batch], dict[str, torch.Tensor]] | None = None,
    autocast: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
    passes: int | None = None,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """
    Accumulate the gradients of the objective over the whole batch into the parameters.

    Args:
        model (`nn.Module`): The model as it is trained: wrapped by DDP, PEFT or neither.
        core ([`TripletMixin`]): The model inside, whose objective, `logit_scale` and `logit_bias` are used.
        batch (`dict`): Model inputs, see `split_batch`.
        mini_batch_size (`int`): Positive rows per mini-batch.
        backward (`Callable`): Runs a loss's backward, `accelerator.backward`.
        no_sync (`Callable`): Gives a context in which DDP does not average gradients; used for all mini-batches
            except the last.
        loss_weight (`float`, defaults to 1.0): Factor on the gradients, for gradient accumulation.
        teach (`Callable`, *optional*): Gives the teacher's embeddings of a mini-batch by role, for distillation.
        autocast (`Callable`, *optional*): Gives the context in which the objective's decoder computes, as inside the
            model.
        passes (`int`, *optional*): As of `split_batch`: processes that each hold a part of the model must run it
            equally often.

    Returns:
        The loss, shape `()`, detached and not weighted, and the parts of the objective by name.
    """
    batch, whole_batch = of_whole_batch(core, batch)
    mini_batches = split_batch(batch, mini_batch_size, passes)

    # (1) no graph; the random state is kept for (3)
    states: list[RandomState] = []
    embedded = _embed(model, mini_batches, teach, before=lambda one: states.append(RandomState(one)))
    pieces = embedded.pieces

    # (2) the loss of the whole batch; autograd stops at the embeddings and the scale
    leaves = {name: torch.cat(parts).requires_grad_() for name, parts in pieces.items()}
    scales = {name: value.detach().clone().requires_grad_() for name, value in scale_of(core).items()}
    with autocast():
        output_of_objective, scale = _of_objective(core, leaves, embedded, scales, whole_batch)
    loss = output_of_objective.loss
    inputs = [*leaves.values(), *scales.values()]
    found_grads = torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True)
    grads = {
        name: grad.split([len(part) for part in pieces[name]])
        for name, grad in zip(leaves, found_grads[: len(leaves)], strict=True)
    }
    scale_grads = dict(zip(scales, found_grads[len(leaves) :], strict=True))

    # (3) with a graph; the surrogate's gradient is the loss's
    for index, (mini_batch, state) in enumerate(zip(mini_batches, states, strict=True)):
        last = index == len(mini_batches) - 1
        with contextlib.nullcontext() if last else no_sync():
            with state.restored():
                # If DDP looks for unused weights, the logits show it that the scale is none.
                found = trained_outputs(model(**mini_batch, **(WITHOUT_LOSS | {"return_logits": last})))
            surrogate: Any = sum((found[name] * parts[index]).sum() for name, parts in grads.items())
            if last:
                for name, value in scale_of(core).items():
                    surrogate = surrogate + (value * scale_grads[name]).sum()
            if surrogate.requires_grad:
                backward(surrogate * loss_weight)

    parts = {**output_of_objective.parts, "logit_scale": scale.detach()}
    return loss.detach(), parts


def loss_in_mini_batches(
    model: nn.Module,
    core: TripletMixin,
    batch: Batch,
    *,
    mini_batch_size: int,
    teach: Callable[[Batch], dict[str, torch.Tensor]] | None = None,
    passes: int | None = None,
) -> torch.Tensor:
    """The objective's loss over a whole batch, without gradients; arguments as of `cached_backward`."""
    batch, whole_batch = of_whole_batch(core, batch)
    mini_batches = split_batch(batch, mini_batch_size, passes) or [batch]  # one without rows, if others have
    embedded = _embed(model, mini_batches, teach)
    whole = {name: torch.cat(parts) for name, parts in embedded.pieces.items()}
    with torch.no_grad():
        return _of_objective(core, whole, embedded, scale_of(core), whole_batch)[0].loss


Pieces = dict[str, list[torch.Tensor]]


@dataclass(frozen=True)
class _Embedded:
    """The outputs for each mini-batch: those that the loss flows through, the teacher's, and masks of tokens."""

    pieces: Pieces
    of_teacher: Pieces
    token_masks: Pieces


def trained_outputs(output: TripletCLIPOutput) -> dict[str, torch.Tensor]:
    """The outputs of the model that the loss flows through: embeddings by role, and patches and words."""
    found = {role: embeds for role, field in FIELDS.items() if (embeds := output.get(field)) is not None}
    found |= {TOKENS + role: values for role, values in (output.get("tokens") or {}).items()}
    return found | {STATES + role: values for role, values in (output.get("states") or {}).items()}


@torch.no_grad()
def _embed(
    model: nn.Module,
    mini_batches: list[Batch],
    teach: Callable[[Batch], dict[str, torch.Tensor]] | None,
    before: Callable[[Batch], None] | None = None,
) -> _Embedded:
    embedded = _Embedded({}, {}, {})
    for mini_batch in mini_batches:
        if before is not None:
            before(mini_batch)
        output: TripletCLIPOutput = model(**mini_batch, **WITHOUT_LOSS)
        for into, found in (
            (embedded.pieces, trained_outputs(output)),
            (embedded.token_masks, output.get("token_masks") or {}),
            (embedded.of_teacher, teach(mini_batch) if teach else {}),
        ):
            for name, values in found.items():
                into.setdefault(name, []).append(values)
    return embedded


def _of_objective(
    core: TripletMixin,
    outputs: dict[str, torch.Tensor],
    embedded: _Embedded,
    scales: dict[str, torch.Tensor],
    whole: WholeBatch,
) -> tuple[ObjectiveOutput, torch.Tensor]:
    """The objective's output for the model's outputs, and the scale; `scales` as of `scale_of`."""
    scale = scales[LOGIT_SCALE].exp().to(outputs["text"].device).reshape(())
    bias = scales.get(LOGIT_BIAS)
    tokens = {
        role: Tokens(outputs[TOKENS + role].to(scale.device), torch.cat(masks).to(scale.device))
        for role, masks in embedded.token_masks.items()
    }
    output = core.objective(
        Embeddings(
            **{role: values.to(scale.device) for role, values in outputs.items() if role in ROLES},
            masks={role: mask.to(scale.device) for role, mask in whole.masks.items()},
            contents={role: values.to(scale.device) for role, values in whole.contents.items()},
            teacher={role: torch.cat(parts) for role, parts in embedded.of_teacher.items()},
            tokens=tokens,
            states={role: outputs[STATES + role].to(scale.device) for role in core.objective.state_roles},
            labels={role: labels.to(scale.device) for role, labels in whole.labels.items()},
            normalized=True,
        ),
        scale,
        None if bias is None else bias.to(scale.device),
    )
    return output, scale

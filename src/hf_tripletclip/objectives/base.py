# SPDX-License-Identifier: Apache-2.0
"""What an objective is: terms over embeddings, and the loss that they add up to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from hf_tripletclip.objectives.infonce import gather_rows, info_nce, world_size

# Role of an embedding -> the dataset column and the model input that it comes from.
COLUMNS = {"image": "image", "text": "caption", "negative_image": "neg_image", "negative_text": "neg_caption"}
MODEL_INPUTS = {
    "image": "pixel_values",
    "text": "input_ids",
    "negative_image": "negative_pixel_values",
    "negative_text": "negative_input_ids",
}


@dataclass(frozen=True)
class Embeddings:
    """
    The L2-normalised embeddings of a batch by role, each `torch.Tensor` of shape `(rows, dim)`, floating.

    Args:
        image: Images, one per row of the batch.
        text: Their captions, as many.
        negative_image (*optional*): Hard negative images.
        negative_text (*optional*): Hard negative captions.
    """

    image: torch.Tensor
    text: torch.Tensor
    negative_image: torch.Tensor | None = None
    negative_text: torch.Tensor | None = None


@dataclass(frozen=True)
class Term:
    """
    ``weight * mean_i [logsumexp_j(s q_i . k_j) - s q_i . k_i]``: each query must find its own row of the first block
    of keys among all keys.

    Args:
        query (`str`): Role of the queries.
        keys (`tuple[str, ...]`): Roles of the keys; row i of the first is the target of query i.
        weight (`float`): Factor in the loss.
    """

    query: str
    keys: tuple[str, ...]
    weight: float

    @property
    def name(self) -> str:
        """Such as `image_to_text`."""
        return f"{self.query}_to_{self.keys[0]}"


@dataclass(frozen=True)
class ObjectiveOutput:
    """
    Args:
        loss (`torch.Tensor` of shape `()`): The loss, with gradients.
        parts (`dict[str, torch.Tensor]`): The terms by name, unweighted and detached scalars.
    """

    loss: torch.Tensor
    parts: dict[str, torch.Tensor]


class Objective:
    """
    A contrastive training objective. A subclass names its `terms`; roles, columns, computation and documentation
    follow from them. One with further terms overrides `__call__` and adds to what this class returns.

    Args:
        negatives_across_devices (`bool`, defaults to `True`):
            Whether the denominators run over the rows of all processes. The mean of the processes' losses, and the
            gradients after DDP has averaged them, are then those of one process with the concatenated batch.
        chunk_size (`int`, defaults to 2048): Keys per chunk of the kernel; memory grows with rows x `chunk_size`.

    Raises:
        ValueError: `chunk_size` is not positive.
    """

    name: ClassVar[str]
    terms: ClassVar[tuple[Term, ...]]

    def __init__(self, negatives_across_devices: bool = True, chunk_size: int = 2048) -> None:
        if chunk_size < 1:
            raise ValueError(f"`chunk_size` is {chunk_size}; give at least 1.")
        self.negatives_across_devices = negatives_across_devices
        self.chunk_size = chunk_size

    @property
    def roles(self) -> tuple[str, ...]:
        """Roles of the embeddings that the terms use."""
        used = {role for term in self.terms for role in (term.query, *term.keys)}
        return tuple(role for role in COLUMNS if role in used)

    @property
    def columns(self) -> tuple[str, ...]:
        """Dataset columns that the objective needs."""
        return tuple(COLUMNS[role] for role in self.roles)

    def __call__(self, embeddings: Embeddings, scale: torch.Tensor) -> ObjectiveOutput:
        """
        Args:
            embeddings ([`Embeddings`]): Of this process's rows. Roles that no term uses are ignored.
            scale (`torch.Tensor` of shape `()`): `exp(logit_scale)`.

        Raises:
            ValueError: A role is missing, or queries and targets differ in number.
        """
        own = self.check(embeddings)
        starts = dict.fromkeys(own, 0)
        keys, ranks = own, 1
        if self.negatives_across_devices and world_size() > 1:
            key_roles = [role for role in own if any(role in term.keys for term in self.terms)]
            gathered, first_rows = gather_rows([own[role] for role in key_roles])
            keys, starts = dict(zip(key_roles, gathered, strict=True)), dict(zip(key_roles, first_rows, strict=True))
            ranks = world_size()

        loss: torch.Tensor | None = None
        parts: dict[str, torch.Tensor] = {}
        for term in self.terms:
            total = info_nce(
                own[term.query],
                [keys[role] for role in term.keys],
                scale,
                first_target=starts[term.keys[0]],
                chunk_size=self.chunk_size,
            )
            # Over processes the *mean* of the losses is the mean over all rows, however many each process has.
            mean = total * (ranks / len(keys[term.keys[0]]))
            parts[term.name] = mean.detach()
            loss = term.weight * mean if loss is None else loss + term.weight * mean
        assert loss is not None, f"{type(self).__name__} has no terms"
        return ObjectiveOutput(loss=loss, parts=parts)

    def check(self, embeddings: Embeddings) -> dict[str, torch.Tensor]:
        """The embeddings that the terms use, by role; raises `ValueError` where they do not do."""
        own: dict[str, torch.Tensor] = {}
        for role in self.roles:
            value = getattr(embeddings, role)
            if value is None:
                raise ValueError(
                    f"The objective {self.name!r} needs {role} embeddings: give the model `{MODEL_INPUTS[role]}` "
                    f"(dataset column {COLUMNS[role]!r})."
                )
            own[role] = value
        for term in self.terms:
            queries, targets = own[term.query], own[term.keys[0]]
            if len(queries) != len(targets):
                raise ValueError(
                    f"The objective {self.name!r} pairs {term.query} with {term.keys[0]} row by row, but there are "
                    f"{len(queries)} rows of the one and {len(targets)} of the other."
                )
        return own

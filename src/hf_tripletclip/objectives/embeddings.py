# SPDX-License-Identifier: Apache-2.0
"""The input and the output of an objective."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import torch

LENGTH_TOLERANCE = 0.01  # bfloat16 rounds lengths by less


@dataclass(frozen=True)
class Tokens:
    """
    A tower's outputs for the patches of images or the tokens of texts, projected into the common space.

    Args:
        values (`torch.Tensor` of shape `(rows, length, dim)`): Floating, not normalised.
        mask (`torch.Tensor` of shape `(rows, length)`): bool, which of them count; at least one per row.
    """

    values: torch.Tensor
    mask: torch.Tensor

    def fit(self, number: int) -> bool:
        """Whether shapes and dtypes fit this number of images or texts."""
        fits = self.values.ndim == 3 and len(self.values) == number and self.mask.shape == self.values.shape[:2]
        return fits and self.values.is_floating_point() and self.mask.dtype == torch.bool


@dataclass(frozen=True)
class Embeddings:
    """
    The L2-normalised embeddings of a batch by role, each a floating `torch.Tensor` of shape `(rows, dim)`.

    Args:
        image: B images, one per row of the batch.
        text: Their B captions.
        negative_image (*optional*): Hard negative images.
        negative_text (*optional*): Hard negative captions.
        paraphrase (*optional*): Other captions that are true of the image.
        dense_text (*optional*): Captions that each describe a part of the image.
        masks (`Mapping[str, torch.Tensor]`, *optional*):
            For roles of which a row may have any number: bool `(B, K)` by role. A row with k embeddings has k `True`
            values; embeddings stand in the order of the rows. A role without a mask has one embedding per row.
        contents (`Mapping[str, torch.Tensor]`, *optional*):
            For `repeats="mask"`: int64 `(rows,)` by role, equal numbers for equal pictures or equal texts.
        teacher (`Mapping[str, torch.Tensor]`, *optional*): For distillation: a frozen teacher's embeddings of the
            same inputs, by role.
        tokens (`Mapping[str, Tokens]`, *optional*): For terms that use patches and words: the tokens of each image or
            text, by role.
        states (`Mapping[str, torch.Tensor]`, *optional*): For terms with a decoder: the decoder's input for each text,
            by role, floating `(rows, width of the decoder)`.
        labels (`Mapping[str, torch.Tensor]`, *optional*): For terms with a decoder: its token ids of the texts that it
            must write, by role, int64 `(rows, length)`, -100 for padding.
        normalized (`bool`, defaults to `False`): Whether rows are known to have length 1. If not, the objective checks
            it, which waits for the device.
    """

    image: torch.Tensor
    text: torch.Tensor
    negative_image: torch.Tensor | None = None
    negative_text: torch.Tensor | None = None
    paraphrase: torch.Tensor | None = None
    dense_text: torch.Tensor | None = None
    masks: Mapping[str, torch.Tensor] | None = None
    contents: Mapping[str, torch.Tensor] | None = None
    teacher: Mapping[str, torch.Tensor] | None = None
    tokens: Mapping[str, Tokens] | None = None
    states: Mapping[str, torch.Tensor] | None = None
    labels: Mapping[str, torch.Tensor] | None = None
    normalized: bool = False

    @functools.cached_property
    def owners(self) -> dict[str, torch.Tensor]:
        """For each role with a mask, the row of the batch that each embedding belongs to, int64 `(rows,)`."""
        # Cached, because counting the embeddings waits for the device.
        return {role: mask.nonzero()[:, 0] for role, mask in (self.masks or {}).items()}


@dataclass(frozen=True)
class ObjectiveOutput:
    """
    Args:
        loss (`torch.Tensor` of shape `()`): The loss, with gradients.
        parts (`dict[str, torch.Tensor]`): The terms by name and counts, as unweighted and detached scalars.
    """

    loss: torch.Tensor
    parts: dict[str, torch.Tensor]


@torch.no_grad()
def check_lengths(by_role: Mapping[str, torch.Tensor], whose: str = "") -> None:
    """Raise `ValueError` if some row does not have length 1."""
    for role, value in by_role.items():
        if len(value) == 0:
            continue
        lengths = value.float().norm(dim=-1)
        if not bool((lengths - 1).abs().max() <= LENGTH_TOLERANCE):  # NaN is not either
            worst = lengths[(lengths - 1).abs().nan_to_num(torch.inf).argmax()].item()
            raise ValueError(
                f"Objectives need L2-normalised embeddings, but {whose}{role} embeddings are not: a row has length "
                f"{worst:.4g}. Normalise them: `torch.nn.functional.normalize(embeddings, dim=-1)`."
            )

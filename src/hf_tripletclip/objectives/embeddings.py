# SPDX-License-Identifier: Apache-2.0
"""What an objective takes and returns."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import torch

LENGTH_TOLERANCE = 0.01  # bfloat16 rounds lengths by less


@dataclass(frozen=True)
class Tokens:
    """
    What a tower puts out for the patches of images or the tokens of texts, projected into the common space.

    Args:
        values (`torch.Tensor` of shape `(rows, length, dim)`): Floating, of any length: not normalised.
        mask (`torch.Tensor` of shape `(rows, length)`): bool; which of them count. Each row has some.
    """

    values: torch.Tensor
    mask: torch.Tensor

    def are_of(self, number: int) -> bool:
        """Whether shapes and dtypes are those of so many images or texts."""
        fits = self.values.ndim == 3 and len(self.values) == number and self.mask.shape == self.values.shape[:2]
        return fits and self.values.is_floating_point() and self.mask.dtype == torch.bool


@dataclass(frozen=True)
class Embeddings:
    """
    The L2-normalised embeddings of a batch by role, each `torch.Tensor` of shape `(rows, dim)`, floating.

    Args:
        image: Images, one per row of the batch: B.
        text: Their captions, as many.
        negative_image (*optional*): Hard negative images.
        negative_text (*optional*): Hard negative captions.
        paraphrase (*optional*): Other captions that are true of the image.
        dense_text (*optional*): Captions that each describe a part of the image.
        masks (`Mapping[str, torch.Tensor]`, *optional*):
            For roles that a row may have any number of: bool `(B, K)` by role. A row with k of them has k times
            `True`; their embeddings stand in the order of the rows, those of a row together. Without a mask a role
            has one embedding per row.
        contents (`Mapping[str, torch.Tensor]`, *optional*):
            For `repeats="mask"`: int64 `(rows,)` by role, the same number for the same picture or the same text.
        teacher (`Mapping[str, torch.Tensor]`, *optional*): For distillation: a frozen teacher's embeddings of the
            same inputs, by role.
        tokens (`Mapping[str, Tokens]`, *optional*): For terms that look at patches and words: by role, those of each
            of its images or texts.
        states (`Mapping[str, torch.Tensor]`, *optional*): For terms with a decoder: by role, what it reads of each of
            its texts, floating `(rows, width of the decoder)`.
        labels (`Mapping[str, torch.Tensor]`, *optional*): By role, the decoder's token ids of the texts that it must
            write, int64 `(rows, length)`, -100 for padding.
        normalized (`bool`, defaults to `False`): Whether rows are known to have length 1. Otherwise the objective
            looks, which waits for the device.
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
        """By role that has a mask, the row of the batch that each embedding belongs to, int64 `(rows,)`."""
        # Once: each time it waits for the device, to know how many there are.
        return {role: mask.nonzero()[:, 0] for role, mask in (self.masks or {}).items()}


@dataclass(frozen=True)
class ObjectiveOutput:
    """
    Args:
        loss (`torch.Tensor` of shape `()`): The loss, with gradients.
        parts (`dict[str, torch.Tensor]`): The terms by name, unweighted and detached scalars, and counts.
    """

    loss: torch.Tensor
    parts: dict[str, torch.Tensor]


@torch.no_grad()
def check_lengths(by_role: Mapping[str, torch.Tensor], whose: str = "") -> None:
    """Raise `ValueError` if some rows are not of length 1."""
    for role, value in by_role.items():
        if len(value) == 0:
            continue
        lengths = value.float().norm(dim=-1)
        if not bool((lengths - 1).abs().max() <= LENGTH_TOLERANCE):  # NaN is not either
            worst = lengths[(lengths - 1).abs().nan_to_num(torch.inf).argmax()].item()
            raise ValueError(
                f"Objectives compare directions, and {whose}{role} embeddings are not L2-normalised: a row has length "
                f"{worst:.4g}. Divide by it: `torch.nn.functional.normalize(embeddings, dim=-1)`."
            )

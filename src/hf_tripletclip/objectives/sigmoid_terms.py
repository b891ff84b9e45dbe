# SPDX-License-Identifier: Apache-2.0
"""The term that asks of every image and every caption of the batch whether they are a pair."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from hf_tripletclip.objectives.chunks import Codes
from hf_tripletclip.objectives.rows import Rows
from hf_tripletclip.objectives.sigmoid import sigmoid_loss
from hf_tripletclip.objectives.terms import LossTerm, union


@dataclass(frozen=True)
class SigmoidTerm(LossTerm):
    """
    ``weight * 1/n sum_ij -log sigmoid(z_ij (s v_i . t_j + b))`` over all images and all captions of some roles, where
    n is the number of pairs, and z is 1 for the pairs and -1 otherwise (Zhai et al. 2023, arXiv 2303.15343,
    equation 1). The term uses the bias b, `rows.bias`. If a row has several captions of a role and one image, or the
    reverse, each forms its own pair.

    Args:
        images (`tuple[str, ...]`): Roles of the images.
        texts (`tuple[str, ...]`): Roles of their captions, in the same order.
        weight (`float`): Factor in the loss.
    """

    images: tuple[str, ...]
    texts: tuple[str, ...]
    weight: float

    definition: ClassVar[str] = (
        r"\mathrm{sig}(V, T) = \frac{1}{n} \sum_{i=1}^{n} \sum_{j=1}^{n} "
        r"\log \left( 1 + e^{-z_{ij} (s\, v_i \cdot t_j + b)} \right)"
    )

    @property
    def name(self) -> str:
        return "sigmoid"

    @property
    def roles(self) -> tuple[str, ...]:
        return (*self.images, *self.texts)

    @property
    def key_roles(self) -> tuple[str, ...]:
        return self.texts

    @property
    def by_row(self) -> tuple[str, ...]:
        return ()  # images and captions are compared by `matched`

    @property
    def matched(self) -> tuple[tuple[str, str], ...]:
        return tuple(zip(self.images, self.texts, strict=True))

    @property
    def pairs(self) -> tuple[str, ...]:
        return self.roles

    @property
    def uses_bias(self) -> bool:
        return True

    @property
    def formula(self) -> str:
        return f"sig({union(self.images)}, {union(self.texts)})"

    @property
    def latex(self) -> str:
        images, texts = (union(roles, r" \cup ") for roles in (self.images, self.texts))
        return rf"\mathrm{{sig}}({images}, {texts})"

    def value(self, rows: Rows, scale: torch.Tensor) -> torch.Tensor:
        if rows.bias is None:
            raise ValueError(f"The term {self.name} uses a bias, but `rows.bias` is None.")
        keys = rows.keys(self.texts)
        images, targets, before = [], [], 0
        for image, text, block, start in zip(self.images, self.texts, keys.blocks, keys.starts, strict=True):
            of_image, of_text = rows.pairs(image, text)
            queries = rows.own[image] if of_image is None else rows.own[image][of_image]
            if of_text is None:
                of_text = torch.arange(len(queries), device=queries.device)
            images.append(queries)
            targets.append(before + start + of_text)
            before += len(block)
        losses = sigmoid_loss(
            torch.cat(images),
            keys.blocks,
            scale,
            rows.bias,
            targets=torch.cat(targets),
            chunk_size=rows.chunk_size,
            reduction="none",
            excluded=self._codes(rows),
            ring=keys.ring,
        )
        return rows.mean(losses)

    def _codes(self, rows: Rows) -> Codes | None:
        codes = [rows.codes(image, text, self.texts) for image, text in self.matched]
        known = [one for one in codes if one is not None]
        return Codes(torch.cat([one.queries for one in known]), known[0].keys) if known else None

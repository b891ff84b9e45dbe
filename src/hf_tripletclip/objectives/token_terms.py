# SPDX-License-Identifier: Apache-2.0
"""The terms that compare patches of images with words of captions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from hf_tripletclip.objectives.embeddings import Tokens
from hf_tripletclip.objectives.own_terms import own_losses, settings_of, with_negatives
from hf_tripletclip.objectives.rows import Rows
from hf_tripletclip.objectives.terms import LossTerm, symbol


@torch.no_grad()
def patch_shares(patches: Tokens, words: Tokens) -> torch.Tensor:
    """
    The share of each patch in a word: ``a_wp = (t_w . v_p - min_r t_w . v_r) / sum_p (t_w . v_p - min_r t_w . v_r)``.
    Shares are equal if the word is equally close to all patches. They are constants, without gradients.

    Returns:
        `torch.Tensor` of shape `(n, words, patches)`: each word's shares add up to 1.
    """
    outside = ~patches.mask[:, None]
    closeness = torch.einsum("nwd,npd->nwp", words.values, patches.values)
    above = closeness - closeness.masked_fill(outside, torch.inf).amin(dim=-1, keepdim=True)
    above = above.masked_fill(outside, 0)
    total = above.sum(dim=-1, keepdim=True)
    above = torch.where(total > 0, above, (~outside).to(above.dtype))
    return above / above.sum(dim=-1, keepdim=True)


def local_scores(patches: Tokens, words: Tokens, scale: torch.Tensor) -> torch.Tensor:
    """
    How well an image's patches match the words of its caption: ``log sum_w e^(s cos(sum_p a_wp v_p, t_w))``, with `a`
    as in [`patch_shares`].

    Args:
        patches, words ([`Tokens`]): Tokens of n images and of their n captions.
        scale (`torch.Tensor` of shape `()`): `exp(logit_scale)`.

    Returns:
        `torch.Tensor` of shape `(n,)`.
    """
    with torch.autocast(words.values.device.type, enabled=False):
        meant = torch.einsum("nwp,npd->nwd", patch_shares(patches, words), patches.values)
        cosines = torch.nn.functional.cosine_similarity(meant, words.values, dim=-1)
        return (scale * cosines).masked_fill(~words.mask, -torch.inf).logsumexp(dim=1)


@dataclass(frozen=True)
class LocalOwnTerm(LossTerm):
    """
    [`OwnTerm`] on local scores: each image against the hard negative captions of its own row, by how well its patches
    match their words, see [`local_scores`] (Oh et al. 2024, arXiv 2410.05210, section 3.2). It follows the released
    code: shares of patches are constants, the first token of a caption does not count, and the last one does.

    Args:
        query, target (`str`): Roles of the images and of their captions.
        keys (`tuple[str, ...]`): Roles of the hard negatives, any number per row.
        weight (`float`): Factor in the loss.
        gamma, smoothing (`float`, defaults to 0): As in [`OwnTerm`].
    """

    definition: ClassVar[str] = (
        r"\mathrm{local}(v \to t \mid t') = \mathrm{own}(v \to t \mid t') \text{ with } s\, v \cdot t \text{ replaced "
        r"by } \log \sum_w e^{s \cos\left( \sum_p a_{wp} v_p,\, t_w \right)}, \quad a_{wp} = "
        r"\frac{t_w \cdot v_p - \min_r t_w \cdot v_r}{\sum_p (t_w \cdot v_p - \min_r t_w \cdot v_r)}"
    )

    query: str
    target: str
    keys: tuple[str, ...]
    weight: float
    gamma: float = 0.0
    smoothing: float = 0.0

    @property
    def name(self) -> str:
        return f"{self.query}_to_own_{self.target}_locally"

    @property
    def roles(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((self.query, self.target, *self.keys)))

    @property
    def needs_tokens(self) -> tuple[str, ...]:
        return self.roles

    @property
    def one_per_row(self) -> tuple[str, ...]:
        return (self.query,)

    @property
    def formula(self) -> str:
        settings = settings_of(self.gamma, self.smoothing)
        keys = ", ".join(map(symbol, self.keys))
        return f"local{f'[{settings}]' if settings else ''}({symbol(self.query)} → {symbol(self.target)} | {keys})"

    @property
    def latex(self) -> str:
        settings = settings_of(self.gamma, self.smoothing, latex=True)
        keys = ", ".join(map(symbol, self.keys))
        index = f"_{{{settings}}}" if settings else ""
        return rf"\mathrm{{local}}{index}({symbol(self.query)} \to {symbol(self.target)} \mid {keys})"

    def value(self, rows: Rows, scale: torch.Tensor) -> torch.Tensor:
        negatives = torch.cat([rows.by_row(role, self._scores(rows, role, scale)) for role in self.keys], dim=1)
        own = with_negatives(rows, self.target, self._scores(rows, self.target, scale), negatives)
        return rows.mean(own_losses(own, self.gamma, self.smoothing))

    def _scores(self, rows: Rows, role: str, scale: torch.Tensor) -> torch.Tensor:
        images, owners = rows.tokens[self.query], rows.owners(role)
        return local_scores(Tokens(images.values[owners], images.mask[owners]), rows.tokens[role], scale)

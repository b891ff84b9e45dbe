# SPDX-License-Identifier: Apache-2.0
"""`cyclip`: CLIP with two terms that make similarities consistent."""

from __future__ import annotations

from typing import Any

from hf_tripletclip.objectives.base import Objective, check_weight
from hf_tripletclip.objectives.clip import CLIPObjective
from hf_tripletclip.objectives.terms import CyclicTerm


def cyclic_terms(within: float, across: float) -> tuple[CyclicTerm, ...]:
    """The two terms of CyCLIP with their weights."""
    pair = ("image", "text")
    return CyclicTerm("within", pair, within), CyclicTerm("across", pair, across)


class CyCLIPObjective(Objective):
    r"""
    CLIP with two terms that make similarities consistent: two images must be as similar as their captions, and image i
    must be as similar to caption j as image j is to caption i:

    ``1/2 [CE(v -> T) + CE(t -> V)] + within mean_i sum_j (v_i.v_j - t_i.t_j)^2
    + across mean_i sum_j (v_i.t_j - v_j.t_i)^2``

    with `CE` as in [`CLIPObjective`]. The two terms use cosines without the scale. Like the released code, they sum
    over j: the mean over all pairs, times the batch size.

    Args:
        within (`float`, defaults to 0.25): Weight of the term within each modality.
        across (`float`, defaults to 0.25): Weight of the term across the modalities.
        kwargs: As in [`Objective`], such as `distillation`, `teacher_decay` and `repeats`.

    Requirements:
        Pairs.

    Inputs:

    | role | dataset column | model input | rows |
    | --- | --- | --- | --- |
    | `image` | `image` | `pixel_values` | B |
    | `text` | `caption` | `input_ids` | B |

    Relations:
        `clip` with both weights 0. `cyclip_triplet` adds the same terms to `tripletclip`.

    Example:

    ```python
    >>> import torch
    >>> from hf_tripletclip.objectives import Embeddings, get_objective

    >>> image, text = torch.nn.functional.normalize(torch.randn(2, 8, 16), dim=-1)
    >>> output = get_objective("cyclip", within=0.5)(Embeddings(image, text), scale=14.3)
    >>> sorted(output.parts)
    ['cyclic_across', 'cyclic_within', 'image_to_text', 'text_to_image']
    ```

    References:
        Goel et al. 2022, "CyCLIP: Cyclic Contrastive Language-Image Pretraining", arXiv 2205.14459, equations 2 to 4,
        in the scale of the released code.
    """

    name = "cyclip"
    terms = (*CLIPObjective.terms, *cyclic_terms(0.25, 0.25))

    def __init__(self, within: float = 0.25, across: float = 0.25, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.within = check_weight("within", within)
        self.across = check_weight("across", across)
        self.terms = (*CLIPObjective.terms, *cyclic_terms(within, across))

# SPDX-License-Identifier: Apache-2.0
"""`cyclip_triplet`: TripletCLIP with the consistency terms of CyCLIP."""

from __future__ import annotations

from typing import Any

from hf_tripletclip.objectives.base import Objective, check_weight
from hf_tripletclip.objectives.cyclip import cyclic_terms
from hf_tripletclip.objectives.tripletclip import TripletCLIPObjective


class CyCLIPTripletObjective(Objective):
    r"""
    TripletCLIP with the two consistency terms of CyCLIP on the positive pairs:

    ``tripletclip + within mean_i sum_j (v_i.v_j - t_i.t_j)^2 + across mean_i sum_j (v_i.t_j - v_j.t_i)^2``

    with the terms of [`TripletCLIPObjective`] and [`CyCLIPObjective`].

    Args:
        within (`float`, defaults to 0.25): Weight of the term within each modality.
        across (`float`, defaults to 0.25): Weight of the term across the modalities.
        kwargs: As in [`Objective`], such as `distillation`, `teacher_decay` and `repeats`.

    Requirements:
        Triplets with images and captions on both sides, one negative pair per pair.

    Inputs:

    | role | dataset column | model input | rows |
    | --- | --- | --- | --- |
    | `image` | `image` | `pixel_values` | B |
    | `text` | `caption` | `input_ids` | B |
    | `negative_image` | `neg_image` | `negative_pixel_values` | B |
    | `negative_text` | `neg_caption` | `negative_input_ids` | B |

    Relations:
        `tripletclip` with both weights 0. The TripletCLIP paper finds it worse than `tripletclip` (its table 15).

    Example:

    ```python
    >>> import torch
    >>> from hf_tripletclip.objectives import Embeddings, get_objective

    >>> image, text, negative_image, negative_text = torch.nn.functional.normalize(torch.randn(4, 8, 16), dim=-1)
    >>> embeddings = Embeddings(image, text, negative_image, negative_text)
    >>> without = get_objective("cyclip_triplet", within=0, across=0)(embeddings, 14.3).loss
    >>> torch.allclose(without, get_objective("tripletclip")(embeddings, 14.3).loss)
    True
    ```

    References:
        Patel et al. 2024, arXiv 2411.02545, appendix; Goel et al. 2022, arXiv 2205.14459.
    """

    name = "cyclip_triplet"
    terms = (*TripletCLIPObjective.terms, *cyclic_terms(0.25, 0.25))

    def __init__(self, within: float = 0.25, across: float = 0.25, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.within = check_weight("within", within)
        self.across = check_weight("across", across)
        self.terms = (*TripletCLIPObjective.terms, *cyclic_terms(within, across))

# SPDX-License-Identifier: Apache-2.0
"""`dac`: CLIP with several dense captions per image."""

from __future__ import annotations

from typing import Any

from hf_tripletclip.objectives.base import Objective, check_weight
from hf_tripletclip.objectives.clip import CLIPObjective
from hf_tripletclip.objectives.own_terms import AnyOwnTerm
from hf_tripletclip.objectives.terms import AnyTerm, LossTerm


def _terms(negative_weight: float) -> tuple[LossTerm, ...]:
    own = (AnyOwnTerm("image", "dense_text", ("negative_text",), negative_weight),) if negative_weight else ()
    return (*CLIPObjective.terms, AnyTerm("image", "dense_text", 1.0), *own)


class DACObjective(Objective):
    r"""
    CLIP on the caption, and two MIL-NCE terms on dense captions d: at least one of a row's dense captions must fit the
    image, compared with those of the batch, and compared with the row's own hard negative captions:

    ``1/2 [CE(v -> T) + CE(t -> V)] + MIL(v -> D) + negative_weight MIL_own(v -> d | t')``

    with `CE` as in [`CLIPObjective`],
    ``MIL = -log [sum_m e^(s v_i.d_im) / (sum_jm e^(s v_i.d_jm) + sum_jm e^(s v_j.d_im))]`` and
    ``MIL_own = -log [sum_m e^(s v_i.d_im) / (sum_m e^(s v_i.d_im) + sum_m e^(s v_i.t'_im))]``, each averaged over the
    rows that have the captions it needs. As in the released code, the row's own captions stand in both sums of MIL's
    denominator. A missing negative is left out; in the released code it counts with a logit of 0.

    Args:
        negative_weight (`float`, defaults to 1.0): Weight of the own negatives; with 0, no negatives are needed.
        kwargs: As in [`Objective`], such as `distillation`, `teacher_decay` and `repeats`.

    Requirements:
        Dense captions, any number per row, each of which describes a part of the image; their hard negatives in
        `neg_caption`, any number.

    Inputs:

    | role | dataset column | model input | rows |
    | --- | --- | --- | --- |
    | `image` | `image` | `pixel_values` | B |
    | `text` | `caption` | `input_ids` | B |
    | `dense_text` | `dense_caption` | `dense_input_ids` | any |
    | `negative_text` | `neg_caption` | `negative_input_ids` | any |

    Relations:
        Without dense captions it is `clip`. With one dense caption and one negative per row, MIL_own is the own term
        of `tsvlc`.

    Example:

    ```python
    >>> import torch
    >>> from hf_tripletclip.objectives import Embeddings, get_objective

    >>> image, text, *dense = torch.nn.functional.normalize(torch.randn(5, 8, 16), dim=-1)
    >>> embeddings = Embeddings(
    ...     image,
    ...     text,
    ...     negative_text=dense[2],
    ...     dense_text=torch.stack(dense[:2], dim=1).flatten(0, 1),
    ...     masks={"dense_text": torch.ones(8, 2, dtype=torch.bool)},
    ... )
    >>> output = get_objective("dac")(embeddings, 14.3)
    >>> sorted(output.parts)[:2]
    ['image_to_any_dense_text', 'image_to_any_own_dense_text']
    ```

    References:
        Doveh et al. 2023, "Dense and Aligned Captions (DAC) Promote Compositional Reasoning in VL Models",
        arXiv 2305.19595, section 3, and the released code.
    """

    name = "dac"
    terms = _terms(1.0)

    def __init__(self, negative_weight: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.negative_weight = check_weight("negative_weight", negative_weight)
        self.terms = _terms(negative_weight)

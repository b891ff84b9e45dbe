# SPDX-License-Identifier: Apache-2.0
"""`ce_clip`: CLIP with an intra-modal term and an adaptive margin term."""

from __future__ import annotations

from typing import Any

from hf_tripletclip.objectives.base import Objective, check_weight
from hf_tripletclip.objectives.own_terms import MarginTerm
from hf_tripletclip.objectives.terms import LossTerm, Term, WithinTerm


def _terms(within: float, margin: float, largest: float, negatives_in_batch: bool) -> tuple[LossTerm, ...]:
    return (
        Term("image", ("text", "negative_text") if negatives_in_batch else ("text",), 0.5),
        Term("text", ("image",), 0.5),
        WithinTerm(("image", "text"), ("negative_text",), within),
        MarginTerm("image", "text", ("negative_text",), margin, largest),
    )


class CECLIPObjective(Objective):
    r"""
    CLIP with two more terms: each caption must stay apart from the hard negative captions of the batch, and each image
    must be closer to its caption than to its own negatives by an adaptive margin:

    ``1/2 [CE(v -> T) + CE(t -> V)] + within_weight W(v, t | T') + margin_weight M(v, t | t')``

    with `CE` as in [`CLIPObjective`],
    ``W = mean_i [log(e^(s v_i.t_i) + sum_k e^(s t_i.t'_k)) - s v_i.t_i]`` and
    ``M = mean_ik relu(margin + s v_i.t'_ik - s v_i.t_i)``. The margin is the mean of ``s v_i.t_i - s v_i.t'_ik``
    over the batch, as a constant; the released code uses the margin of the previous batch.

    Args:
        within_weight (`float`, defaults to 0.2): Weight of the intra-modal term.
        margin_weight (`float`, defaults to 0.2): Weight of the margin term.
        largest_margin (`float`, defaults to 10): The largest margin, in logits.
        negatives_in_batch (`bool`, defaults to `False`): Whether T' enters the images' denominators, as in `negclip`.
        kwargs: As in [`Objective`], such as `distillation`, `teacher_decay` and `repeats`.

    Requirements:
        Hard negative captions, any number per row or none.

    Inputs:

    | role | dataset column | model input | rows |
    | --- | --- | --- | --- |
    | `image` | `image` | `pixel_values` | B |
    | `text` | `caption` | `input_ids` | B |
    | `negative_text` | `neg_caption` | `negative_input_ids` | any |

    Relations:
        `clip`, or `negclip` with `negatives_in_batch`, if both weights are 0.

    Example:

    ```python
    >>> import torch
    >>> from hf_tripletclip.objectives import Embeddings, get_objective

    >>> image, text, negative_text = torch.nn.functional.normalize(torch.randn(3, 8, 16), dim=-1)
    >>> output = get_objective("ce_clip")(Embeddings(image, text, negative_text=negative_text), 14.3)
    >>> sorted(output.parts)
    ['image_text_margin', 'image_to_text', 'text_to_image', 'text_within_negative_text']
    ```

    References:
        Zhang et al. 2023, "Contrasting Intra-Modal and Ranking Cross-Modal Hard Negatives to Enhance Visio-Linguistic
        Compositional Understanding", arXiv 2306.08832, section 3, and the released code.
    """

    name = "ce_clip"
    terms = _terms(0.2, 0.2, 10.0, False)

    def __init__(
        self,
        within_weight: float = 0.2,
        margin_weight: float = 0.2,
        largest_margin: float = 10.0,
        negatives_in_batch: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.within_weight = check_weight("within_weight", within_weight)
        self.margin_weight = check_weight("margin_weight", margin_weight)
        self.largest_margin = check_weight("largest_margin", largest_margin)
        self.negatives_in_batch = negatives_in_batch
        self.terms = _terms(within_weight, margin_weight, largest_margin, negatives_in_batch)

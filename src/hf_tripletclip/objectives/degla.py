# SPDX-License-Identifier: Apache-2.0
"""`degla`: NegCLIP with own negatives for images and captions, and a teacher."""

from __future__ import annotations

from typing import Any

from hf_tripletclip.objectives.base import Objective, check_weight
from hf_tripletclip.objectives.negclip import NegCLIPObjective
from hf_tripletclip.objectives.own_terms import OwnTerm
from hf_tripletclip.objectives.teacher_terms import TeacherTerm
from hf_tripletclip.objectives.terms import LossTerm

FACTOR = 10.0  # on the cosines of captions with captions, as in the released code


def _terms(own_weight: float, teacher_weight: float) -> tuple[LossTerm, ...]:
    return (
        *NegCLIPObjective.terms,
        OwnTerm("image", "text", ("negative_text",), own_weight),
        OwnTerm("text", "text", ("negative_text",), own_weight, teacher=True, factor=FACTOR),
        *(TeacherTerm(role, teacher_weight) for role in ("image", "text", "negative_text")),
    )


class DeGLAObjective(Objective):
    r"""
    NegCLIP with two more parts: each image and each caption competes with the hard negative captions of its own row,
    and all embeddings stay close to those of a teacher that slowly follows the model:

    ``1/2 [CE(v -> T ∪ T') + CE(t -> V)] + own_weight [own(v -> t | t') + own_10(t -> t* | t')]
    + teacher_weight [Δ*(v) + Δ*(t) + Δ*(t')]``

    with `CE` as in [`CLIPObjective`] and ``own`` as in [`TSVLCObjective`]. The caption's own term uses the factor 10
    instead of the scale, and the teacher's caption t* as its target. ``Δ*(e) = sum_i |e_i - e*_i|^2`` is a sum over
    the batch. The teacher starts as the model before training, and then is the moving average of its towers and their
    projections: after each optimizer step ``θ* <- teacher_decay θ* + (1 - teacher_decay) θ``.

    Args:
        own_weight (`float`, defaults to 0.1): Weight of both own terms.
        teacher_weight (`float`, defaults to 0.005): Weight of the distance to the teacher.
        teacher_decay (`float`, *optional*, defaults to 0.9996): Share of the teacher that each step keeps. With `None`
            or 1 the teacher is frozen: it can be cached, and takes no more memory if adapters are trained.
        kwargs: As in [`Objective`], such as `distillation` and `repeats`.

    Requirements:
        Hard negative captions, any number per row or none; a pretrained model.

    Inputs:

    | role | dataset column | model input | rows |
    | --- | --- | --- | --- |
    | `image` | `image` | `pixel_values` | B |
    | `text` | `caption` | `input_ids` | B |
    | `negative_text` | `neg_caption` | `negative_input_ids` | any |

    Relations:
        `negclip` if both weights are 0. `distillation` adds a teacher to any objective, as a mean instead of a sum.

    Example:

    ```python
    >>> import torch
    >>> from hf_tripletclip.objectives import Embeddings, get_objective

    >>> image, text, negative_text = torch.nn.functional.normalize(torch.randn(3, 8, 16), dim=-1)
    >>> embeddings = Embeddings(
    ...     image,
    ...     text,
    ...     negative_text=negative_text,
    ...     teacher={"image": image.roll(1, 0), "text": text.roll(1, 0), "negative_text": negative_text},
    ... )
    >>> output = get_objective("degla")(embeddings, 14.3)
    >>> "text_to_own_text" in output.parts and "image_close_to_teacher" in output.parts
    True
    ```

    References:
        Hu et al. 2025, "Decoupled Global-Local Alignment for Improving Compositional Understanding",
        arXiv 2504.16801, with the settings of the released code.
    """

    name = "degla"
    terms = _terms(0.1, 0.005)

    def __init__(
        self,
        own_weight: float = 0.1,
        teacher_weight: float = 0.005,
        teacher_decay: float | None = 0.9996,
        **kwargs: Any,
    ) -> None:
        super().__init__(teacher_decay=teacher_decay, **kwargs)
        self.own_weight = check_weight("own_weight", own_weight)
        self.teacher_weight = check_weight("teacher_weight", teacher_weight)
        self.terms = _terms(own_weight, teacher_weight)

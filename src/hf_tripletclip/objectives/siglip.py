# SPDX-License-Identifier: Apache-2.0
"""`siglip`: the sigmoid loss of SigLIP."""

from __future__ import annotations

from typing import Any

from hf_tripletclip.objectives.base import Objective
from hf_tripletclip.objectives.chunks import is_bias
from hf_tripletclip.objectives.sigmoid_terms import SigmoidTerm


class SigLIPObjective(Objective):
    r"""
    The sigmoid loss: each image and each caption of the batch are asked whether they are a pair, without a softmax:

    ``1/B sum_ij -log sigmoid(z_ij (s v_i.t_j + b))``

    where z is 1 for the B pairs and -1 for all others. As in the paper and in transformers' `SiglipModel`, it is a sum
    over captions and a mean over images. `b` is the model's `logit_bias`. There are far more wrong pairs than right
    ones, so SigLIP starts with a bias of -10 (and a scale of 10): without one the first steps only push everything
    apart.

    Args:
        bias (`float`, *optional*): The bias for models that have none, such as a CLIP; it is fixed. The bias of a
            model that has one wins. Without either the loss is not defined.
        kwargs: As in [`Objective`], such as `distillation`, `teacher_decay` and `repeats`.

    Requirements:
        Pairs; a model with a `logit_bias`, or the setting `bias`.

    Inputs:

    | role | dataset column | model input | rows |
    | --- | --- | --- | --- |
    | `image` | `image` | `pixel_values` | B |
    | `text` | `caption` | `input_ids` | B |

    Relations:
        `clip` with independent questions instead of a softmax. `siglip_triplet` adds the negative pairs.

    Example:

    ```python
    >>> import torch
    >>> from hf_tripletclip.objectives import Embeddings, get_objective

    >>> image, text = torch.nn.functional.normalize(torch.randn(2, 8, 16), dim=-1)
    >>> output = get_objective("siglip")(Embeddings(image, text), scale=10.0, bias=-10.0)
    >>> fixed = get_objective("siglip", bias=-10.0)(Embeddings(image, text), scale=10.0)
    >>> torch.equal(output.loss, fixed.loss)
    True
    ```

    References:
        Zhai et al. 2023, "Sigmoid Loss for Language Image Pre-Training", arXiv 2303.15343, equation 1 and
        algorithm 1.
    """

    name = "siglip"
    terms = (SigmoidTerm(("image",), ("text",), 1.0),)

    def __init__(self, bias: float | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if bias is not None and not is_bias(bias):
            raise ValueError(f"`bias` is {bias!r}; give a number such as -10, or leave it out.")
        self.bias = bias

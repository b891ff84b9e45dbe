# SPDX-License-Identifier: Apache-2.0
"""`tripletclip`: the loss of TripletCLIP."""

from __future__ import annotations

from hf_tripletclip.objectives.base import Objective, Term


class TripletCLIPObjective(Objective):
    r"""
    NegCLIP on both pairs: the negative pair (v', t') is a pair of its own, whose hard negative captions are the
    positive ones (Patel et al. 2024, arXiv 2411.02545, equations 3 and 4, in the scale of the code released with it,
    which is half the paper's):

    ``1/2 [CE(v -> T ∪ T') + CE(t -> V)] + 1/2 [CE(v' -> T' ∪ T) + CE(t' -> V')]``

    It is a sum, not a mean, of two NegCLIP losses. The images of the two halves never share a denominator.

    Relations: `clip_all` puts the same pairs into one plain softmax, images included, and takes the mean.

    Inputs: `image`, `caption`, `neg_image`, `neg_caption`.

    Example:

    ```python
    >>> import torch
    >>> from hf_tripletclip.objectives import Embeddings, get_objective

    >>> image, text, negative_image, negative_text = torch.nn.functional.normalize(torch.randn(4, 8, 16), dim=-1)
    >>> embeddings = Embeddings(image, text, negative_image, negative_text)
    >>> loss = get_objective("tripletclip")(embeddings, scale=torch.tensor(14.3)).loss
    ```"""

    name = "tripletclip"
    terms = (
        Term("image", ("text", "negative_text"), 0.5),
        Term("text", ("image",), 0.5),
        Term("negative_image", ("negative_text", "text"), 0.5),
        Term("negative_text", ("negative_image",), 0.5),
    )

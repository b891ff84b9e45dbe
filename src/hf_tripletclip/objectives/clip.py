# SPDX-License-Identifier: Apache-2.0
"""`clip`: the symmetric contrastive loss of CLIP."""

from __future__ import annotations

from hf_tripletclip.objectives.base import Objective, Term


class CLIPObjective(Objective):
    r"""
    Each image must find its caption among the captions of the batch, and each caption its image (Radford et al. 2021,
    arXiv 2103.00020, figure 3):

    ``1/2 [CE(v -> T) + CE(t -> V)]``

    Relations: what `CLIPModel(..., return_loss=True)` computes, over all processes and without the B x B matrix.
    Every other objective adds hard negatives to it.

    Inputs: `image`, `caption`.

    Example:

    ```python
    >>> import torch
    >>> from hf_tripletclip.objectives import Embeddings, get_objective

    >>> image, text = torch.nn.functional.normalize(torch.randn(2, 8, 16), dim=-1)
    >>> output = get_objective("clip")(Embeddings(image=image, text=text), scale=torch.tensor(14.3))
    >>> sorted(output.parts)
    ['image_to_text', 'text_to_image']
    ```"""

    name = "clip"
    terms = (
        Term("image", ("text",), 0.5),
        Term("text", ("image",), 0.5),
    )

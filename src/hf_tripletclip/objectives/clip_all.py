# SPDX-License-Identifier: Apache-2.0
"""`clip_all`: plain CLIP on the positive and the negative pairs together."""

from __future__ import annotations

from hf_tripletclip.objectives.base import Objective
from hf_tripletclip.objectives.terms import Term


class CLIPAllObjective(Objective):
    r"""
    Positive and negative pairs form one CLIP batch of 2B pairs, with the symmetric loss over the 2B x 2B matrix:

    ``1/2 [CE([v;v'] -> T ∪ T') + CE([t;t'] -> V ∪ V')]``

    with `CE` as in [`CLIPObjective`].

    Args:
        negatives_across_devices (`bool`, defaults to `True`):
            Whether the denominators run over the rows of all processes.
        chunk_size (`int`, defaults to 2048): Keys per chunk of the kernel.
        distillation (*optional*): As in [`Objective`].

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
        `clip` on a batch that holds both pairs of each triplet. It sees the same rows as `tripletclip`, and so serves
        as its control. In `tripletclip`, images of the two pairs never share a denominator, and the two halves are
        summed.

    Example:

    ```python
    >>> import torch
    >>> from hf_tripletclip.objectives import Embeddings, get_objective

    >>> image, text, negative_image, negative_text = torch.nn.functional.normalize(torch.randn(4, 8, 16), dim=-1)
    >>> scale = torch.tensor(14.3)
    >>> together = get_objective("clip_all")(Embeddings(image, text, negative_image, negative_text), scale)
    >>> pairs = Embeddings(torch.cat([image, negative_image]), torch.cat([text, negative_text]))
    >>> torch.allclose(together.loss, get_objective("clip")(pairs, scale).loss)
    True
    ```

    References:
        Miranda et al. 2024, "BiVLC: Extending Vision-Language Compositionality Evaluation with Text-to-Image
        Retrieval", arXiv 2406.09952: their model TROHN-Img is trained this way.
    """

    name = "clip_all"
    # A mean over 2B queries is the mean of two means over B queries.
    terms = (
        Term("image", ("text", "negative_text"), 0.25),
        Term("negative_image", ("negative_text", "text"), 0.25),
        Term("text", ("image", "negative_image"), 0.25),
        Term("negative_text", ("negative_image", "image"), 0.25),
    )

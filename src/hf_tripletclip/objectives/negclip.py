# SPDX-License-Identifier: Apache-2.0
"""`negclip`: CLIP with hard negative captions."""

from __future__ import annotations

from hf_tripletclip.objectives.base import Objective
from hf_tripletclip.objectives.terms import Term


class NegCLIPObjective(Objective):
    r"""
    Each image must find its caption among the captions *and the hard negative captions* of the batch, and each caption
    must find its image as in CLIP:

    ``1/2 [CE(v -> T ∪ T') + CE(t -> V)]``

    with `CE` as in [`CLIPObjective`]; the target of image i is caption i.

    Args:
        negatives_across_devices (`bool`, defaults to `True`):
            Whether the denominators run over the rows of all processes.
        chunk_size (`int`, defaults to 2048): Keys per chunk of the kernel.
        distillation (*optional*): As in [`Objective`].

    Requirements:
        Hard negative captions, in any number: several per row, or none for some. Their order does not matter.

    Inputs:

    | role | dataset column | model input | rows |
    | --- | --- | --- | --- |
    | `image` | `image` | `pixel_values` | B |
    | `text` | `caption` | `input_ids` | B |
    | `negative_text` | `neg_caption` | `negative_input_ids` | any |

    Relations:
        `clip` without the T'. With negatives that an LLM wrote it is the TripletCLIP paper's NegCLIP++: only the data
        differ. `tripletclip` is this loss on both pairs of a triplet.

    Example:

    ```python
    >>> import torch
    >>> from hf_tripletclip.objectives import Embeddings, get_objective

    >>> image, text, negative_text = torch.nn.functional.normalize(torch.randn(3, 8, 16), dim=-1)
    >>> embeddings = Embeddings(image, text, negative_text=negative_text)
    >>> loss = get_objective("negclip")(embeddings, scale=torch.tensor(14.3)).loss
    ```

    References:
        Yuksekgonul et al. 2023, "When and Why Vision-Language Models Behave like Bags-of-Words, and What to Do About
        It?", arXiv 2210.01936, section 4; the code released with TripletCLIP.
    """

    name = "negclip"
    terms = (
        Term("image", ("text", "negative_text"), 0.5),
        Term("text", ("image",), 0.5),
    )

# SPDX-License-Identifier: Apache-2.0
"""`negclip_image`: CLIP with hard negative images."""

from __future__ import annotations

from hf_tripletclip.objectives.base import Objective
from hf_tripletclip.objectives.terms import Term


class NegCLIPImageObjective(Objective):
    r"""
    Each caption must find its image among the images *and the hard negative images* of the batch, and each image must
    find its caption as in CLIP:

    ``1/2 [CE(v -> T) + CE(t -> V ∪ V')]``

    with `CE` as in [`CLIPObjective`]; the target of caption i is image i.

    Args:
        negatives_across_devices (`bool`, defaults to `True`):
            Whether the denominators run over the rows of all processes.
        chunk_size (`int`, defaults to 2048): Keys per chunk of the kernel.
        distillation (*optional*): As in [`Objective`].

    Requirements:
        Hard negative images, in any number.

    Inputs:

    | role | dataset column | model input | rows |
    | --- | --- | --- | --- |
    | `image` | `image` | `pixel_values` | B |
    | `text` | `caption` | `input_ids` | B |
    | `negative_image` | `neg_image` | `negative_pixel_values` | any |

    Relations:
        `negclip` with images and captions exchanged. `tripletclip` uses the negative images as queries instead, and by
        default never as negatives of a positive caption.

    Example:

    ```python
    >>> import torch
    >>> from hf_tripletclip.objectives import Embeddings, get_objective

    >>> image, text, negative_image = torch.nn.functional.normalize(torch.randn(3, 8, 16), dim=-1)
    >>> embeddings = Embeddings(image, text, negative_image=negative_image)
    >>> loss = get_objective("negclip_image")(embeddings, scale=torch.tensor(14.3)).loss
    ```

    References:
        Patel et al. 2024, "TripletCLIP: Improving Compositional Reasoning of CLIP via Synthetic Vision-Language
        Negatives", arXiv 2411.02545, table 3, the ablation with negative images only.
    """

    name = "negclip_image"
    terms = (
        Term("image", ("text",), 0.5),
        Term("text", ("image", "negative_image"), 0.5),
    )

# SPDX-License-Identifier: Apache-2.0
"""`clip`: the symmetric contrastive loss of CLIP."""

from __future__ import annotations

from hf_tripletclip.objectives.base import Objective
from hf_tripletclip.objectives.terms import Term


class CLIPObjective(Objective):
    r"""
    Each image must find its caption among the captions of the batch, and each caption its image:

    ``1/2 [CE(v -> T) + CE(t -> V)]``

    ``CE(q -> K)`` is the mean over the queries of ``logsumexp_k(s q.k) - s q.k_target``. v and t are L2-normalised
    embeddings of an image and a caption, V and T the embeddings of all images and captions, and s is the scale.

    Args:
        negatives_across_devices (`bool`, defaults to `True`):
            Whether T and V are the rows of all processes.
        chunk_size (`int`, defaults to 2048): Keys per chunk of the kernel, see
            [`~hf_tripletclip.objectives.info_nce`].

    Requirements:
        Pairs; the larger the batch, the harder the task. A caption that fits two images of a batch is a false
        negative.

    Inputs:

    | role | dataset column | model input | rows |
    | --- | --- | --- | --- |
    | `image` | `image` | `pixel_values` | B |
    | `text` | `caption` | `input_ids` | B |

    Relations:
        The loss of `CLIPModel(..., return_loss=True)`, but over all processes and without the B x B matrix. The other
        objectives extend it.

    Example:

    ```python
    >>> import torch
    >>> from hf_tripletclip.objectives import Embeddings, get_objective

    >>> image, text = torch.nn.functional.normalize(torch.randn(2, 8, 16), dim=-1)
    >>> output = get_objective("clip")(Embeddings(image=image, text=text), scale=torch.tensor(14.3))
    >>> sorted(output.parts)
    ['image_to_text', 'text_to_image']
    ```

    References:
        Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision",
        arXiv 2103.00020, figure 3.
    """

    name = "clip"
    terms = (
        Term("image", ("text",), 0.5),
        Term("text", ("image",), 0.5),
    )

# SPDX-License-Identifier: Apache-2.0
"""`siglip_triplet`: the sigmoid loss on the positive and the negative pairs together."""

from __future__ import annotations

from hf_tripletclip.objectives.siglip import SigLIPObjective
from hf_tripletclip.objectives.sigmoid_terms import SigmoidTerm


class SigLIPTripletObjective(SigLIPObjective):
    r"""
    The sigmoid loss over all images and all captions of the triplets. The negative pair (v', t') is a pair too, and
    each pair's caption is a hard negative for the image of the other:

    ``1/N sum_ij -log sigmoid(z_ij (s x_i.y_j + b))`` over the N images x of V ∪ V' and the N captions y of T ∪ T'

    where z is 1 for the pairs (v_i, t_i) and (v'_i, t'_i), and -1 for all others. It is a mean over images, of both
    kinds alike: every pair counts the same, however many negative pairs a row has.

    Args:
        bias (`float`, *optional*): As in [`SigLIPObjective`].
        kwargs: As in [`Objective`], such as `distillation`, `teacher_decay` and `repeats`.

    Requirements:
        Triplets with images and captions on both sides: one negative pair per pair, or a list of negative captions and
        an equally long list of negative images, also an empty one. A model with a `logit_bias`, or the setting `bias`.

    Inputs:

    | role | dataset column | model input | rows |
    | --- | --- | --- | --- |
    | `image` | `image` | `pixel_values` | B |
    | `text` | `caption` | `input_ids` | B |
    | `negative_image` | `neg_image` | `negative_pixel_values` | any |
    | `negative_text` | `neg_caption` | `negative_input_ids` | as many |

    Relations:
        `siglip` on a batch that holds all pairs, as `clip_all` is `clip` on such a batch.

    Example:

    ```python
    >>> import torch
    >>> from hf_tripletclip.objectives import Embeddings, get_objective

    >>> image, text, negative_image, negative_text = torch.nn.functional.normalize(torch.randn(4, 8, 16), dim=-1)
    >>> triplets = Embeddings(image, text, negative_image, negative_text)
    >>> together = get_objective("siglip_triplet")(triplets, scale=10.0, bias=-10.0)
    >>> pairs = Embeddings(torch.cat([image, negative_image]), torch.cat([text, negative_text]))
    >>> torch.allclose(together.loss, get_objective("siglip")(pairs, scale=10.0, bias=-10.0).loss)
    True
    ```

    References:
        Zhai et al. 2023, arXiv 2303.15343, for the loss. Patel et al. 2024, arXiv 2411.02545, for negative pairs. This
        combination is this package's own.
    """

    name = "siglip_triplet"
    terms = (SigmoidTerm(("image", "negative_image"), ("text", "negative_text"), 1.0),)

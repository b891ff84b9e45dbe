# SPDX-License-Identifier: Apache-2.0
"""`fsc_clip`: CLIP with focal, smoothed own hard negatives."""

from __future__ import annotations

from typing import Any

from hf_tripletclip.objectives.base import Objective, check_weight
from hf_tripletclip.objectives.clip import CLIPObjective
from hf_tripletclip.objectives.own_terms import OwnTerm
from hf_tripletclip.objectives.terms import LossTerm


def _terms(weight: float, gamma: float, smoothing: float) -> tuple[LossTerm, ...]:
    own = OwnTerm("image", "text", ("negative_text",), weight, gamma=gamma, smoothing=smoothing)
    return (*CLIPObjective.terms, own)


class FSCCLIPObjective(Objective):
    r"""
    CLIP, and each image against the hard negative captions of its own row, with a focal loss on smoothed labels, so
    that easy rows and negatives that are hardly false pull less:

    ``1/2 [CE(v -> T) + CE(t -> V)] + negative_weight own_(gamma, smoothing)(v -> t | t')``

    with `CE` as in [`CLIPObjective`] and ``own = - sum_c y_c (1 - p_c)^gamma log p_c`` over ``{t_i, its own t'}``, the
    mean over rows with negatives: the global part of FSC-CLIP. Its local part, on token features, is not here.

    Args:
        negative_weight (`float`, defaults to 0.5): Weight of the own negatives.
        gamma (`float`, defaults to 2.0): Exponent of the focal loss; 0, or at least 1.
        smoothing (`float`, defaults to 0.02): Share of the label that is spread over the row's captions.
        kwargs: `negatives_across_devices`, `chunk_size`, `distillation` and `repeats`, as in [`Objective`].

    Requirements:
        Hard negative captions, any number per row or none.

    Inputs:

    | role | dataset column | model input | rows |
    | --- | --- | --- | --- |
    | `image` | `image` | `pixel_values` | B |
    | `text` | `caption` | `input_ids` | B |
    | `negative_text` | `neg_caption` | `negative_input_ids` | any |

    Relations:
        With `gamma` and `smoothing` 0, `tsvlc` without paraphrases and with negatives in own terms only.

    Example:

    ```python
    >>> import torch
    >>> from hf_tripletclip.objectives import Embeddings, get_objective

    >>> image, text, negative_text = torch.nn.functional.normalize(torch.randn(3, 8, 16), dim=-1)
    >>> output = get_objective("fsc_clip")(Embeddings(image, text, negative_text=negative_text), 14.3)
    >>> sorted(output.parts)
    ['image_to_own_text', 'image_to_text', 'text_to_image']
    ```

    References:
        Oh et al. 2024, "Preserving Multi-Modal Capabilities of Pre-trained VLMs for Improving Vision-Linguistic
        Compositionality", arXiv 2410.05210, section 3, with the settings of the code released with it.
    """

    name = "fsc_clip"
    terms = _terms(0.5, 2.0, 0.02)

    def __init__(
        self, negative_weight: float = 0.5, gamma: float = 2.0, smoothing: float = 0.02, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.negative_weight = check_weight("negative_weight", negative_weight)
        if check_weight("gamma", gamma) and gamma < 1:
            raise ValueError(f"`gamma` is {gamma}; give 0, or at least 1.")
        if not check_weight("smoothing", smoothing) < 1:
            raise ValueError(f"`smoothing` is {smoothing}; give less than 1.")
        self.gamma, self.smoothing = gamma, smoothing
        self.terms = _terms(negative_weight, gamma, smoothing)

# SPDX-License-Identifier: Apache-2.0
"""`fsc_clip`: CLIP with focal, smoothed own hard negatives."""

from __future__ import annotations

from typing import Any

from hf_tripletclip.objectives.base import Objective, check_weight
from hf_tripletclip.objectives.clip import CLIPObjective
from hf_tripletclip.objectives.own_terms import OwnTerm
from hf_tripletclip.objectives.terms import LossTerm
from hf_tripletclip.objectives.token_terms import LocalOwnTerm


def _terms(weight: float, gamma: float, smoothing: float, local_weight: float) -> tuple[LossTerm, ...]:
    own = OwnTerm("image", "text", ("negative_text",), weight, gamma=gamma, smoothing=smoothing)
    local = LocalOwnTerm("image", "text", ("negative_text",), local_weight, gamma=gamma, smoothing=smoothing)
    return (*CLIPObjective.terms, own, *([local] if local_weight else []))


class FSCCLIPObjective(Objective):
    r"""
    CLIP, and each image against the hard negative captions of its own row, with a focal loss on smoothed labels. Easy
    rows, and negatives that are almost true, then weigh less:

    ``1/2 [CE(v -> T) + CE(t -> V)] + negative_weight own_(gamma, smoothing)(v -> t | t')
    + local_weight local_(gamma, smoothing)(v -> t | t')``

    with `CE` as in [`CLIPObjective`] and ``own = - sum_c y_c (1 - p_c)^gamma log p_c`` over ``{t_i, its own t'}``,
    averaged over rows with negatives. `local`, the local part of FSC-CLIP, is `own` on local scores. v_p and t_w are
    the towers' outputs for patches and words, projected into the common space;

    ``log sum_w e^(s cos(sum_p a_wp v_p, t_w))`` replaces ``s v . t``, where
    ``a_wp = (t_w . v_p - min_r t_w . v_r) / sum_p (t_w . v_p - min_r t_w . v_r)`` is a constant.

    The words are the tokens from the second one up to and including the end of text. Patches and words need both
    towers' whole output: a local part cannot be combined with `cache_locked_towers`, which keeps pooled outputs only.

    Args:
        negative_weight (`float`, defaults to 0.5): Weight of the own negatives.
        gamma (`float`, defaults to 2.0): Exponent of the focal loss; 0, or at least 1.
        smoothing (`float`, defaults to 0.02): Share of the label that is spread over the row's captions.
        local_weight (`float`, defaults to 0): Weight of the local part; with 0 no patches and words are used. The
            authors use 0.2 for ViT-B/32, and 0.5 for ViT-B/16 and ViT-L/14.
        kwargs: As in [`Objective`], such as `distillation`, `teacher_decay` and `repeats`.

    Requirements:
        Hard negative captions, any number per row or none.

    Inputs:

    | role | dataset column | model input | rows |
    | --- | --- | --- | --- |
    | `image` | `image` | `pixel_values` | B |
    | `text` | `caption` | `input_ids` | B |
    | `negative_text` | `neg_caption` | `negative_input_ids` | any |

    Relations:
        If `gamma`, `smoothing` and `local_weight` are 0: `tsvlc` without paraphrases, and with negatives in own terms
        only.

    Example:

    ```python
    >>> import torch
    >>> from hf_tripletclip.objectives import Embeddings, get_objective

    >>> image, text, negative_text = torch.nn.functional.normalize(torch.randn(3, 8, 16), dim=-1)
    >>> output = get_objective("fsc_clip")(Embeddings(image, text, negative_text=negative_text), 14.3)
    >>> sorted(output.parts)
    ['image_to_own_text', 'image_to_text', 'text_to_image']

    >>> from hf_tripletclip.objectives import Tokens
    >>> patches, words, negative_words = torch.randn(8, 49, 16), torch.randn(8, 10, 16), torch.randn(8, 12, 16)
    >>> tokens = {"image": patches, "text": words, "negative_text": negative_words}
    >>> tokens = {role: Tokens(values, torch.ones(values.shape[:2], dtype=bool)) for role, values in tokens.items()}
    >>> embeddings = Embeddings(image, text, negative_text=negative_text, tokens=tokens)
    >>> output = get_objective("fsc_clip", local_weight=0.2)(embeddings, 14.3)
    >>> "image_to_own_text_locally" in output.parts
    True
    ```

    References:
        Oh et al. 2024, "Preserving Multi-Modal Capabilities of Pre-trained VLMs for Improving Vision-Linguistic
        Compositionality", arXiv 2410.05210, section 3, with the settings of the released code.
    """

    name = "fsc_clip"
    terms = _terms(0.5, 2.0, 0.02, 0.0)

    def __init__(
        self,
        negative_weight: float = 0.5,
        gamma: float = 2.0,
        smoothing: float = 0.02,
        local_weight: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.negative_weight = check_weight("negative_weight", negative_weight)
        if check_weight("gamma", gamma) and gamma < 1:
            raise ValueError(f"`gamma` is {gamma}; give 0, or at least 1.")
        if not check_weight("smoothing", smoothing) < 1:
            raise ValueError(f"`smoothing` is {smoothing}; give less than 1.")
        self.gamma, self.smoothing = gamma, smoothing
        self.local_weight = check_weight("local_weight", local_weight)
        self.terms = _terms(negative_weight, gamma, smoothing, local_weight)

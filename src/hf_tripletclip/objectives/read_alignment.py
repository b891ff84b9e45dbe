# SPDX-License-Identifier: Apache-2.0
"""`read_alignment`: NegCLIP whose paraphrases find their captions."""

from __future__ import annotations

from typing import Any

from hf_tripletclip.objectives.base import Objective, check_weight
from hf_tripletclip.objectives.negclip import NegCLIPObjective
from hf_tripletclip.objectives.terms import LossTerm, Term


def _terms(weight: float, negatives: bool) -> tuple[LossTerm, ...]:
    keys = ("text", "negative_text") if negatives else ("text",)
    return (*NegCLIPObjective.terms, Term("paraphrase", keys, weight))


class ReadAlignmentObjective(Objective):
    r"""
    NegCLIP, and each paraphrase must find its caption among the captions of the batch:

    ``1/2 [CE(v -> T ∪ T') + CE(t -> V)] + paraphrase_weight CE(p -> T)``

    with `CE` as in [`CLIPObjective`]: the sentence-level alignment of READ-CLIP. Its token-level part, a decoder that
    writes another caption from the embedding, is not here.

    Args:
        paraphrase_weight (`float`, defaults to 0.5): Weight of the alignment.
        negatives_in_alignment (`bool`, defaults to `False`): Whether T' enters the paraphrases' denominators.
        kwargs: `negatives_across_devices`, `chunk_size`, `distillation` and `repeats`, as in [`Objective`].

    Requirements:
        Hard negative captions and paraphrases, any number per row or none.

    Inputs:

    | role | dataset column | model input | rows |
    | --- | --- | --- | --- |
    | `image` | `image` | `pixel_values` | B |
    | `text` | `caption` | `input_ids` | B |
    | `negative_text` | `neg_caption` | `negative_input_ids` | any |
    | `paraphrase` | `paraphrase` | `paraphrase_input_ids` | any |

    Relations:
        `negclip` if the weight is 0.

    Example:

    ```python
    >>> import torch
    >>> from hf_tripletclip.objectives import Embeddings, get_objective

    >>> image, text, negative_text, paraphrase = torch.nn.functional.normalize(torch.randn(4, 8, 16), dim=-1)
    >>> embeddings = Embeddings(image, text, negative_text=negative_text, paraphrase=paraphrase)
    >>> sorted(get_objective("read_alignment")(embeddings, 14.3).parts)
    ['image_to_text', 'paraphrase_to_text', 'text_to_image']
    ```

    References:
        Kwon et al. 2025, "Enhancing Compositional Reasoning in CLIP via Reconstruction and Alignment of Text
        Descriptions", arXiv 2510.16540, with the settings of the code released with it.
    """

    name = "read_alignment"
    terms = _terms(0.5, False)

    def __init__(self, paraphrase_weight: float = 0.5, negatives_in_alignment: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.paraphrase_weight = check_weight("paraphrase_weight", paraphrase_weight)
        self.negatives_in_alignment = negatives_in_alignment
        self.terms = _terms(paraphrase_weight, negatives_in_alignment)

# SPDX-License-Identifier: Apache-2.0
"""`tsvlc`: CLIP with own hard negative captions and paraphrases."""

from __future__ import annotations

from typing import Any

from hf_tripletclip.objectives.base import Objective, check_weight
from hf_tripletclip.objectives.own_terms import OwnTerm
from hf_tripletclip.objectives.terms import LossTerm, Term


def _terms(negative_weight: float, negatives_in_batch: bool, paraphrases: bool) -> tuple[LossTerm, ...]:
    further = (Term("image", ("paraphrase",), 0.5), Term("text", ("paraphrase",), 0.5)) if paraphrases else ()
    return (
        Term("image", ("text", "negative_text") if negatives_in_batch else ("text",), 0.5),
        Term("text", ("image",), 0.5),
        OwnTerm("image", "text", ("negative_text",), negative_weight),
        *further,
    )


class TSVLCObjective(Objective):
    r"""
    CLIP with two more parts: each image competes with the hard negative captions of its own row, and paraphrases are
    further positives:

    ``1/2 [CE(v -> T ∪ T') + CE(t -> V)] + negative_weight own(v -> t | t') + 1/2 [CE(v -> P) + CE(t -> P)]``

    with `CE` as in [`CLIPObjective`]. ``own(v -> t | t')`` is the mean over rows with negatives of
    ``-log softmax over {t_i, its own t'} at t_i``.

    Args:
        negative_weight (`float`, defaults to 1.0): Weight of the own negatives.
        negatives_in_batch (`bool`, defaults to `True`): Whether T' enters the images' denominators too.
        paraphrases (`bool`, defaults to `True`): Whether there are paraphrases.
        kwargs: As in [`Objective`], such as `distillation`, `teacher_decay` and `repeats`.

    Requirements:
        Hard negative captions and paraphrases, any number of each per row or none. The paper makes them by rules, by a
        language model, or by both; only the data differ.

    Inputs:

    | role | dataset column | model input | rows |
    | --- | --- | --- | --- |
    | `image` | `image` | `pixel_values` | B |
    | `text` | `caption` | `input_ids` | B |
    | `negative_text` | `neg_caption` | `negative_input_ids` | any |
    | `paraphrase` | `paraphrase` | `paraphrase_input_ids` | any |

    Relations:
        `negclip` without own negatives and paraphrases.

    Example:

    ```python
    >>> import torch
    >>> from hf_tripletclip.objectives import Embeddings, get_objective

    >>> image, text, negative_text, paraphrase = torch.nn.functional.normalize(torch.randn(4, 8, 16), dim=-1)
    >>> embeddings = Embeddings(image, text, negative_text=negative_text, paraphrase=paraphrase)
    >>> sorted(get_objective("tsvlc")(embeddings, 14.3).parts)
    ['image_to_own_text', 'image_to_paraphrase', 'image_to_text', 'text_to_image', 'text_to_paraphrase']
    ```

    References:
        Doveh et al. 2023, "Teaching Structured Vision & Language Concepts to Vision & Language Models",
        arXiv 2211.11733, section 3, and the released code.
    """

    name = "tsvlc"
    terms = _terms(1.0, True, True)

    def __init__(
        self,
        negative_weight: float = 1.0,
        negatives_in_batch: bool = True,
        paraphrases: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.negative_weight = check_weight("negative_weight", negative_weight)
        self.negatives_in_batch, self.paraphrases = negatives_in_batch, paraphrases
        self.terms = _terms(negative_weight, negatives_in_batch, paraphrases)

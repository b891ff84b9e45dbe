# SPDX-License-Identifier: Apache-2.0
"""`pairwise`: CLIP whose images and further captions rank a caption above its own negatives."""

from __future__ import annotations

from typing import Any

from hf_tripletclip.objectives.base import Objective, check_weight
from hf_tripletclip.objectives.clip import CLIPObjective
from hf_tripletclip.objectives.own_terms import PairwiseTerm
from hf_tripletclip.objectives.teacher_terms import PriorTerm
from hf_tripletclip.objectives.terms import LossTerm
from hf_tripletclip.roles import BY_COLUMN

OTHERS = ("paraphrase", "dense_caption")


def _terms(
    own_weight: float, text_weight: float, prior_weight: float, debias: float, others: str
) -> tuple[LossTerm, ...]:
    keys, other = ("negative_text",), BY_COLUMN[others].name
    text_side = (PairwiseTerm(other, "text", keys, text_weight, debias),) if text_weight else ()
    prior = (PriorTerm("image", "text", prior_weight),) if prior_weight else ()
    return (*CLIPObjective.terms, PairwiseTerm("image", "text", keys, own_weight, debias), *text_side, *prior)


class PairwiseObjective(Objective):
    r"""
    CLIP, and each image must rank its caption above each of the row's own hard negatives, by what distinguishes the
    image from others. Another caption of the same image must do so too:

    ``1/2 [CE(v -> T) + CE(t -> V)] + own_weight rank(v, t | t') + text_weight rank(p, t | t')
    + prior_weight prior(v, t)``

    with `CE` as in [`CLIPObjective`]; ``rank(q, t | t') = mean log(1 + e^(-s (q - debias m) . (t - t')))`` over all
    queries and negatives of a row, where m is the mean query of the batch; and
    ``prior(v, t) = mean (s m . (t - t*))^2``, where m is the mean image and t* the caption's embedding by a frozen
    teacher, the model as it was before training. A text's score with m is its language prior: its score whatever the
    picture. The rankings do not reward it, and the prior of the caption stays as it was.

    This combination is this package's own: RankNet's loss on own hard negatives as in [`TSVLCObjective`], another
    caption of the image as a query instead of one more target, and a language prior that is subtracted from scores,
    here in training. `docs/reproduction.md` shows what it gains, and how much of that is knowledge of captions alone.

    Args:
        own_weight (`float`, defaults to 10.0): Weight of the images' ranking.
        text_weight (`float`, defaults to 10.0): Weight of the other captions' ranking; with 0 none are needed.
        prior_weight (`float`, defaults to 0.3): Weight of the prior; with 0 no teacher is needed.
        debias (`float`, defaults to 0.8): Share of the batch's mean query that is subtracted from each query of the
            rankings, from 0 to 1.
        others (`str`, defaults to `"paraphrase"`): Column of the other captions, or `"dense_caption"`.
        kwargs: As in [`Objective`], such as `distillation`, `teacher_decay` and `repeats`.

    Requirements:
        Hard negative captions and other captions of the image, any number per row or none; a pretrained model.

    Inputs:

    | role | dataset column | model input | rows |
    | --- | --- | --- | --- |
    | `image` | `image` | `pixel_values` | B |
    | `text` | `caption` | `input_ids` | B |
    | `negative_text` | `neg_caption` | `negative_input_ids` | any |
    | `paraphrase` | `paraphrase` | `paraphrase_input_ids` | any |

    With `others="dense_caption"` the last role is `dense_text`, from that column.

    Relations:
        `clip` if all weights are 0. With one negative per row and `debias=0`, rank is the own term of
        [`TSVLCObjective`].

    Example:

    ```python
    >>> import torch
    >>> from hf_tripletclip.objectives import Embeddings, get_objective

    >>> image, text, negative_text, paraphrase = torch.nn.functional.normalize(torch.randn(4, 8, 16), dim=-1)
    >>> embeddings = Embeddings(
    ...     image, text, negative_text=negative_text, paraphrase=paraphrase, teacher={"text": text.roll(1, 0)}
    ... )
    >>> sorted(get_objective("pairwise")(embeddings, 14.3).parts)
    ['image_ranks_text', 'image_to_text', 'paraphrase_ranks_text', 'text_prior', 'text_to_image']
    ```

    References:
        Burges et al. 2005, "Learning to Rank using Gradient Descent", ICML. Doveh et al. 2023, arXiv 2211.11733, for
        own negatives. Lin et al. 2024, "Revisiting the Role of Language Priors in Vision-Language Models",
        arXiv 2306.01879, for the prior.
    """

    name = "pairwise"
    terms = _terms(10.0, 10.0, 0.3, 0.8, OTHERS[0])

    def __init__(
        self,
        own_weight: float = 10.0,
        text_weight: float = 10.0,
        prior_weight: float = 0.3,
        debias: float = 0.8,
        others: str = OTHERS[0],
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.own_weight = check_weight("own_weight", own_weight)
        self.text_weight = check_weight("text_weight", text_weight)
        self.prior_weight = check_weight("prior_weight", prior_weight)
        self.debias = check_weight("debias", debias)
        if debias > 1:
            raise ValueError(f"`debias` is {debias}; give a number from 0 to 1.")
        if others not in OTHERS:
            raise ValueError(f"`others` is {others!r}; it can be {' or '.join(map(repr, OTHERS))}.")
        self.others = others
        self.terms = _terms(own_weight, text_weight, prior_weight, debias, others)

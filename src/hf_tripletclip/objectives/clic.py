# SPDX-License-Identifier: Apache-2.0
"""`clic`: two positives per image, own negatives, and a distance between the positives."""

from __future__ import annotations

from typing import Any

from hf_tripletclip.objectives.base import Objective, check_weight
from hf_tripletclip.objectives.clip import CLIPObjective
from hf_tripletclip.objectives.own_terms import OwnTerm
from hf_tripletclip.objectives.terms import CloseTerm, LossTerm, Term


def _terms(batch: float, own: float, close: float) -> tuple[LossTerm, ...]:
    return (
        *(Term("image", (positive,), batch / 4) for positive in ("text", "paraphrase")),
        *(Term(positive, ("image",), batch / 4) for positive in ("text", "paraphrase")),
        *(OwnTerm("image", positive, ("negative_text",), own / 2) for positive in ("text", "paraphrase")),
        CloseTerm("text", "paraphrase", close),
    )


class CLICObjective(Objective):
    r"""
    Each image has two positives, its caption and a paraphrase. Both compete with the row's own hard negative captions,
    and both must be close to each other:

    ``batch_weight 1/2 [clip(V, T) + clip(V, P)] + own_weight 1/2 [own(v -> t | t') + own(v -> p | t')]
    + close_weight Δ(t, p)``

    with ``clip(V, T) = 1/2 [CE(v -> T) + CE(t -> V)]``, `CE` as in [`CLIPObjective`], ``own`` as in
    [`TSVLCObjective`] and ``Δ(t, p) = mean_i |t_i - p_i|^2``. In the paper, an image is two photographs side by side,
    its caption joins both captions, and the negative exchanges a word between them (`tripletclip join` makes such
    data); every second batch is plain CLIP.

    Args:
        batch_weight (`float`, defaults to 0.5): Weight of the contrastive terms.
        own_weight (`float`, defaults to 0.5): Weight of the own negatives.
        close_weight (`float`, defaults to 1.0): Weight of the distance between caption and paraphrase.
        alternate (`bool`, defaults to `False`): Whether every second training step is plain `clip`.
        kwargs: As in [`Objective`], such as `distillation`, `teacher_decay` and `repeats`.

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
        `clip` on two captions per image if the last two weights are 0.

    Example:

    ```python
    >>> import torch
    >>> from hf_tripletclip.objectives import Embeddings, get_objective

    >>> image, text, negative_text, paraphrase = torch.nn.functional.normalize(torch.randn(4, 8, 16), dim=-1)
    >>> embeddings = Embeddings(image, text, negative_text=negative_text, paraphrase=paraphrase)
    >>> len(get_objective("clic")(embeddings, 14.3).parts)
    7
    ```

    References:
        Peleg et al. 2025, "Advancing Compositional Awareness in CLIP with Efficient Fine-Tuning", arXiv 2505.24424,
        equations 4 to 7, with the settings of the released code.
    """

    name = "clic"
    terms = _terms(0.5, 0.5, 1.0)

    def __init__(
        self,
        batch_weight: float = 0.5,
        own_weight: float = 0.5,
        close_weight: float = 1.0,
        alternate: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.batch_weight = check_weight("batch_weight", batch_weight)
        self.own_weight = check_weight("own_weight", own_weight)
        self.close_weight = check_weight("close_weight", close_weight)
        self.alternate = alternate
        self.terms = _terms(batch_weight, own_weight, close_weight)

    def active_terms(self) -> tuple[LossTerm, ...]:
        return CLIPObjective.terms if self.alternate and self.step is not None and self.step % 2 else self.terms

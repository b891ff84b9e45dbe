# SPDX-License-Identifier: Apache-2.0
"""`laclip`: CLIP on captions that are drawn at random in each pass."""

from __future__ import annotations

from hf_tripletclip.objectives.base import Objective
from hf_tripletclip.objectives.clip import CLIPObjective


class LaCLIPObjective(Objective):
    r"""
    The loss of `clip`, on a caption that each pass over the data draws at random from the row's caption and its
    rewrites:

    ``1/2 [CE(v -> R) + CE(r -> V)]``,  `r_i` drawn from `t_i` and its paraphrases

    with `CE` as in [`CLIPObjective`]. The collator draws ([`~hf_tripletclip.data.TripletCollator`], `draw_captions`).
    A resumed run draws the same captions as an uninterrupted one.

    Args:
        kwargs: As in [`Objective`], such as `distillation`, `teacher_decay` and `repeats`.

    Requirements:
        Pairs, and rewrites in the column `paraphrase`, one or a list per row; `caption` may be a list too. A row
        without rewrites keeps its caption. If `caption` holds only rewrites, as in the TripletCLIP paper's baseline,
        `clip` does the same.

    Inputs:

    | role | dataset column | model input | rows |
    | --- | --- | --- | --- |
    | `image` | `image` | `pixel_values` | B |
    | `text` | `caption` | `input_ids` | B |

    Relations:
        `clip` if no row has rewrites. `laclip_hn` is the same on batches of nearest neighbours.

    Example:

    ```python
    >>> import torch
    >>> from hf_tripletclip.objectives import Embeddings, get_objective

    >>> image, text = torch.nn.functional.normalize(torch.randn(2, 8, 16), dim=-1)
    >>> embeddings = Embeddings(image=image, text=text)
    >>> laclip, clip = get_objective("laclip"), get_objective("clip")
    >>> torch.equal(laclip(embeddings, 14.3).loss, clip(embeddings, 14.3).loss)
    True
    ```

    References:
        Fan et al. 2023, "Improving CLIP Training with Language Rewrites", arXiv 2305.20088, section 3.
    """

    name = "laclip"
    terms = CLIPObjective.terms
    draws_captions = True

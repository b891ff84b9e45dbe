# SPDX-License-Identifier: Apache-2.0
"""`laclip_hn`: LaCLIP on batches of nearest neighbours, which are real hard negatives."""

from __future__ import annotations

from hf_tripletclip.objectives.laclip import LaCLIPObjective


class LaCLIPHNObjective(LaCLIPObjective):
    r"""
    The loss of `laclip`, on batches that are filled with the nearest neighbours of their rows:

    ``1/2 [CE(v -> R) + CE(r -> V)]``,  `r_i` drawn from `t_i` and its paraphrases

    with `CE` as in [`CLIPObjective`]. The TripletCLIP paper names the baseline "LaCLIP + real hard negatives" without
    details; mining neighbours is this package's interpretation.

    Args:
        kwargs: As in [`Objective`], such as `distillation`, `teacher_decay` and `repeats`.

    Requirements:
        As for `laclip`, and the neighbours of each row: train on the output of `tripletclip mine`, with
        `batch_neighbours`.

    Inputs:

    | role | dataset column | model input | rows |
    | --- | --- | --- | --- |
    | `image` | `image` | `pixel_values` | B |
    | `text` | `caption` | `input_ids` | B |

    Relations:
        On random batches it is `laclip`. Any other objective can use batches of neighbours too.

    Example:

    ```python
    >>> import torch
    >>> from hf_tripletclip.objectives import Embeddings, get_objective

    >>> embeddings = Embeddings(*torch.nn.functional.normalize(torch.randn(2, 8, 16), dim=-1))
    >>> one, other = (get_objective(name)(embeddings, 14.3).loss for name in ("laclip_hn", "laclip"))
    >>> torch.equal(one, other)
    True
    ```

    References:
        Fan et al. 2023, arXiv 2305.20088; Patel et al. 2024, arXiv 2411.02545, Tables 4 and 5.
    """

    name = "laclip_hn"
    needs_neighbours = True

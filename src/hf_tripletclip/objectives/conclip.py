# SPDX-License-Identifier: Apache-2.0
"""`conclip`: CLIP with negated captions and distractor images."""

from __future__ import annotations

from hf_tripletclip.objectives.base import Objective
from hf_tripletclip.objectives.terms import Term


class CoNCLIPObjective(Objective):
    r"""
    CLIP with negated captions n and distractor images d. Each image must find its caption among captions and negated
    captions, each caption its image among images and distractors, and each distractor its negated caption, which is
    true of it:

    ``1/3 [CE(v -> T ∪ N) + CE(t -> V ∪ D) + CE(d -> N ∪ T)]``

    with `CE` as in [`CLIPObjective`]; n has the role `negative_text`, d has the role `negative_image`.

    Args:
        kwargs: As in [`Objective`], such as `distillation`, `teacher_decay` and `repeats`.

    Requirements:
        Triplets whose negative caption negates the caption, and whose negative image shows what the negation says.

    Inputs:

    | role | dataset column | model input | rows |
    | --- | --- | --- | --- |
    | `image` | `image` | `pixel_values` | B |
    | `text` | `caption` | `input_ids` | B |
    | `negative_image` | `neg_image` | `negative_pixel_values` | B |
    | `negative_text` | `neg_caption` | `negative_input_ids` | B |

    Relations:
        Three of the four terms of `tripletclip`; but here distractors stand in the denominator of the captions.

    Example:

    ```python
    >>> import torch
    >>> from hf_tripletclip.objectives import Embeddings, get_objective

    >>> image, text, negative_image, negative_text = torch.nn.functional.normalize(torch.randn(4, 8, 16), dim=-1)
    >>> output = get_objective("conclip")(Embeddings(image, text, negative_image, negative_text), 14.3)
    >>> sorted(output.parts)
    ['image_to_text', 'negative_image_to_negative_text', 'text_to_image']
    ```

    References:
        Singh et al. 2024, "Learn "No" to Say "Yes" Better: Improving Vision-Language Models via Negations",
        arXiv 2403.20312, in the scale of the released code.
    """

    name = "conclip"
    terms = (
        Term("image", ("text", "negative_text"), 1 / 3),
        Term("text", ("image", "negative_image"), 1 / 3),
        Term("negative_image", ("negative_text", "text"), 1 / 3),
    )

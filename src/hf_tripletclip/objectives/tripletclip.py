# SPDX-License-Identifier: Apache-2.0
"""`tripletclip`: the loss of TripletCLIP."""

from __future__ import annotations

from typing import Any

from hf_tripletclip.objectives.base import Objective, check_weight
from hf_tripletclip.objectives.chunks import CHUNK_SIZE
from hf_tripletclip.objectives.terms import LossTerm, Term


def _terms(weight: float, cross_images: bool) -> tuple[Term, ...]:
    return (
        Term("image", ("text", "negative_text"), 0.5),
        Term("text", ("image", "negative_image") if cross_images else ("image",), 0.5),
        Term("negative_image", ("negative_text", "text"), 0.5 * weight),
        Term("negative_text", ("negative_image", "image") if cross_images else ("negative_image",), 0.5 * weight),
    )


class TripletCLIPObjective(Objective):
    r"""
    NegCLIP on both pairs of a triplet: the negative pair (v', t') is treated as a pair too, and the positive captions
    are its hard negatives:

    ``1/2 [CE(v -> T ∪ T') + CE(t -> V)] + 1/2 [CE(v' -> T' ∪ T) + CE(t' -> V')]``

    with `CE` as in [`CLIPObjective`]. It is a sum, not a mean, of two NegCLIP losses, and by default the images of the
    two halves never share a denominator. The paper's equations have no factor 1/2; the released code has it, and so
    does this class.

    Args:
        negatives_across_devices (`bool`, defaults to `True`):
            Whether the denominators run over the rows of all processes.
        chunk_size (`int`, defaults to 2048): Keys per chunk of the kernel.
        distillation (*optional*): As in [`Objective`].
        negative_weight (`float`, defaults to 1.0): Weight of the second half.
        cross_images (`bool`, defaults to `False`):
            Whether the images of the other half enter the captions' denominators: ``CE(t -> V ∪ V')`` and
            ``CE(t' -> V' ∪ V)``.
        repeats (`str`, defaults to `"negative"`): As in [`Objective`].
        teacher_decay (`float`, *optional*): As in [`Objective`].
        key_exchange (`str`, defaults to `"gather"`): As in [`Objective`].
        alternate (`bool`, defaults to `False`):
            Whether training steps alternate: the first half of the loss in one step, the second half in the next. The
            paper's text says so; its equations and the released code sum both halves in each step.

    Requirements:
        Triplets with images and captions on both sides: one negative pair per pair, or a list of negative captions and
        an equally long list of negative images.

    Inputs:

    | role | dataset column | model input | rows |
    | --- | --- | --- | --- |
    | `image` | `image` | `pixel_values` | B |
    | `text` | `caption` | `input_ids` | B |
    | `negative_image` | `neg_image` | `negative_pixel_values` | B |
    | `negative_text` | `neg_caption` | `negative_input_ids` | B |

    Relations:
        `negclip` on the positive pairs plus `negclip` on the negative pairs. `clip_all` puts the same pairs into one
        plain softmax, images included, and averages.

    Example:

    ```python
    >>> import torch
    >>> from hf_tripletclip.objectives import Embeddings, get_objective

    >>> image, text, negative_image, negative_text = torch.nn.functional.normalize(torch.randn(4, 8, 16), dim=-1)
    >>> embeddings = Embeddings(image, text, negative_image, negative_text)
    >>> output = get_objective("tripletclip")(embeddings, scale=torch.tensor(14.3))
    >>> sorted(output.parts)
    ['image_to_text', 'negative_image_to_negative_text', 'negative_text_to_negative_image', 'text_to_image']
    ```

    References:
        Patel et al. 2024, "TripletCLIP: Improving Compositional Reasoning of CLIP via Synthetic Vision-Language
        Negatives", arXiv 2411.02545, equations 3 and 4, in the scale of the released code.
    """

    name = "tripletclip"
    terms = _terms(1.0, False)

    def __init__(
        self,
        negatives_across_devices: bool = True,
        chunk_size: int = CHUNK_SIZE,
        distillation: Any = None,
        negative_weight: float = 1.0,
        cross_images: bool = False,
        repeats: str = "negative",
        alternate: bool = False,
        teacher_decay: float | None = None,
        key_exchange: str = "gather",
    ) -> None:
        super().__init__(negatives_across_devices, chunk_size, distillation, repeats, teacher_decay, key_exchange)
        self.negative_weight = check_weight("negative_weight", negative_weight)
        self.cross_images, self.alternate = cross_images, alternate
        self.terms = _terms(negative_weight, cross_images)

    def active_terms(self) -> tuple[LossTerm, ...]:
        if not self.alternate or self.step is None:
            return self.terms
        return self.terms[2:] if self.step % 2 else self.terms[:2]

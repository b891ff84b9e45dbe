# SPDX-License-Identifier: Apache-2.0
"""`clip_all`: plain CLIP on the positive and the negative pairs together."""

from __future__ import annotations

from hf_tripletclip.objectives.base import Objective, Term


class CLIPAllObjective(Objective):
    r"""
    Positive and negative pairs make one CLIP batch of 2B pairs: the symmetric loss over the 2B x 2B matrix, as
    TROHN-Img is trained (Miranda et al. 2024, "BiVLC", arXiv 2406.09952):

    ``1/2 [CE([v;v'] -> T ∪ T') + CE([t;t'] -> V ∪ V')]``

    Relations: the control that a triplet objective must beat: the same rows, and nothing new about them.

    Inputs: `image`, `caption`, `neg_image`, `neg_caption`.
    """

    name = "clip_all"
    # A mean over 2B queries is the mean of two means over B.
    terms = (
        Term("image", ("text", "negative_text"), 0.25),
        Term("negative_image", ("negative_text", "text"), 0.25),
        Term("text", ("image", "negative_image"), 0.25),
        Term("negative_text", ("negative_image", "image"), 0.25),
    )

# SPDX-License-Identifier: Apache-2.0
"""`negclip_image`: CLIP with hard negative images."""

from __future__ import annotations

from hf_tripletclip.objectives.base import Objective, Term


class NegCLIPImageObjective(Objective):
    r"""
    Each caption must find its image among the images *and the hard negative images* of the batch; each image its
    caption as in CLIP (Patel et al. 2024, arXiv 2411.02545, table 3, the ablation with negative images only):

    ``1/2 [CE(v -> T) + CE(t -> V ∪ V')]``

    Relations: the mirror image of `negclip`.

    Inputs: `image`, `caption`, `neg_image`.
    """

    name = "negclip_image"
    terms = (
        Term("image", ("text",), 0.5),
        Term("text", ("image", "negative_image"), 0.5),
    )

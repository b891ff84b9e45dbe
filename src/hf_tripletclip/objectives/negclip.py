# SPDX-License-Identifier: Apache-2.0
"""`negclip`: CLIP with hard negative captions."""

from __future__ import annotations

from hf_tripletclip.objectives.base import Objective, Term


class NegCLIPObjective(Objective):
    r"""
    Each image must find its caption among the captions *and the hard negative captions* of the batch; each caption its
    image as in CLIP (Yuksekgonul et al. 2023, arXiv 2210.01936, section 4; the code released with TripletCLIP):

    ``1/2 [CE(v -> T ∪ T') + CE(t -> V)]``

    Relations: `clip` without the T'. With captions that an LLM wrote it is the TripletCLIP paper's NegCLIP++: the
    difference is in the data. `tripletclip` is this loss on both pairs of a triplet. There may be any number of
    negative captions per row, or none for some.

    Inputs: `image`, `caption`, `neg_caption`.
    """

    name = "negclip"
    terms = (
        Term("image", ("text", "negative_text"), 0.5),
        Term("text", ("image",), 0.5),
    )

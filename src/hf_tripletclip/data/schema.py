# SPDX-License-Identifier: Apache-2.0
"""The columns of a triplet dataset, by the names of the published TripletCLIP shards."""

from __future__ import annotations

from typing import NamedTuple

from hf_tripletclip.roles import ROLES, TRIPLET, TRIPLET_IMAGES, TRIPLET_TEXTS

IMAGE = ROLES["image"].column  # the image
CAPTION = ROLES["text"].column  # its caption
NEG_IMAGE = ROLES["negative_image"].column  # the hard negative image: similar, but the caption is false of it
NEG_CAPTION = ROLES["negative_text"].column  # the hard negative's caption: true of `neg_image`, false of `image`
PARAPHRASE = ROLES["paraphrase"].column  # another caption that is true of `image`, or a list of them
DENSE_CAPTION = ROLES["dense_text"].column  # a list of captions that each describe a part of `image`
COLUMNS = tuple(ROLES[name].column for name in TRIPLET)
IMAGE_COLUMNS = tuple(ROLES[name].column for name in TRIPLET_IMAGES)
CAPTION_COLUMNS = tuple(ROLES[name].column for name in TRIPLET_TEXTS)
TEXT_COLUMNS = tuple(role.column for role in ROLES.values() if not role.is_image)  # all columns of text

# Optional columns: where a row comes from and how good it is.
NEGATIVE_TYPE = "negative_type"  # one of NEGATIVE_TYPES
HELD_OUT = "held_out"  # bool: the row shows a combination of concepts that the training split never shows
SOURCE = "source"  # dataset or generator of the row

# The kinds of change that make a negative: SugarCrepe's seven kinds (Hsieh et al. 2023, arXiv 2306.14610), in the
# order of the TripletCLIP paper's table 4. An object, attribute or relation is replaced, two objects or attributes are
# swapped, or an object or attribute is added.
NEGATIVE_TYPES = (
    "replace_obj",
    "replace_att",
    "replace_rel",
    "swap_obj",
    "swap_att",
    "add_obj",
    "add_att",
)

# Columns that name a row in reports; the first that a row has counts.
KEY_COLUMNS = ("__key__", "key", "id", "row_id")

# How the negative was made and checked; see `hf_tripletclip.generation`.
ID = "id"  # the row's name, unique in its split
NEG_ID = "neg_id"  # of a mined negative: the row that it comes from
GENERATOR = "generator"  # such as "llm:mistralai/Mistral-7B-Instruct-v0.2 + diffusers:stabilityai/sdxl-turbo"
SEED = "seed"  # int64: the seed of the negative image
CLIP_SCORE = "clip_score"
NEG_CLIP_SCORE = "neg_clip_score"
CROSS_CLIP_SCORE = "cross_clip_score"
NEG_CROSS_CLIP_SCORE = "neg_cross_clip_score"
IMAGE_SIMILARITY = "image_similarity"
CAPTION_SIMILARITY = "caption_similarity"
VQA_SCORE = "vqa_score"


class Score(NamedTuple):
    """A column of scores, float32: the check of `generation` that makes it, and what it is, for cards and pages."""

    check: str
    words: str


SCORES = {
    CLIP_SCORE: Score("clip", "cosine of `image` and `caption`"),
    NEG_CLIP_SCORE: Score("clip", "cosine of `neg_image` and `neg_caption`"),
    CROSS_CLIP_SCORE: Score("clip", "cosine of `image` and `neg_caption`, which should be below `clip_score`"),
    NEG_CROSS_CLIP_SCORE: Score("clip", "cosine of `neg_image` and `caption`, which should be below `neg_clip_score`"),
    IMAGE_SIMILARITY: Score("clip", "cosine of `image` and `neg_image`"),
    CAPTION_SIMILARITY: Score("clip", "cosine of `caption` and `neg_caption`"),
    VQA_SCORE: Score("vqa", "share of questions about `neg_caption` that are answered right on `neg_image`"),
}

# The loader's errors on a row: lines of "column: reason", or "file: reason" if a row stands for a file. Such values
# are null, and the collator reports them with this reason.
ERROR = "__error__"
FILE = "file"

# SPDX-License-Identifier: Apache-2.0
"""The columns of a triplet dataset, by the names of the published TripletCLIP shards."""

from __future__ import annotations

IMAGE = "image"  # the image
CAPTION = "caption"  # its caption
NEG_IMAGE = "neg_image"  # the hard negative image: like the image, and the caption is false of it
NEG_CAPTION = "neg_caption"  # the hard negative's caption: true of `neg_image`, false of `image`
COLUMNS = (IMAGE, CAPTION, NEG_IMAGE, NEG_CAPTION)
IMAGE_COLUMNS = (IMAGE, NEG_IMAGE)
CAPTION_COLUMNS = (CAPTION, NEG_CAPTION)

# Optional columns, where a row comes from and how good it is.
NEGATIVE_TYPE = "negative_type"  # one of NEGATIVE_TYPES
HELD_OUT = "held_out"  # bool: shows a combination of concepts that the training split never shows
SOURCE = "source"  # dataset or generator of the row

# What was changed to get the negative: SugarCrepe's seven kinds (Hsieh et al. 2023, arXiv 2306.14610), in the order of
# the TripletCLIP paper's table 4. An object, attribute or relation is replaced, two objects or attributes change
# places, or an object or attribute is added.
NEGATIVE_TYPES = (
    "replace_obj",
    "replace_att",
    "replace_rel",
    "swap_obj",
    "swap_att",
    "add_obj",
    "add_att",
)

# Columns by which a row is named in reports, the first that it has.
KEY_COLUMNS = ("__key__", "key", "id", "row_id")

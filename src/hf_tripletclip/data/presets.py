# SPDX-License-Identifier: Apache-2.0
"""Column names of published datasets, and the check of a user's mapping of columns."""

from __future__ import annotations

from collections.abc import Mapping

from hf_tripletclip.data import schema
from hf_tripletclip.data.schema import CAPTION, COLUMNS, IMAGE, KEY_COLUMNS, NEG_CAPTION, NEG_IMAGE

IMAGE_ID = "image_id"  # the number of a COCO picture

# Our name -> the dataset's name, for columns whose names differ.
_NEGATIVE = {NEG_IMAGE: "negative_image", NEG_CAPTION: "negative_caption"}
_NUMBERED = {IMAGE: "image_0", CAPTION: "caption_0", NEG_IMAGE: "image_1", NEG_CAPTION: "caption_1"}
PRESETS: dict[str, dict[str, str]] = {
    "tripletclip": {},  # TripletCLIP/TripletCLIP-High-Quality
    "bivlc": _NEGATIVE,  # imirandam/BiVLC
    "trohn-img": {IMAGE: IMAGE_ID, **_NEGATIVE},  # imirandam/TROHN-Img; its images are COCO's train2017
    "winoground": _NUMBERED,  # facebook/winoground, and other datasets with its layout
    "colorswap": {IMAGE: "image_1", CAPTION: "caption_1", NEG_IMAGE: "image_2", NEG_CAPTION: "caption_2"},
    # Training data of published methods, as their released code reads it.
    # train_neg_clip.tsv of mertyg/vision-language-models-are-bows, as vinid/neg_clip and ytaek-oh/fsc-clip read it
    # (src/training/data.py): columns title, filepath, and neg_caption and neg_image as the text of Python lists.
    "negclip": {IMAGE: "filepath", CAPTION: "title"},
    # DeGLA.json of xiaoxing2001/DeGLA (src/training/data.py, DeGLA_dataset): a list of objects with image_id (of
    # COCO's train2014), original, and enhanced (four negative captions).
    "degla": {IMAGE: IMAGE_ID, CAPTION: "original", NEG_CAPTION: "enhanced"},
    # train_with_cap.csv of SivanDoveh/TSVLC and SivanDoveh/DAC (src/training/params.py): file and caption, separated
    # by tabs. It holds no negatives or further positives.
    "tsvlc": {IMAGE: "file"},
    "dac": {IMAGE: "file"},
    # Mayfull/coco-karpathy-with-image, as JiH00nKw0n/READ-CLIP reads it (src/collators/collator.py): images and
    # sentences, a list. For `laclip`, and for `tripletclip generate`, `mine` and `join`, which make a row of each
    # sentence.
    "read-clip": {IMAGE: "images", CAPTION: "sentences"},
}
# Columns that have our name but another meaning in a preset's data: NegCLIP's hard images are numbers of rows.
UNRELATED_COLUMNS = {"negclip": (NEG_IMAGE,)}
# Columns of a preset's data that hold lists as text, even if their rows are not inspected first.
LISTS_AS_TEXT = {"negclip": (NEG_CAPTION,)}

# Every column that has a meaning in this package.
KNOWN_COLUMNS = (
    *COLUMNS,
    schema.PARAPHRASE,
    schema.DENSE_CAPTION,
    *KEY_COLUMNS,
    schema.NEGATIVE_TYPE,
    schema.HELD_OUT,
    schema.SOURCE,
    schema.GENERATOR,
    schema.SEED,
    *schema.SCORES,
)


def resolve_columns(columns: Mapping[str, str] | str | None) -> dict[str, str]:
    """
    The mapping from our column names to the dataset's.

    Args:
        columns (`Mapping[str, str]` or `str`, *optional*): Our name -> the dataset's name, or the name of a preset.

    Raises:
        ValueError: There is no such preset, a key is not one of our names, or two of our names map to one column.
    """
    if columns is None:
        return {}
    if isinstance(columns, str):
        if (preset := PRESETS.get(columns.lower())) is None:
            raise ValueError(
                f"`columns` is {columns!r}, which is not a preset: give one of {', '.join(PRESETS)}, or a mapping "
                'from our names to the dataset\'s, such as {"neg_caption": "foil"}.'
            )
        return dict(preset)
    if unknown := [ours for ours in columns if ours not in KNOWN_COLUMNS]:
        raise ValueError(
            f"`columns` maps our names to the dataset's, but {', '.join(map(repr, unknown))} is not one of ours: they "
            f"are {', '.join(KNOWN_COLUMNS)}."
        )
    original = list(columns.values())
    if twice := sorted({name for name in original if original.count(name) > 1}):
        raise ValueError(f"`columns` uses {', '.join(map(repr, twice))} for more than one of our columns.")
    return dict(columns)

# SPDX-License-Identifier: Apache-2.0
"""The roles of images and texts in a row: each with its dataset column, model inputs, symbol and name in messages."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Role:
    """
    The role of an image or a text in a row.

    Args:
        name (`str`): Name of its embeddings, as in `Embeddings(negative_text=...)`.
        column (`str`): Its dataset column.
        prefix (`str`): Prefix of its model inputs, such as `negative_` in `negative_input_ids`.
        output (`str`): Its field of `TripletCLIPOutput`.
        symbol (`str`): Its letter in equations.
        words (`str`): Its name in messages, in the plural.
        mask (`str`, *optional*): For a role of which a row may have any number: the model input that tells which row
            each one belongs to, bool `(B, K)`.
        is_image (`bool`, defaults to `False`): Whether it is an image, not a text.
    """

    name: str
    column: str
    prefix: str
    output: str
    symbol: str
    words: str
    mask: str | None = None
    is_image: bool = False

    @property
    def model_input(self) -> str:
        """The model input with its pixels or token ids."""
        return f"{self.prefix}{'pixel_values' if self.is_image else 'input_ids'}"

    @property
    def model_inputs(self) -> tuple[str, ...]:
        """All model inputs with one entry for each of its images or texts."""
        of_text = ("input_ids", "attention_mask", "position_ids", "decoder_targets")
        names = ("pixel_values",) if self.is_image else of_text
        return tuple(f"{self.prefix}{name}" for name in names)

    @property
    def attention_mask(self) -> str:
        """For texts: the model input that tells tokens from padding."""
        return f"{self.prefix}attention_mask"

    @property
    def decoder_targets(self) -> str:
        """For texts: the batch's token ids that an objective's decoder must write, -100 for padding."""
        return f"{self.prefix}decoder_targets"


ROLES = {
    role.name: role
    for role in (
        Role("image", "image", "", "image_embeds", "v", "images", is_image=True),
        Role("text", "caption", "", "text_embeds", "t", "captions"),
        Role(
            *("negative_image", "neg_image", "negative_", "negative_image_embeds", "v'", "hard negative images"),
            mask="negative_image_mask",
            is_image=True,
        ),
        Role(
            *("negative_text", "neg_caption", "negative_", "negative_text_embeds", "t'", "hard negative captions"),
            mask="negative_mask",
        ),
        Role(
            *("paraphrase", "paraphrase", "paraphrase_", "paraphrase_embeds", "p", "paraphrases"),
            mask="paraphrase_mask",
        ),
        Role(
            *("dense_text", "dense_caption", "dense_", "dense_text_embeds", "d", "dense captions"),
            mask="dense_mask",
        ),
    )
}
IGNORED = -100  # in decoder targets: padding, as in torch and transformers
BY_COLUMN = {role.column: role for role in ROLES.values()}
# A triplet: what evaluation compares.
TRIPLET = ("image", "text", "negative_image", "negative_text")
TRIPLET_IMAGES = tuple(name for name in TRIPLET if ROLES[name].is_image)
TRIPLET_TEXTS = tuple(name for name in TRIPLET if not ROLES[name].is_image)
MASKS = {role.mask: role for role in ROLES.values() if role.mask is not None}

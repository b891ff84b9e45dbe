# SPDX-License-Identifier: Apache-2.0
"""The one table of what an image or a text may be in a row: its column, its model inputs, its symbol and its words."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Role:
    """
    What an image or a text is in a row.

    Args:
        name (`str`): Name of its embeddings, as in `Embeddings(negative_text=...)`.
        column (`str`): The dataset column that it comes from.
        prefix (`str`): What the names of its model inputs begin with: `negative_input_ids`.
        output (`str`): Its field of `TripletCLIPOutput`.
        symbol (`str`): Its letter in equations.
        words (`str`): What a message calls it, in the plural.
        mask (`str`, *optional*): For a role that a row may have any number of: the model input that tells whose each
            is, bool `(B, K)`.
        is_image (`bool`, defaults to `False`): Whether it is an image; a text otherwise.
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
        """The model input that holds its pixels or token ids."""
        return f"{self.prefix}{'pixel_values' if self.is_image else 'input_ids'}"

    @property
    def model_inputs(self) -> tuple[str, ...]:
        """All model inputs that hold something for each of its images or texts."""
        of_text = ("input_ids", "attention_mask", "position_ids", "decoder_targets")
        names = ("pixel_values",) if self.is_image else of_text
        return tuple(f"{self.prefix}{name}" for name in names)

    @property
    def attention_mask(self) -> str:
        """The model input that tells tokens from padding; for texts."""
        return f"{self.prefix}attention_mask"

    @property
    def decoder_targets(self) -> str:
        """What of a batch an objective's decoder must write: token ids of its own, -100 for padding; for texts."""
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
BY_COLUMN = {role.column: role for role in ROLES.values()}
# A triplet: what evaluation compares, and what a row has one of each of.
TRIPLET = ("image", "text", "negative_image", "negative_text")
MASKS = {role.mask: role for role in ROLES.values() if role.mask is not None}

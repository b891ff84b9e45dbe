# SPDX-License-Identifier: Apache-2.0
"""The negative images of the embedded data, [`~hf_tripletclip.data.load_scenes`]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from datasets import Features, Image, Value

from hf_tripletclip.data.scenes.build import make_example, row_of
from hf_tripletclip.data.scenes.drawing import require_fonts
from hf_tripletclip.data.scenes.vocabulary import Nouns, choose_nouns
from hf_tripletclip.data.schema import ID, NEG_CAPTION, NEG_IMAGE, SEED
from hf_tripletclip.generation.stage import ERROR, Batch, Stage


@dataclass
class ScenesImages(Stage):
    """
    Draws the negative scene of each row, the very pictures that `load_scenes` has. It works for rows of `scenes` only,
    which it knows by their ids; the others have an error.

    Args:
        scenes_seed (`int`, defaults to 0): The `seed` that the scenes were made with.
        nouns (`int` or `"all"`, defaults to 24): The `nouns` that they were made with.
        image_size (`int`, defaults to 64): Side of the images in pixels.

    Raises:
        ValueError: There are not so many nouns, or the images are too small.
        ImportError: The icon fonts are not installed.
    """

    name: ClassVar[str] = "scenes"
    requires: ClassVar[tuple[str, ...]] = (NEG_CAPTION,)
    uses_device: ClassVar[bool] = False
    not_settings: ClassVar[frozenset[str]] = frozenset({"device", "batch_size"})

    scenes_seed: int = 0
    nouns: Nouns = 24
    image_size: int = 64

    def __post_init__(self) -> None:
        choose_nouns(self.nouns)
        if self.image_size < 16:
            raise ValueError(f"`image_size` is {self.image_size}; nothing can be recognised below 16.")

    @property
    def produces(self) -> Features:
        return Features({NEG_IMAGE: Image(), SEED: Value("int64")})

    def setup(self) -> None:
        """Make sure that there are fonts to draw with."""
        require_fonts()

    def __call__(self, batch: Batch) -> Batch:
        self.setup()
        out: dict[str, list[Any]] = {NEG_IMAGE: [], SEED: [], ERROR: []}
        nouns = choose_nouns(self.nouns)
        for row_id, caption in zip(batch[ID], batch[NEG_CAPTION], strict=True):
            made: dict[str, Any] = dict.fromkeys(out)
            place = row_of(str(row_id))
            if place is None:
                made[ERROR] = f"not a row of scenes: {row_id}"
            else:
                example = (*place, self.scenes_seed, nouns, self.image_size)
                if caption != make_example(*example, columns=(NEG_CAPTION,))[NEG_CAPTION]:
                    made[ERROR] = f"not the caption of the scene: {row_id}; seed or nouns of the scenes are others"
                else:
                    made |= make_example(*example, columns=(NEG_IMAGE,))
                    made[SEED] = self.scenes_seed
            for name, values in out.items():
                values.append(made[name])
        return out

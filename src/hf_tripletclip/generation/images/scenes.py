# SPDX-License-Identifier: Apache-2.0
"""The negative images of the built-in data, [`~hf_tripletclip.data.load_scenes`]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from datasets import Features, Image, Value

from hf_tripletclip.data.scenes.build import make_example, row_of
from hf_tripletclip.data.scenes.drawing import require_fonts
from hf_tripletclip.data.scenes.faulty import faulty_image, is_faulty
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
        faulty_share (`float`, defaults to 0): Share of the training rows whose image does not show its caption, as
            text-to-image models draw some: to try checks and filters on, see
            [`~hf_tripletclip.data.scenes.faulty.faulty_scene`].

    Raises:
        ValueError: There are fewer nouns, the images are too small, or the share is out of range.
        ImportError: The icon fonts are not installed.
    """

    name: ClassVar[str] = "scenes"
    requires: ClassVar[tuple[str, ...]] = (NEG_CAPTION,)
    uses_device: ClassVar[bool] = False
    not_settings: ClassVar[frozenset[str]] = frozenset({"device", "batch_size"})

    scenes_seed: int = 0
    nouns: Nouns = 24
    image_size: int = 64
    faulty_share: float = 0.0

    def __post_init__(self) -> None:
        choose_nouns(self.nouns)
        if self.image_size < 16:
            raise ValueError(f"`image_size` is {self.image_size}; nothing can be recognised below 16.")
        if not 0 <= self.faulty_share <= 1:
            raise ValueError(f"`faulty_share` is {self.faulty_share}; give a share from 0 to 1.")

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
                    if is_faulty(*place, self.scenes_seed, self.faulty_share):
                        made[NEG_IMAGE] = faulty_image(place[1], *example[2:])
                    else:
                        made |= make_example(*example, columns=(NEG_IMAGE,))
                    made[SEED] = self.scenes_seed
            for name, values in out.items():
                values.append(made[name])
        return out

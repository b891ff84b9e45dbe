# SPDX-License-Identifier: Apache-2.0
"""The negative captions of the built-in data, [`~hf_tripletclip.data.load_scenes`]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from datasets import Features, Value

from hf_tripletclip.data.scenes.build import make_example, row_of
from hf_tripletclip.data.scenes.vocabulary import Nouns, choose_nouns
from hf_tripletclip.data.schema import CAPTION, ID, NEG_CAPTION, NEGATIVE_TYPE
from hf_tripletclip.generation.stage import ERROR, Batch, Stage


@dataclass
class ScenesCaptions(Stage):
    """
    Says what the negative scene of each row shows. It works for rows of `scenes` only, which it knows by their ids;
    the others have an error.

    Args:
        scenes_seed (`int`, defaults to 0): The `seed` that the scenes were made with.
        nouns (`int` or `"all"`, defaults to 24): The `nouns` that they were made with.

    Raises:
        ValueError: There are fewer nouns.
    """

    name: ClassVar[str] = "scenes"
    requires: ClassVar[tuple[str, ...]] = (CAPTION,)
    uses_device: ClassVar[bool] = False
    not_settings: ClassVar[frozenset[str]] = frozenset({"device", "batch_size"})

    scenes_seed: int = 0
    nouns: Nouns = 24

    def __post_init__(self) -> None:
        choose_nouns(self.nouns)

    @property
    def produces(self) -> Features:
        return Features({NEG_CAPTION: Value("string"), NEGATIVE_TYPE: Value("string")})

    def __call__(self, batch: Batch) -> Batch:
        out: dict[str, list[Any]] = {NEG_CAPTION: [], NEGATIVE_TYPE: [], ERROR: []}
        nouns = choose_nouns(self.nouns)
        for row_id, caption in zip(batch[ID], batch[CAPTION], strict=True):
            made: dict[str, Any] = dict.fromkeys(out)
            place = row_of(str(row_id))
            if place is None:
                made[ERROR] = f"not a row of scenes: {row_id}"
            else:
                row = make_example(*place, self.scenes_seed, nouns, 0, columns=(CAPTION, NEG_CAPTION, NEGATIVE_TYPE))
                if caption != row.pop(CAPTION):
                    made[ERROR] = f"not the caption of the scene: {row_id}; seed or nouns of the scenes are others"
                else:
                    made |= row
            for name, values in out.items():
                values.append(made[name])
        return out

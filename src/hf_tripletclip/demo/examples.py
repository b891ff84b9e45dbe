# SPDX-License-Identifier: Apache-2.0
"""Example pictures, drawn by `scenes`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hf_tripletclip.data.scenes.build import make_example
from hf_tripletclip.data.scenes.drawing import require_fonts
from hf_tripletclip.data.scenes.vocabulary import choose_nouns
from hf_tripletclip.data.schema import CAPTION, IMAGE, NEG_CAPTION, NEGATIVE_TYPE, NEGATIVE_TYPES

SIZE = 256  # pixels, of a side
NOUNS = 24  # as `load_scenes` has by default, which models are trained on
SEED = 0


@dataclass(frozen=True)
class Example:
    """
    A picture with its caption.

    Args:
        path (`str`): The picture.
        caption (`str`): What is true of it.
        negative (`str`): What is false of it.
        kind (`str`): What was changed, one of `NEGATIVE_TYPES`.
    """

    path: str
    caption: str
    negative: str
    kind: str


def draw_examples(folder: Path) -> list[Example]:
    """
    Draw the first rows of the test split of `scenes`, one of each kind of negative.

    Args:
        folder (`Path`): Where the pictures are written.

    Returns:
        `list[Example]`: None where the fonts that draw them are not installed.
    """
    try:
        require_fonts()
    except ImportError:  # the extra `scenes`
        return []
    nouns = choose_nouns(NOUNS)
    examples = []
    for index in range(len(NEGATIVE_TYPES)):
        row = make_example("test", index, SEED, nouns, SIZE, columns=(IMAGE, CAPTION, NEG_CAPTION, NEGATIVE_TYPE))
        path = folder / f"scene-{index + 1}.png"
        path.write_bytes(row[IMAGE]["bytes"])
        examples.append(Example(str(path), row[CAPTION], row[NEG_CAPTION], row[NEGATIVE_TYPE]))
    return examples

# SPDX-License-Identifier: Apache-2.0
"""Draw a contact sheet of the test split: `python -m hf_tripletclip.data.scenes.preview docs/images/scenes.png`."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from hf_tripletclip.data.scenes.build import make_row
from hf_tripletclip.data.scenes.captions import describe
from hf_tripletclip.data.scenes.drawing import draw_scene
from hf_tripletclip.data.scenes.vocabulary import choose_nouns
from hf_tripletclip.data.schema import NEGATIVE_TYPES


def contact_sheet(rows_per_kind: int = 2, side: int = 128) -> Image.Image:
    """A row per triplet: both images, both captions and the kind, for each of the seven kinds."""
    nouns = choose_nouns(24)
    font = ImageFont.load_default(14)
    width, height = 2 * side + 460, side + 12
    sheet = Image.new("RGB", (width, rows_per_kind * len(NEGATIVE_TYPES) * height), "white")
    draw = ImageDraw.Draw(sheet)
    for row in range(rows_per_kind * len(NEGATIVE_TYPES)):
        positive, negative, kind = make_row("test", row, 0, nouns)
        top = row * height
        for column, scene in enumerate((positive, negative)):
            sheet.paste(draw_scene(scene, side, row), (column * (side + 6), top))
        lines: Sequence[str] = [
            kind,
            *textwrap.wrap(f"+ {describe(positive)}", 58),
            *textwrap.wrap(f"- {describe(negative)}", 58),
        ]
        draw.multiline_text((2 * side + 20, top + 4), "\n".join(lines), fill="black", font=font, spacing=3)
    return sheet


if __name__ == "__main__":
    contact_sheet().quantize(128).save(sys.argv[1], optimize=True)

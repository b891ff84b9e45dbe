# SPDX-License-Identifier: Apache-2.0
"""The contact sheet."""

from __future__ import annotations

from hf_tripletclip.data.scenes.build import make_row
from hf_tripletclip.data.scenes.drawing import draw_scene
from hf_tripletclip.data.scenes.preview import contact_sheet
from hf_tripletclip.data.scenes.vocabulary import choose_nouns


def test_contact_sheet():
    sheet = contact_sheet(rows_per_kind=1, side=32)
    assert sheet.size == (2 * 32 + 460, 7 * (32 + 12))
    for row in range(7):
        top = row * (32 + 12)
        for left, scene in zip((0, 32 + 6), make_row("test", row, 0, choose_nouns(24))[:2], strict=True):
            drawn = sheet.crop((left, top, left + 32, top + 32))
            assert drawn.tobytes() == draw_scene(scene, 32, row).tobytes()
        text = sheet.crop((2 * 32 + 20, top, sheet.width, top + 32))
        assert text.getextrema()[0][0] < 50  # something is written there

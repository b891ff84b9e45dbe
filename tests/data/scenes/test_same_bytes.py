# SPDX-License-Identifier: Apache-2.0
"""
The same version of `scenes` is the same data: if a digest differs, raise `VERSION`, or `DRAWING` if
only that of pictures does, and say so in the changelog.
"""

from __future__ import annotations

import hashlib

import PIL
import pytest
from PIL import Image

from hf_tripletclip.data.scenes import drawing, vocabulary
from hf_tripletclip.data.scenes.build import DRAWING, SPLITS, VERSION, make_row
from hf_tripletclip.data.scenes.drawing import draw_scene
from hf_tripletclip.data.scenes.recognition import load_recognition
from hf_tripletclip.data.scenes.scene import Scene, Thing
from hf_tripletclip.data.scenes.vocabulary import COLOURS, PATTERNS, PLAIN, SETTINGS, SIZES, choose_nouns

# Icons have other edges with other versions of FreeType, which Pillow brings.
SAME_ICONS = pytest.mark.skipif(PIL.__version__ != "12.3.0", reason="the digest is that of Pillow 12.3.0")


def digest(*parts: object) -> str:
    content = b"".join(part if isinstance(part, bytes) else repr(part).encode() for part in parts)
    return hashlib.sha256(content).hexdigest()[:16]


def test_the_words_and_the_colours():
    includes = sorted((noun, sorted(others)) for noun, others in vocabulary.INCLUDES.items())
    measures = sorted(vocabulary.MEASURES.items())
    parts = [vocabulary.NOUNS, measures, includes, COLOURS, PATTERNS, SIZES, vocabulary.RELATIONS, SETTINGS]
    assert (VERSION, digest(parts)) == ("1.1.0", "ff7575fc4637b1fe")


@pytest.mark.parametrize(("nouns", "expected"), [(24, "07b7ba956da644e2"), ("all", "00be8f95842e138f")])
def test_the_scenes_and_where_things_stand(nouns, expected):
    rows = [make_row(split, index, 0, choose_nouns(nouns)) for split in SPLITS for index in range(50)]
    found = [(first, second, kind, [scene.positions() for scene in (first, second)]) for first, second, kind in rows]
    assert digest(found) == expected


@SAME_ICONS
@pytest.mark.parametrize(
    ("nouns", "size", "expected"), [(24, 32, "e0f373debc6f6fee"), ("all", 64, "31107945976d7989")]
)
def test_the_pictures(nouns, size, expected):
    rows = [make_row("test", index, 0, choose_nouns(nouns)) for index in range(42)]
    pictures = [draw_scene(scene, size, index) for index, row in enumerate(rows) for scene in row[:2]]
    assert digest(*(picture.tobytes() for picture in pictures)) == expected


@SAME_ICONS
def test_the_pictures_of_recognition():
    table = load_recognition(per_class=3, image_size=48)
    assert digest(*(image.tobytes() for image in table["image"]), table["label"][:]) == "d309904ffc506e25"


@pytest.mark.parametrize("size", [32, 64, 128])
def test_all_but_the_edges_of_icons(monkeypatch, size):
    """Squares instead of icons: what every Pillow draws alike."""
    drawing._outline.cache_clear()
    monkeypatch.setattr(drawing, "_glyph", lambda noun, extent: Image.new("L", (extent, max(1, extent * 3 // 4)), 255))
    colours, pictures = list(COLOURS), []
    for number, setting in enumerate(SETTINGS):
        for objects in (1, 2, 3):
            things = tuple(
                Thing("cat", colours[(number + place) % len(colours)], pattern, SIZES[(number + place) % 2])
                for place, pattern in enumerate((PATTERNS[number % 3], PLAIN, PATTERNS[(number + 1) % 3])[:objects])
            )
            relation = list(vocabulary.RELATIONS)[number % 4]
            third = "left" if relation in vocabulary.VERTICAL else "below"
            pictures.append(draw_scene(Scene(things, relation, third, setting, False, (0, 0, 0)), size, number))
    drawing._outline.cache_clear()
    expected = {32: "5d26bba3df8aafa7", 64: "0dd4a50505b2ffdf", 128: "1e29acd0fd2b3247"}
    assert (DRAWING, digest(*(picture.tobytes() for picture in pictures))) == ("2", expected[size])

# SPDX-License-Identifier: Apache-2.0
"""Pictures show what the scene says: sizes, places, colours, patterns, settings."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from hf_tripletclip.data.scenes import drawing
from hf_tripletclip.data.scenes.build import make_row
from hf_tripletclip.data.scenes.drawing import draw_scene, require_fonts
from hf_tripletclip.data.scenes.scene import Scene, Thing
from hf_tripletclip.data.scenes.vocabulary import COLOURS, NOUNS, PATTERNS, PLAIN, RELATIONS, SETTINGS, choose_nouns
from hf_tripletclip.data.schema import NEGATIVE_TYPES

HEART = Thing("heart", "red", PLAIN, "large")
STAR = Thing("star", "blue", PLAIN, "large")
SCENE = Scene((HEART, STAR), "left", "above", "beach", False, (0, 0, 0))


def pixels(scene: Scene, size: int = 64, seed: int = 0) -> np.ndarray:
    return np.asarray(draw_scene(scene, size, seed), int)


def places(image: np.ndarray, colour: str) -> np.ndarray:
    """(row, column) of the pixels of a colour."""
    return np.argwhere(np.abs(image - np.array(COLOURS[colour])).max(axis=2) < 12)


@pytest.mark.parametrize("size", [16, 33, 64, 224])
def test_the_image_has_the_requested_size(size):
    image = draw_scene(SCENE, size, 0)
    assert (image.mode, image.size) == ("RGB", (size, size))
    assert len(image.getcolors(size * size)) > 4  # two tones and two objects


def test_the_same_seed_draws_the_same_picture_and_another_moves_things():
    assert np.array_equal(pixels(SCENE), pixels(SCENE))
    assert not np.array_equal(pixels(SCENE), pixels(SCENE, seed=1))


@pytest.mark.parametrize("relation", RELATIONS)
def test_objects_stand_where_the_relation_says(relation):
    for seed in range(5):
        image = pixels(replace(SCENE, relation=relation), seed=seed)
        (y, x), (other_y, other_x) = places(image, "red").mean(axis=0), places(image, "blue").mean(axis=0)
        gap = {"left": other_x - x, "right": x - other_x, "above": other_y - y, "below": y - other_y}[relation]
        assert gap > 64 * 0.3


def test_large_things_are_larger_than_small_ones():
    small = places(pixels(replace(SCENE, objects=(replace(HEART, size="small"), STAR))), "red")
    assert len(places(pixels(SCENE), "red")) > 1.8 * len(small)


def test_patterns_differ_from_plain_and_from_each_other():
    drawn = [
        pixels(replace(SCENE, objects=(replace(HEART, pattern=pattern), STAR))).tobytes()
        for pattern in (PLAIN, *PATTERNS)
    ]
    assert len(set(drawn)) == 4


@pytest.mark.parametrize("size", [128, 256])
def test_outlines_are_as_thick_as_the_picture_is_large(size):
    """The demo draws large pictures for models of small ones."""

    def share(size: int) -> float:
        return float((np.abs(pixels(SCENE, size) - np.array(drawing.OUTLINE)).max(axis=2) < 12).mean())

    assert share(size) > share(64) > 0


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_keeps_its_colour_visible(pattern):
    for colour in COLOURS:
        if colour in ("blue",):  # the other object's
            continue
        image = pixels(replace(SCENE, objects=(replace(HEART, colour=colour, pattern=pattern), STAR)), 128)
        assert len(places(image, colour)) > 100


def test_each_setting_has_its_own_background():
    corners = set()
    for name, setting in SETTINGS.items():
        image = pixels(replace(SCENE, setting=name))
        assert tuple(image[0, 0]) == setting.top
        assert tuple(image[-1, 0]) == setting.bottom
        corners.add((setting.top, setting.bottom))
    assert len(corners) == len(SETTINGS)


def test_colours_of_plain_things_are_drawn():
    nouns = choose_nouns(24)
    for index in range(40):
        positive, *_ = make_row("train", index, 0, nouns)
        image = pixels(positive, seed=index)
        for thing in positive.objects:
            if thing.pattern == PLAIN:
                assert len(places(image, thing.colour)) > 8, (positive, thing)


@pytest.mark.parametrize("kind", NEGATIVE_TYPES)
def test_the_negative_looks_different(kind):
    nouns = choose_nouns(24)
    for index in range(NEGATIVE_TYPES.index(kind), 140, 7):
        positive, negative, made = make_row("test", index, 0, nouns)
        assert made == kind
        difference = np.abs(pixels(positive, seed=3) - pixels(negative, seed=3)).max(axis=2)
        assert (difference > 30).sum() >= 20, (positive, negative)


@pytest.mark.parametrize("extent", [32, 40])
def test_every_icon_looks_different(extent):
    glyphs = {}
    for noun in NOUNS:
        glyph = drawing._glyph(noun, extent)
        assert max(glyph.size) == extent
        assert 0.1 < np.asarray(glyph).mean() / 255 < 0.97, noun
        glyphs.setdefault((glyph.size, glyph.tobytes()), []).append(noun)
    assert [nouns for nouns in glyphs.values() if len(nouns) > 1] == []  # a missing icon would draw an empty box


def test_every_noun_can_be_drawn():
    nouns = list(NOUNS)
    for one, other in zip(nouns[::2], nouns[1::2], strict=False):
        scene = replace(SCENE, objects=(replace(HEART, noun=one), replace(STAR, noun=other)))
        image = pixels(scene, 48)
        assert len(places(image, "red")) > 15, one
        assert len(places(image, "blue")) > 15, other


def test_missing_fonts_say_what_to_install(monkeypatch):
    drawing._font_folder.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "hf_tripletclip\[scenes\]"'):
        require_fonts()
    monkeypatch.undo()
    drawing._font_folder.cache_clear()
    require_fonts()
    assert isinstance(draw_scene(SCENE, 16, 0), Image.Image)

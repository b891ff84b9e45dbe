# SPDX-License-Identifier: Apache-2.0
"""Draws scenes: glyphs of icon fonts, filled with colours and patterns, on two-tone backgrounds."""

from __future__ import annotations

import functools
import importlib.util
import json
import random
from pathlib import Path

from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

from hf_tripletclip.data.scenes.scene import Scene
from hf_tripletclip.data.scenes.vocabulary import COLOURS, FA, MDI, NOUNS, PLAIN, SETTINGS

OVERSAMPLING = 2  # in addition to the glyphs' own antialiasing
# Width of the outline as a share of the image's side, at least a pixel: so a large picture looks like a small one when
# it is scaled down.
OUTLINED = 1 / 64
FONT_FILES = {MDI: "materialdesignicons6-webfont", FA: "fontawesome6-solid-webfont"}
# One outline colour for all: an outline that depended on the fill would show the colour twice.
OUTLINE = (96, 96, 104)
# Size of an object as a share of the image's side: (of two objects, of three objects).
EXTENT = {"large": (0.47, 0.40), "small": (0.30, 0.25)}


@functools.lru_cache(maxsize=1)
def _font_folder() -> Path:
    """The fonts of qtawesome, which is not imported because it needs Qt."""
    spec = importlib.util.find_spec("qtawesome")
    if spec is None or spec.origin is None:
        raise ImportError('`scenes` draws with the icon fonts of qtawesome: pip install "hf_tripletclip[scenes]"')
    return Path(spec.origin).parent / "fonts"


def require_fonts() -> None:
    """Raise `ImportError`, which says what to install, if the icon fonts are missing."""
    _font_folder()


@functools.cache
def _charmap(font: str) -> dict[str, str]:
    (path,) = _font_folder().glob(f"{FONT_FILES[font]}-charmap-*.json")
    return json.loads(path.read_text())


@functools.lru_cache(maxsize=8)
def _font(font: str, size: int) -> ImageFont.FreeTypeFont:
    (path,) = _font_folder().glob(f"{FONT_FILES[font]}-[0-9]*.ttf")
    return ImageFont.truetype(str(path), size)


@functools.lru_cache(maxsize=2048)
def _glyph(noun: str, extent: int) -> Image.Image:
    """The mask of a noun's icon, `L`, scaled so that its longer side is `extent` pixels."""
    font, icon = NOUNS[noun]
    character = chr(int(_charmap(font)[icon], 16))
    drawn = Image.new("L", (2 * extent, 2 * extent))
    ImageDraw.Draw(drawn).text((extent, extent), character, fill=255, font=_font(font, extent), anchor="mm")
    ink = drawn.crop(drawn.getbbox())
    scale = extent / max(ink.size)
    return ink.resize((max(1, round(ink.width * scale)), max(1, round(ink.height * scale))), Image.Resampling.LANCZOS)


@functools.lru_cache(maxsize=2048)
def _outline(noun: str, extent: int, width: int) -> Image.Image:
    """The mask of the ring around a noun's glyph. On each side it is `width + 1` pixels larger than the glyph."""
    glyph, margin = _glyph(noun, extent), width + 1
    padded = Image.new("L", (glyph.width + 2 * margin, glyph.height + 2 * margin))
    padded.paste(glyph, (margin, margin))
    return ImageChops.subtract(padded.filter(ImageFilter.MaxFilter(2 * width + 1)), padded)


@functools.lru_cache(maxsize=4096)
def _fill(colour: str, pattern: str, width: int, height: int) -> Image.Image:
    """A rectangle of the colour, with the pattern in a lighter or darker shade."""
    base = COLOURS[colour]
    area = Image.new("RGB", (width, height), base)
    if pattern == PLAIN:
        return area
    bright = sum(base) > 380
    shade = tuple(int(value * 0.45) if bright else int(255 - (255 - value) * 0.40) for value in base)
    draw = ImageDraw.Draw(area)
    step = max(9, max(width, height) // 4)  # finer patterns blend into one tone on small objects
    if pattern == "striped":
        for x in range(-height, width, step):
            draw.line([(x, height), (x + height, 0)], fill=shade, width=max(2, round(step * 0.42)))
    elif pattern == "dotted":
        radius = step * 0.30
        for row, y in enumerate(range(0, height + step, step)):
            for x in range((row % 2) * step // 2, width + step, step):
                draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=shade)
    else:
        for row, y in enumerate(range(0, height, step)):
            for x in range((row % 2) * step, width, 2 * step):
                draw.rectangle([x, y, x + step - 1, y + step - 1], fill=shade)
    return area


def draw_scene(scene: Scene, image_size: int, seed: int) -> Image.Image:
    """
    Draw a scene.

    Args:
        scene ([`Scene`]): What to draw.
        image_size (`int`): Side of the image in pixels.
        seed (`int`): Seed of the small displacements of the objects and the horizon.

    Returns:
        `PIL.Image.Image`: RGB, `image_size` by `image_size`.

    Raises:
        ImportError: The icon fonts are not installed.
    """
    rng = random.Random(seed)
    side = image_size * OVERSAMPLING
    width = max(OVERSAMPLING, round(side * OUTLINED))
    setting = SETTINGS[scene.setting]
    canvas = Image.new("RGB", (side, side), setting.top)
    horizon = round(side * (0.55 + 0.12 * rng.random()))
    ImageDraw.Draw(canvas).rectangle([0, horizon, side, side], fill=setting.bottom)
    for thing, (x, y) in zip(scene.objects, scene.positions(), strict=True):
        extent = round(side * EXTENT[thing.size][len(scene.objects) - 2])
        glyph = _glyph(thing.noun, extent)
        left = round(side * (x + 0.06 * (rng.random() - 0.5)) - glyph.width / 2)
        top = round(side * (y + 0.06 * (rng.random() - 0.5)) - glyph.height / 2)
        canvas.paste(OUTLINE, (left - width - 1, top - width - 1), _outline(thing.noun, extent, width))
        canvas.paste(_fill(thing.colour, thing.pattern, *glyph.size), (left, top), glyph)
    return canvas.reduce(OVERSAMPLING)

# SPDX-License-Identifier: Apache-2.0
"""
Screenshots of both tabs, on a desktop and on a phone: what they show is there, readable, and inside the screen.

`TRIPLETCLIP_SCREENSHOTS=DIR pytest tests/demo/test_screenshots.py -m "slow or not slow"` keeps them, to look at.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.demo.browsing import DESKTOP, PHONE, Visit

CAPTION = "a red cat above a blue dog"
NEGATIVE = "a blue cat above a red dog"
LONG = "a very long caption of one cat " * 6  # is cut, and must wrap
CASES = [
    pytest.param(DESKTOP, "light", id="desktop-light", marks=pytest.mark.slow),
    pytest.param(DESKTOP, "dark", id="desktop-dark", marks=pytest.mark.slow),
    pytest.param(PHONE, "light", id="phone-light"),
    pytest.param(PHONE, "dark", id="phone-dark", marks=pytest.mark.slow),
]


class Screen:
    """A visit, and what is on its screen."""

    def __init__(self, visit: Visit, size: tuple[int, int], scheme: str, folder: Path) -> None:
        self.visit, self.page, self.size, self.scheme, self.folder = visit, visit.page, size, scheme, folder

    def shoot(self, name: str) -> np.ndarray:
        """What is on the screen now, of shape `(height, width, 3)`."""
        device = "phone" if self.size == PHONE else "desktop"
        path = self.folder / f"{name}-{device}-{self.scheme}.png"
        self.page.wait_for_timeout(300)  # Gradio fades things in
        self.page.screenshot(path=path)
        pixels = np.asarray(Image.open(path).convert("RGB"))
        assert pixels.shape == (self.size[1], self.size[0], 3)
        return pixels

    def part(self, pixels: np.ndarray, element: Any) -> np.ndarray:
        """The pixels of an element, which must lie inside the screen as a whole."""
        box = element.bounding_box()
        assert box is not None, "it is not shown"
        left, top = round(box["x"]), round(box["y"])
        right, bottom = round(box["x"] + box["width"]), round(box["y"] + box["height"])
        assert 0 <= left < right <= self.size[0], box
        assert 0 <= top < bottom <= self.size[1], box
        return pixels[top:bottom, left:right]

    def scroll_to(self, element: Any) -> None:
        """Bring the top of an element to the top of the screen, where the page is longer than that."""
        element.evaluate("element => element.scrollIntoView({block: 'start'})")

    def check_layout(self, panels: Any) -> None:
        """Nothing is wider than the screen or cut off; panels are side by side where there is room."""
        assert self.page.evaluate("document.documentElement.scrollWidth") <= self.size[0]
        for element in panels.locator("th, td, h3, p").all():
            clipped = element.evaluate("element => element.scrollWidth > element.clientWidth + 1")
            assert not clipped, element.inner_text()
        first, second = (panel.bounding_box() for panel in panels.all())
        assert (first["y"] == second["y"]) == (self.size == DESKTOP)
        for box in (first, second):
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= self.size[0]


@pytest.fixture
def screen(chromium, url, tmp_path, size, scheme) -> Iterator[Screen]:
    folder = Path(os.environ.get("TRIPLETCLIP_SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    visit = Visit(chromium, url, size, scheme)
    yield Screen(visit, size, scheme, folder)
    visit.context.close()


def color(element: Any) -> tuple[int, int, int]:
    """An element's background, as the browser computes it."""
    style = element.evaluate("element => getComputedStyle(element).backgroundColor")
    red, green, blue = re.findall(r"[\d.]+", style)[:3]
    return round(float(red)), round(float(green)), round(float(blue))


def share_of(pixels: np.ndarray, wanted: tuple[int, int, int], tolerance: int = 40) -> float:
    """The share of pixels of a colour."""
    return float((np.abs(pixels.astype(int) - wanted).max(axis=-1) <= tolerance).mean())


@pytest.fixture
def picture(picture, tmp_path) -> str:
    """The picture, as large as photographs are: a small one is not blown up."""
    Image.open(picture).resize((800, 600), Image.Resampling.NEAREST).save(tmp_path / "large.png")
    return str(tmp_path / "large.png")


@pytest.mark.parametrize(("size", "scheme"), CASES)
def test_both_tabs(screen, models, picture, size, scheme):
    page, visit = screen.page, screen.visit
    visit.upload_picture(picture)

    # The picture, in its colours, on a page of the scheme that the system asks for.
    image = page.locator("#tc-picture img")
    screen.scroll_to(page.locator("#tc-picture"))
    pixels = screen.shoot("picture")
    shown = screen.part(pixels, image)
    assert share_of(shown, (255, 165, 0)) > 0.3  # orange
    assert share_of(shown, (0, 0, 255)) > 0.05
    assert (np.median(pixels) > 128) == (scheme == "light")

    # Bars as long as the shares that stand beside them, in the colour of bars.
    page.get_by_label("Captions, one per line").fill(f"{CAPTION}\n{LONG}")
    page.get_by_role("button", name="Compare").click()
    panels = visit.wait("#tc-compared .tc-panel")
    if size == PHONE:
        screen.scroll_to(panels.first)
    else:  # all of it is on the screen at once
        screen.scroll_to(page.locator(".tc-heading"))
    pixels = screen.shoot("compare")
    if size == DESKTOP:
        screen.part(pixels, image)
    answers = models.compare(picture, [CAPTION, LONG.strip()])
    for panel, answer in list(zip(panels.all(), answers, strict=True))[: 1 if size == PHONE else 2]:
        for bar, score in zip(panel.locator(".tc-bar").all(), answer.scores, strict=True):
            drawn = share_of(screen.part(pixels, bar), color(bar.locator("i")))
            assert drawn == pytest.approx(score.probability, abs=0.06)
    screen.check_layout(panels)
    assert "is cut after 16 tokens" in panels.first.inner_text()

    # Words that differ, marked in the colour of marks, and a verdict in words.
    page.get_by_role("tab", name="Composition").click()
    page.get_by_label("Caption that is true").fill(CAPTION)
    page.get_by_label("Hard negatives, one per line").fill(NEGATIVE)
    page.get_by_role("button", name="Test").click()
    panels = visit.wait("#tc-composed .tc-panel")
    screen.scroll_to(panels.first if size == PHONE else page.locator(".tc-heading"))
    pixels = screen.shoot("composition")
    marks = panels.first.locator("mark")
    assert marks.all_inner_texts() == ["blue", "red"]
    for mark in marks.all():
        assert share_of(screen.part(pixels, mark), color(mark), 8) > 0.3
    right = models.compose(picture, CAPTION, {NEGATIVE: None})[0].right
    assert ("right" if right else "confused") in panels.first.locator(".tc-verdict").inner_text()
    assert np.ptp(screen.part(pixels, panels.first.locator(".tc-verdict")).astype(int)) > 100
    screen.check_layout(panels)
    assert visit.errors == []

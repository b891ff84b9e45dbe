# SPDX-License-Identifier: Apache-2.0
"""The page in Chromium: with the mouse, with the keyboard alone, with wrong files."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image

from hf_tripletclip.demo.inputs import MAX_BYTES
from tests.generation.needs import needs_wordnet

CAPTION = "a red cat above a blue dog"
NEGATIVE = "a blue cat above a red dog"


def test_captions_are_compared_by_two_models(visit, models, picture):
    visit.upload_picture(picture)
    visit.page.get_by_label("Captions, one per line").fill(f"{CAPTION}\n{NEGATIVE}")
    visit.page.get_by_role("button", name="Compare").click()
    panels = visit.wait("#tc-compared .tc-panel")
    assert panels.count() == 2
    for panel, answer in zip(panels.all(), models.compare(picture, [CAPTION, NEGATIVE]), strict=True):
        assert panel.get_by_role("heading").inner_text() == answer.model
        shown = [row.locator("th, td").all_inner_texts() for row in panel.locator("tbody tr").all()]
        for (caption, cosine, share), score in zip(shown, answer.scores, strict=True):
            assert caption == score.caption
            assert float(cosine.replace("\N{MINUS SIGN}", "-")) == pytest.approx(score.cosine, abs=1e-4)
            assert float(share.strip().rstrip("%")) == pytest.approx(100 * score.probability, abs=0.1)


def _focus(page: Any, selector: str) -> None:
    """Press Tab until an element has the focus."""
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
    pytest.fail(f"{selector} cannot be reached with the Tab key")


@pytest.mark.slow
def test_with_the_keyboard_alone(visit):
    page = visit.page
    if page.locator("#tc-examples").count() == 0:
        pytest.skip("the fonts of the extra `scenes` are not installed")
    label = page.locator("#tc-examples button[aria-label^='Example 2: ']")
    label.wait_for()
    _focus(page, "#tc-examples button[aria-label^='Example 2: ']")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"  # one sees where one is
    page.keyboard.press("Enter")
    visit.wait("#tc-picture img")
    page.wait_for_function("document.querySelector('#tc-captions textarea').value.includes('\\n')")
    _focus(page, "#tc-compare")
    page.keyboard.press("Enter")
    visit.wait("#tc-compared .tc-panel")
    _focus(page, "[role=tab][aria-selected=false]")
    page.keyboard.press("Enter")
    visit.wait("#tc-caption textarea")
    _focus(page, "#tc-caption textarea")
    page.keyboard.press("Control+A")
    page.keyboard.type(CAPTION)
    _focus(page, "#tc-negatives textarea")
    page.keyboard.press("Control+A")
    page.keyboard.type(f"{NEGATIVE}\na RED cat above a blue dog")
    _focus(page, "#tc-test")
    page.keyboard.press("Enter")
    panel = visit.wait("#tc-composed .tc-panel").first
    assert panel.locator("mark").all_inner_texts() == ["blue", "red"]
    assert "tie" in panel.locator("tbody tr").nth(1).inner_text()
    assert panel.locator(".tc-kind").first.inner_text() == "your own"


@needs_wordnet
@pytest.mark.slow
def test_negatives_by_rules(visit, picture):
    visit.upload_picture(picture)
    page = visit.page
    page.get_by_role("tab", name="Composition").click()
    page.get_by_label("Caption that is true").fill(CAPTION)
    page.get_by_role("button", name="Write by rules").click()
    visit.wait("#tc-composed .tc-hint")
    field = page.locator("#tc-negatives textarea")
    first = field.input_value().split("\n")
    assert len(first) == 8
    page.get_by_role("button", name="Write by rules").click()  # others
    page.wait_for_function(
        "old => document.querySelector('#tc-negatives textarea').value !== old", arg="\n".join(first)
    )
    page.get_by_role("button", name="Test").click()
    panels = visit.wait("#tc-composed .tc-panel")
    assert panels.count() == 2
    for panel in panels.all():
        assert panel.locator("tbody th").count() == 8
        assert "your own" not in panel.inner_text()
        assert panel.locator("tbody th:has(mark)").count() == 8


@pytest.mark.slow
def test_errors_are_messages(visit, text_file, tmp_path):
    page = visit.page
    page.get_by_role("button", name="Compare").click()
    assert "no picture yet" in visit.wait("#tc-compared [role=alert]").inner_text()
    visit.upload(text_file)
    assert "cannot be read as a picture" in visit.wait("#tc-status [role=alert]").inner_text()
    assert page.locator("#tc-picture img").count() == 0
    large = tmp_path / "large.png"
    large.write_bytes(bytes(MAX_BYTES + 1))
    visit.upload(large)
    page.get_by_text("exceed the maximum allowed size of 10").wait_for()
    document = tmp_path / "document.txt"
    document.write_text("text")
    visit.upload(document)
    page.get_by_text("Invalid file type").wait_for()
    huge = tmp_path / "huge.png"
    Image.new("L", (7_000, 6_000)).save(huge)
    visit.upload(huge)
    page.locator("#tc-status").get_by_text("million pixels").wait_for()
    good = tmp_path / "good.png"
    Image.new("RGB", (30, 30), "red").save(good)
    visit.upload_picture(good)
    page.locator("#tc-status [role=alert]").wait_for(state="detached")
    page.get_by_role("button", name="Compare").click()
    page.locator("#tc-compared").get_by_text("no captions").wait_for()
    assert "Traceback" not in page.content()
    visit.toasts = 1  # those of the file that is too large and of the one that is no picture share it

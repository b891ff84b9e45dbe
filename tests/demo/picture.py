# SPDX-License-Identifier: Apache-2.0
"""`python -m tests.demo.picture MODEL MODEL docs/images/demo.png`: the picture of the demo in its documentation."""

from __future__ import annotations

import io
import sys

from PIL import Image

from hf_tripletclip.demo.app import build_app, launch
from hf_tripletclip.demo.scoring import DemoModels
from tests.demo.browsing import Visit, running_chromium

WIDTH, HEIGHT, NEGATIVES = 1100, 740, 3


def take(models: list[str], output: str) -> None:
    """Choose the first example, write hard negatives by rules, test, and save the whole page in few colours."""
    app = build_app(DemoModels.from_pretrained(models, device="cpu"))
    try:
        url = launch(app, block=False)
        with running_chromium() as chromium:
            visit = Visit(chromium, url, (WIDTH, HEIGHT))
            page = visit.page
            page.locator("#tc-examples button").first.click()
            visit.wait_for_picture()
            page.get_by_role("tab", name="Composition").click()
            page.get_by_role("button", name="Write by rules").click()
            visit.wait("#tc-composed .tc-hint")
            negatives = page.locator("#tc-negatives textarea")
            negatives.fill("\n".join(negatives.input_value().split("\n")[:NEGATIVES]))
            page.get_by_role("button", name="Test").click()
            visit.wait("#tc-composed .tc-panel")
            page.wait_for_timeout(500)
            image = Image.open(io.BytesIO(page.screenshot(full_page=True)))
    finally:
        app.close()
    image.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(output, optimize=True)


if __name__ == "__main__":
    *given, target = sys.argv[1:]
    take(given, target)

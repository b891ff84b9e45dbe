# SPDX-License-Identifier: Apache-2.0
"""Visits to the demo's page in the system's Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.pages.looking import CHROMIUM

DESKTOP, PHONE = (1200, 900), (390, 844)


@contextmanager
def running_chromium() -> Iterator[Any]:
    """A browser without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


class Visit:
    """An open page, its requests and its errors."""

    def __init__(self, chromium: Any, url: str, size: tuple[int, int] = DESKTOP, scheme: str = "light") -> None:
        self.context = chromium.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
        self.page = self.context.new_page()
        self.page.set_default_timeout(20_000)
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.toasts = 0  # messages of Gradio's own that are expected
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(url)
        self.page.wait_for_selector("#tc-compare")

    def upload(self, path: str | Path) -> None:
        self.page.locator("#tc-picture input[type=file]").first.set_input_files(path)

    def upload_picture(self, path: str | Path) -> None:
        self.upload(path)
        self.wait_for_picture()

    def wait_for_picture(self) -> None:
        self.page.locator("#tc-picture img").scroll_into_view_if_needed()
        # A sign of waiting lies over the picture for a while.
        self.page.wait_for_function(
            """() => {
              const image = document.querySelector("#tc-picture img");
              const box = image.getBoundingClientRect();
              const top = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
              return image.complete && image.naturalWidth > 0 && top === image;
            }"""
        )

    def wait(self, selector: str) -> Any:
        self.page.locator(selector).first.wait_for()
        return self.page.locator(selector)

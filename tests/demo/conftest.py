# SPDX-License-Identifier: Apache-2.0
"""Two small random models in directories, pictures in Gradio's form, and the page in a browser."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from hf_tripletclip.demo.app import build_app, launch
from hf_tripletclip.demo.inputs import NegativeWriter
from hf_tripletclip.demo.scoring import DemoModels
from tests.demo.browsing import Visit, running_chromium
from tests.doors import save_model
from tests.pages.looking import CHROMIUM


@pytest.fixture(scope="session")
def folders(tmp_path_factory) -> list[Path]:
    root = tmp_path_factory.mktemp("models")
    return [save_model(root / name, seed) for seed, name in enumerate(["first", "second"])]


@pytest.fixture(scope="session")
def models(folders) -> DemoModels:
    return DemoModels.from_pretrained(folders, device="cpu")


@pytest.fixture(scope="session")
def uploads(tmp_path_factory) -> Iterator[Path]:
    """The folder in which Gradio puts uploads."""
    folder = tmp_path_factory.mktemp("uploads")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder))
        yield folder


@pytest.fixture
def picture(uploads) -> str:
    path = Path(tempfile.mkdtemp(dir=uploads), "picture.png")
    image = Image.new("RGB", (40, 30), "orange")
    image.paste("blue", (5, 5, 20, 20))
    image.save(path)
    return str(path)


@pytest.fixture
def text_file(uploads) -> str:
    path = Path(tempfile.mkdtemp(dir=uploads), "renamed.png")
    path.write_text("I am a text file")
    return str(path)


@pytest.fixture(scope="session")
def url(models, uploads) -> Iterator[str]:
    """The page's address; without Gradio, Playwright or Chromium the test is skipped."""
    pytest.importorskip("gradio")
    pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    app = build_app(models, writer=NegativeWriter())
    try:
        yield launch(app, block=False)
    finally:
        app.close()


@pytest.fixture(scope="session")
def chromium(url) -> Iterator[Any]:
    with running_chromium() as running:
        yield running


@pytest.fixture
def visit(chromium, url) -> Iterator[Visit]:
    """A visit without requests to other servers and without errors of scripts."""
    visit = Visit(chromium, url)
    yield visit
    outside = [request for request in visit.requests if not request.startswith((url, "data:", "blob:"))]
    errors, toasts = visit.errors, visit.page.get_by_test_id("toast-body").all_inner_texts()
    visit.context.close()
    assert outside == []
    assert errors == []
    assert len(toasts) == visit.toasts, toasts

# SPDX-License-Identifier: Apache-2.0
"""docs/interop.md and the README: their code runs, and its outputs are written by what runs it."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.doors import save_model
from tests.doors.page import BLOCK, run_blocks, section_of, with_outputs

ROOT = Path(__file__).parents[2]


def test_outputs_are_written_under_the_blocks_that_ran(tmp_path):
    save_model(tmp_path / "model")
    page = (
        "a\n\n```python\nx = 2\nprint(x)\n```\n\n```text\nold\n```\n\nb\n\n```python\nx += 1\n```\n\n"
        "<!-- needs: no_such_module -->\n```python\nprint(y)\n```\n\n```text\nkept\n```\n\n"
        "```python\nimport os\nprint(x, os.listdir('outputs'))\n```\n"
    )
    written = with_outputs(page, run_blocks(page, tmp_path / "model", tmp_path / "run"))
    outputs = re.findall(r"```text\n(.*?)\n```", written, re.DOTALL)
    assert outputs == ["2", "kept", "3 ['scenes']"]
    assert re.sub(r"\n```text\n.*?```\n", "", written, flags=re.DOTALL) == re.sub(
        r"\n```text\n.*?```\n", "", page, flags=re.DOTALL
    )


def test_a_section():
    page = "# a\n\n## b\n\n### c\n\nx\n\n## d\n\ny\n"
    assert section_of(page, "b") == "\n## b\n\n### c\n\nx\n"
    assert section_of(page, "d") == "\n## d\n\ny\n"


@pytest.mark.slow
@pytest.mark.skipif(find_spec("qtawesome") is None, reason="the icons of `scenes` are not installed")
@pytest.mark.parametrize(("name", "title"), [("docs/interop.md", None), ("README.md", "Other libraries")])
def test_the_page_runs(tmp_path, name, title):
    page = (ROOT / name).read_text(encoding="utf-8")
    page = page if title is None else section_of(page, title)
    printed = run_blocks(page, save_model(tmp_path / "model", length=77), tmp_path / "run")
    for match in BLOCK.finditer(page):
        if match["code"] in printed:  # a block that prints shows what it printed
            assert bool(match["output"]) == bool(printed[match["code"]])
    assert len(printed) >= 4

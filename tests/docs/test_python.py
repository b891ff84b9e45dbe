# SPDX-License-Identifier: Apache-2.0
"""The code blocks of the documentation run, or say why they do not."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from hf_tripletclip import objectives
from tests.docs.blocks import PAGES, blocks_of, run_python, with_outputs
from tests.docs.folder import make_folder

PYTHON = [page for page in PAGES if any(block.language == "python" for block in blocks_of(page))]
LANGUAGES = {"python", "bash", "yaml", "json", "csv", "text", ""}


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(objectives, "OBJECTIVES", dict(objectives.OBJECTIVES))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return make_folder(tmp_path)


def check(page: str, folder: Path, slow: bool) -> None:
    blocks = blocks_of(page)
    first_slow = next((place for place, block in enumerate(blocks) if "slow" in block.marks), len(blocks))
    printed = run_python(blocks if slow else blocks[:first_slow], folder)
    for block, output in printed.items():
        if not block.code.startswith(">>>"):
            output = output if "print(" in block.code else ""  # a trainer prints its log
            assert block.shown == bool(output), f"{page}, line {block.line}: a block that prints shows what it prints"


@pytest.mark.parametrize("page", PYTHON)
def test_the_python_of_the_page_runs(page, folder):
    check(page, folder, slow=False)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("qtawesome") is None, reason="the icons of `scenes` are not installed")
@pytest.mark.parametrize("page", [page for page in PYTHON if any("slow" in block.marks for block in blocks_of(page))])
def test_the_slow_python_of_the_page_runs(page, folder):
    check(page, folder, slow=True)


@pytest.mark.parametrize("page", PAGES)
def test_other_blocks_can_be_read(page):
    from hf_tripletclip.training.script_arguments import DataArguments, ModelArguments, TripletCLIPTrainingArguments

    known = {
        field.name for kind in (DataArguments, ModelArguments, TripletCLIPTrainingArguments) for field in fields(kind)
    }
    for block in blocks_of(page):
        assert block.language in LANGUAGES, f"{page}, line {block.line}: a block of {block.language}"
        if "not run" in block.marks:
            assert block.marks["not run"], f"{page}, line {block.line}: say why the block is not run"
        elif block.language == "yaml":
            assert set(yaml.safe_load(block.code)) <= known
        elif block.language == "json":
            json.loads(block.code)
        elif block.language == "csv":
            header, *rows = csv.reader(block.code.splitlines())
            assert all(len(row) == len(header) for row in rows)


def test_blocks_are_found_with_their_marks():
    text = (
        "a\n\n<!-- needs: no_such_module -->\n<!-- slow -->\n```python\nprint(1)\n```\n\n```text\n1\n```\n\n"
        "- b\n\n  <!-- not run: it waits -->\n  ```bash\n  tripletclip demo M\n  ```\n"
    )
    python, bash = blocks_of("page.md", text)
    assert (python.line, python.language, python.code, python.shown) == (6, "python", "print(1)\n", True)
    assert python.marks == {"needs": "no_such_module", "slow": ""}
    assert not python.runs
    assert (bash.line, bash.code, bash.marks) == (17, "tripletclip demo M\n", {"not run": "it waits"})


def test_outputs_are_written_under_the_blocks_that_ran(tmp_path):
    text = (
        "a\n\n```python\nx = 2\nprint(x)\n```\n\n```text\nold\n```\n\nb\n\n```python\nx += 1\n```\n\n"
        "<!-- needs: no_such_module -->\n```python\nprint(y)\n```\n\n```text\nkept\n```\n\n```python\nprint(x)\n```\n"
    )
    (tmp_path / "here").touch()
    written = with_outputs(text, run_python(blocks_of("page.md", text), tmp_path))
    assert written == text.replace("old", "2") + "\n```text\n3\n```\n"


def test_files_that_contributing_names_exist(pytestconfig):
    text = (pytestconfig.rootpath / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:[\w.]+/)+\w+\.(?:py|md))`", text))
    assert len(named) > 10
    for name in named:
        assert any((pytestconfig.rootpath / place / name).is_file() for place in ("", "src/hf_tripletclip")) or list(
            (pytestconfig.rootpath / "src").rglob(name)
        ), name

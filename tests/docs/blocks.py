# SPDX-License-Identifier: Apache-2.0
"""
The code blocks of the documentation, and how they are run.

A comment in front of a block says what it needs:

- `<!-- not run: it needs a GPU -->`: the block is not run, and why;
- `<!-- needs: diffusers -->`: it is run if these modules are installed;
- `<!-- slow -->`: it and the blocks below it on the page are run by the slow tests alone.

`python -m tests.docs.blocks MODEL PAGE...` runs the Python blocks of pages, with the folder MODEL as `outputs/scenes`,
and writes what each prints into the block of text below it.
"""

from __future__ import annotations

import contextlib
import doctest
import importlib.util
import io
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "CONTRIBUTING.md", *sorted(str(page.relative_to(ROOT)) for page in ROOT.glob("docs/**/*.md")))
BLOCK = re.compile(
    r"(?P<marks>(?:^ *<!-- [^\n]* -->\n)*)^(?P<indent> *)```(?P<language>\w*)\n(?P<code>.*?)^(?P=indent)```\n"
    r"(?P<output>\n(?P=indent)```text\n.*?^(?P=indent)```\n)?",
    re.DOTALL | re.MULTILINE,
)
MARK = re.compile(r"<!-- (not run|needs|slow)(?:: ([^>]*?))? -->")


@dataclass(frozen=True, eq=False)  # blocks are told apart by their place
class Block:
    """
    Args:
        page (`str`): Path below the repository.
        line (`int`): Of its first line of code.
        language (`str`): Such as `python`; empty if it has none.
        code (`str`): Without the indentation of the block.
        marks (`dict[str, str]`): `not run`, `needs` and `slow`, and what is said there.
        shown (`bool`): Whether a block of text below it shows what it prints.
    """

    page: str
    line: int
    language: str
    code: str
    marks: dict[str, str]
    shown: bool

    @property
    def runs(self) -> bool:
        """Whether it is to be run here: what it needs is installed."""
        needed = re.findall(r"\w+", self.marks.get("needs", ""))
        return "not run" not in self.marks and all(importlib.util.find_spec(name) for name in needed)


def blocks_of(page: str, text: str | None = None) -> list[Block]:
    """The blocks of a page, in their order; what a block prints is no block of its own."""
    text = (ROOT / page).read_text(encoding="utf-8") if text is None else text
    return [
        Block(
            page=page,
            line=text.count("\n", 0, match.start("code")) + 1,
            language=match["language"],
            code=re.sub(rf"^{match['indent']}", "", match["code"], flags=re.MULTILINE),
            marks=dict(MARK.findall(match["marks"])),
            shown=match["output"] is not None,
        )
        for match in BLOCK.finditer(text)
    ]


def run_python(blocks: list[Block], folder: Path) -> dict[Block, str]:
    """
    Run the Python blocks of one page in a folder, with one namespace, as somebody who copies them one after another.

    Returns:
        `dict[Block, str]`: Of each block that was run, what it printed.
    """
    names: dict[str, Any] = {"__name__": "__main__"}
    printed = {}
    with inside(folder):
        for block in blocks:
            if block.language != "python" or not block.runs:
                continue
            where = f"{block.page}, line {block.line}"
            with contextlib.redirect_stdout(io.StringIO()) as out:
                if block.code.startswith(">>>"):
                    example = doctest.DocTestParser().get_doctest(block.code, names, where, block.page, block.line)
                    assert not doctest.DocTestRunner().run(example, clear_globs=False).failed, where
                    names.update(example.globs)
                else:
                    lines = "\n" * (block.line - 1) + block.code  # a traceback names the line of the page
                    exec(compile(lines, str(ROOT / block.page), "exec", dont_inherit=True), names)
            printed[block] = out.getvalue()
    return printed


def with_outputs(text: str, printed: dict[Block, str]) -> str:
    """The page with what was printed under each block that was run."""
    outputs = {block.line: output for block, output in printed.items() if not block.code.startswith(">>>")}

    def replaced(match: re.Match[str]) -> str:
        line = text.count("\n", 0, match.start("code")) + 1
        if line not in outputs:
            return match[0]
        block = match[0].removesuffix(match["output"] or "")
        return block + (f"\n```text\n{outputs[line].rstrip()}\n```\n" if outputs[line] else "")

    return BLOCK.sub(replaced, text)


def commands_of(block: Block) -> list[list[str]]:
    """The words of each command of a block of bash, without variables in front of it and without comments."""
    lines = re.sub(r"(^|\s)# [^\n]*", r"\1", block.code).replace("\\\n", " ")
    words = shlex.shlex(lines, posix=True, punctuation_chars="&|;\n")
    words.whitespace, words.commenters = " \t", ""
    words.whitespace_split = True
    commands: list[list[str]] = [[]]
    for word in words:
        if set(word) <= set("&|;\n"):
            commands.append([])
        elif commands[-1] or not re.match(r"\w+=", word):
            commands[-1].append(word)
    return [command for command in commands if command]


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Work in a folder."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


if __name__ == "__main__":
    from tests.docs.folder import make_folder

    for name in sys.argv[2:]:
        with tempfile.TemporaryDirectory() as temporary:
            make_folder(Path(temporary), model=Path(sys.argv[1]).resolve())
            outputs = run_python(blocks_of(name), Path(temporary))
        page = ROOT / name
        page.write_text(with_outputs(page.read_text(encoding="utf-8"), outputs), encoding="utf-8")

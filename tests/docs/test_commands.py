# SPDX-License-Identifier: Apache-2.0
"""The command lines of the documentation: each is read by the parser of the command that it names."""

from __future__ import annotations

import argparse
import importlib
import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import HfArgumentParser

from hf_tripletclip.cli import main
from tests.docs.blocks import BLOCK, PAGES, ROOT, Block, blocks_of, commands_of, inside

# Programs of others, whose flags are theirs.
OTHERS = {".", "pip", "pre-commit", "make", "pytest", "hf", "gdown", "mkdocs", "git", "apt"}
FLAGS_OF_OTHERS = {
    "--cpu",
    "--num_processes",
    "--experiment",
    "--scale",
    "--data",
    "--baseline",
    "--jobs",
    "--part",
    "--rooms",
    "--model",
    "--pretrained",
    "--precision",
    "--tolerance",
}
COMMANDS_OF_OURS = (
    "train",
    "finetune",
    "generate",
    "mine",
    "join",
    "evaluate",
    "report",
    "convert",
    "merge",
    "validate",
    "inspect",
    "push",
    "demo",
)
FLAG = re.compile(r"(?<![\w-])--[a-z][\w-]*")


class Taken(BaseException):
    """A parser has taken all arguments. No `Exception`, so that nobody handles it."""


@pytest.fixture
def read_only(monkeypatch) -> Callable[[Callable[[], Any], list[str]], None]:
    """Runs a program until a parser has read its arguments, and no further."""

    def taken(*_: Any) -> None:
        raise Taken

    def read(program: Callable[[], Any], arguments: list[str]) -> None:
        parse_args = argparse.ArgumentParser.parse_args

        def plain(self: argparse.ArgumentParser, args: Any = None, namespace: Any = None) -> Any:
            options = parse_args(self, args, namespace)
            if list(sys.argv[1:] if args is None else args) in (
                arguments,
                arguments[1:],
            ):  # not a command's name alone
                taken()
            return options

        def dataclasses(self: HfArgumentParser, args: Any = None, **kwargs: Any) -> Any:
            _, unknown = self.parse_known_args(args)  # and no dataclass: some settings need a GPU
            if unknown:
                raise ValueError(f"unknown: {unknown}")
            taken()

        with monkeypatch.context() as patch:
            patch.setattr(argparse.ArgumentParser, "parse_args", plain)
            patch.setattr(HfArgumentParser, "parse_args_into_dataclasses", dataclasses)
            patch.setattr("hf_tripletclip.generation.status.status", taken)  # `generate --status` has no parser
            try:
                status = program()
            except Taken:
                return
        pytest.fail(f"refused, with status {status}: {' '.join(arguments)}")

    return read


def arguments_of(words: list[str]) -> tuple[str, list[str]]:
    """What a command starts, `tripletclip` or a script, and with which arguments; those of a launcher are left out."""
    if words[0] == "accelerate":
        start = next(place for place, word in enumerate(words) if word == "-m" or word.endswith(".py"))
        words = words[start:] if words[start] != "-m" else ["python", *words[start:]]
    if words[0] in ("python", "python3"):
        words = words[1:]
    if words[:2] == ["-m", "hf_tripletclip.cli"]:
        words = ["tripletclip", *words[2:]]
    if words[0] == "-m":
        words = words[1:]
    return words[0], [word for word in words[1:] if word != "..."]


def commands_of_ci() -> Block:
    """The commands of ours in the script that CI runs, as a block."""
    script = (ROOT / ".ci/run").read_text(encoding="utf-8")
    found = re.findall(r"^ *((?:tripletclip|accelerate) (?:[^\n]*\\\n)*[^\n]*)", script, re.MULTILINE)
    return Block(".ci/run", 1, "bash", "\n".join(found), {}, False)


COMMANDS = [
    pytest.param(block, words, id=f"{block.page}:{block.line} {' '.join(words)[:60]}")
    for block in (*(block for page in PAGES for block in blocks_of(page)), commands_of_ci())
    if block.language == "bash" and "not run" not in block.marks
    for words in commands_of(block)
    if words[0] not in OTHERS
]


@pytest.mark.parametrize(("block", "words"), COMMANDS)
def test_the_command_is_taken(block: Block, words: list[str], read_only, monkeypatch):
    program, arguments = arguments_of(words)
    monkeypatch.setattr(sys, "argv", [program, *arguments])
    monkeypatch.setenv("WORLD_SIZE", "1")  # as in a process that a launcher has started: it starts no others
    with inside(ROOT):
        if program == "tripletclip":
            read_only(lambda: main(arguments), arguments)
        elif program.startswith("examples/"):
            if program == "examples/reproduce.py":  # its runs take the flags that it does not know
                from hf_tripletclip.comparison.main import parse

                _, arguments = parse(arguments, None)
                program = "examples/pretrain.py"
                sys.argv = [program, *arguments]
            read_only(lambda: runpy.run_path(program, run_name="__main__"), arguments)
        elif program.endswith(".py"):
            assert Path(program).is_file()
        else:
            assert importlib.util.find_spec(program), f"{block.page}, line {block.line}: no program {program}"


def test_flags_in_the_text_exist(capsys):
    known = set(FLAGS_OF_OTHERS)
    for program in ("--help", *COMMANDS_OF_OURS):
        with pytest.raises(SystemExit):
            main([program] if program == "--help" else [program, "--help"])
        known |= set(FLAG.findall(capsys.readouterr().out))
    known = {flag.replace("-", "_") for flag in known}
    assert len(known) > 150
    for page in PAGES:
        text = BLOCK.sub("", (ROOT / page).read_text(encoding="utf-8"))
        for span in re.findall(r"`([^`]+)`", text):
            for flag in FLAG.findall(span):
                assert flag.replace("-", "_") in known, f"{page}: no command has {flag}: {span}"

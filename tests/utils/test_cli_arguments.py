# SPDX-License-Identifier: Apache-2.0
"""Flags, the configuration below them, and what wins over what."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers.utils import logging

from hf_tripletclip.utils.cli_arguments import (
    CONFIGS,
    Exclusion,
    config_values,
    find_config,
    given_flags,
    parse_with_config,
)
from hf_tripletclip.utils.flag_parser import FlagParser


@dataclass
class Arguments:
    model_name_or_path: str | None = None
    sizes: dict[str, Any] | str | None = None
    fast: bool = True
    quiet: bool | None = None
    output_dir: str = "out"
    names: list[str] = field(default_factory=list)


RULES = (
    Exclusion("model_name_or_path", ("sizes",), note="So it is."),
    Exclusion("names", ("sizes",), keep=lambda given, config: set(given["names"])),
    Exclusion("fast", ("model_name_or_path",), when=lambda given, config: given["fast"] is False),
)


def parse(*argv: str, default=None) -> Arguments:
    (arguments,) = parse_with_config((Arguments,), argv, default, description="d", exclusions=RULES)
    return arguments


@pytest.fixture
def file(tmp_path) -> str:
    path = tmp_path / "own.yaml"
    path.write_text("# a comment\nsizes: {a: 1, b: 2}\noutput: there\nmodel: M\n")
    return str(path)


def test_a_flag_of_yes_or_no_stands_alone_also_if_its_default_is_neither():
    assert [parse(*argv).quiet for argv in ([], ["--quiet"], ["--quiet", "false"])] == [None, True, False]


def test_the_short_name_of_a_flag_is_read_on_the_command_line_and_in_a_file(file):
    assert parse("--config", file).output_dir == "there"
    assert parse("--config", file).model_name_or_path == "M"
    for flag in ("--output", "--output_dir", "--output-dir"):
        assert parse("--config", file, flag, "here").output_dir == "here"
    assert given_flags(["--model", "x", "--output-dir=y"]) >= {"model_name_or_path", "output_dir"}
    assert config_values(["--config", file])["model_name_or_path"] == "M"
    assert config_values(["--config", "nowhere"]) == {}


@pytest.mark.parametrize(
    ("flags", "expected", "told"),
    [
        ([], ({"a": 1, "b": 2}, "M"), None),
        (
            ["--model", "N"],
            (None, "N"),
            "Because of `--model_name_or_path N` these settings of own.yaml have no effect: `sizes`. So",
        ),
        (["--model", "N", "--sizes", "{}"], ("{}", "N"), None),
        (
            ["--names", "b", "c"],
            ({"b": 2}, "M"),
            "Because of `--names b c` these settings of own.yaml have no effect: `sizes`.",
        ),
        (["--names", "a", "b"], ({"a": 1, "b": 2}, "M"), None),
        (["--no_fast"], ({"a": 1, "b": 2}, None), "Because of `--fast False`"),
        (["--fast"], ({"a": 1, "b": 2}, "M"), None),
    ],
)
@pytest.mark.parametrize("named", [True, False])
def test_the_command_line_wins_over_what_excludes_it(file, flags, expected, told, named, caplog):
    logging.warning_once.cache_clear()
    arguments = parse(*flags, "--config", file) if named else parse(*flags, default=file)
    assert (arguments.sizes, arguments.model_name_or_path) == expected
    assert (told or "have no effect") in caplog.text or told is None
    assert ("have no effect" in caplog.text) == (told is not None)


def test_what_is_excluded_is_not_missed_in_a_mapping_that_replaces_it(file, caplog):
    parse("--config", file, "--model", "N", "--sizes", '{"c": 3}')
    assert "takes the place" not in caplog.text
    parse("--config", file, "--names", "b", "--sizes", '{"c": 3}')
    assert "without its {'b': 2}." in caplog.text


def test_ready_configurations_have_names(tmp_path, monkeypatch):
    assert find_config("scenes") == CONFIGS / "scenes.yaml"
    assert find_config(None) is None
    with pytest.raises(
        FileNotFoundError, match=r"no configuration 'scene': give a YAML file, or one of cc12m_.*, scenes,"
    ):
        find_config("scene")
    with pytest.raises(FileNotFoundError, match="this command has no ready ones"):
        parse("--config", "scene")
    with pytest.raises(ValueError, match="configuration 'scenes' is for another command: give a YAML file, or none"):
        parse("--config", "scenes")
    (tmp_path / "scenes").write_text("output_dir: mine\n")
    monkeypatch.chdir(tmp_path)
    assert parse("--config", "scenes").output_dir == "mine"  # a file wins


def test_a_configuration_is_printed_as_it_stands(file, capsys):
    with pytest.raises(SystemExit) as stopped:
        parse("--print-config", "--config", file)
    assert stopped.value.code == 0
    assert capsys.readouterr().out == Path(file).read_text()
    with pytest.raises(ValueError, match="leave out --output_dir"):
        parse("--print_config", "--config", file, "--output", "x")
    with pytest.raises(ValueError, match="add `--config` with"):
        parse("--print_config")


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: path.stem)
def test_ready_files_name_no_file_of_a_clone(path):
    text = path.read_text()
    assert yaml.safe_load(text)
    assert "examples/configs" not in text


def test_a_parser_of_commands_reads_hyphens_and_knows_what_was_meant(capsys):
    parser = FlagParser(prog="tool")
    command = parser.add_subparsers().add_parser("do")
    command.add_argument("--batch_size", type=int)
    command.add_argument("words", nargs="*")
    assert parser.parse_args(["do", "--batch-size", "3", "a-b"]).batch_size == 3
    options = parser.parse_args(["do", "--batch_size=4", "--", "--not-a-flag"])
    assert (options.batch_size, options.words) == (4, ["--not-a-flag"])
    with pytest.raises(SystemExit):
        parser.parse_args(["do", "--batch_sise", "3"])
    assert "error: unknown flag: --batch_sise (did you mean --batch_size?)" in capsys.readouterr().err

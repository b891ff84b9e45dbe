# SPDX-License-Identifier: Apache-2.0
"""The parser of the command line: it imports nothing else, because `tripletclip --help` waits for it."""

from __future__ import annotations

import argparse
import re
import sys
from typing import Any


class FlagParser(argparse.ArgumentParser):
    """A parser that reads `--some-flag` as `--some_flag`, and knows the flag that a misspelt one may mean."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        options.setdefault("allow_abbrev", False)
        super().__init__(*arguments, **options)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As `argparse` does it, with underscores for hyphens in the names of flags."""
        args = sys.argv[1:] if args is None else list(args)
        end = args.index("--") if "--" in args else len(args)
        return super().parse_known_args([*map(_with_underscores, args[:end]), *args[end:]], namespace)

    def error(self, message: str) -> Any:
        """Print the usage and end with status 2."""
        prefix = "unrecognized arguments: "
        if message.startswith(prefix):
            flags = [word for word in message[len(prefix) :].split() if word.startswith("-")]
            message = unknown_names("flag", flags or [message[len(prefix) :]], set(_long_flags(self)))
        super().error(message)


def _with_underscores(word: str) -> str:
    name, equals, value = word.partition("=")
    return name.replace("-", "_").replace("__", "--", 1) + equals + value if re.match("--[a-z]", word) else word


def _long_flags(parser: argparse.ArgumentParser) -> list[str]:
    """The long flags of a parser and of its commands, without `--`."""
    flags = [name[2:] for name in parser._option_string_actions if name.startswith("--")]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            flags += [name for command in action.choices.values() for name in _long_flags(command)]
    return flags


def unknown_names(what: str, unknown: list[str], names: set[str]) -> str:
    """Say which flags or keys are unknown, with what each may have meant, of `names`."""
    import difflib

    hints = []
    dashes = "--" if what == "flag" else ""
    for name in unknown:
        close = difflib.get_close_matches(name.lstrip("-").split("=")[0].replace("-", "_"), names, n=1)
        hints.append(f"{name}" + (f" (did you mean {dashes}{close[0]}?)" if close else ""))
    return f"unknown {what}{'s' if len(unknown) > 1 else ''}: {', '.join(hints)}"

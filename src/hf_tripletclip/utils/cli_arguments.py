# SPDX-License-Identifier: Apache-2.0
"""Arguments of a script: dataclasses filled from the command line and, below it, from a YAML file."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_type_hints

import yaml


def parse_with_config(
    dataclasses: Sequence[type],
    argv: Sequence[str],
    default_config: str | Path | None = None,
    *,
    description: str,
    prog: str | None = None,
    bare: Mapping[str, Any] | None = None,
) -> tuple[Any, ...]:
    """
    Fill dataclasses from command-line flags named like their fields.

    Args:
        dataclasses (`Sequence[type]`): As [`~transformers.HfArgumentParser`] takes them.
        argv (`Sequence[str]`): `--config FILE.yaml` names a file with the same names as the flags; flags win.
        default_config (`str` or `Path`, *optional*): The YAML file to use without `--config`.
        description (`str`): For `--help`.
        prog (`str`, *optional*): What `--help` calls the program; defaults to the script's name.
        bare (`Mapping[str, Any]`, *optional*): Flags that may stand without a value -> what that means.

    Returns:
        `tuple`: An instance of each dataclass.

    Raises:
        FileNotFoundError: The YAML file does not exist.
        ValueError: A flag or a key of the file is unknown, or a value is not allowed.
    """
    parser = _make_parser(dataclasses, description, prog)
    parser.add_argument("--config", metavar="FILE.yaml", default=default_config, help="YAML file with these names")
    for action in parser._actions:
        if action.dest in (bare or {}):
            action.nargs, action.const = "?", (bare or {})[action.dest]
        if isinstance(action, argparse._StoreFalseAction):  # it has the help of the flag that it turns off
            action.help, action.default = f"Turn `--{action.dest}` off.", argparse.SUPPRESS
    actions = {action.dest: action for action in parser._actions if action.dest not in ("help", "config")}
    names = set(actions)

    config_file = _config_file(argv, default_config)
    if config_file is not None:
        hints = {name: hint for kind in dataclasses for name, hint in get_type_hints(kind).items()}
        optional = {name for name, hint in hints.items() if type(None) in get_args(hint)}
        values = _read_config(Path(config_file), names)
        parser.set_defaults(
            **{name: _checked(name, value, actions[name], name in optional) for name, value in values.items()}
        )
    *arguments, _, unknown = parser.parse_args_into_dataclasses(
        args=list(argv), look_for_args_file=False, return_remaining_strings=True
    )
    if unknown:
        raise ValueError(_unknown("flag", [flag for flag in unknown if flag.startswith("-")] or unknown, names))
    if config_file is not None:
        _tell_what_is_replaced(values, arguments, config_file)
    return tuple(arguments)


def _tell_what_is_replaced(values: Mapping[str, Any], arguments: Sequence[Any], config_file: str | Path) -> None:
    """Warn of a mapping of the command line that takes the place of one in the file, whose other keys are gone."""
    from transformers.utils import logging  # here: as above

    for name, kept in values.items():
        given = next((getattr(one, name) for one in arguments if hasattr(one, name)), None)
        if not isinstance(kept, dict):
            continue
        try:
            now = yaml.safe_load(given) if isinstance(given, str) else given
        except yaml.YAMLError:
            continue  # `as_mapping` says so
        if isinstance(now, dict) and (lost := {key: value for key, value in kept.items() if key not in now}):
            logging.get_logger(__name__).warning(
                f"`--{name}` takes the place of the whole `{name}` of {config_file}: without its {lost}. Give these "
                "too if they should stay."
            )


def as_mapping(holder: Any, name: str) -> dict[str, Any]:
    """A field that YAML gives as a mapping and the command line as JSON, as a mapping; it is kept so."""
    value = getattr(holder, name)
    if isinstance(value, str):
        try:
            value = yaml.safe_load(value)  # JSON is YAML
        except yaml.YAMLError as error:
            raise ValueError(f"`{name}` is not valid JSON: {value!r}") from error
    if value is not None and not isinstance(value, dict):
        raise ValueError(f"`{name}` must be a mapping, as JSON on the command line; got {value!r}.")
    setattr(holder, name, value)
    return value or {}


def _make_parser(dataclasses: Sequence[type], description: str, prog: str | None) -> Any:
    from transformers import HfArgumentParser  # here: workers import scripts that import this module

    class Parser(HfArgumentParser):
        def error(self, message: str) -> Any:
            # argparse would print the usage of some 150 flags before the one line that matters
            raise ValueError(f"{message}; --help lists the flags")

    return Parser(
        list(dataclasses),  # type: ignore[arg-type]
        description=description,
        prog=prog,
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )


def as_columns(holder: Any, name: str = "columns") -> dict[str, str] | str | None:
    """Column names as `load_tripletdata` takes them: the name of a preset, or a mapping; it is kept so."""
    value = getattr(holder, name)
    if isinstance(value, str) and not value.lstrip().startswith("{"):
        return value
    return as_mapping(holder, name) or None


def _config_file(argv: Sequence[str], default: str | Path | None) -> str | Path | None:
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--config", default=default)
    return finder.parse_known_args(list(argv))[0].config


def config_values(argv: Sequence[str], default: str | Path | None) -> dict[str, Any]:
    """What the YAML file of a command line says, as it stands there; nothing where there is no file."""
    file = _config_file(argv, default)
    return {} if file is None else _read_config(Path(file), None)


def given_flags(argv: Sequence[str]) -> set[str]:
    """The names of the flags of a command line, which may be written with dashes."""
    return {part[2:].partition("=")[0].replace("-", "_") for part in argv if part.startswith("--")}


def _read_config(path: Path, names: set[str] | None) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"The config file {path} does not exist.")
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} must hold `name: value` lines, not a {type(config).__name__}.")
    if names is not None and (unknown := sorted(str(key) for key in config if key not in names)):
        raise ValueError(f"{path}: {_unknown('key', unknown, names)}")
    return config


def _checked(name: str, value: Any, action: argparse.Action, optional: bool) -> Any:
    """A value of the YAML file for argparse, which checks the types of strings only."""
    if value is None and not optional:
        raise ValueError(f"`{name}` is empty in the config file: give a value or leave it out.")
    if isinstance(value, list):
        if action.nargs not in ("+", "*"):
            raise ValueError(f"`{name}` is the list {value!r} in the config file: it takes one value.")
        return [str(part) for part in value]
    return value if value is None or isinstance(value, dict) else str(value)


def _unknown(what: str, unknown: list[str], names: set[str]) -> str:
    hints = []
    for name in unknown:
        close = difflib.get_close_matches(name.lstrip("-").split("=")[0], names, n=1)
        hints.append(f"{name}" + (f" (did you mean {close[0]}?)" if close else ""))
    return f"unknown {what}{'s' if len(unknown) > 1 else ''}: {', '.join(hints)}"

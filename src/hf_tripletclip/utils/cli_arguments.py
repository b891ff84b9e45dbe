# SPDX-License-Identifier: Apache-2.0
"""The flags of commands: dataclasses filled from the command line and from a configuration, a YAML file below it."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from hf_tripletclip.utils.flag_parser import unknown_names

CONFIGS = Path(__file__).parents[1] / "configs"  # the ready configurations, which travel in the package
# Name that transformers' users know -> our word for the same thing. Both are read, on the command line and in a file.
SHORT_NAMES = {
    "output_dir": "output",
    "model_name_or_path": "model",
    "models": "model",
    "dataset_name_or_path": "data",
    "processor_name_or_path": "processor",
    "max_train_samples": "max_rows",
}
PRINT = "print_config"
NOT_FIELDS = ("help", "config", PRINT)


@dataclass(frozen=True)
class Exclusion:
    """
    Settings of a configuration that make no sense beside a flag. What the user gives on the command line wins:
    [`parse_with_config`] leaves these settings of the configuration out, unless they are flags too, and says so.

    Args:
        flag (`str`): The flag's name.
        settings (`tuple[str, ...]`): Names of the settings.
        when (`Callable`, *optional*): Takes what the command line gives and what the configuration says, both name ->
            value, and returns whether they exclude each other; by default always.
        keep (`Callable`, *optional*): Takes the same two and returns names. If a setting is a mapping or a list of
            NAME=VALUE, the entries of these names stay.
        note (`str`): A further sentence for the user.
    """

    flag: str
    settings: tuple[str, ...]
    when: Callable[[Mapping[str, Any], Mapping[str, Any]], bool] = lambda given, config: True
    keep: Callable[[Mapping[str, Any], Mapping[str, Any]], set[str]] | None = None
    note: str = ""


def parse_with_config(
    dataclasses: Sequence[type],
    argv: Sequence[str],
    default_config: str | Path | None = None,
    *,
    description: str,
    prog: str | None = None,
    bare: Mapping[str, Any] | None = None,
    exclusions: Sequence[Exclusion] = (),
) -> tuple[Any, ...]:
    """
    Fill dataclasses from command-line flags named like their fields.

    Args:
        dataclasses (`Sequence[type]`): As [`~transformers.HfArgumentParser`] takes them.
        argv (`Sequence[str]`): `--config` gives a file with the same names as the flags, see [`find_config`]; flags
            win. `--print_config` prints that file and ends.
        default_config (`str` or `Path`, *optional*): The configuration to use without `--config`.
        description (`str`): For `--help`.
        prog (`str`, *optional*): What `--help` calls the program; defaults to the script's name.
        bare (`Mapping[str, Any]`, *optional*): Flags that may stand without a value -> what that means.
        exclusions (`Sequence[Exclusion]`): Settings of the configuration that a flag takes the place of.

    Returns:
        `tuple`: An instance of each dataclass.

    Raises:
        FileNotFoundError: There is no such configuration.
        ValueError: A flag or a key of the file is unknown, or a value is not allowed.
    """
    from transformers.hf_argparser import string_to_bool  # here: workers import scripts that import this module

    parser = _make_parser(dataclasses, description, prog)
    default = None if default_config is None else str(default_config)
    parser.add_argument(
        "--config", metavar="NAME_OR_FILE", default=default, help="A ready configuration, or a YAML file of flags."
    )
    parser.add_argument(
        f"--{PRINT}",
        f"--{PRINT.replace('_', '-')}",
        action="store_true",
        default=argparse.SUPPRESS,
        help="Print the configuration, for a file of your own, and end.",
    )
    for action in parser._actions:
        if action.dest in (bare or {}):
            action.nargs, action.const = "?", (bare or {})[action.dest]
        elif action.type is string_to_bool and action.nargs is None:  # as flags with a default do
            action.nargs, action.const = "?", True
        if isinstance(action, argparse._StoreFalseAction):  # it has the help of the flag that it turns off
            action.help, action.default = f"Turn `--{action.dest}` off.", argparse.SUPPRESS
    actions = {action.dest: action for action in parser._actions if action.dest not in NOT_FIELDS}
    for name in actions:
        if (short := SHORT_NAMES.get(name)) is not None and short not in actions:
            actions[name].option_strings.append(f"--{short}")
            parser._option_string_actions[f"--{short}"] = actions[name]
    names = set(actions)

    given = _given(parser, argv)
    if PRINT in given:
        _print_config(given, default_config, names)
        parser.exit()
    config_file = find_config(given.get("config", default_config), names)
    values: dict[str, Any] = {}
    if config_file is not None:
        hints = {name: hint for kind in dataclasses for name, hint in get_type_hints(kind).items()}
        optional = {name for name, hint in hints.items() if type(None) in get_args(hint)}
        values = _without_excluded(_read_config(config_file, names), given, exclusions, config_file)
        parser.set_defaults(
            **{name: _checked(name, value, actions[name], name in optional) for name, value in values.items()}
        )
    *arguments, _, unknown = parser.parse_args_into_dataclasses(
        args=list(argv), look_for_args_file=False, return_remaining_strings=True
    )
    if unknown:
        flags = {flag[2:] for flag in parser._option_string_actions if flag.startswith("--")}
        raise ValueError(unknown_names("flag", [flag for flag in unknown if flag.startswith("-")] or unknown, flags))
    _tell_what_is_replaced(values, given, config_file)
    return tuple(arguments)


def _make_parser(dataclasses: Sequence[type], description: str, prog: str | None) -> Any:
    from transformers import HfArgumentParser  # here: as above

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


def _given(parser: argparse.ArgumentParser, argv: Sequence[str]) -> dict[str, Any]:
    """The flags of a command line: name of the field -> value."""
    defaults = [(action, action.default) for action in parser._actions]
    for action, _ in defaults:
        action.default = argparse.SUPPRESS
    try:
        return vars(parser.parse_known_args([word for word in argv if word not in ("-h", "--help")])[0])
    finally:
        for action, default in defaults:
            action.default = default


def find_config(name: str | Path | None, names: set[str] | None = None, folder: Path = CONFIGS) -> Path | None:
    """
    The file of a configuration.

    Args:
        name (`str` or `Path`, *optional*): A YAML file, or the name of a ready configuration, such as `scenes`.
        names (`set[str]`, *optional*): The flags of the command, which says what configurations are ready for it.
        folder (`Path`, *optional*): Where the ready ones are.

    Raises:
        FileNotFoundError: There is none.
    """
    if name is None or Path(name).is_file():
        return None if name is None else Path(name)
    if not re.fullmatch(r"[\w-]+", str(name)):
        raise FileNotFoundError(f"The config file {name} does not exist.")
    file = folder / f"{name}.yaml"
    if not file.is_file():
        raise FileNotFoundError(
            f"There is no configuration {name!r}: give a YAML file, or {ready_configs(names, folder)}."
        )
    return file


def ready_configs(names: set[str] | None = None, folder: Path = CONFIGS, has: str | None = None) -> str:
    """
    The names of the ready configurations, as a message shows them.

    Args:
        names (`set[str]`, *optional*): The only flags that they may set.
        folder (`Path`, *optional*): Where they are.
        has (`str`, *optional*): A flag that they must set.
    """
    contents = {file.stem: _read_yaml(file) for file in sorted(folder.glob("*.yaml"))}
    found = [
        name
        for name, content in contents.items()
        if (names is None or _canonical(content, names).keys() <= names) and (has is None or has in content)
    ]
    return f"one of {', '.join(found)}" if found else "none, for this command has no ready ones"


def _print_config(given: Mapping[str, Any], default: str | Path | None, names: set[str]) -> None:
    """Print the file of a configuration as it stands, with its comments."""
    file = find_config(given.get("config", default), names)
    if file is None:
        raise ValueError(f"`--{PRINT}` prints a configuration: add `--config` with {ready_configs(names)}.")
    if others := [f"--{name}" for name in given if name not in NOT_FIELDS]:
        raise ValueError(f"`--{PRINT}` prints {file.name} as it is: leave out {', '.join(others)}.")
    print(file.read_text(encoding="utf-8"), end="")


def _without_excluded(
    values: dict[str, Any], given: Mapping[str, Any], exclusions: Sequence[Exclusion], file: Path
) -> dict[str, Any]:
    """What a configuration says, without the settings that the flags on the command line exclude."""
    left = dict(values)
    for rule in exclusions:
        if rule.flag not in given or not rule.when(given, values):
            continue
        gone = [name for name in rule.settings if left.get(name) is not None]
        for name in gone:
            value = left.pop(name)
            if rule.keep is not None and (kept := _entries(value, rule.keep(given, values))):
                left[name] = kept
        gone = [name for name in gone if name not in given and left.get(name) != values[name]]
        if gone:
            _warn(
                f"Because of `--{rule.flag} {_shown(given[rule.flag])}` these settings of {file.name} have no effect: "
                f"{', '.join(f'`{name}`' for name in gone)}.{rule.note and ' '}{rule.note}"
            )
    return left


def _entries(value: Any, names: set[str]) -> Any:
    """The entries of a setting that have these names, or none; `None` for what has no entries."""
    if isinstance(value, dict):
        return {key: entry for key, entry in value.items() if key in names}
    if isinstance(value, list):
        found = ((re.match(r"(\w+)[\w.]*=", str(entry)), entry) for entry in value)
        return [entry for match, entry in found if match is None or match[1] in names]
    return None


def _shown(value: Any) -> str:
    text = " ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _warn(text: str) -> None:
    from transformers.utils import logging  # here: as above

    if int(os.environ.get("RANK", 0)) == 0:  # once of several processes
        logging.get_logger(__name__).warning_once(text)


def _tell_what_is_replaced(values: Mapping[str, Any], given: Mapping[str, Any], config_file: Path | None) -> None:
    """Warn of a mapping of the command line that takes the place of one in the file, whose other keys are gone."""
    import yaml

    for name, kept in values.items():
        if not isinstance(kept, dict) or name not in given:
            continue
        try:
            now = yaml.safe_load(given[name]) if isinstance(given[name], str) else given[name]
        except yaml.YAMLError:
            continue  # `as_mapping` says so
        if isinstance(now, dict) and (lost := {key: value for key, value in kept.items() if key not in now}):
            _warn(
                f"`--{name}` takes the place of the whole `{name}` of {config_file}: without its {lost}. Give these "
                "too if they should stay."
            )


def as_mapping(holder: Any, name: str) -> dict[str, Any]:
    """A field that YAML gives as a mapping and the command line as JSON, as a mapping; it is kept so."""
    import yaml

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


def as_columns(holder: Any, name: str = "columns") -> dict[str, str] | str | None:
    """Column names as `load_tripletdata` takes them: the name of a preset, or a mapping; it is kept so."""
    value = getattr(holder, name)
    if isinstance(value, str) and not value.lstrip().startswith("{"):
        return value
    return as_mapping(holder, name) or None


def config_values(argv: Sequence[str], default: str | Path | None = None) -> dict[str, Any]:
    """What the configuration of a command line says, as it stands there; nothing if there is none."""
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--config", default=default)
    try:
        file = find_config(finder.parse_known_args(list(argv))[0].config)
    except FileNotFoundError:  # `parse_with_config` says so, with the names that are ready for the command
        return {}
    return {} if file is None else _canonical(_read_yaml(file), set(SHORT_NAMES) - {"models"})


def given_flags(argv: Sequence[str]) -> set[str]:
    """The names of the flags of a command line, with underscores, under each name of [`SHORT_NAMES`]."""
    names = {part[2:].partition("=")[0].replace("-", "_") for part in argv if part.startswith("--")}
    return names | {name for name, short in SHORT_NAMES.items() if short in names}


def _canonical(config: Mapping[str, Any], names: set[str]) -> dict[str, Any]:
    """A configuration under the names of the fields."""
    fields = {short: name for name, short in SHORT_NAMES.items() if name in names and short not in names}
    return {fields.get(key, key): value for key, value in config.items()}


def _read_yaml(path: Path) -> dict[str, Any]:
    import yaml

    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} must hold `name: value` lines, not a {type(config).__name__}.")
    return config


def _read_config(path: Path, names: set[str]) -> dict[str, Any]:
    config = _canonical(_read_yaml(path), names)
    if unknown := sorted(str(key) for key in config if key not in names):
        if path.parent == CONFIGS:
            raise ValueError(
                f"The configuration {path.stem!r} is for another command: give a YAML file, or {ready_configs(names)}."
            )
        raise ValueError(f"{path}: {unknown_names('key', unknown, names)}")
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

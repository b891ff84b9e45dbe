# SPDX-License-Identifier: Apache-2.0
"""The arguments of `tripletclip evaluate`, as flags or in a YAML file, and its main function."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from hf_tripletclip.evaluation.encoder import Encoder
from hf_tripletclip.evaluation.registry import BENCHMARKS, SUITES, resolve
from hf_tripletclip.evaluation.run import Outcome, choose, run_benchmarks, safe_name
from hf_tripletclip.results.result import format_result
from hf_tripletclip.utils.cli_arguments import Exclusion, as_mapping, given_flags, parse_with_config
from hf_tripletclip.utils.processes import EXPECTED, in_all_processes, start_processes

NAMED = "PLACE for all benchmarks (one that has a folder of its name there reads that), or NAME=PLACE for one"

PROTOCOLS = ("strict", "official")


@dataclass
class EvaluationArguments:
    """The arguments of an evaluation."""

    models: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Directories or Hub ids: CLIP-like models, published TripletCLIP checkpoints, PEFT adapters; or "
            "`scenes`, the small model beside the built-in data. They may also stand without this flag."
        },
    )
    benchmarks: list[str] = field(
        default_factory=lambda: ["default"],
        metadata={"help": f"Benchmarks: {', '.join(BENCHMARKS)}; or suites: {', '.join(SUITES)}."},
    )
    data: list[str] | None = field(
        default=None, metadata={"help": f"Where the data is, a path or the id of a Hub dataset: {NAMED}."}
    )
    images: list[str] | None = field(
        default=None, metadata={"help": f"Where the images are that annotations name: {NAMED}."}
    )
    option: list[str] | None = field(
        default=None,
        metadata={"help": "Other settings of a benchmark: NAME.SETTING=VALUE; docs/evaluation.md has them."},
    )
    options: dict[str, Any] | str | None = field(
        default=None, metadata={"help": 'The same as a mapping: {"winoground": {"revision": "..."}}.'}
    )
    protocol: str = field(
        default="strict", metadata={"help": "strict, or official: score as the benchmark's own script does."}
    )
    allow_missing: bool = field(
        default=False, metadata={"help": "Leave out rows whose images are missing, and count them in the result."}
    )
    max_rows: int | None = field(
        default=None, metadata={"help": "At most this many rows of each benchmark, drawn at random."}
    )
    batch_size: int = field(default=64, metadata={"help": "Images or captions at a time."})
    autocast: str | None = field(
        default=None, metadata={"help": "Encode in bfloat16 or float16. Default: the precision of the weights."}
    )
    device: str | None = field(default=None, metadata={"help": "Default: the machine's accelerator, or its CPU."})
    num_workers: int = field(default=0, metadata={"help": "Processes that read and preprocess images."})
    cache_dir: str | None = field(
        default=None, metadata={"help": "Keep embeddings in this folder and use them again."}
    )
    revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of the models."})
    output: str = field(default="evaluation", metadata={"help": "Folder of the results."})
    overwrite: bool = field(default=False, metadata={"help": "Compute a result again if it is there already."})
    errors: int = field(
        default=0, metadata={"help": "For each benchmark, write a page with this many rows that the model gets wrong."}
    )
    leakage: str | None = field(
        default=None,
        metadata={"help": "Look for the benchmarks' rows in this training set: a path, or the id of a Hub dataset."},
    )
    disable_tqdm: bool = field(default=False, metadata={"help": "Show no progress bars."})


def _asked_for(given: Mapping[str, Any], config: Mapping[str, Any]) -> set[str]:
    """Names of the benchmarks on the command line; the misspelt ones are told later."""
    return {found for name in given["benchmarks"] if name in BENCHMARKS or name in SUITES for found in resolve([name])}


# Benchmarks on the command line have no use for the configuration's settings of others.
EXCLUSIONS = (Exclusion("benchmarks", ("options", "option", "data", "images"), keep=_asked_for),)


def _split_models(argv: Sequence[str], all_first: bool = False) -> tuple[list[str], list[str]]:
    """
    The models among the arguments, and the other arguments. A model is no value of the flag before it.

    Args:
        argv (`Sequence[str]`): The arguments.
        all_first (`bool`, defaults to `False`): Whether a place for all benchmarks stands before places for one. What
            stands after these is then a model.
    """
    hints = get_type_hints(EvaluationArguments)
    models: list[str] = []
    rest: list[str] = []
    flag, values = "", [""]  # the last flag and its values
    for place, argument in enumerate(argv):
        if argument == "--":
            return [*models, *argv[place + 1 :]], rest
        if argument.startswith("-") and argument != "-":
            flag, equals, value = argument.partition("=")
            flag, values = flag.lstrip("-").replace("-", "_"), [value] if equals else []
            flag = "models" if flag == "model" else flag
            rest.append(argument)
            if equals:
                flag = ""  # it takes no more
        elif _is_value(flag, hints.get(flag), values, argument, all_first):
            values.append(argument)
            rest.append(argument)
        else:
            models.append(argument)
    return models, rest


def _is_value(flag: str, hint: Any, values: Sequence[str], argument: str, all_first: bool) -> bool:
    """Whether an argument is a value of the flag before it, which has these so far."""
    if flag == "benchmarks":  # a misspelt one is no model
        return argument in BENCHMARKS or argument in SUITES or not ("/" in argument or os.path.exists(argument))
    if flag in ("data", "images"):  # one place for all benchmarks, and others for one
        return _is_for_one(argument) or (not values if all_first else all(map(_is_for_one, values)))
    if flag in ("models", "option"):
        return flag == "models" or not values or "=" in argument
    if hint is bool:
        return not values and argument.lower() in ("true", "false", "yes", "no", "t", "f", "y", "n", "1", "0")
    return bool(flag) and not values


def _is_for_one(place: str) -> bool:
    return place.partition("=")[0] in BENCHMARKS and "=" in place


def parse_evaluation_arguments(argv: Sequence[str]) -> EvaluationArguments:
    """
    Read the arguments. Models stand before the first flag or after the values of any; `--` may stand before them.

    Raises:
        FileNotFoundError: The config file does not exist.
        ValueError: A flag or a key is unknown, a value is not allowed, or there is no model.
    """
    models, rest = _split_models(argv)
    flags = given_flags(rest)
    if not models and not {"models", "config"} & flags:
        models, rest = _split_models(argv, all_first=True)
    if models and "models" in flags:
        raise ValueError("name the models in one place: as they are, or with --models")
    argv = [*(["--models", *models] if models else []), *rest]
    (arguments,) = parse_with_config(
        (EvaluationArguments,),
        argv,
        description="Evaluate CLIP-like models on benchmarks.",
        prog="tripletclip evaluate MODEL [MODEL ...]",
        exclusions=EXCLUSIONS,
    )
    as_mapping(arguments, "options")
    if not arguments.models:
        raise ValueError("name a model: tripletclip evaluate MODEL --benchmarks triplets --data scenes")
    if arguments.protocol not in PROTOCOLS:
        raise ValueError(f"`protocol` is {arguments.protocol!r}; give {' or '.join(PROTOCOLS)}")
    if arguments.max_rows is not None and arguments.max_rows < 1:
        raise ValueError(f"`max_rows` is {arguments.max_rows}; give at least 1, or leave it out")
    if arguments.errors < 0:
        raise ValueError(f"`errors` is {arguments.errors}; give the number of rows to show, or leave it out")
    return arguments


def benchmark_options(arguments: EvaluationArguments) -> dict[str, Any]:
    """
    The settings of each benchmark, from `options` and, over them, `option`.

    Raises:
        ValueError: One is not written as NAME.SETTING=VALUE.
    """
    mapping = arguments.options if isinstance(arguments.options, Mapping) else {}
    found = {name: dict(of) if isinstance(of, Mapping) else of for name, of in mapping.items()}
    for text in arguments.option or ():
        key, equals, value = text.partition("=")
        name, dot, setting = key.partition(".")
        if not (equals and dot and setting) or name not in BENCHMARKS:
            raise ValueError(
                f"`option` is {text!r}: write NAME.SETTING=VALUE, where NAME is one of {', '.join(BENCHMARKS)}"
            )
        if not isinstance(found.setdefault(name, {}), dict):
            raise ValueError(f"`options` of {name} is {found[name]!r}: give a mapping beside --option {text}")
        try:
            found[name][setting] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ValueError(f"`option` {text!r} has no value that can be read: {error}") from error
    return found


def main(argv: Sequence[str]) -> int:
    """
    Evaluate models from command-line arguments, see [`EvaluationArguments`] and
    [`~hf_tripletclip.evaluation.run.evaluate`].

    Returns:
        `int`: The exit status: 1 if a model or a benchmark failed.
    """
    arguments = parse_evaluation_arguments(argv)
    state = start_processes(arguments.device)
    try:
        return _evaluate(arguments)
    except EXPECTED:
        if state.is_main_process:
            raise
        return 1  # the first process says why
    finally:
        state.destroy_process_group()


def _evaluate(arguments: EvaluationArguments) -> int:
    places: dict[str, Any] = {"data": arguments.data, "images": arguments.images}
    shared = {name: getattr(arguments, name) for name in ("protocol", "allow_missing", "max_rows")}
    chosen = choose(arguments.benchmarks, **places, options=benchmark_options(arguments), shared=shared)
    folders: dict[str, str] = {}
    for source in dict.fromkeys(arguments.models):
        name = safe_name(_name(arguments, source))
        if name in folders:
            raise ValueError(
                f"results of {folders[name]} and of {source} would both go to {name}: evaluate each alone"
            )
        folders[name] = source
    failed = [name for name, made in chosen.items() if isinstance(made, Exception)]
    for name in failed:
        _complain(name, chosen.pop(name))
    done = 0
    for source in folders.values() if chosen else ():
        try:
            encoder = in_all_processes(lambda: _load(arguments, source))  # noqa: B023
        except EXPECTED as error:
            _complain(source, error)
            failed.append(source)
            continue
        _say(f"{encoder.name}: {encoder.description()['parameters'] / 1e6:,.1f} M parameters, on {encoder.device}")
        for outcome in run_benchmarks(encoder, chosen, output=arguments.output, overwrite=arguments.overwrite):
            if _report(arguments, outcome):
                done += 1
            else:
                failed.append(f"{outcome.name} of {source}" if len(arguments.models) > 1 else outcome.name)
    if failed:
        others = f"; the other results are in {arguments.output}" if done else ""
        _say(f"failed: {', '.join(failed)}{others}", sys.stderr)
    return 1 if failed else 0


def _name(arguments: EvaluationArguments, source: str) -> str:
    return source if arguments.revision is None else f"{source}@{arguments.revision}"


def _load(arguments: EvaluationArguments, source: str) -> Encoder:
    return Encoder.of(
        source,
        name=_name(arguments, source),
        revision=arguments.revision,
        device=arguments.device,
        batch_size=arguments.batch_size,
        autocast=arguments.autocast,
        num_workers=arguments.num_workers,
        progress=not arguments.disable_tqdm,
        cache_dir=arguments.cache_dir,
    )


def _report(arguments: EvaluationArguments, outcome: Outcome) -> bool:
    """Print a result, and write the pages that were asked for. Returns whether all of it worked."""
    if outcome.error is not None:
        _complain(outcome.name, outcome.error)
        return False
    assert outcome.result is not None
    where: Any = outcome.path
    if outcome.kept:
        where = f"kept from {where}; --overwrite computes it again"
    elif outcome.replaced:
        where = f"{where}, in place of an older result: {outcome.replaced}"
    _say(f"\n{outcome.name}: {where}")
    _say(format_result(outcome.result))
    try:
        if arguments.errors:
            in_all_processes(lambda: _write_errors(outcome, arguments.errors))
        if arguments.leakage is not None:
            in_all_processes(lambda: _check_leakage(outcome, arguments))
    except EXPECTED as error:
        _complain(outcome.name, error)
        return False
    return True


def _write_errors(outcome: Outcome, number: int) -> None:
    if not _is_main():
        return
    from hf_tripletclip.evaluation.report.errors import write_errors_page

    assert outcome.result is not None
    if not hasattr(outcome.benchmark, "checked_items") or outcome.result.raw:
        print(f"{outcome.name} has no page of errors: it does not consist of questions")
        return
    page = _beside(outcome, "errors.html")
    write_errors_page(page, outcome.benchmark, outcome.result, number)
    print(f"the rows that it gets wrong: {page}")


def _check_leakage(outcome: Outcome, arguments: EvaluationArguments) -> None:
    if not _is_main():
        return
    from hf_tripletclip.evaluation.checks.leakage import check_leakage

    assert outcome.benchmark is not None
    report = check_leakage(
        outcome.benchmark,
        arguments.leakage or "",
        num_workers=arguments.num_workers,
        progress=not arguments.disable_tqdm,
    )
    page = _beside(outcome, "leakage.json")
    page.write_text(json.dumps(report.to_dict(), indent=1) + "\n", encoding="utf-8")
    print(f"{report.format_table()}\n{page}")


def _beside(outcome: Outcome, name: str) -> Path:
    assert outcome.path is not None
    return outcome.path.with_name(f"{outcome.name}_{name}")


def _is_main() -> bool:
    return start_processes().is_main_process


def _say(text: str, to: Any = None) -> None:
    if _is_main():
        print(text, file=to or sys.stdout, flush=True)


def _complain(what: str, error: Any) -> None:
    if os.environ.get("TRIPLETCLIP_DEBUG") == "1":
        traceback.print_exception(error)
    text = str(error)
    _say(f"error: {text if text.startswith(what) else f'{what}: {text}'}", sys.stderr)

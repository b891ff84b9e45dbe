# SPDX-License-Identifier: Apache-2.0
"""The runner: a model on several benchmarks. Each result is written at once, and an error stops only one."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_tripletclip.evaluation.benchmark import Benchmark
from hf_tripletclip.evaluation.encoder import Encoder
from hf_tripletclip.evaluation.registry import EVERY, Places, build_benchmark, by_benchmark, resolve
from hf_tripletclip.results.result import EvaluationResult
from hf_tripletclip.utils.processes import EXPECTED, from_first_process, in_all_processes

Chosen = Mapping[str, "Benchmark | Exception"]


@dataclass
class Outcome:
    """
    The outcome of running a benchmark.

    Args:
        name (`str`): Its name.
        benchmark ([`Benchmark`], *optional*): `None` if it could not be made.
        result ([`EvaluationResult`], *optional*): `None` if it failed.
        error (`Exception`, *optional*): Why it failed.
        kept (`bool`): Whether an existing result was used.
        path (`Path`, *optional*): The result's file.
        replaced (`str`, *optional*): Why an existing result could not be used.
    """

    name: str
    benchmark: Benchmark | None = None
    result: EvaluationResult | None = None
    error: Exception | None = None
    kept: bool = False
    path: Path | None = None
    replaced: str | None = None


class BenchmarksFailed(ValueError):
    """
    Some benchmarks failed.

    Args:
        errors (`dict[str, Exception]`): Benchmark -> why.
        results (`dict[str, EvaluationResult]`): The results of the other benchmarks.
    """

    def __init__(self, errors: dict[str, Exception], results: dict[str, EvaluationResult]) -> None:
        super().__init__("; ".join(f"{name}: {error}" for name, error in errors.items()))
        self.errors, self.results = errors, results


def evaluate(
    model: Any,
    benchmarks: str | Benchmark | Sequence[str | Benchmark] = "default",
    *,
    processor: Any = None,
    data: Places = None,
    images: Places = None,
    options: Mapping[str, Mapping[str, Any] | str] | None = None,
    output: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    **encoder_options: Any,
) -> dict[str, EvaluationResult]:
    """
    Evaluate a model on several benchmarks.

    In a job of several processes all must call it. Each gets all results, and the first one writes the files.

    Args:
        model: An [`Encoder`], a model, or the directory or Hub id of a CLIP-like model, a published TripletCLIP
            checkpoint or a PEFT adapter.
        benchmarks (`str`, [`Benchmark`] or a sequence of them, defaults to `"default"`): Names of benchmarks and
            suites, or benchmarks.
        processor ([`~transformers.ProcessorMixin`], *optional*): The processor of a model that is given as an object.
        data, images (`str`, `Sequence[str]` or `Mapping[str, str]`, *optional*): Where the benchmarks' data and images
            are: one place for all benchmarks (a benchmark uses the folder with its name there, if it exists), or a
            mapping from the name, with `"*"` for the others. A place is a directory, a file or the id of a Hub
            dataset.
        options (`Mapping[str, Mapping[str, Any]]`, *optional*): Benchmark -> its settings.
        output (`str` or `os.PathLike`, *optional*): A folder. Each result is written to `<model>/<benchmark>.json` and
            `.parquet` in it. A result that exists there for the same model, data, settings and versions is not
            computed again.
        overwrite (`bool`, defaults to `False`): Compute all again.
        encoder_options: Arguments of [`Encoder`]: `batch_size`, `device`, `autocast`, `num_workers`, `progress`,
            `cache_dir`.

    Returns:
        `dict[str, EvaluationResult]`: By the benchmark's name.

    Raises:
        OSError: The model cannot be loaded.
        ValueError: There is no such benchmark, or the model is not CLIP-like.
        BenchmarksFailed: Some benchmarks failed. This `ValueError` holds the results of the others.

    Example:

    ```python
    >>> from hf_tripletclip.evaluation import evaluate

    >>> results = evaluate("openai/clip-vit-base-patch32", ["sugarcrepe", "winoground"], data={"sugarcrepe": "data"})
    >>> results["sugarcrepe"].metrics["macro"]
    ```"""
    given = [benchmarks] if isinstance(benchmarks, (str, Benchmark)) else list(benchmarks)
    names = [benchmark for benchmark in given if isinstance(benchmark, str)]
    chosen = choose(names, data=data, images=images, options=options)
    for benchmark in given:
        if isinstance(benchmark, Benchmark):
            if benchmark.name in chosen:
                raise ValueError(
                    f"{benchmark.name} is given twice, and results are called by the benchmark's name: evaluate each "
                    "by a call of its own, with its own `output`."
                )
            chosen[benchmark.name] = benchmark
    encoder = Encoder.of(model, processor, **encoder_options)
    outcomes = list(run_benchmarks(encoder, chosen, output=output, overwrite=overwrite))
    results = {outcome.name: outcome.result for outcome in outcomes if outcome.result is not None}
    if errors := {outcome.name: outcome.error for outcome in outcomes if outcome.error is not None}:
        raise BenchmarksFailed(errors, results)
    return results


def choose(
    names: Sequence[str],
    *,
    data: Places = None,
    images: Places = None,
    options: Mapping[str, Mapping[str, Any] | str] | None = None,
    shared: Mapping[str, Any] | None = None,
) -> dict[str, Benchmark | Exception]:
    """
    The benchmarks with these names and in these suites. For a benchmark that cannot be made, the error: the others can
    still run.

    Raises:
        ValueError: There is no such benchmark, or a place or a setting is for a benchmark that is not asked for.
    """
    wanted = resolve(names)
    places = {"data": by_benchmark(data, "data"), "images": by_benchmark(images, "images")}
    for flag, values in {**places, "options": options or {}}.items():
        if unused := [name for name in values if name not in (*wanted, EVERY)]:
            asked = ", ".join(wanted) or "none by name"
            raise ValueError(f"`{flag}` is given for {', '.join(unused)}, but the benchmarks asked for are {asked}")
    made: dict[str, Benchmark | Exception] = {}
    for name in wanted:
        try:
            made[name] = build_benchmark(
                name, options=(options or {}).get(name), shared=shared, alone=len(wanted) == 1, **places
            )
        except EXPECTED as error:
            made[name] = error
    return made


def run_benchmarks(
    encoder: Encoder,
    benchmarks: Chosen,
    *,
    output: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
) -> Iterator[Outcome]:
    """
    Run benchmarks one after the other; see [`evaluate`].

    Args:
        encoder ([`Encoder`]): The model.
        benchmarks (`Mapping[str, Benchmark | Exception]`): From [`choose`].
        output, overwrite: As in [`evaluate`].

    Returns:
        `Iterator[Outcome]`: The outcome of each benchmark, as soon as it is done.
    """
    for name, benchmark in benchmarks.items():
        if isinstance(benchmark, Exception):
            yield Outcome(name, error=benchmark)
            continue
        path = None if output is None else Path(output).expanduser() / safe_name(encoder.name) / f"{name}.json"
        outcome = Outcome(name, benchmark, path=path)
        try:
            _run(encoder, outcome, overwrite)
        except EXPECTED as error:
            outcome.result, outcome.error = None, error
        yield outcome


def _run(encoder: Encoder, outcome: Outcome, overwrite: bool) -> None:
    benchmark, path = outcome.benchmark, outcome.path
    assert benchmark is not None
    state = None
    if path is not None:
        state = in_all_processes(lambda: data_state(benchmark))
        # The first process decides, because the others may not see its files.
        found = None if overwrite else from_first_process(lambda: _look(path, benchmark, encoder, state))
        if found is not None:
            outcome.result, outcome.replaced = found
            outcome.kept = outcome.replaced is None
            if outcome.kept:
                return
    result = in_all_processes(lambda: benchmark(encoder))
    if state is not None:
        result.data[STATE] = state
    outcome.result = result
    if path is not None:
        in_all_processes(lambda: result.save(path) if encoder.state.is_main_process else None)


def _look(path: Path, benchmark: Benchmark, encoder: Encoder, state: str | None) -> Any:
    """The existing result and why it cannot be used; `None` if there is none. An error if it cannot be read."""
    try:
        result = read_result(path, benchmark.name)
    except (OSError, ValueError) as error:
        raise ValueError(str(error)) from error
    return result and (result, difference(result, benchmark, encoder, state))


# ---- Results in a folder: which file, and whether evaluating again would give the same ----

STATE = "state"  # in `EvaluationResult.data`: the digest of `data_state`
ROUNDING = ("batch_size",)  # settings that only change the rounding


def safe_name(model: str) -> str:
    """A model's name as the name of a folder: `someone/clip` -> `someone__clip`."""
    parts = [part for part in Path(model).parts if part not in (".", "..", os.sep)]
    return re.sub(r"[^\w.@=+-]+", "_", "__".join(parts)) or "model"


def data_state(benchmark: Benchmark) -> str | None:
    """
    A digest of everything that a benchmark would read: its rows, captions and images. An image file counts as changed
    if its path, size or time of change differs.

    Returns:
        `str` or `None`: `None` if the benchmark does not list its contents.

    Raises:
        OSError: The data does not exist.
        ValueError: The data does not have the expected form.
    """
    if type(benchmark).contents is Benchmark.contents:
        return None
    digest = hashlib.sha256()
    for key, images, captions in benchmark.contents():
        versions = [image.version() if image.exists() else f"no {image.name}" for image in images]
        digest.update(json.dumps([key, versions, list(captions)]).encode("utf-8", "surrogatepass") + b"\n")
    for detail in benchmark.details():
        digest.update(json.dumps(detail, default=str).encode("utf-8", "surrogatepass") + b"\n")
    return digest.hexdigest()[:16]


def difference(result: EvaluationResult, benchmark: Benchmark, encoder: Encoder, state: str | None) -> str | None:
    """Why evaluating again would give another result, in words; `None` if it would give the same."""
    if result.benchmark != benchmark.name:
        return f"it is of {result.benchmark}"
    if result.model.get("fingerprint") != encoder.description()["fingerprint"]:
        return "the model is another"
    settings: dict[str, Any] = json.loads(json.dumps(benchmark.settings(encoder)))  # as a file has them
    for name, value in settings.items():
        if name not in ROUNDING and result.settings.get(name) != value:
            return f"`{name}` was {result.settings.get(name)!r}"
    for library, version in result.versions.items():
        if getattr(sys.modules.get(library), "__version__", None) != version:
            return f"{library} was {version}"
    if state is None:
        return f"{benchmark.name} does not tell whether its data changed"
    return None if result.data.get(STATE) == state else "the data has changed"


def read_result(path: Path, name: str) -> EvaluationResult | None:
    """
    The result in a file, with its predictions; `None` if there is no file.

    Raises:
        ValueError: The file is not a result, or comes from another version.
    """
    if not path.exists():
        return None
    try:
        return EvaluationResult.load(path)
    except ValueError as error:
        raise ValueError(f"{error} It is in the way of the result of {name}: --overwrite replaces it.") from error

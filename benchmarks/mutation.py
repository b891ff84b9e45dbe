# SPDX-License-Identifier: Apache-2.0
"""The share of small changes of the source code that the tests notice.

    pip install -e ".[test,mutation]"
    python benchmarks/mutation.py --rooms objectives training --sample 60

A room is a folder of the package, or some of its files. The operators of cosmic-ray change a random sample of its
comparisons, and/or, not, constants and signs, one at a time, in a copy of the checkout. Then the tests that reach the
changed line run, or all tests of the room if the line runs at import. The tests of a room are those in the same folder
under `tests/`, without the slow ones. Changes that no test notices are listed: either a test is missing, or the change
makes no difference.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Queue

import cosmic_ray.plugins
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from coverage import CoverageData
from result_page import write_page

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "src/hf_tripletclip"
SCORING = ("caption_choice", "image_pairs", "items", "questions", "recall", "triplets")
SCORING_TESTS = [f"tests/evaluation/test_{name}.py" for name in ("caption_choice", "items", "recall", "triplets")]
ROOMS = {  # room -> the files to change, and the tests that must notice
    "objectives": (["objectives"], ["tests/objectives"]),
    "training": (["training"], ["tests/training", "tests/end_to_end/test_pretrain.py"]),
    "data": (["data"], ["tests/data"]),
    "checkpoints": (
        ["checkpoints", "layouts", "modeling"],
        ["tests/checkpoints", "tests/layouts", "tests/modeling", "tests/test_modeling.py"],
    ),
    "scoring": (
        ["results", *(f"evaluation/{name}.py" for name in SCORING)],
        ["tests/results", "tests/evaluation/test_metrics.py", "tests/evaluation/benchmarks", *SCORING_TESTS],
    ),
}
# Each operator changes to its opposite or to the next value. Tests that notice this also notice other changes there.
OPERATORS = """
ReplaceComparisonOperator_Eq_NotEq ReplaceComparisonOperator_NotEq_Eq
ReplaceComparisonOperator_Is_IsNot ReplaceComparisonOperator_IsNot_Is
ReplaceComparisonOperator_Lt_LtE ReplaceComparisonOperator_Lt_GtE
ReplaceComparisonOperator_LtE_Lt ReplaceComparisonOperator_LtE_Gt
ReplaceComparisonOperator_Gt_GtE ReplaceComparisonOperator_Gt_LtE
ReplaceComparisonOperator_GtE_Gt ReplaceComparisonOperator_GtE_Lt
ReplaceBinaryOperator_Add_Sub ReplaceBinaryOperator_Sub_Add ReplaceBinaryOperator_Mul_Div
ReplaceBinaryOperator_Div_Mul ReplaceBinaryOperator_FloorDiv_Div ReplaceBinaryOperator_Mod_FloorDiv
AddNot ReplaceTrueWithFalse ReplaceFalseWithTrue ReplaceAndWithOr ReplaceOrWithAnd NumberReplacer
ReplaceUnaryOperator_Delete_Not ReplaceUnaryOperator_Delete_USub ReplaceBreakWithContinue ReplaceContinueWithBreak
"""
SIGNATURES = ("parameters", "lambdef", "arglist")  # the `*` in them is not a product
NOTICED = ("noticed", "no end")
CONTEXTS = "[run]\nparallel = true\nsource_pkgs = hf_tripletclip\npatch = subprocess\n"


@dataclass(frozen=True)
class Change:
    """A small change: `operator` at its `occurrence`-th place in `file`."""

    file: str
    operator: str
    occurrence: int
    line: int


def places(files: Iterable[str]) -> dict[tuple[str, int, int], list[Change]]:
    """All possible changes, by their place (file, line, column)."""
    operators = {f"core/{name}": cosmic_ray.plugins.get_operator(f"core/{name}")() for name in OPERATORS.split()}
    changes: dict[tuple[str, int, int], list[Change]] = {}
    for file in files:
        nodes = list(ast_nodes(get_ast((ROOT / file).read_text(encoding="utf-8"))))
        for name, operator in operators.items():
            positions = ((node, start) for node in nodes for start, _ in operator.mutation_positions(node))
            for occurrence, (node, (line, column)) in enumerate(positions):
                if not (node.type == "operator" and node.parent.type in SIGNATURES):
                    changes.setdefault((file, line, column), []).append(Change(file, name, occurrence, line))
    return changes


def source_files(parts: Iterable[str]) -> Iterator[str]:
    """The Python files of a room, relative to the checkout."""
    for part in parts:
        path = ROOT / PACKAGE / part
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            yield file.relative_to(ROOT).as_posix()


def copy_of_checkout(folder: Path) -> Path:
    """Copy the files that git tracks, with their current contents."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True)
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def pytest_in(folder: Path, arguments: Sequence[str], timeout: float, log: Path | None = None) -> int | None:
    """
    The exit status of pytest in a fork of this process, which has imported the large libraries already; `None` if it
    does not end in time.
    """
    child = os.fork()
    if child == 0:
        os.setsid()  # so that processes started by the tests end with them
        os.chdir(folder)
        with open(log or os.devnull, "w") as out:
            os.dup2(out.fileno(), 1)
            os.dup2(out.fileno(), 2)
        # The tests and their processes must import the copy, and not this folder's `evaluate.py`.
        os.environ["PYTHONPATH"] = str(folder / "src")
        sys.path[:1] = [str(folder / "src"), str(folder)]
        status = 70
        try:
            import pytest

            status = int(pytest.main(["-q", "-p", "no:cacheprovider", "-p", "no:randomly", *arguments]))
        finally:
            os._exit(status)
    ends = time.monotonic() + timeout
    while time.monotonic() < ends:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def tests_by_line(folder: Path, tests: Sequence[str], log: Path) -> tuple[dict[tuple[str, int], set[str]], float]:
    """The tests that reach each line, and the time of all tests."""
    (folder / ".coveragerc").write_text(CONTEXTS)
    arguments = ["--cov", "--cov-config=.coveragerc", "--cov-context=test", "--cov-report=", *tests]
    started = time.monotonic()
    status = pytest_in(folder, arguments, 3600, log)
    if status != 0:
        raise SystemExit(f"The tests fail without a change (status {status}):\n{log.read_text()[-3000:]}")
    data = CoverageData(folder / ".coverage")
    data.read()
    reached: dict[tuple[str, int], set[str]] = {}
    for file in data.measured_files():
        name = Path(file).relative_to(folder).as_posix()
        for line, contexts in data.contexts_by_lineno(file).items():
            reached[name, line] = {context.rpartition("|")[0] for context in contexts if context}
    return reached, time.monotonic() - started


def try_change(change: Change, folder: Path, tests: Sequence[str], timeout: float) -> str:
    """`noticed`, `unnoticed`, or `no end` (which counts as noticed)."""
    path = folder / change.file
    code = path.read_text(encoding="utf-8")
    changed = mutate_code(code, cosmic_ray.plugins.get_operator(change.operator)(), change.occurrence)
    try:
        path.write_text(changed, encoding="utf-8")
        status = pytest_in(folder, ["-x", *tests], timeout)
    finally:
        path.write_text(code, encoding="utf-8")
    return "no end" if status is None else "unnoticed" if status in (0, 5) else "noticed"


def try_all(
    changes: Sequence[Change],
    reached: dict[tuple[str, int], set[str]],
    tests: Sequence[str],
    copies: Queue[Path],
    timeout: float,
) -> list[str]:
    """
    The outcome of each change; `unreached` if no test runs its line. Changes that are not noticed are printed at once.
    """

    def outcome(change: Change) -> str:
        place = (change.file, change.line)
        if place not in reached:
            return "unreached"
        folder = copies.get()
        try:
            return try_change(change, folder, sorted(reached[place]) or tests, timeout)
        finally:
            copies.put(folder)

    outcomes = []
    with ThreadPoolExecutor(copies.qsize()) as pool:
        for change, result in zip(changes, pool.map(outcome, changes), strict=True):
            outcomes.append(result)
            if result not in NOTICED:
                print(shown(change, result), flush=True)
    return outcomes


def shown(change: Change, outcome: str) -> str:
    """The changed line before and after, with the outcome."""
    code = (ROOT / change.file).read_text(encoding="utf-8")
    changed = mutate_code(code, cosmic_ray.plugins.get_operator(change.operator)(), change.occurrence)
    before, after = (text.splitlines()[change.line - 1].strip() for text in (code, changed))
    return f"- {outcome}: `{change.file.removeprefix(f'{PACKAGE}/')}:{change.line}`: `{before}` → `{after}`"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rooms", nargs="+", choices=ROOMS, default=list(ROOMS))
    parser.add_argument("--sample", type=int, default=60, help="places to change in each room")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    import datasets  # noqa: F401 - imported once, for all forks
    import pytest  # noqa: F401
    import transformers  # noqa: F401

    table, lists = [], []
    with tempfile.TemporaryDirectory() as work:
        copies: Queue[Path] = Queue()
        for job in range(options.jobs):
            copies.put(copy_of_checkout(Path(work) / f"copy-{job}"))
        for room in options.rooms:
            parts, tests = ROOMS[room]
            by_place = places(source_files(parts))
            draw = random.Random(options.seed)
            chosen = draw.sample(sorted(by_place), min(options.sample, len(by_place)))
            changes = [draw.choice(by_place[place]) for place in chosen]
            measured = copy_of_checkout(Path(work) / f"coverage-{room}")
            reached, seconds = tests_by_line(measured, tests, Path(work) / "log")
            outcomes = try_all(changes, reached, tests, copies, timeout=3 * seconds + 60)
            noticed = sum(outcome in NOTICED for outcome in outcomes)
            table.append(f"| {room} | {len(by_place)} | {len(changes)} | {noticed} | {noticed / len(changes):.0%} |")
            missed = [shown(*pair) for pair in zip(changes, outcomes, strict=True) if pair[1] not in NOTICED]
            lists += ["", f"Not noticed in {room}:", "", *missed] if missed else []
    command = f"--rooms {' '.join(options.rooms)} --sample {options.sample} --seed {options.seed}"
    head = ["| room | places | tried | noticed | share |", "| --- | --- | --- | --- | --- |"]
    write_page([f"`python benchmarks/mutation.py {command}`", "", *head, *table, *lists], options.output)


if __name__ == "__main__":
    main()

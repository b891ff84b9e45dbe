# SPDX-License-Identifier: Apache-2.0
"""Train the registered objectives on equal steps and several seeds, and compare them with two controls.

    python examples/compare_objectives.py --output_dir outputs/compare --seeds 0 1 2 --max_steps 1200

The controls: `clip_all` sees the same pairs as `tripletclip` in one plain softmax, and `clip (2x steps)` sees as many
images as `tripletclip` does. A gain over plain `clip` that both controls match is a gain from more images.

Each run is `examples/pretrain.py` in a folder of its own, so a stopped comparison continues where it was: finished
runs are kept, half-finished ones resume from their newest complete checkpoint. It writes `comparison.md`,
`comparison.json` and `comparison.png`. Flags that are not listed here go to every run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tqdm.auto import tqdm

from hf_tripletclip.cli import run_reporting_errors
from hf_tripletclip.data.schema import NEGATIVE_TYPES
from hf_tripletclip.evaluation.plots import plot_comparison, require_plots
from hf_tripletclip.objectives import available_objectives

PRETRAIN = Path(__file__).with_name("pretrain.py")
COLUMNS = {
    **{f"accuracy_{kind}": kind for kind in NEGATIVE_TYPES},
    "accuracy_macro": "macro",
    "text_score": "text",
    "image_score": "image",
    "group_score": "group",
    "image_to_text_recall@1": "I2T R@1",
    "text_to_image_recall@1": "T2I R@1",
}


@dataclass(frozen=True)
class Run:
    """One training run: a row of the table and one of its seeds."""

    label: str
    objective: str
    steps: int
    seed: int
    folder: Path

    def finished(self) -> bool:
        return (self.folder / "metrics.json").is_file()

    def command(self, extra: list[str]) -> list[str]:
        return [
            *(sys.executable, str(PRETRAIN), "--output_dir", str(self.folder), "--objective", self.objective),
            *("--max_steps", str(self.steps), "--seed", str(self.seed), "--disable_tqdm", "true"),
            *("--resume_from_checkpoint", "true", *extra),
        ]


def plan(output_dir: Path, objectives: list[str], seeds: list[int], steps: int) -> list[Run]:
    """All runs, seed by seed, so that an early look at the table compares like with like."""
    rows = [(name, name, steps) for name in objectives]
    if "clip" in objectives:
        rows.append(("clip (2x steps)", "clip", 2 * steps))
    return [
        Run(label, objective, steps, seed, output_dir / f"{objective}-{steps}-steps-seed-{seed}")
        for seed in seeds
        for label, objective, steps in rows
    ]


def train(run: Run, extra: list[str], threads: int) -> None:
    """Run one training in a process of its own; its output is kept in `log.txt`."""
    run.folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with (run.folder / "log.txt").open("a", encoding="utf-8") as log:
        status = subprocess.run(run.command(extra), stdout=log, stderr=subprocess.STDOUT, env=environment).returncode
    if status != 0:
        tail = "".join((run.folder / "log.txt").read_text(encoding="utf-8").splitlines(keepends=True)[-5:])
        raise RuntimeError(f"The run in {run.folder} ended with status {status}; its log ends with:\n{tail}")


def summarize(runs: list[Run]) -> dict[str, dict[str, tuple[float, float, int]]]:
    """label -> metric -> (mean, standard deviation over seeds, number of seeds), of the finished runs."""
    found: dict[str, list[dict[str, float]]] = {}
    for run in runs:
        if run.finished():
            found.setdefault(run.label, []).append(json.loads((run.folder / "metrics.json").read_text()))
    return {
        label: {
            name: (
                statistics.mean(metrics[name] for metrics in rows),
                statistics.stdev(metrics[name] for metrics in rows) if len(rows) > 1 else 0.0,
                len(rows),
            )
            for name in COLUMNS
            if all(name in metrics for metrics in rows)
        }
        for label, rows in found.items()
    }


def _cell(mean: float, deviation: float, seeds: int) -> str:
    return f"{mean:.3f} ± {deviation:.3f}" if seeds > 1 else f"{mean:.3f}"  # one run has no deviation


def as_markdown(summary: dict[str, dict[str, tuple[float, float, int]]]) -> str:
    names = [name for name in COLUMNS if any(name in metrics for metrics in summary.values())]
    lines = [
        "| objective | seeds | " + " | ".join(COLUMNS[name] for name in names) + " |",
        "| --- | --- | " + " | ".join("---" for _ in names) + " |",
    ]
    for label, metrics in summary.items():
        seeds = next(iter(metrics.values()))[2]
        cells = [_cell(*metrics[name]) if name in metrics else "" for name in names]
        lines.append(f"| {label} | {seeds} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/compare"))
    parser.add_argument("--objectives", nargs="+", default=list(available_objectives()))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--max_steps", type=int, default=1200, help="steps of each run (default: 1200)")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time (default: 1)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="CPU threads of a run")
    options, extra = parser.parse_known_args(argv)
    if unknown := set(options.objectives) - set(available_objectives()):
        raise ValueError(f"unknown objectives {sorted(unknown)}; there are {', '.join(available_objectives())}")
    fixed = ("--objective", "--seed", "--output_dir", "--max_steps", "--resume_from_checkpoint")
    if taken := [flag for flag in extra if flag.partition("=")[0] in fixed]:
        raise ValueError(f"{', '.join(taken)} differs from run to run and cannot be given to all of them")
    require_plots()
    options.output_dir.mkdir(parents=True, exist_ok=True)

    # Runs of different settings must not meet in one table.
    settings = {"max_steps": options.max_steps, "flags": extra}
    record = options.output_dir / "settings.json"
    if record.is_file() and (kept := json.loads(record.read_text())) != settings:
        raise ValueError(f"{options.output_dir} holds runs with {kept}, not {settings}: name another --output_dir")
    record.write_text(json.dumps(settings))

    runs = plan(options.output_dir, options.objectives, options.seeds, options.max_steps)
    waiting = [run for run in runs if not run.finished()]
    with ThreadPoolExecutor(options.jobs) as pool, tqdm(total=len(runs), initial=len(runs) - len(waiting)) as bar:
        for _ in pool.map(lambda run: train(run, extra, options.threads), waiting):
            bar.update()

    summary = summarize(runs)
    table = as_markdown(summary)
    (options.output_dir / "comparison.md").write_text(table + "\n", encoding="utf-8")
    (options.output_dir / "comparison.json").write_text(json.dumps(summary, indent=1), encoding="utf-8")
    plot_comparison(
        {
            label: {COLUMNS[name]: (mean, deviation) for name, (mean, deviation, _) in metrics.items()}
            for label, metrics in summary.items()
        },
        options.output_dir / "comparison.png",
    )
    print(table)


if __name__ == "__main__":
    sys.exit(run_reporting_errors(lambda: main(sys.argv[1:])))

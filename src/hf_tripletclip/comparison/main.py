# SPDX-License-Identifier: Apache-2.0
"""`examples/reproduce.py`: runs an experiment at a scale, and writes its tables."""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from hf_tripletclip.comparison.experiments import EXPERIMENTS, SCALES, Experiment, arms_at, find_experiment
from hf_tripletclip.comparison.runs import Run, execute_all, flags_of, hold_settings
from hf_tripletclip.comparison.scales import (
    FAULTY_FOLDER,
    SCENES_COLUMNS,
    mine_neighbours,
    paper_commands,
    scenes_flags,
    scenes_runs,
)
from hf_tripletclip.comparison.summary import summarize, write_summary
from hf_tripletclip.utils.flag_parser import FlagParser
from hf_tripletclip.utils.plots import require_plots

STEPS = {"scenes": 150, "photos": 300}
SEEDS = {"scenes": (0, 1, 2), "photos": (0, 1, 2, 3, 4), "paper": (0,)}
# Flags that differ between runs, so that they cannot be given to all of them.
OWN_FLAGS = ("--output_dir", "--max_steps", "--seed", "--resume_from_checkpoint", "--objective", "--objective_kwargs")


def parse(argv: Sequence[str], description: str | None) -> tuple[argparse.Namespace, list[str]]:
    """The options, and the flags for every run."""
    parser = FlagParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", default="main", help=f"one of {', '.join(EXPERIMENTS)} (default: main)")
    parser.add_argument("--scale", default="scenes", help=f"one of {', '.join(SCALES)} (default: scenes)")
    parser.add_argument("--data", help="photos: the folder of photographs; paper: cc3m or cc12m (default: cc3m)")
    parser.add_argument("--model", help="photos: the CLIP that is fine-tuned")
    parser.add_argument("--part", choices=("dev", "test"), help="photos: what is measured (default: test)")
    parser.add_argument(
        "--output",
        "--output_dir",
        dest="output_dir",
        type=Path,
        help="folder of the runs (default: outputs/reproduce/SCALE)",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="LABEL",
        help="arms to train; the baseline, which they are compared with, is trained too (default: all)",
    )
    parser.add_argument(
        "--baseline", metavar="LABEL", help="arm that the others are tested against (default: the experiment's)"
    )
    parser.add_argument(
        "--seeds", nargs="+", type=int, help="seeds of the runs (default: 0 1 2; photos: 0 1 2 3 4; paper: 0)"
    )
    parser.add_argument("--max_steps", type=int, help="steps of each run (default: 150; photos: 300)")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time (default: 1)")
    parser.add_argument("--threads", type=int, help="CPU threads of a run (default: an equal share of the cores)")
    parser.add_argument("--disable_tqdm", action="store_true", help="show no progress bar")
    options, extra = parser.parse_known_args(argv)
    if taken := [flag for flag in extra if flag.partition("=")[0] in OWN_FLAGS]:
        raise ValueError(f"{', '.join(taken)} differs between runs and cannot be given to all of them: leave it out.")
    if options.threads is None:
        options.threads = max((os.cpu_count() or 1) // max(options.jobs, 1), 1)
    for name in ("jobs", "threads", "max_steps"):
        if (value := getattr(options, name)) is not None and value < 1:
            raise ValueError(f"`--{name}` is {value}; give at least 1.")
    if negative := [seed for seed in options.seeds or () if seed < 0]:
        raise ValueError(f"`--seeds` has {negative[0]}; give 0 or more.")
    if options.seeds is not None and len(set(options.seeds)) < len(options.seeds):
        raise ValueError("`--seeds` names a seed twice: give each seed once.")
    return options, extra


def main(argv: Sequence[str], script: Path, description: str | None = None) -> str:
    """
    Run an experiment and print its tables; at the scale of the paper, print the commands that run it.

    Args:
        argv (`Sequence[str]`): Command-line arguments.
        script (`Path`): Path of `examples/pretrain.py`.
        description (`str`, *optional*): Description for `--help`.

    Returns:
        `str`: The printed text.

    Raises:
        ImportError: matplotlib or scipy is not installed.
        ChildProcessError: A run failed.
        ValueError: An option is not allowed, or `output_dir` holds runs with other settings.
    """
    options, extra = parse(argv, description)
    experiment = find_experiment(options.experiment, options.scale)
    if options.baseline is not None:
        arms_at(experiment, options.scale, [options.baseline])
        experiment = dataclasses.replace(experiment, baseline=options.baseline)
    seeds = options.seeds or list(SEEDS[options.scale])
    if options.scale == "paper":
        if options.model is not None or options.part is not None:
            raise ValueError("`--model` and `--part` are for photographs: leave them out.")
        commands = paper_commands(
            experiment,
            data=options.data or "cc3m",
            seeds=seeds,
            only=options.only,
            output_dir=options.output_dir,
            max_steps=options.max_steps,
            extra=extra,
        )
        print(text := "\n".join(commands))
        return text
    arms = arms_at(experiment, options.scale, options.only)  # refuses an unknown label before anything runs
    require_plots()
    root = options.output_dir or Path("outputs") / "reproduce" / options.scale
    steps = options.max_steps or STEPS[options.scale]
    named = {name: getattr(options, name) for name in ("data", "model", "part")}
    flags = scenes_flags(extra) if options.scale == "scenes" else {}
    _refuse_other_data(options, extra, faulty=any(arm.faulty for arm in arms))
    hold_settings(root, {"scale": options.scale, "max_steps": steps, "flags": flags, **named})
    runs, rows, columns = _runs(experiment, options, root, seeds, steps, script, extra)
    head = f"# {experiment.title}\n\n{experiment.question} ({experiment.source}.) {steps} steps at {options.scale}."
    if any(arm.faulty for arm in arms):
        from hf_tripletclip.comparison.faulty import filter_table, make_faulty

        make_faulty(root / FAULTY_FOLDER, progress=not options.disable_tqdm)
        head += f"\n\n{filter_table(root / FAULTY_FOLDER)}"
    by_neighbours = {arm.label for arm in arms if arm.needs_neighbours}
    if waiting := [run for run in runs if run.label in by_neighbours and not run.finished()]:
        mine_neighbours(waiting[0], "scenes", not options.disable_tqdm)
    tables = root / experiment.name
    tables.mkdir(exist_ok=True)

    def write() -> str:
        summary = summarize(rows, columns, experiment.baseline)
        return write_summary(summary, columns, experiment.baseline, tables, head)

    print(f"{len(runs)} runs in {root}, {sum(run.finished() for run in runs)} of them finished; tables in {tables}")
    execute_all(runs, jobs=options.jobs, threads=options.threads, progress=not options.disable_tqdm, after=write)
    text = write()
    print(text)
    return text


def _refuse_other_data(options: argparse.Namespace, extra: Sequence[str], faulty: bool) -> None:
    """Raise `ValueError` for options that would have no effect, or would make runs train on different data."""
    if options.scale == "scenes":
        if options.data is not None or options.model is not None or options.part is not None:
            raise ValueError(
                "`--data`, `--model` and `--part` are for photographs: leave them out, `scenes` draws its own data."
            )
        if faulty and (given := [f"--{name}" for name in flags_of(extra) if name.startswith("scenes_")]):
            raise ValueError(f"The data with faulty negatives ignore {', '.join(given)}: leave it out.")
        return
    if options.data is None or options.model is None:
        raise ValueError("Give the folder of photographs as `--data` and the CLIP that is fine-tuned as `--model`.")
    if extra:
        raise ValueError(f"Runs on photographs take no further flags: leave out {' '.join(extra)}.")


def _runs(
    experiment: Experiment,
    options: argparse.Namespace,
    root: Path,
    seeds: Sequence[int],
    steps: int,
    script: Path,
    extra: Sequence[str],
) -> tuple[list[Run], list[Run], Mapping[str, str]]:
    """The runs to train, the runs that are rows of the table, and the table's columns."""
    if options.scale == "scenes":
        runs = scenes_runs(experiment, script, root, seeds=seeds, max_steps=steps, only=options.only, extra=extra)
        return runs, runs, SCENES_COLUMNS
    from hf_tripletclip.comparison.photo_runs import measured_runs, photo_runs, prepare
    from hf_tripletclip.comparison.photos import COLUMNS

    data, model, part = Path(options.data), Path(options.model), options.part or "test"
    prepare(data, model, root / "data", part)
    runs = photo_runs(
        experiment, root, data=data, model=model, part=part, seeds=seeds, max_steps=steps, only=options.only
    )
    return runs, measured_runs(runs, root), COLUMNS

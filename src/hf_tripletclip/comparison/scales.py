# SPDX-License-Identifier: Apache-2.0
"""How an experiment's runs are trained at each scale: on the embedded data, on a folder of photographs, in a lab."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from hf_tripletclip.comparison.experiments import Arm, Experiment, arms_at
from hf_tripletclip.comparison.runs import Run, flags_of, folder_of, words_of
from hf_tripletclip.data.scenes.start import start_folder
from hf_tripletclip.data.schema import NEGATIVE_TYPES

SCENES_COLUMNS = {
    **{f"accuracy_{kind}": kind for kind in NEGATIVE_TYPES},
    "accuracy_macro": "macro",
    "text_score": "text",
    "image_score": "image",
    "group_score": "group",
    "image_to_text_recall@1": "I2T R@1",
    "text_to_image_recall@1": "T2I R@1",
}
SCENES_BATCH = 64
# Beside what the configuration `scenes` says: the test rows at the end are what counts, and a process that
# loads rows beside each run would take another run's core.
SCENES_FLAGS = {"eval_strategy": "no", "dataloader_num_workers": "0"}
# Below the folder of the runs: the data with faulty negatives, and what `tripletclip mine` found.
FAULTY_FOLDER, MINED_FOLDER = "faulty", "mined"
# The paper's configuration of each data set.
PAPER_CONFIGS = {"cc3m": "cc3m_vit_b32", "cc12m": "cc12m_vit_b32"}
PAPER_DATA = {"cc3m": "data/cc3m-triplets", "cc12m": "data/cc12m-triplets"}  # as the configurations name them
PAPER_MINER = "openai/clip-vit-base-patch32"  # whose neighbours fill batches
PAPER_STEPS = {"cc3m": 90_000, "cc12m": 230_000}
PAPER_BATCH = 1024


def scenes_runs(
    experiment: Experiment,
    script: Path,
    output_dir: Path,
    *,
    seeds: Sequence[int],
    max_steps: int,
    only: Sequence[str] | None = None,
    extra: Sequence[str] = (),
) -> list[Run]:
    """
    The runs on the embedded data, seed by seed: each is `examples/pretrain.py`, from the start that knows what the
    data show. With `--config scenes_scratch` among `extra` they begin with random weights.

    Args:
        experiment ([`Experiment`]): What is compared.
        script (`Path`): The training script.
        output_dir (`Path`): Where the runs' folders go.
        seeds (`Sequence[int]`): One run of each arm for each.
        max_steps (`int`): Steps of an arm that has not more.
        only (`Sequence[str]`, *optional*): Labels of the arms to train.
        extra (`Sequence[str]`): Flags that every run gets.
    """
    arms = arms_at(experiment, "scenes", only)
    return [_scenes_run(arm, script, output_dir, seed, max_steps, extra) for seed in seeds for arm in arms]


def scenes_flags(extra: Sequence[str]) -> dict[str, str]:
    """What every run on the embedded data gets beside its own flags: ours, and over them those that were given."""
    return SCENES_FLAGS | flags_of(extra)


def _scenes_run(arm: Arm, script: Path, root: Path, seed: int, max_steps: int, extra: Sequence[str]) -> Run:
    folder = folder_of(root, arm.runs, seed)
    # The same rows for all, with the texts that some methods need: an arm of several experiments is one run.
    data: dict[str, object] = (
        {"dataset_name_or_path": root / FAULTY_FOLDER} if arm.faulty else {"scenes_further_texts": True}
    )
    if arm.needs_neighbours:
        data["neighbours"] = root / MINED_FOLDER
    own = {
        "output_dir": folder,
        "max_steps": round(max_steps * arm.steps),
        "seed": seed,
        "disable_tqdm": True,
        "resume_from_checkpoint": True,
        **({"per_device_train_batch_size": round(SCENES_BATCH * arm.batch)} if arm.batch != 1 else {}),
        **data,
        **arm.flags,
    }
    given = [word for name, value in SCENES_FLAGS.items() for word in (f"--{name}", value)]
    return Run(arm.label, seed, folder, (sys.executable, str(script), *words_of(own), *given, *extra))


def mine_neighbours(run: Run, config: str, progress: bool = True) -> None:
    """
    Find the nearest rows of a run's training rows, as the start sees them. What is there is kept.

    Args:
        run ([`Run`]): On the embedded data, of an arm that needs neighbours.
        config (`str`): The configuration of the training script.
        progress (`bool`, defaults to `True`): Whether to show bars.

    Raises:
        FileExistsError: The folder holds neighbours of other rows.
    """
    from hf_tripletclip.mining import mine  # here: a refusal and the paper's commands need not wait for them
    from hf_tripletclip.training.run import scenes_options
    from hf_tripletclip.training.script_arguments import parse_arguments

    model_args, data_args, args = parse_arguments(list(run.command[2:]), config)
    options = scenes_options(data_args, model_args)
    mine(
        *("scenes", str(start_folder()), args.neighbours),
        num_negatives=0,
        splits=["train"],
        dataset_kwargs=options,
        progress=progress,
    )


def paper_commands(
    experiment: Experiment,
    *,
    data: str,
    seeds: Sequence[int],
    only: Sequence[str] | None = None,
    output_dir: Path | None = None,
    max_steps: int | None = None,
    extra: Sequence[str] = (),
) -> list[str]:
    """
    The commands that repeat an experiment with the paper's settings, for a machine that can run them.

    Args:
        experiment ([`Experiment`]): What is compared.
        data (`str`): `cc3m` or `cc12m`.
        seeds (`Sequence[int]`): One run of each arm for each.
        only (`Sequence[str]`, *optional*): Labels of the arms.
        output_dir (`Path`, *optional*): Where the runs' folders go; `outputs/EXPERIMENT-DATA` by default.
        max_steps (`int`, *optional*): Steps of an arm that has not more; the paper's by default.
        extra (`Sequence[str]`): Flags that every command gets.

    Raises:
        ValueError: There is no such data.
    """
    if data not in PAPER_CONFIGS:
        raise ValueError(f"At the scale of the paper `--data` is {' or '.join(PAPER_CONFIGS)}, not {data!r}.")
    root, commands = output_dir or Path("outputs") / f"{experiment.name}-{data}", []
    if any(arm.needs_neighbours for arm in arms_at(experiment, "paper", only)):
        rows = flags_of(extra).get("dataset_name_or_path", PAPER_DATA[data])  # those that are trained on
        mined = ["mine", rows, "--model", PAPER_MINER, "--output", str(root / MINED_FOLDER)]
        commands.append(shlex.join(["tripletclip", *mined, "--num_negatives", "0"]))
    for seed in seeds:
        start = None
        arms = arms_at(experiment, "paper", only)
        if experiment.start is not None:
            first = Arm(f"start {experiment.start}", {"objective": experiment.start})
            start, arms = folder_of(root, first.label, seed), (first, *arms)
        for arm in arms:
            folder = folder_of(root, arm.label, seed)
            flags: dict[str, object] = {"output_dir": folder, "seed": seed, **arm.flags}
            if arm.needs_neighbours:
                flags["neighbours"] = root / MINED_FOLDER
            if start is not None and folder != start:
                flags["model_name_or_path"] = start
            if arm.steps != 1 or max_steps is not None:
                flags["max_steps"] = round((max_steps or PAPER_STEPS[data]) * arm.steps)
            if arm.batch != 1:
                flags["per_device_train_batch_size"] = round(PAPER_BATCH * arm.batch)
            words = ["accelerate", "launch", "examples/pretrain.py", "--config", PAPER_CONFIGS[data], *words_of(flags)]
            commands.append(shlex.join([*words, *extra]))
    return commands

# SPDX-License-Identifier: Apache-2.0
"""The runs of an experiment on `scenes`, and the commands for a lab that repeats it with the paper's settings."""

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
# In addition to the configuration `scenes`: only the test rows at the end count, and a process that loads rows would
# take the core of another run.
SCENES_FLAGS = {"eval_strategy": "no", "dataloader_num_workers": "0"}
# In the folder of the runs: the data with faulty negatives, and the mined neighbours.
FAULTY_FOLDER, MINED_FOLDER = "faulty", "mined"
# The paper's configuration of each data set.
PAPER_CONFIGS = {"cc3m": "cc3m_vit_b32", "cc12m": "cc12m_vit_b32"}
PAPER_DATA = {"cc3m": "data/cc3m-triplets", "cc12m": "data/cc12m-triplets"}  # as in the configurations
PAPER_MINER = "openai/clip-vit-base-patch32"  # the model that finds the neighbours for batches
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
    The runs on `scenes`, seed by seed. Each calls `examples/pretrain.py`, and starts from the small CLIP that
    recognises the scenes. If `extra` has `--config scenes_scratch`, they start from random weights.

    Args:
        experiment ([`Experiment`]): The experiment.
        script (`Path`): The training script.
        output_dir (`Path`): Folder for the runs' folders.
        seeds (`Sequence[int]`): The seeds; each arm has a run for each.
        max_steps (`int`): Training steps of an arm without a factor.
        only (`Sequence[str]`, *optional*): Labels of the arms to train.
        extra (`Sequence[str]`): Further flags for every run.
    """
    arms = arms_at(experiment, "scenes", only)
    return [_scenes_run(arm, script, output_dir, seed, max_steps, extra) for seed in seeds for arm in arms]


def scenes_flags(extra: Sequence[str]) -> dict[str, str]:
    """The flags that every run on `scenes` gets in addition to its own: the defaults, overridden by `extra`."""
    return SCENES_FLAGS | flags_of(extra)


def _scenes_run(arm: Arm, script: Path, root: Path, seed: int, max_steps: int, extra: Sequence[str]) -> Run:
    folder = folder_of(root, arm.runs, seed)
    # All arms get the same rows, with the texts that some methods need, so that experiments can share runs.
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
    Find the nearest neighbours of a run's training rows by the embeddings of the start. Existing ones are kept.

    Args:
        run ([`Run`]): A run on `scenes` of an arm that needs neighbours.
        config (`str`): Configuration of the training script.
        progress (`bool`, defaults to `True`): Whether to show progress bars.

    Raises:
        FileExistsError: The folder holds neighbours of other rows.
    """
    from hf_tripletclip.mining import mine  # here, because errors and the paper's commands do not need them
    from hf_tripletclip.training.run_inputs import scenes_options
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
        experiment ([`Experiment`]): The experiment.
        data (`str`): `cc3m` or `cc12m`.
        seeds (`Sequence[int]`): The seeds; each arm has a run for each.
        only (`Sequence[str]`, *optional*): Labels of the arms.
        output_dir (`Path`, *optional*): Folder for the runs' folders; `outputs/EXPERIMENT-DATA` by default.
        max_steps (`int`, *optional*): Training steps of an arm without a factor; the paper's by default.
        extra (`Sequence[str]`): Further flags for every command.

    Raises:
        ValueError: `data` is unknown.
    """
    if data not in PAPER_CONFIGS:
        raise ValueError(f"`--data` is {data!r}; at the scale of the paper give {' or '.join(PAPER_CONFIGS)}.")
    root, commands = output_dir or Path("outputs") / f"{experiment.name}-{data}", []
    if any(arm.needs_neighbours for arm in arms_at(experiment, "paper", only)):
        rows = flags_of(extra).get("dataset_name_or_path", PAPER_DATA[data])  # the training rows
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

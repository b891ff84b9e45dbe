# SPDX-License-Identifier: Apache-2.0
"""The same steps on a cluster, by datatrove's Slurm and Ray executors."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from typing import Any

from datatrove.executor.base import PipelineExecutor
from datatrove.pipeline.base import PipelineStep

from hf_tripletclip.generation.engine import Job, StageStep
from hf_tripletclip.generation.filters import FilterSettings
from hf_tripletclip.generation.publish import LOGS_FOLDER, write_dataset
from hf_tripletclip.generation.run import GenerationSettings, locked, prepare


class WriteStep(PipelineStep):
    """The last step: one task that writes the dataset of all units."""

    name = "write the dataset"
    type = "TRIPLETCLIP"

    def __init__(self, job: Job, filters: FilterSettings) -> None:
        super().__init__()
        self.job = job
        self.filters = filters

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Any]:
        with locked(self.job.output):
            write_dataset(self.job, self.filters, progress=False)
        return iter(())


def executors(
    settings: GenerationSettings, job: Job, kind: str, workers: int, options: Mapping[str, Any]
) -> list[PipelineExecutor]:
    """
    One executor per stage, each waiting for the one before, and one that writes the dataset.

    Args:
        settings ([`GenerationSettings`]): What is made.
        job ([`Job`]): Its job.
        kind (`str`): `slurm` or `ray`.
        workers (`int`): Tasks that run at a time.
        options (`Mapping`): Of the executor, by datatrove's names; `tasks` (defaults to `workers`) is how many the
            units are dealt out to.

    Raises:
        ImportError: Ray is not installed.
        ValueError: An option is missing or unknown.
    """
    options = dict(options)
    tasks = int(options.pop("tasks", workers))
    chain: list[PipelineExecutor] = []
    run = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"  # datatrove's records of older runs must not count
    last: dict[str, Any] = {"gpus_per_task": 0} if "gpus_per_task" in options else {}
    steps: list[tuple[str, PipelineStep, int, dict[str, Any]]] = [
        *((step, StageStep(job, step), tasks, {}) for step in job.stages),
        ("write", WriteStep(job, settings.filters), 1, last),
    ]
    for name, step, count, changes in steps:
        common = {
            "tasks": count,
            "workers": min(workers, count),
            "logging_dir": str(job.work / LOGS_FOLDER / run / name),
            "skip_completed": False,
            "depends": chain[-1] if chain else None,
            **options,
            **changes,
        }
        try:
            if kind == "slurm":
                from datatrove.executor.slurm import SlurmPipelineExecutor

                executor: PipelineExecutor = SlurmPipelineExecutor([step], job_name=f"tripletclip-{name}", **common)
            else:
                from datatrove.executor.ray import RayPipelineExecutor

                executor = RayPipelineExecutor([step], **common)
        except TypeError as error:
            raise ValueError(f"`executor_options` of {kind}: {error}") from error
        chain.append(executor)
    return chain


def submit(
    settings: GenerationSettings, kind: str, workers: int, options: Mapping[str, Any], overwrite: bool = False
) -> str:
    """
    Submit a run to a cluster; the output folder must be on a disk that all its machines see. The same call continues
    a run that failed.

    Returns:
        `str`: What was submitted, for the terminal.

    Raises:
        FileExistsError, OSError, ValueError, ImportError: As [`generate`]; also where there is no `sbatch` here.
    """
    job = settings.job()
    with locked(job.output):
        if (report := prepare(job, overwrite)) is not None:
            return report.summary()
    chain = executors(settings, job, kind, workers, options)
    try:
        chain[-1].run()  # it sees to those that it waits for
    except FileNotFoundError as error:
        raise OSError(f"{error.filename or 'sbatch'} is not here: submit from a machine of the cluster.") from error
    return f"Submitted {', '.join(job.stages)} and the writing of {job.output}."

# SPDX-License-Identifier: Apache-2.0
"""The same steps on a cluster: a chain of jobs for Slurm, or tasks of Ray that this process waits for."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hf_tripletclip.generation import local  # noqa: F401 - datatrove's own log is off
from hf_tripletclip.generation.engine import Job, StageStep
from hf_tripletclip.generation.filters import FilterSettings
from hf_tripletclip.generation.jobs import SubmittedJob, cancel, complaint, forget_jobs, refuse_while_queued, save_jobs
from hf_tripletclip.generation.plan import LOGS_FOLDER
from hf_tripletclip.generation.publish import GenerationReport, write_dataset
from hf_tripletclip.generation.run import GenerationSettings, locked, prepare, run_here
from hf_tripletclip.generation.stage import Stage
from hf_tripletclip.generation.tasks import WRITE, recorded
from hf_tripletclip.utils.extras import optional_imports

with optional_imports():
    from datatrove.executor import slurm
    from datatrove.executor.base import PipelineExecutor
    from datatrove.executor.ray import RayPipelineExecutor
    from datatrove.executor.slurm import SlurmPipelineExecutor
    from datatrove.pipeline.base import PipelineStep

# What a task gets by default. A language model of 7 B parameters takes 15 GB of memory while it is
# loaded in half precision, SDXL about as much; what reads and writes rows takes a few units of them.
WITH_A_MODEL = {"cpus_per_task": 4, "mem_per_cpu_gb": 8}
WITHOUT = {"cpus_per_task": 1, "mem_per_cpu_gb": 4}
LOCK_SECONDS = 300.0  # that the writing job waits for the command that is still submitting it
POLL_SECONDS = 5.0  # between looks at Ray's tasks
START_SECONDS = 300  # in which Ray must start a task on a free machine, unless `start_timeout` says otherwise


class WriteStep(PipelineStep):
    """The last step: one task that writes the dataset of all units."""

    name = "write the dataset"
    type = "TRIPLETCLIP"

    def __init__(self, job: Job, filters: FilterSettings) -> None:
        super().__init__()
        self.job = job
        self.filters = filters

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Any]:
        with locked(self.job.output, wait=LOCK_SECONDS):
            if self.job.is_to_do():
                with recorded(self.job.work, WRITE, rank):
                    write_dataset(self.job, self.filters, progress=False)
        return iter(())


class SlurmExecutor(SlurmPipelineExecutor):
    """datatrove's, without its job that adds up statistics, which nobody reads."""

    def launch_merge_stats(self) -> None:
        pass


def resources(stage: Stage | None) -> dict[str, int]:
    """What a task of a stage is given by default; `None` is the writing."""
    return dict(WITH_A_MODEL if stage is not None and stage.uses_device else WITHOUT)


def environment() -> dict[str, str]:
    """How a job of Slurm finds the Python that submits it: its virtual environment, or its folder of programs."""
    activate = Path(sys.prefix) / "bin" / "activate"
    if sys.prefix != sys.base_prefix and activate.is_file():
        return {"venv_path": shlex.quote(str(activate))}
    return {"env_command": f'export PATH={shlex.quote(str(Path(sys.executable).parent))}:"$PATH"'}


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
            units are distributed to. By default, CPUs and memory are those of [`resources`], and
            jobs of Slurm run in the environment of this process.

    Raises:
        ImportError: Ray is not installed.
        ValueError: An option is missing or unknown.
    """
    options = dict(options)
    if workers < 1:
        raise ValueError(f"`workers` is {workers}; give at least 1.")
    tasks = options.pop("tasks", workers)
    _check_numbers({"tasks": tasks, **options}, kind)
    if kind == "slurm":
        if missing := [name for name in ("time", "partition") if name not in options]:
            raise ValueError(f"`executor_options` of slurm: {' and '.join(missing)} must be given.")
        if not {"venv_path", "condaenv", "env_command"} & options.keys():
            options |= environment()
        options["sbatch_args"] = {"kill-on-invalid-dep": "yes", **(options.get("sbatch_args") or {})}
        options.setdefault("qos", "")  # the user's own, not one called `normal`
    chain: list[PipelineExecutor] = []
    run = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"  # datatrove's records of older runs must not count
    last: dict[str, Any] = {"gpus_per_task": 0} if "gpus_per_task" in options else {}
    steps: list[tuple[str, PipelineStep, Stage | None, int, dict[str, Any]]] = [
        *((step, StageStep(job, step, progress=False), stage, tasks, {}) for step, stage in job.stages.items()),
        (WRITE, WriteStep(job, settings.filters), None, 1, last),
    ]
    for name, step, stage, count, changes in steps:
        common = {
            "tasks": count,
            "workers": min(workers, count),
            "logging_dir": str(job.work / LOGS_FOLDER / run / name),
            "skip_completed": False,
            "depends": chain[-1] if chain and kind == "slurm" else None,  # those of Ray are run one by one
            **resources(stage),
            **options,
            **changes,
        }
        try:
            if kind == "slurm":
                executor: PipelineExecutor = SlurmExecutor([step], job_name=f"tripletclip-{name}", **common)
            else:
                executor = RayExecutor([step], **common)
        except TypeError as error:
            problem = str(error).partition("() ")[2] or str(error)
            raise ValueError(f"`executor_options` of {kind}: {problem}") from error
        chain.append(executor)
    return chain


def _check_numbers(options: Mapping[str, Any], kind: str) -> None:
    """Raise `ValueError` for what is no number: it would be noticed late, by Slurm, by Ray or not at all."""
    lowest = {"tasks": 1, "cpus_per_task": 1, "gpus_per_task": 0, "mem_per_cpu_gb": 0, "start_timeout": 1}
    for name, least in ({**lowest, "time": 1} if kind == "ray" else lowest).items():
        value = options.get(name, least)
        kinds = int if name == "tasks" or (kind == "slurm" and name != "mem_per_cpu_gb") else (int, float)
        if value is None and name == "time":
            continue
        if isinstance(value, bool) or not isinstance(value, kinds) or not value >= least:
            unit = " in seconds" if name in ("time", "start_timeout") else ""
            raise ValueError(f"`executor_options`: `{name}` is {value!r}; give a number{unit}, at least {least}.")
    if not isinstance(options.get("sbatch_args") or {}, dict):
        raise ValueError('`executor_options`: `sbatch_args` is a mapping, such as {"account": "name"}.')


def submit(
    settings: GenerationSettings, kind: str, workers: int, options: Mapping[str, Any], overwrite: bool = False
) -> str:
    """
    Submit a run to Slurm; the output folder must be on a disk that all its machines see. The same call continues a run
    that failed.

    Returns:
        `str`: What was submitted and how to follow it, or what a finished dataset holds, for the terminal.

    Raises:
        FileExistsError, ValueError, ImportError: As [`generate`].
        OSError: As [`generate`]; jobs of this output are in the queue; or there is no `sbatch` here, or it refuses.
    """
    job = settings.job()
    with locked(job.output):
        refuse_while_queued(job.output, job.work)
        if (report := prepare(job, overwrite)) is not None:
            return f"{report.summary()}\nIt was finished already: nothing was submitted."
        chain = executors(settings, job, kind, workers, options)
        jobs = _launch(chain, job)
    numbers = ",".join(submitted.id for submitted in jobs)
    return "\n".join(
        [
            f"Submitted {', '.join(job.stages)} and the writing of {job.output}:",
            *(f"  job {submitted.id}: {submitted.step}" for submitted in jobs),
            f"logs: {job.work / LOGS_FOLDER}",
            f"follow: tripletclip generate --status {shlex.quote(str(job.output))}, or squeue --jobs={numbers}",
            f"end: scancel {numbers.replace(',', ' ')}; the same command continues what was ended or has failed",
        ]
    )


def _launch(chain: list[PipelineExecutor], job: Job) -> list[SubmittedJob]:
    """Submit a chain, each job once the one before has a number. If one is refused, none is submitted."""
    jobs: list[SubmittedJob] = []
    for step, executor in zip([*job.stages, WRITE], chain, strict=True):

        def keep(number: str, step: str = step, executor: Any = executor) -> None:
            jobs.append(SubmittedJob(number, step, str(executor.slurm_logs_folder)))
            save_jobs(job.work, jobs)  # at once: whatever happens next, it is known

        with _sbatch_that_tells(step, keep):
            try:
                executor.launch_job()
            except BaseException:
                cancel([submitted.id for submitted in jobs])
                forget_jobs(job.work)
                raise
    return jobs


@contextlib.contextmanager
def _sbatch_that_tells(step: str, keep: Callable[[str], None]) -> Iterator[None]:
    """
    Let datatrove's Slurm executor submit by a function that keeps every number, and turns what sbatch says into an
    error: its own lets sbatch write to the terminal and raises `CalledProcessError`.
    """

    def submit(script: str, retriever: Callable[[str], Any], *arguments: str) -> str:
        with tempfile.NamedTemporaryFile("w", suffix=".slurm") as file:
            file.write(script)
            file.flush()
            try:
                done = subprocess.run(["sbatch", *arguments, file.name], capture_output=True, text=True)
            except FileNotFoundError as error:
                raise OSError("sbatch is not here: submit from a machine of the cluster.") from error
        if done.returncode:
            problem = complaint(done.stderr) or f"it ended with {done.returncode}"
            raise OSError(
                f"sbatch refused the job of {step}: {problem}. Nothing stays submitted; `--executor_options` has what "
                "is asked for (partition, time, cpus_per_task, mem_per_cpu_gb, gpus_per_task, ...)."
            )
        number = str(retriever(done.stdout))
        if not number.isdigit() and (found := re.search(r"\d+", done.stdout)):  # "... 12 on cluster name"
            number = found[0]
        keep(number)
        return number

    own, slurm.launch_slurm_job = slurm.launch_slurm_job, submit
    try:
        yield
    finally:
        slurm.launch_slurm_job = own


class RayExecutor(RayPipelineExecutor):
    """
    datatrove's settings of a run on Ray, with tasks of Ray itself: one that raises, is killed, does not start or takes
    longer than `time` ends the run with that error, instead of being waited for.

    Args:
        start_timeout (`int`, defaults to 300): Seconds in which a task must start, while none is running.
    """

    def __init__(self, pipeline: list[Any], start_timeout: int = START_SECONDS, **options: Any) -> None:
        super().__init__(pipeline, **options)
        if self.nodes_per_task != 1:
            raise ValueError("`executor_options` of ray: `nodes_per_task` is 1 here; a stage runs in one process.")
        self.start_timeout = start_timeout

    _run_for_rank = PipelineExecutor._run_for_rank  # its own leaves logs in the system's temporary folder

    def run(self) -> None:
        """
        Run the tasks.

        Raises:
            OSError: No machine of the cluster has what a task asks for, none starts, or one takes too long.
            ChildProcessError: A task was killed.
            Exception: What was raised in a task.
        """
        import ray

        needed = {
            "CPU": self.cpus_per_task,
            "GPU": self.gpus_per_task,
            "memory": int(self.mem_per_cpu_gb * self.cpus_per_task * 2**30),
        }
        _check_resources(needed)
        options = {"num_cpus": needed["CPU"], "num_gpus": needed["GPU"], "memory": needed["memory"], "max_retries": 0}
        task = ray.remote(_run_rank).options(**{**options, **(self.ray_remote_kwargs or {})})
        executor, ranks = ray.put(self), deque(range(self.tasks))
        running: dict[Any, tuple[int, float]] = {}
        began, started = time.monotonic(), False
        try:
            while ranks or running:
                while ranks and len(running) < self.workers:
                    rank = ranks.popleft()
                    running[task.remote(executor, rank)] = rank, time.monotonic()
                ended, _ = ray.wait(list(running), num_returns=1, timeout=POLL_SECONDS)
                for reference in ended:
                    _outcome(reference, running.pop(reference)[0])
                    started = True
                started = started or any((Path(self.logging_dir.path) / "logs").glob("task_*"))
                now = time.monotonic()
                if not started and now - began > self.start_timeout:
                    raise OSError(
                        f"Ray started no task in {self.start_timeout} s: others use the cluster, or its machines do "
                        "not see the output folder. The same command continues."
                    )
                late = [rank for rank, since in running.values() if self.time and now - since > self.time]
                if late:
                    raise OSError(
                        f"Task {late[0]} took longer than {self.time} s (`time`). The same command continues."
                    )
        finally:
            for reference in running:
                ray.cancel(reference, force=True)


def _run_rank(executor: RayExecutor, rank: int) -> None:
    executor._run_for_rank(rank, -1)


def _check_resources(needed: Mapping[str, float]) -> None:
    """Raise `OSError` if no machine has what a task asks for: Ray would wait for one forever."""
    import ray

    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(all(machine.get(name, 0) >= amount for name, amount in needed.items()) for machine in machines):

        def shown(amounts: Mapping[str, float]) -> str:
            memory = amounts.get("memory", 0) / 2**30
            return f"{amounts.get('CPU', 0):g} CPUs, {amounts.get('GPU', 0):g} GPUs and {memory:.1f} GB"

        there = "; ".join(sorted({shown(machine) for machine in machines})) or "no machine"
        raise OSError(
            f"A task asks for {shown(needed)}, and the Ray cluster has {there}: set `cpus_per_task`, `mem_per_cpu_gb` "
            "and `gpus_per_task` in `--executor_options`."
        )


def _outcome(reference: Any, rank: int) -> None:
    """Raise what a task has raised, or what became of it."""
    import ray

    try:
        ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause if isinstance(error.cause, Exception) else RuntimeError(str(error)) from None
    except ray.exceptions.RayError as error:
        problem = str(error).partition("\n")[0]
        raise ChildProcessError(
            f"Task {rank} was ended, perhaps for want of memory ({problem}): give it more by `mem_per_cpu_gb`, or "
            "lower `--num_workers`. The same command continues with the finished units."
        ) from None


def generate_on_ray(
    settings: GenerationSettings, workers: int, options: Mapping[str, Any], *, overwrite: bool, progress: bool
) -> GenerationReport:
    """
    [`generate`] with the units made by tasks of Ray, step by step: this process waits for them and writes the dataset.
    The cluster is that of `RAY_ADDRESS`, or of this machine; without one, Ray is started here for as long as it runs.

    Args:
        settings ([`GenerationSettings`]): What to make.
        workers (`int`): Tasks that run at a time.
        options (`Mapping`): As of [`executors`].
        overwrite, progress (`bool`): As of [`generate`].

    Raises:
        ImportError: Ray is not installed.
        FileExistsError, OSError, ValueError: As [`generate`]; also what [`RayExecutor`] raises.
    """
    with optional_imports():
        import ray

    def execute(job: Job, step: str) -> None:
        chain = executors(settings, job, "ray", workers, options)
        chain[list(job.stages).index(step)].run()

    executors(settings, settings.job(), "ray", workers, options)  # before Ray is started: options may be wrong
    own = not ray.is_initialized()
    if own:
        try:
            ray.init(log_to_driver=False, logging_level="error", include_dashboard=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise OSError(f"Ray cannot be reached or started: {str(error).partition(chr(10))[0]}") from error
    try:
        return run_here(settings, execute, overwrite=overwrite, progress=progress)
    finally:
        if own:
            ray.shutdown()

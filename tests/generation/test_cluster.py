# SPDX-License-Identifier: Apache-2.0
"""Slurm: the job scripts, and what is said where it refuses; whole runs on a real Slurm and a real Ray."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hf_tripletclip.generation.arguments import main
from hf_tripletclip.generation.cluster import WriteStep, executors, submit
from hf_tripletclip.generation.engine import StageStep
from hf_tripletclip.generation.jobs import SubmittedJob, load_jobs, save_jobs
from hf_tripletclip.generation.run import generate, locked, prepare
from hf_tripletclip.generation.status import status
from tests.generation.processes import result, run, units, wait_until
from tests.generation.slurm_for_tests import running_slurm, why_no_slurm
from tests.generation.stages_for_tests import Reversed, settings

OPTIONS = {"time": "10:00:00", "partition": "gpu", "gpus_per_task": 1, "tasks": 6, "venv_path": "/envs/t/bin/activate"}
SMALL = {"time": "1:00:00", "partition": "cpu"}
SCENES = {"train_size": 40, "validation_size": 5, "test_size": 5, "image_size": 32, "nouns": 12}
GENERATE = [sys.executable, "-m", "hf_tripletclip.cli", "generate"]
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")


def test_job_scripts_of_a_chain(pairs, tmp_path):
    asked = settings(pairs, tmp_path / "out")
    job = asked.job()
    chain = executors(asked, job, "slurm", 3, OPTIONS)
    assert [executor.job_name for executor in chain] == [
        "tripletclip-captions",
        "tripletclip-images",
        "tripletclip-check-lengths",
        "tripletclip-write",
    ]
    assert [executor.depends for executor in chain] == [None, *chain[:-1]]
    assert [executor.tasks for executor in chain] == [6, 6, 6, 1]
    for executor in chain:
        script = executor.get_launch_file_contents(
            executor.get_sbatch_args(executor.tasks), "launch_pickled_pipeline x"
        )
        for line in (
            "--partition=gpu", "--time=10:00:00", f"--job-name={executor.job_name}", "--requeue",
            "--kill-on-invalid-dep=yes", "--cpus-per-task=1", "--mem-per-cpu=4G",
        ):  # fmt: skip
            assert f"#SBATCH {line}\n" in script
        assert "source /envs/t/bin/activate" in script
        assert "--qos" not in script
        assert str(tmp_path / "out" / ".generation" / "logs") in script
    stage, write = chain[0].get_sbatch_args(6), chain[-1].get_sbatch_args(1)
    assert (stage["array"], stage["gpus"]) == ("0-5%3", 1)
    assert write["array"] == "0-0%1"
    assert "gpus" not in write  # writing needs none
    assert len({str(executor.logging_dir.path) for executor in chain}) == 4


def options_of(step, asked, **options):
    """What sbatch is asked for a step, and its script."""
    job = asked.job()
    chain = executors(asked, job, "slurm", 2, {**SMALL, **options})
    executor = chain[[*job.stages, "write"].index(step)]
    return executor.get_sbatch_args(2), executor.get_launch_file_contents(executor.get_sbatch_args(2), "x")


def test_a_stage_with_a_model_gets_more_and_everything_may_be_said(pairs, tmp_path, monkeypatch):
    monkeypatch.setattr(Reversed, "uses_device", True)
    asked = settings(pairs, tmp_path / "out", plain=None, lengths=None)

    def given(step, **options):
        sbatch, _ = options_of(step, asked, **options)
        return sbatch["cpus-per-task"], sbatch["mem-per-cpu"]

    assert (given("captions"), given("write")) == ((4, "8G"), (1, "4G"))
    assert given("captions", cpus_per_task=2, mem_per_cpu_gb=5) == (2, "5G")
    sbatch, _ = options_of("captions", asked, sbatch_args={"kill-on-invalid-dep": "no", "account": "us"})
    assert (sbatch["kill-on-invalid-dep"], sbatch["account"]) == ("no", "us")


def test_jobs_run_in_the_environment_that_submits_them(pairs, tmp_path, monkeypatch):
    asked = settings(pairs, tmp_path / "out", plain=None, lengths=None)
    (tmp_path / "my env" / "bin").mkdir(parents=True)
    (tmp_path / "my env" / "bin" / "activate").write_text("")
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "my env"))
    assert f"source '{tmp_path}/my env/bin/activate'" in options_of("captions", asked)[1]
    for given in ({"condaenv": "mine"}, {"env_command": "module load mine"}, {"venv_path": "/mine"}):
        script = options_of("captions", asked, **given)[1]
        assert "mine" in script
        assert "my env" not in script
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    assert f'export PATH={Path(sys.executable).parent}:"$PATH"' in options_of("captions", asked)[1]


def test_wrong_options(pairs, tmp_path):
    asked = settings(pairs, tmp_path / "out")
    for options, message in (
        ({"time": "1:00:00"}, "slurm: partition must be given"),
        ({}, "slurm: time and partition must be given"),
        ({**OPTIONS, "gpu_per_task": 1}, "slurm: .*gpu_per_task"),
        ({**OPTIONS, "tasks": "many"}, "`tasks` is 'many'"),
        ({**OPTIONS, "tasks": 0}, "`tasks` is 0"),
        ({**OPTIONS, "gpus_per_task": "1"}, "`gpus_per_task` is '1'; give a number, at least 0"),
        ({**OPTIONS, "cpus_per_task": 0.5}, "`cpus_per_task` is 0.5"),
        ({**OPTIONS, "sbatch_args": "--account=us"}, "`sbatch_args` is a mapping"),
    ):
        with pytest.raises(ValueError, match=f"`executor_options`( of)? ?:?.*{message}"):
            executors(asked, asked.job(), "slurm", 2, options)
    with pytest.raises(ValueError, match="`workers` is 0"):
        executors(asked, asked.job(), "slurm", 0, SMALL)


def test_without_slurm(pairs, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(OSError, match="sbatch is not here: submit from a machine of the cluster"):
        submit(settings(pairs, tmp_path / "out"), "slurm", 2, OPTIONS)


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """Writes commands of Slurm that print and end as they are told, and note what they were called with."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def write(name, script):
        (folder / name).write_text(f'#!/bin/bash\necho "$@" >> {folder}/{name}.called\n{script}\n')
        (folder / name).chmod(0o755)
        return folder / f"{name}.called"

    return write


def test_a_refusal_is_one_line_and_nothing_stays_submitted(pairs, commands, tmp_path):
    refused = "sbatch: error: invalid partition specified: gpu\nsbatch: error: Batch job submission failed: Bad"
    called = commands("sbatch", f"(( $(wc -l < $0.called) < 3 )) && echo Submitted batch job 7$(wc -l < $0.called) "
                      f"&& exit; echo -e '{refused}' >&2; exit 1")  # fmt: skip
    cancelled = commands("scancel", "")
    with pytest.raises(
        OSError, match="sbatch refused the job of check-lengths: invalid partition specified: gpu; "
    ) as e:
        submit(settings(pairs, tmp_path / "out"), "slurm", 2, OPTIONS)
    assert "\n" not in str(e.value)
    assert [re.findall(r"afterok:(\d+)", line) for line in called.read_text().splitlines()] == [[], ["71"], ["72"]]
    assert cancelled.read_text().split() == ["71", "72"]
    assert load_jobs(tmp_path / "out" / ".generation") == []


def test_jobs_that_are_in_the_queue(pairs, commands, tmp_path):
    asked, output = settings(pairs, tmp_path / "out"), tmp_path / "out"
    called = commands("sbatch", "echo Submitted batch job 7$(wc -l < $0.called) on cluster green")
    cancelled = commands("scancel", "")
    shown = submit(asked, "slurm", 2, OPTIONS)
    for line in ("job 71: captions", "job 74: write", f"logs: {output}/.generation/logs", "scancel 71 72 73 74",
                 f"--status {output}", "the same command continues"):  # fmt: skip
        assert line in shown
    assert [job.step for job in load_jobs(output / ".generation")] == ["captions", "images", "check-lengths", "write"]

    commands("squeue", "echo '71|71_3|RUNNING|None'; echo '71|71_[4-5]|PENDING|Resources'; "
             "echo '72|72|PENDING|Dependency'")  # fmt: skip
    left_over = output / ".generation" / "0-captions" / "unit-000003.parquet.elsewhere-7.tmp"
    left_over.parent.mkdir()
    left_over.write_bytes(b"of a task that runs")
    for again in (
        lambda: submit(asked, "slurm", 2, OPTIONS),
        lambda: submit(asked, "slurm", 2, OPTIONS, overwrite=True),
        lambda: generate(asked, progress=False),
        lambda: generate(asked, progress=False, overwrite=True),
    ):
        with pytest.raises(OSError, match=r"is being made: job 71 \(captions\): 1 running, 1 pending \(Resources\); "
                           r"job 72 .*`scancel 71 72`; then the same command continues"):  # fmt: skip
            again()
    assert len(called.read_text().splitlines()) == 4
    assert left_over.exists()
    assert "job 71 (captions): 1 running, 1 pending (Resources)" in status(output)

    commands("squeue", "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(
        OSError,
        match=r"cannot be asked whether .*: Unable to contact slurm controller.* remove .*jobs.json",
    ):
        generate(asked, progress=False)
    assert "Slurm cannot be asked for jobs 71, 72, 73, 74" in status(output)

    commands("squeue", "echo '72|72|PENDING|DependencyNeverSatisfied'; echo '73|73|PENDING|Dependency'")
    assert "nothing works on it" in status(output)
    submit(asked, "slurm", 2, OPTIONS)
    assert cancelled.read_text().split() == ["72", "73"]
    assert left_over.exists()  # not old yet
    os.utime(left_over, (0, 0))

    commands("squeue", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")  # all are forgotten
    assert generate(asked, progress=False).rows == 25
    assert not left_over.exists()
    assert submit(asked, "slurm", 2, OPTIONS).endswith("It was finished already: nothing was submitted.")


def test_a_damaged_list_of_jobs_is_named(pairs, tmp_path):
    work = tmp_path / "out" / ".generation"
    work.mkdir(parents=True)
    save_jobs(work, [SubmittedJob("7", "captions", "logs")])
    (work / "jobs.json").write_bytes(b"\x00" * 20)
    with pytest.raises(ValueError, match=r"jobs.json is damaged.*remove the file"):
        generate(settings(pairs, tmp_path / "out"), progress=False)


def test_a_task_of_an_older_run_ends_without_a_unit(pairs, tmp_path):
    """It was in the queue of a cluster while its dataset was finished, or made with other settings."""
    log, output = tmp_path / "log", tmp_path / "out"
    job = settings(pairs, output, log=str(log)).job()
    generate(settings(pairs, output), progress=False)
    StageStep(job, "captions").run(None)
    assert not log.exists()
    assert [path.name for path in (output / ".generation").iterdir()] == ["lock"]
    generate(settings(pairs, output, reversed={"ending": "!"}), progress=False, overwrite=True)
    with pytest.raises(OSError, match=r"makes .* with other settings, so this older run ends"):
        StageStep(job, "captions").run(None)
    assert not log.exists()


def test_the_writing_job_leaves_a_finished_dataset(pairs, tmp_path):
    asked = settings(pairs, tmp_path / "out")
    job = asked.job()
    with locked(job.output):
        prepare(job, overwrite=False)
    for step in job.stages:
        StageStep(job, step).run(None)
    WriteStep(job, asked.filters).run(None)
    assert result(tmp_path / "out")


def flags(output, **options):
    given = {"time": "1:00:00", "partition": "cpu", **options}
    return [
        *("--output", str(output), "--unit_rows", "10", "--scenes_options", json.dumps(SCENES)),
        *("--executor", "slurm", "--num_workers", "2", "--executor_options", json.dumps(given)),
    ]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """A Slurm of one node with two CPUs, and the environment of a machine of it."""
    if (reason := why_no_slurm()) is not None:
        pytest.skip(reason)
    with running_slurm(tmp_path_factory.mktemp("slurm")) as environment:
        yield environment


def wait_for_slurm(environment, seconds=240):
    def is_empty():
        return not subprocess.run(["squeue", "-h"], env=environment, capture_output=True, check=True).stdout

    wait_until(is_empty, seconds=seconds)


@pytest.mark.slow
def test_a_run_on_slurm_is_the_run_here(slurm, tmp_path, monkeypatch):
    for name, value in slurm.items():
        monkeypatch.setenv(name, value)
    output = tmp_path / "slurm-run" / "out"
    done = run([*GENERATE, *flags(output, sbatch_args={"hold": ""})], tmp_path, env=slurm)
    jobs = re.findall(r"job (\d+): (\S+)", done.stdout)
    assert [step for _, step in jobs] == ["captions", "images", "write"]
    here = ["--executor", "local", "--executor_options", "{}"]
    for again in ([], ["--overwrite"], here, [*here, "--overwrite"]):
        with pytest.raises(OSError, match=f"{output} is being made: job {jobs[0][0]} "):
            main([*flags(output), *again])
    refused = run([*GENERATE, *flags(output)], tmp_path, env=slurm, status=1)
    assert len(refused.stderr.splitlines()) == 1
    subprocess.run(["scontrol", "release", *(number for number, _ in jobs)], env=slurm, check=True)
    wait_for_slurm(slurm)
    assert f"{output} is finished.\n50 of 50 rows" in run([*GENERATE, "--status", str(output)], tmp_path).stdout
    here = tmp_path / "here" / "out"
    run([*GENERATE, *flags(here), "--executor", "local", "--executor_options", "{}"], tmp_path, env=slurm)
    logs = output / ".generation" / "logs"
    assert {path.name for path in (output / ".generation").iterdir()} == {"lock", "logs"}
    again = run([*GENERATE, *flags(output)], tmp_path, env=slurm)
    assert "50 of 50 rows" in again.stdout
    assert "nothing was submitted" in again.stdout
    assert len(list(logs.iterdir())) == 1
    for path in here.rglob("*"):
        if path.is_file() and ".generation" not in path.parts:
            assert (output / path.relative_to(here)).read_bytes() == path.read_bytes(), path


@pytest.mark.slow
def test_a_failed_job_ends_the_chain_and_the_same_call_continues(pairs, slurm, tmp_path, monkeypatch):
    for name, value in slurm.items():
        monkeypatch.setenv(name, value)
    output = tmp_path / "out"
    small = {"plain": None, "lengths": None}
    submit(settings(pairs, output, reversed={"raise_at": "train-0009"}, **small), "slurm", 2, SMALL)
    wait_for_slurm(slurm)  # no job waits for ever
    assert not (output / "report.json").exists()
    assert sorted(units(output)) == [f"0-captions/unit-{number:06d}.parquet" for number in (0, 2)]
    told = status(output)
    assert "the command that started it continues" in told
    assert "captions: 2 of 4 units done, 0 running, 1 failed" in told
    assert re.search(r"task 1 \(job \d+_1\) at unit 1: no such setting at train-0009", told)
    submit(settings(pairs, output, log=str(tmp_path / "log"), **small), "slurm", 2, SMALL)
    wait_for_slurm(slurm)
    assert (output / "report.json").exists()
    made = {line.split()[2] for line in (tmp_path / "log").read_text().splitlines() if " row " in line}
    assert made == {f"train-{row:04d}" for row in range(8, 16)} | {f"test-{row:04d}" for row in range(5)}
    generate(settings(pairs, tmp_path / "here" / "out", **small), progress=False)
    file = "data/train-00000-of-00001.parquet"
    assert result(tmp_path / "here" / "out")[file] == (output / file).read_bytes()


@pytest.mark.slow
def test_a_killed_task_of_slurm_is_told(pairs, slurm, tmp_path, monkeypatch):
    for name, value in slurm.items():
        monkeypatch.setenv(name, value)
    output = tmp_path / "out"
    dying = {"reversed": {"die_at": "train-0009"}, "plain": None, "lengths": None}
    submit(settings(pairs, output, **dying), "slurm", 2, SMALL)
    wait_for_slurm(slurm)
    assert re.search(r"task 1 \(job \d+_1\) at unit 1: ended without a word", status(output))


@pytest.mark.slow
def test_what_slurm_refuses(pairs, slurm, tmp_path, monkeypatch):
    for name, value in slurm.items():
        monkeypatch.setenv(name, value)
    for number, (options, message) in enumerate(
        (
            ({"partition": "nowhere"}, "invalid partition specified: nowhere"),
            ({"mem_per_cpu_gb": 4000}, "Memory specification can not be satisfied"),
            ({"gpus_per_task": 3}, "gres"),
            ({"sbatch_args": {"begin": "some day"}}, "Invalid --begin specification"),
        )
    ):
        with pytest.raises(OSError, match=f"sbatch refused the job of captions: .*{message}"):
            submit(settings(pairs, tmp_path / str(number)), "slurm", 2, {**SMALL, **options})
        assert load_jobs(tmp_path / str(number) / ".generation") == []
    wait_for_slurm(slurm, seconds=5)


ON_RAY = """
import sys
from hf_tripletclip.cli import run_reporting_errors
from hf_tripletclip.generation.cluster import generate_on_ray
from tests.generation.stages_for_tests import settings
pairs, output, given, options = sys.argv[1], sys.argv[2], eval(sys.argv[3]), eval(sys.argv[4])
def make():
    print(generate_on_ray(settings(pairs, output, **given), 2, options, overwrite=False, progress=False).summary())
sys.exit(run_reporting_errors(make))
"""


@pytest.mark.slow
@needs_ray
def test_a_run_on_ray_is_the_run_here(tmp_path):
    here, there = tmp_path / "here" / "out", tmp_path / "ray" / "out"
    common = ["--unit_rows", "10", "--scenes_options", json.dumps(SCENES)]
    run([*GENERATE, *common, "--output", str(here)], tmp_path)
    done = run([*GENERATE, *common, "--output", str(there), "--executor", "ray", "--num_workers", "2"], tmp_path)
    assert "50 of 50 rows" in done.stdout
    assert result(there) == result(here)


@pytest.mark.slow
@needs_ray
@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ({"reversed": {"raise_at": "train-0009"}}, {}, "error: no such setting at train-0009"),
        ({"plain": {"die_at": "train-0009"}}, {}, "error: Task 1 was ended, perhaps for want of memory"),
        ({"plain": {"black": [f"{split}-{row:04d}" for split in ("train", "test") for row in range(20)]}}, {},
         "error: None of the 25 rows is left"),
        ({"reversed": {"delay": 60.0}}, {"time": 3}, "error: Task 0 took longer than 3 s"),
        ({}, {"cpus_per_task": 1000}, "error: A task asks for 1000 CPUs"),
        ({}, {"time": "1:00:00"}, "error: `executor_options`: `time` is '1:00:00'; give a number in seconds"),
        ({}, {"cpus": 1}, "error: `executor_options` of ray: got an unexpected keyword argument 'cpus'"),
    ],
    ids=["raises", "killed", "writing", "late", "resources", "time", "option"],
)  # fmt: skip
def test_what_goes_wrong_on_ray_ends_the_run(pairs, tmp_path, given, options, message):
    began, output = time.monotonic(), tmp_path / "out"
    failed = run([sys.executable, "-c", ON_RAY, pairs, output, repr(given), repr(options)], tmp_path / "hf", status=1)
    assert failed.stderr.strip().splitlines()[-1].startswith(message), failed.stderr
    assert "Traceback" not in failed.stderr
    assert time.monotonic() - began < 110

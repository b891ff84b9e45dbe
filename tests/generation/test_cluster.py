# SPDX-License-Identifier: Apache-2.0
"""Slurm: the job scripts, and a whole run by a stand-in for `sbatch` that runs them; Ray where it is installed."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import sys
from pathlib import Path

import pytest

from hf_tripletclip.generation.cluster import executors, submit
from hf_tripletclip.generation.run import generate
from tests.generation.processes import environment, result, run, units
from tests.generation.stages_for_tests import settings

OPTIONS = {"time": "10:00:00", "partition": "gpu", "gpus_per_task": 1, "tasks": 6, "venv_path": "/envs/t/bin/activate"}
SCENES = {"train_size": 40, "validation_size": 5, "test_size": 5, "image_size": 32, "nouns": 12}
GENERATE = [sys.executable, "-m", "hf_tripletclip.cli", "generate"]

# Runs a job at once, as Slurm would have: each task of its array, unless a job that it waits for has failed.
SBATCH = f"""#!{sys.executable}
import os, pathlib, re, subprocess, sys
*options, script = sys.argv[1:]
text = pathlib.Path(script).read_text()
state = pathlib.Path(os.environ["FAKE_SLURM"])
number = len(list(state.glob("*.slurm"))) + 1
(state / f"{{number}}.slurm").write_text(text)
(state / f"{{number}}.options").write_text(" ".join(options))
asked = " ".join(options) + re.sub("#SBATCH", "", " ".join(re.findall("#SBATCH --dependency=.*", text)))
waits = re.findall(r"afterok:(\\d+)", asked)
failed = any((state / f"{{job}}.status").read_text() != "0" for job in waits)
status = 1
if not failed:
    status = 0
    for task in range(int(re.search(r"--array=0-(\\d+)", text)[1]) + 1):
        variables = {{"SLURM_ARRAY_TASK_ID": str(task), "SLURM_JOB_ID": str(number), "SLURM_NODELIST": "node1"}}
        done = subprocess.run(["bash", script], env={{**os.environ, **variables}}, capture_output=True, text=True)
        (state / f"{{number}}-{{task}}.out").write_text(done.stdout + done.stderr)
        status = status or done.returncode
(state / f"{{number}}.status").write_text(str(status))
print("Submitted batch job", number)
"""
SRUN = """#!/bin/bash
while [[ $1 == -* ]]; do [[ $1 == -n ]] && shift; shift; done
exec "$@"
"""
SCONTROL = "#!/bin/bash\necho node1\n"


@pytest.fixture
def slurm(tmp_path):
    """The environment of a machine that has a stand-in for Slurm."""
    bin_folder, state = tmp_path / "bin", tmp_path / "slurm"
    for folder in (bin_folder, state):
        folder.mkdir()
    for name, script in (("sbatch", SBATCH), ("srun", SRUN), ("scontrol", SCONTROL)):
        (bin_folder / name).write_text(script)
        (bin_folder / name).chmod(0o755)
    path = os.pathsep.join([str(bin_folder), str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**environment(tmp_path / "hf"), "PATH": path, "FAKE_SLURM": str(state)}


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
        for line in ("--partition=gpu", "--time=10:00:00", f"--job-name={executor.job_name}", "--requeue"):
            assert f"#SBATCH {line}\n" in script
        assert "source /envs/t/bin/activate" in script
        assert str(tmp_path / "out" / ".generation" / "logs") in script
    stage, write = chain[0].get_sbatch_args(6), chain[-1].get_sbatch_args(1)
    assert (stage["array"], stage["gpus"]) == ("0-5%3", 1)
    assert write["array"] == "0-0%1"
    assert "gpus" not in write  # writing needs none
    assert len({str(executor.logging_dir.path) for executor in chain}) == 4


def test_wrong_options(pairs, tmp_path):
    asked = settings(pairs, tmp_path / "out")
    with pytest.raises(ValueError, match=r"`executor_options` of slurm: .*partition"):
        executors(asked, asked.job(), "slurm", 2, {"time": "1:00:00"})
    with pytest.raises(ValueError, match=r"`executor_options` of slurm: .*gpu_per_task"):
        executors(asked, asked.job(), "slurm", 2, {**OPTIONS, "gpu_per_task": 1})


def test_without_slurm(pairs, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(OSError, match="sbatch is not here: submit from a machine of the cluster"):
        submit(settings(pairs, tmp_path / "out"), "slurm", 2, OPTIONS)


def flags(output, **options):
    given = {"time": "1:00:00", "partition": "cpu", **options}
    return [
        *("--output", str(output), "--unit_rows", "10", "--scenes_options", json.dumps(SCENES)),
        *("--executor", "slurm", "--workers", "2", "--executor_options", json.dumps(given)),
    ]


@pytest.mark.slow
def test_a_run_on_slurm_is_the_run_here(slurm, tmp_path):
    output, state = tmp_path / "slurm-run" / "out", tmp_path / "slurm"
    done = run([*GENERATE, *flags(output)], tmp_path, env=slurm)
    assert f"Submitted captions, images and the writing of {output}" in done.stdout
    jobs = {
        re.search("--job-name=(.*)", path.read_text())[1]: int(path.stem)
        for path in sorted(state.glob("*.slurm"), key=lambda path: int(path.stem))
        if "merge_stats" not in path.read_text()
    }
    assert list(jobs) == ["tripletclip-captions", "tripletclip-images", "tripletclip-write"]
    for before, name in zip(jobs, list(jobs)[1:], strict=False):
        assert f"--dependency=afterok:{jobs[before]}" in (state / f"{jobs[name]}.options").read_text()
    assert {path.read_text() for path in state.glob("*.status")} == {"0"}, [p.read_text() for p in state.glob("*.out")]
    here = tmp_path / "here" / "out"
    run([*GENERATE, *flags(here), "--executor", "local", "--executor_options", "{}"], tmp_path, env=slurm)
    logs = output / ".generation" / "logs"
    assert logs.is_dir()
    again = run([*GENERATE, *flags(output)], tmp_path, env=slurm)  # finished: nothing is submitted
    assert "50 of 50 rows" in again.stdout
    assert len(list(logs.iterdir())) == 1
    for path in here.rglob("*"):
        if path.is_file() and ".generation" not in path.parts:
            assert (output / path.relative_to(here)).read_bytes() == path.read_bytes(), path


def test_a_failed_job_stops_the_chain_and_the_same_call_continues(pairs, slurm, tmp_path, monkeypatch):
    for name in ("PATH", "FAKE_SLURM", "PYTHONPATH", "HF_HOME"):
        monkeypatch.setenv(name, slurm[name])
    output, state = tmp_path / "out", tmp_path / "slurm"
    options = {"time": "1:00:00", "partition": "cpu"}
    submit(settings(pairs, output, plain=None, lengths=None, reversed={"raise_at": "train-0009"}), "slurm", 2, options)
    assert not (output / "report.json").exists()
    assert sorted(units(output)) == [f"0-captions/unit-{number:06d}.parquet" for number in (0, 2)]
    done = units(output)
    submit(settings(pairs, output, plain=None, lengths=None, log=str(tmp_path / "log")), "slurm", 2, options)
    assert (output / "report.json").exists(), [path.read_text()[-2000:] for path in state.glob("*.out")]
    made = {line.split()[2] for line in (tmp_path / "log").read_text().splitlines() if " row " in line}
    assert made == {f"train-{row:04d}" for row in range(8, 16)} | {f"test-{row:04d}" for row in range(5)}
    assert len(done) == 2
    generate(settings(pairs, tmp_path / "here" / "out", plain=None, lengths=None), progress=False)
    report = json.loads((output / "report.json").read_text())
    assert report == json.loads((tmp_path / "here" / "out" / "report.json").read_text())
    assert (
        result(tmp_path / "here" / "out")["data/train-00000-of-00001.parquet"]
        == (output / "data" / "train-00000-of-00001.parquet").read_bytes()
    )


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_a_run_on_ray_is_the_run_here(tmp_path):
    here, there = tmp_path / "here" / "out", tmp_path / "ray" / "out"
    common = ["--unit_rows", "10", "--scenes_options", json.dumps(SCENES)]
    run([*GENERATE, *common, "--output", str(here)], tmp_path)
    run([*GENERATE, *common, "--output", str(there), "--executor", "ray", "--workers", "2"], tmp_path)
    for path in (here / "data").iterdir():
        assert (there / "data" / path.name).read_bytes() == path.read_bytes()

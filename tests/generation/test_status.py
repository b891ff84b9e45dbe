# SPDX-License-Identifier: Apache-2.0
"""How far a run is, told from its folder: finished, stopped, running, failed, or none at all."""

from __future__ import annotations

import os

import pytest

from hf_tripletclip.generation.arguments import main
from hf_tripletclip.generation.run import generate, locked
from hf_tripletclip.generation.status import status
from hf_tripletclip.generation.tasks import Task
from tests.generation.stages_for_tests import settings


def test_folders_of_which_nothing_is_known(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere does not exist: nothing was started there"):
        status(tmp_path / "nowhere")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "plan.json").write_text("mine")
    for name in ("file", "foreign", ""):
        with pytest.raises(ValueError, match="is no output of `tripletclip generate`"):
            status(tmp_path / name)


def test_a_finished_dataset(pairs, tmp_path):
    output = tmp_path / "out"
    report = generate(settings(pairs, output, reversed={"refused": ["bird"]}), progress=False)
    told = status(output)
    assert told.startswith(f"{output} is finished.\n18 of 25 rows: 14 train, 4 test\n")
    assert "7 × captions: refusal" in told
    assert report.rows == 25
    (output / "report.json").write_bytes(b"\0" * 30)
    with pytest.raises(ValueError, match=r"report.json is damaged.*--overwrite"):
        status(output)


def test_a_run_that_failed_and_one_that_runs(pairs, tmp_path, capsys):
    output = tmp_path / "out"
    with pytest.raises(ValueError, match="no such setting"):
        generate(settings(pairs, output, reversed={"raise_at": "test-0003", "refused": ["bird"]}), progress=False)
    told = status(output)
    for line in (
        f"{output} is not finished, and nothing works on it: the command that started it continues.",
        "25 rows in 4 units of 8",
        "captions: 3 of 4 units done, 0 running, 1 failed",
        "  task 0 at unit 3: no such setting at test-0003",
        "  6 rows left out: captions: refusal",
        "images: 0 of 4 units done, 0 running, 0 failed",
    ):
        assert line in told.splitlines(), told
    work = output / ".generation"
    Task("captions", 0, unit=3, host=os.uname().nodename, process=os.getpid()).save(work)
    Task("captions", 1, unit=2, host=os.uname().nodename, process=2**22 + 1).save(work)  # of a unit that is there
    with locked(output):
        told = status(output)
    assert f"{output} is being made." in told
    assert "captions: 3 of 4 units done, 1 running (3), 0 failed" in told
    Task("captions", 0, unit=3, host=os.uname().nodename, process=2**22 + 1).save(work)  # killed: no such process
    assert "  task 0 at unit 3: ended without a word" in status(output)
    main(["--status", str(output)])
    assert status(output) in capsys.readouterr().out
    main([f"--status={output}"])


def test_the_dataset_that_stays_is_told(pairs, tmp_path):
    output = tmp_path / "out"
    generate(settings(pairs, output), progress=False)
    with pytest.raises(ValueError, match="no such setting"):
        generate(settings(pairs, output, reversed={"raise_at": "test-0003"}), progress=False, overwrite=True)
    assert "The dataset that is there stays until the new one is whole." in status(output)


def test_looking_takes_the_folder_alone(tmp_path):
    for argv in (["--status", "out", "--output", "out"], ["--num_workers", "2", "--status", "out"]):
        with pytest.raises(ValueError, match="give it alone, as `--status OUTPUT`"):
            main(argv)

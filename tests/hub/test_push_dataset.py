# SPDX-License-Identifier: Apache-2.0
"""Uploads of generated datasets to a Hub on this machine, and back."""

from __future__ import annotations

import json
import os
import sys

import pytest
from datasets import load_dataset

from hf_tripletclip.generation import push_dataset
from hf_tripletclip.generation.run import generate
from tests.generation.stages_for_tests import settings, write_source
from tests.loopback_hub import LoopbackHub, run_command, run_python

FAKE = "hf_" + "A1b2C3d4" * 4
ROWS = {"train": 20, "test": 5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished dataset in a folder that also holds what must not be uploaded."""
    base = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", base / "cache")
        source = write_source(base / "secret-place" / "pairs", **ROWS)
        made = settings(
            source, base / "tripletdata", reversed={"refused": ["bird"], "ending": f" {FAKE}"}, rows_per_file=6
        )
        generate(made, progress=False)
    (base / "tripletdata" / "notes.txt").write_text("mine")
    (base / "tripletdata" / ".generation" / "answers.jsonl").write_text("{}")
    return base / "tripletdata"


def push(hub, folder, home, arguments="", check=True, **env):
    call = f"push_dataset({str(folder)!r}, 'user/tripletdata'{arguments})"
    return run_python(
        f"from hf_tripletclip.generation.push import push_dataset\nprint({call})", hub, home, check=check, **env
    )


def test_a_dataset_comes_back_from_the_hub_as_it_is(hub, folder, tmp_path):
    done = push(hub, folder, tmp_path / "push")
    assert done.stdout.strip().splitlines()[-1] == f"{hub.endpoint}/datasets/user/tripletdata"
    here = load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert {split: len(part) for split, part in here.items()} == {"train": 14, "test": 4}
    rows = {split: [dict(row) for row in part.remove_columns(["image", "neg_image"])] for split, part in here.items()}
    pixels = [row["neg_image"].tobytes().hex() for row in here["test"]]
    (tmp_path / "rows.json").write_text(json.dumps([rows, pixels]))
    code = (
        "import sys, json\n"
        "sys.modules['hf_tripletclip'] = None\n"
        "from datasets import load_dataset, Image\n"
        f"rows, pixels = json.load(open({str(tmp_path / 'rows.json')!r}))\n"
        "there = load_dataset('user/tripletdata')\n"
        "assert isinstance(there['train'].features['image'], Image)\n"
        "text = {s: [dict(row) for row in p.remove_columns(['image', 'neg_image'])] for s, p in there.items()}\n"
        "assert text == rows, (text, rows)\n"
        "assert [row['neg_image'].tobytes().hex() for row in there['test']] == pixels\n"
        "stream = load_dataset('user/tripletdata', split='train', streaming=True)\n"
        "assert [row['id'] for row in stream] == there['train']['id'][:]\n"
    )
    run_python(code, hub, tmp_path / "load")
    run_python(
        "from hf_tripletclip.data import load_tripletdata\n"
        "assert len(load_tripletdata('user/tripletdata', split='train')) == 14\n",
        hub,
        tmp_path / "load",
    )


def test_what_is_uploaded_and_what_is_not(hub, folder, tmp_path):
    push(hub, folder, tmp_path)
    files = hub.files("dataset", "user/tripletdata")
    pictures = [f"assets/{number}-{name}.jpg" for number in range(4) for name in ("image", "neg_image")]
    shards = [f"data/train-{number:05d}-of-00003.parquet" for number in range(3)]
    assert sorted(files) == sorted(
        [
            "README.md",
            "plan.json",
            "report.json",
            "left_out.jsonl",
            *pictures,
            *shards,
            "data/test-00000-of-00001.parquet",
        ]
    )
    for path, content in files.items():
        if path != "plan.json":
            assert content == (folder / path).read_bytes()
    plan = json.loads(files["plan.json"])
    assert plan["source"]["name"] == "pairs"
    assert plan["stages"]["captions"]["ending"] == " [token]"
    for content in (files["plan.json"], files["README.md"], files["report.json"], files["left_out.jsonl"]):
        assert b"secret-place" not in content
        assert FAKE.encode() not in content


def test_a_second_push_replaces_the_first(hub, folder, tmp_path):
    hub.add("dataset", "user/tripletdata", {"data/train-00000-of-00009.parquet": b"old", "LICENSE": b"ours"})
    push(hub, folder, tmp_path)
    files = hub.files("dataset", "user/tripletdata")
    assert "data/train-00000-of-00009.parquet" not in files
    assert files["LICENSE"] == b"ours"
    sent = len(hub.requests("PUT"))
    push(hub, folder, tmp_path)  # nothing new
    assert len(hub.requests("PUT")) == sent
    assert hub.files("dataset", "user/tripletdata") == files


def test_an_interrupted_push_goes_on(folder, tmp_path):
    with LoopbackHub() as hub:
        hub.fail_after = 2
        command = [sys.executable, "-m", "hf_tripletclip.cli", "push", str(folder), "user/tripletdata"]
        failed = run_command(command, hub, tmp_path)
        assert failed.returncode == 1
        assert "error: Error while uploading" in failed.stderr
        assert "Upload quota exceeded" in failed.stderr
        assert "The same command continues the upload." in failed.stderr
        assert "Traceback" not in failed.stderr
        assert hub.files("dataset", "user/tripletdata") == {}
        there = set(hub.objects)
        assert len(there) == 2
        hub.fail_after = None
        hub.log.clear()
        push(hub, folder, tmp_path)
        assert not there & {path.removeprefix("/lfs/") for path in hub.requests("PUT")}
        assert len(hub.requests("PUT")) == len(hub.objects) - 2
        assert "report.json" in hub.files("dataset", "user/tripletdata")


def test_branches_and_pull_requests(hub, folder, tmp_path):
    done = push(hub, folder, tmp_path, ", revision='v1', commit_message='First'")
    assert done.stdout.strip().endswith("/datasets/user/tripletdata/tree/v1")
    assert hub.files("dataset", "user/tripletdata") == {}
    assert "README.md" in hub.files("dataset", "user/tripletdata", "v1")
    push(hub, folder, tmp_path, ", revision='v1'")  # the branch is there
    done = push(hub, folder, tmp_path, ", create_pr=True")
    assert done.stdout.strip().endswith("/datasets/user/tripletdata/discussions/1")
    assert hub.files("dataset", "user/tripletdata") == {}
    assert "README.md" in hub.files("dataset", "user/tripletdata", "refs/pr/1")
    push(hub, folder, tmp_path, ", revision='refs/pr/1'")
    created = [path for path in hub.requests("POST") if path.endswith("/branch/refs/pr/1")]
    assert created == []


def test_the_command(hub, folder, tmp_path):
    command = [sys.executable, "-m", "hf_tripletclip.cli", "push", str(folder), "user/tripletdata"]
    done = run_command(command, hub, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"pushed to {hub.endpoint}/datasets/user/tripletdata"
    assert "data/test-00000-of-00001.parquet" in hub.files("dataset", "user/tripletdata")


def test_a_wrong_token_is_refused_and_not_shown(folder, tmp_path):
    wrong = "hf_" + "Z9y8X7w6" * 4
    with LoopbackHub(token=FAKE) as hub:
        command = [sys.executable, "-m", "hf_tripletclip.cli", "push", str(folder), "user/tripletdata"]
        failed = run_command(command, hub, tmp_path, HF_TOKEN=wrong)
        assert failed.returncode == 1
        assert "error: The Hub refuses user/tripletdata" in failed.stderr
        assert wrong not in failed.stdout + failed.stderr
        assert "Traceback" not in failed.stderr
        done = push(hub, folder, tmp_path, f", token={FAKE!r}", HF_TOKEN=wrong)
        assert FAKE not in done.stdout + done.stderr
        assert "README.md" in hub.files("dataset", "user/tripletdata")


def test_without_a_hub(folder, tmp_path):
    command = [sys.executable, "-m", "hf_tripletclip.cli", "push", str(folder), "user/tripletdata"]
    failed = run_command(command, None, tmp_path)
    assert failed.returncode == 1
    assert "error: The Hub cannot be reached to take user/tripletdata" in failed.stderr


def test_what_cannot_be_pushed(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder"):
        push_dataset(tmp_path / "nowhere", "user/x")
    (tmp_path / "photos").mkdir()
    with pytest.raises(ValueError, match=r"is no dataset that `tripletclip generate` made"):
        push_dataset(tmp_path / "photos", "user/x")
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    for path in folder.iterdir():
        if path.name != "report.json":
            os.symlink(path, unfinished / path.name)
    with pytest.raises(ValueError, match=r"has no report.json: it is not finished"):
        push_dataset(unfinished, "user/x")
    with pytest.raises(ValueError, match="is no id of a repository"):
        push_dataset(folder, "not/an/id")
    with pytest.raises(ValueError, match="leave `revision` out"):
        push_dataset(folder, "user/x", revision="v1", create_pr=True)


def test_a_plan_that_cannot_be_read_makes_nothing(near, tmp_path):
    (tmp_path / "data").mkdir()
    for name, content in (("README.md", "# x"), ("report.json", '{"kept": {"train": 1}}'), ("plan.json", "{")):
        (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=r"plan\.json is not valid JSON"):
        push_dataset(tmp_path, "user/x")
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(OSError, match="The Hub refuses user/x: there is no such repository"):
        push_dataset(tmp_path, "user/x", revision="refs/pr/1")
    assert near.repos == {}

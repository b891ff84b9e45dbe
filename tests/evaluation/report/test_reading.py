# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path

import pytest

from hf_tripletclip.evaluation.report.reading import Entry, label_entries, read_entries, short_name
from tests.evaluation.report.conftest import make_result


def entry(name, path="x/sugarcrepe.json", **changes):
    return Entry("", make_result([True, False], name, **changes), Path(path))


def labels(*entries):
    return [one.label for one in label_entries(entries)]


def test_results_are_found_in_folders_and_other_files_are_passed_over(save, tmp_path):
    folder = save(make_result([True, False], "/runs/b"), make_result([True, True], "/runs/a"))
    (folder / "a" / "config.json").write_text('{"model_type": "clip"}')
    (folder / "a" / "list.json").write_text("[1, 2]")
    (folder / "broken.json").write_text("{")
    found = read_entries([folder])
    assert [one.label for one in found] == ["a", "b"]
    assert found[0].result.predictions["key"] == ["row/0", "row/1"]
    again = read_entries([folder / "b" / "sugarcrepe.json", folder, folder])  # each once, in the order given
    assert [one.label for one in again] == ["b", "a"]


def test_what_cannot_be_read_is_named(save, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no evaluation result .*nothing\.json"):
        read_entries([tmp_path / "nothing.json"])
    with pytest.raises(FileNotFoundError, match="has no evaluation results; `tripletclip evaluate` writes them"):
        read_entries([tmp_path])
    folder = save(make_result([True, False]))
    file = folder / "a" / "sugarcrepe.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "format": 99}))
    with pytest.raises(ValueError, match=r"sugarcrepe.json is no evaluation result.*format 99"):
        read_entries([folder])
    file.write_text("{")
    with pytest.raises(ValueError, match=r"sugarcrepe\.json is no evaluation result that can be read"):
        read_entries([folder])


def test_models_are_told_apart():
    assert labels(entry("/runs/a"), entry("me/b")) == ["a", "me/b"]
    assert labels(entry("/one/model"), entry("/two/model")) == ["model (one)", "model (two)"]
    same = [entry("me/b", model={"name": "me/b", "fingerprint": print_}) for print_ in ("aaaaaaaa", "bbbbbbbb")]
    assert labels(*same) == ["me/b (aaaaaa)", "me/b (bbbbbb)"]
    assert labels(entry("", "runs/c/sugarcrepe.json", model={})) == ["c"]


def test_results_of_one_model_on_one_benchmark_are_told_apart():
    official = {"protocol": "official"}
    assert labels(entry("/runs/a"), entry("/runs/a", settings=official)) == ["a, strict", "a, official"]
    coco = {"source": "/data/coco", "fingerprint": "1"}
    assert labels(entry("/runs/a"), entry("/runs/a", data=coco)) == ["a, sugarcrepe", "a, coco"]
    with pytest.raises(ValueError, match="results of one model, a, on sugarcrepe that nothing tells apart"):
        labels(entry("/runs/a"), entry("/runs/a"))


@pytest.mark.parametrize(
    ("name", "short"),
    [("/a/b/c", "c"), ("./c", "c"), ("me/model", "me/model"), ("runs/x/model", "model"), ("model", "model"), ("", "")],
)
def test_short_names(name, short):
    assert short_name(name) == short


def test_a_result_of_an_older_version_gets_what_its_benchmark_declares(save):
    (entry,) = read_entries([save(make_result([True, False], title="SugarCrepe"))])  # has no other of these fields
    assert (entry.result.title, entry.result.hub_dataset) == ("SugarCrepe", "mteb/SUGARCREPE_fmt")
    assert entry.result.tradeoff == ("macro",)

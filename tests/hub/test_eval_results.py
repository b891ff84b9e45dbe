# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries
from huggingface_hub.repocard_data import eval_results_to_model_index

from hf_tripletclip.hub import create_model_card
from hf_tripletclip.hub.eval_results import eval_entries, model_index, results_of_model, write_eval_results
from hf_tripletclip.hub.repository import HubId, has_id_form, is_repo_id
from hf_tripletclip.objectives import get_objective
from hf_tripletclip.results import EvaluationResult
from hf_tripletclip.results.result import Mean


def sugarcrepe(macro: float = 0.74451, **changes) -> EvaluationResult:
    fields = {
        "metrics": {"swap_obj": 0.6449, "macro": macro, "micro": 0.7664, "tie_rate": 0.01},
        "primary": "macro",
        "title": "SugarCrepe",
        "hub_dataset": "mteb/SUGARCREPE_fmt",
        "counts": {"rows": 7511, "missing": 2},
        "settings": {"scores": "cosine in float32, strictly greater wins"},
        "means": {
            "swap_obj": Mean("accuracy", where={"category": "swap_obj"}),
            "macro": Mean("accuracy", by="category"),
            "micro": Mean("accuracy"),
        },
        "model": {"name": "/runs/mine"},
        "data": {"source": "/home/me/sugarcrepe", "fingerprint": "1"},
    }
    return EvaluationResult("sugarcrepe", **{**fields, **changes})


def winoground() -> EvaluationResult:
    return EvaluationResult(
        "winoground",
        {"text_score": 0.3, "group_score": 0.0875},
        primary="group_score",
        title="Winoground",
        hub_dataset="facebook/winoground",
        model={"name": "/runs/mine"},
        data={"source": "other/winoground"},
    )


def local() -> EvaluationResult:
    return EvaluationResult(
        "triplets",
        {"group_score": 0.5},
        primary="group_score",
        title="Triplets",
        data={"source": "/home/me/x"},
        model={"name": "m"},
    )


def similarity() -> EvaluationResult:
    return EvaluationResult(
        "similarity", {"modality_gap": 1.2}, primary="modality_gap", raw=True, data={"source": "a/b"}
    )


def test_model_index_has_the_metrics_of_each_benchmark():
    entries = model_index([sugarcrepe(), winoground(), local(), similarity()])
    found = {(entry.dataset_type, entry.metric_type): entry.metric_value for entry in entries}
    assert found == {
        ("mteb/SUGARCREPE_fmt", "macro"): 0.7445,
        ("mteb/SUGARCREPE_fmt", "micro"): 0.7664,
        ("mteb/SUGARCREPE_fmt", "swap_obj"): 0.6449,
        ("other/winoground", "text_score"): 0.3,
        ("other/winoground", "group_score"): 0.0875,
        ("x", "group_score"): 0.5,  # not where it lies on this machine
    }
    index = eval_results_to_model_index("mine", entries)
    assert [result["dataset"]["name"] for result in index[0]["results"]] == ["SugarCrepe", "Winoground", "Triplets"]


def test_eval_results_are_of_datasets_of_the_hub_only():
    entries = eval_entries([sugarcrepe(), winoground(), local(), similarity()])
    assert set(entries) == {"sugarcrepe", "winoground"}
    (entry,) = entries["sugarcrepe"]
    assert (entry.dataset_id, entry.task_id, entry.value) == ("mteb/SUGARCREPE_fmt", "default", 0.7445)
    assert entry.notes == "macro; cosine in float32, strictly greater wins; 7,511 rows; 2 missing"
    assert entries["winoground"][0].dataset_id == "other/winoground"


def test_they_are_added_to_a_model_folder(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    card = create_model_card(
        name="odd: name",
        dataset="me/triplets",
        objective=get_objective("negclip"),
        after=local(),
        license="mit",
    )
    card.save(folder / "README.md")
    written = write_eval_results(folder, [sugarcrepe(), winoground()])
    assert written == [
        folder / "README.md",
        folder / ".eval_results" / "sugarcrepe.yaml",
        folder / ".eval_results" / "winoground.yaml",
    ]
    again = ModelCard.load(folder / "README.md")
    assert again.data.license == "mit"
    assert again.data.model_name == "odd: name"
    assert again.text.strip() == card.text.strip()  # what people wrote stays
    assert {(one.dataset_type, one.metric_type) for one in again.data.eval_results} == {
        ("me/triplets", "group_score"),
        *(("mteb/SUGARCREPE_fmt", name) for name in ("macro", "micro", "swap_obj")),
        *(("other/winoground", name) for name in ("text_score", "group_score")),
    }
    data = yaml.safe_load((folder / ".eval_results" / "sugarcrepe.yaml").read_text())
    assert data == [
        {
            "dataset": {"id": "mteb/SUGARCREPE_fmt", "task_id": "default"},
            "value": 0.7445,
            "notes": "macro; cosine in float32, strictly greater wins; 7,511 rows; 2 missing",
        }
    ]
    assert parse_eval_result_entries(data) == eval_entries([sugarcrepe()])["sugarcrepe"]


def test_a_path_into_a_folder_of_elsewhere_is_no_id(tmp_path, monkeypatch):
    """Written down where it led somewhere, read where it does not."""
    monkeypatch.chdir(tmp_path)
    for name in ("data/triplets", "outputs/clip", "./triplets", "a/b/c", "triplets", "/data/triplets"):
        assert not is_repo_id(name)
    (entry,) = model_index([EvaluationResult("triplets", {"accuracy": 1.0}, data={"source": "data/triplets"})])
    assert entry.dataset_type == "triplets"
    assert is_repo_id("me/triplets")
    Path("me/triplets").mkdir(parents=True)
    assert not is_repo_id("me/triplets")
    assert is_repo_id(HubId("me/triplets"))  # somebody said so
    assert has_id_form("me/triplets")
    assert create_model_card(name="m", base_model=HubId("me/triplets")).data.base_model == "me/triplets"


def test_metadata_that_somebody_wrote_stay(tmp_path):
    head = "---\nlanguage: no\nversion: 1.5\nodd: [1]\n---\n# Mine\n"
    (tmp_path / "README.md").write_text(head)
    write_eval_results(tmp_path, [sugarcrepe()])
    text = (tmp_path / "README.md").read_text()
    assert text.startswith("---\nlanguage: 'no'\nversion: 1.5\nodd:\n- 1\nmodel-index:\n- name: ")
    assert text.endswith("\n---\n# Mine\n")


def test_values_of_before_are_replaced(tmp_path):
    write_eval_results(tmp_path, [sugarcrepe(0.5), winoground()])
    write_eval_results(tmp_path, [sugarcrepe(0.6)])
    found = {one.metric_type: one.metric_value for one in ModelCard.load(tmp_path / "README.md").data.eval_results}
    assert found == {"macro": 0.6, "micro": 0.7664, "swap_obj": 0.6449, "text_score": 0.3, "group_score": 0.0875}
    assert yaml.safe_load((tmp_path / ".eval_results" / "sugarcrepe.yaml").read_text())[0]["value"] == 0.6
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_folder_without_a_card_gets_one(tmp_path):
    write_eval_results(tmp_path, [sugarcrepe()])
    card = ModelCard.load(tmp_path / "README.md")
    assert card.text.strip() == f"# {tmp_path.name}"
    assert card.data.model_name == tmp_path.name


def test_what_cannot_be_done_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no model folder .*nothing"):
        write_eval_results(tmp_path / "nothing", [sugarcrepe()])
    (tmp_path / "README.md").write_text("---\n[1, 2\n---\n")
    with pytest.raises(ValueError, match=r"metadata at the head of .*README\.md cannot be read"):
        write_eval_results(tmp_path, [sugarcrepe()])
    assert (tmp_path / "README.md").read_text() == "---\n[1, 2\n---\n"


def test_which_results_are_of_a_model(tmp_path):
    mine, other = sugarcrepe(), sugarcrepe(model={"name": "/runs/other"})
    by_path = sugarcrepe(model={"name": str(tmp_path / "mine")})
    assert results_of_model([mine, other, winoground()], tmp_path / "mine") == [mine, winoground()]
    assert results_of_model([mine, by_path], tmp_path / "mine") == [by_path]  # this very folder
    assert results_of_model([other], tmp_path / "mine") == [other]
    with pytest.raises(ValueError, match=r"which of these models is the one in .*: /runs/mine, /runs/other"):
        results_of_model([mine, other], tmp_path / "third")

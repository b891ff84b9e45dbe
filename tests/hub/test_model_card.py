# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from huggingface_hub import ModelCard

from hf_tripletclip.evaluation import EvaluationResult
from hf_tripletclip.hub import create_model_card
from hf_tripletclip.training.outputs import describe_objective


def make_card(**changes) -> ModelCard:
    result = EvaluationResult("triplets", {"accuracy": 0.75, "group_score": 0.5}, {"accuracy": 0.5}, {"rows": 10})
    before = EvaluationResult("triplets", {"accuracy": 0.25, "group_score": 0.0})
    arguments = {
        "name": "my-model",
        "dataset": "scenes",
        "objective": "negclip",
        "objective_text": describe_objective("negclip"),
        "hyperparameters": {"learning_rate": 0.001},
        "before": before,
        "after": result,
        "plots": {"Loss": "loss_curve.png"},
    }
    return create_model_card(**{**arguments, **changes})


def test_metadata_is_what_the_hub_understands(tmp_path):
    make_card(dataset="me/triplets", base_model="openai/clip-vit-base-patch32").save(tmp_path / "README.md")
    data = ModelCard.load(tmp_path / "README.md").data
    assert data.pipeline_tag == "zero-shot-image-classification"
    assert data.library_name == "transformers"
    assert data.datasets == ["me/triplets"]
    assert data.base_model == "openai/clip-vit-base-patch32"
    assert {entry.metric_type: entry.metric_value for entry in data.eval_results} == {
        "accuracy": 0.75,
        "group_score": 0.5,
    }


def test_text_says_what_was_done_and_what_it_is_worth():
    card = make_card()
    assert card.data.datasets is None
    text = str(card)
    assert "| accuracy | 0.250 | 0.750 | 0.500 |" in text
    assert "| learning_rate | 0.001 |" in text
    assert "says nothing about photographs" not in text
    assert "say nothing about photographs" in text
    assert "arXiv:2411.02545" in text
    assert "![Loss](loss_curve.png)" in text
    assert "0.5 CE(image → text ∪ negative text) + 0.5 CE(text → image)" in text


def test_without_an_evaluation():
    card = make_card(before=None, after=None)
    assert "It was not evaluated." in str(card)
    assert card.data.eval_results is None
    assert "before" not in str(make_card(before=None)).split("## Evaluation")[1].split("## Limits")[0]


def test_no_token_gets_in():
    token = "hf_" + "aB3" * 12
    card = str(make_card(hyperparameters={"hub_token": "secret-1", "max_new_tokens": 7, "run_name": f"x {token}"}))
    assert "secret-1" not in card
    assert token not in card
    assert "| run_name | x [token] |" in card
    assert "| max_new_tokens | 7 |" in card


def test_paths_of_this_machine_stay_here(tmp_path):
    card = make_card(dataset=str(tmp_path / "triplets"), base_model=str(tmp_path / "start"))
    assert card.data.datasets is None
    assert card.data.base_model is None
    assert str(tmp_path) not in str(card)
    assert "on `triplets`, from `start`" in str(card)


def test_values_do_not_break_the_table_and_the_license_can_be_another():
    card = make_card(hyperparameters={"betas": "0.9 | 0.98"}, license="mit")
    assert r"| betas | 0.9 \| 0.98 |" in str(card)
    assert ModelCard(str(card)).data.license == "mit"


def test_content_parses_as_a_card_of_the_hub():
    card = make_card(dataset="me/triplets", name='odd: "name" #1')
    data = ModelCard(card.content).data
    assert data.to_dict() == card.data.to_dict()
    assert data.license is None  # nobody said
    assert data.model_name == 'odd: "name" #1'
    assert set(data.tags) == {"clip", "tripletclip", "compositionality", "hard-negatives"}
    assert {(entry.dataset_type, entry.metric_type) for entry in data.eval_results} == {
        ("me/triplets", "accuracy"),
        ("me/triplets", "group_score"),
    }


def test_sections_come_in_order_and_the_citation_is_whole():
    text = make_card(training_time="3 minutes on a CPU").text
    heads = [line for line in text.splitlines() if line.startswith("#")]
    assert heads == ["# my-model", "## Use", "## Training", "## Evaluation", "## Limits", "## Citation"]
    citation = text.split("```bibtex")[1].split("```")[0]
    assert citation.strip().startswith("@inproceedings{patel2024tripletclip,")
    assert citation.count("{") == citation.count("}")
    assert text.count("```") % 2 == 0
    assert "Time: 3 minutes on a CPU." in text


def test_tables_have_as_many_cells_in_every_row():
    tables = [line for line in make_card().text.splitlines() if line.startswith("|")]
    assert [line.count("|") for line in tables] == [3, 3, 3, 5, 5, 5, 5]
    assert "| group_score | 0.000 | 0.500 |  |" in tables  # nobody knows its chance here
    alone = [line for line in make_card(before=None).text.splitlines() if line.startswith("|")]
    assert "| accuracy | 0.750 | 0.500 |" in alone


def test_ties_are_told():
    result = EvaluationResult("triplets", {"accuracy": 0.5, "tie_rate": 0.125}, counts={"rows": 8})
    assert "8 triplets." in make_card(after=result).text
    assert "a tie is wrong (12.5% of the rows have one)." in make_card(after=result).text
    assert "a tie is wrong." in make_card().text


def test_nothing_that_is_called_a_secret_is_shown():
    secrets = {"token": "v1", "hub_token": "v2", "push_to_hub_token": "v3", "wandb_api_key": "v4", "password": "v5"}
    text = str(make_card(hyperparameters={**secrets, "tokenizer": "kept", "secret_santa": "kept too"}))
    assert not any(value in text for value in secrets.values())
    assert "| tokenizer | kept |" in text
    assert "| secret_santa | kept too |" in text


def test_data_that_is_known_to_be_toys_says_so_and_other_data_does_not():
    assert "drawings of icons" in make_card().text
    other = make_card(dataset="me/triplets").text
    assert "drawings of icons" not in other
    assert "Evaluate it on your own data" in other

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

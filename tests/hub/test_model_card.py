# SPDX-License-Identifier: Apache-2.0
"""Model cards: what they tell, and what they do not."""

from __future__ import annotations

import ast
import re

import pytest
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results

from hf_tripletclip.hub import create_model_card
from hf_tripletclip.hub.model_card import Part, Retention
from hf_tripletclip.objectives import get_objective
from hf_tripletclip.results import EvaluationResult
from hf_tripletclip.results.curve import Curve, Point
from hf_tripletclip.results.result import Mean
from tests.tiny import tiny_config


def make_card(**changes) -> ModelCard:
    result = EvaluationResult("triplets", {"accuracy": 0.75, "group_score": 0.5}, {"accuracy": 0.5}, {"rows": 10})
    before = EvaluationResult("triplets", {"accuracy": 0.25, "group_score": 0.0})
    arguments = {
        "name": "my-model",
        "dataset": "scenes",
        "objective": get_objective("negclip"),
        "towers": "Text tower full, image tower frozen: 5 of 10 parameters train.",
        "hyperparameters": {"learning_rate": 0.001},
        "hardware": {"hardware": "a CPU", "training time": "3.0 minutes"},
        "before": before,
        "after": result,
        "plots": ["loss_curve.png", "evaluation.png"],
    }
    return create_model_card(**{**arguments, **changes})


@pytest.mark.parametrize(
    ("trained_on", "evaluated_on", "sentences"),
    [
        (Part(1234, "tune"), Part(9, "test"), ["1,234 rows of the split `tune`.", "10 triplets of the split `test`."]),
        (Part(None, "train"), None, ["Trained on the split `train`, read as a stream.", "10 triplets."]),
        (Part(5), Part(5), ["Trained on 5 rows.", "10 triplets."]),
        (Part(1, "<b>|`x`\n# y"), Part(1, "*`<i>`"), ["1 row of the split `<b>|'x' # y`.", "of the split `*'<i>'`."]),
    ],
)  # fmt: skip
def test_how_many_rows_of_which_split(trained_on, evaluated_on, sentences):
    text = make_card(trained_on=trained_on, evaluated_on=evaluated_on).text
    assert all(sentence in text for sentence in sentences), text
    assert ("the split" in text) == ("the split" in "".join(sentences))
    assert "Trained on" not in make_card().text


def test_the_split_of_the_validation_data():
    card = make_card(before=None, after=None, validation=(7, {"loss": 1.0}), evaluated_on=Part(20, "dev"))
    assert "On the validation data, 20 rows of the split `dev`, at step 7:" in card.text
    # beside an evaluation after training, whose split it is
    both = make_card(validation=(7, {"loss": 1.0}), evaluated_on=Part(20, "test"))
    assert "On the validation data, at step 7:" in both.text


def measured(alpha: float, right: list[bool], known: list[bool]) -> Point:
    """A point of a curve with results of two benchmarks."""
    results = {}
    for name, metric, outcomes in (("triplets", "group_score", right), ("zeroshot", "top1", known)):
        results[name] = EvaluationResult(
            name,
            {metric: sum(outcomes) / len(outcomes)},
            counts={"rows": len(outcomes)},
            predictions={"row": list(range(len(outcomes))), metric: outcomes},
            primary=metric,
            means={metric: Mean(metric)},
            data={"source": "scenes", "fingerprint": "x"},
        )
    return Point(alpha, results["triplets"].metrics["group_score"], results["zeroshot"].metrics["top1"], results)


def curve() -> Curve:
    points = [
        measured(0.0, [False] * 8 + [True] * 2, [True] * 9 + [False]),
        measured(0.5, [False] * 4 + [True] * 6, [True] * 9 + [False]),
        measured(1.0, [True] * 9 + [False], [True] * 4 + [False] * 6),
    ]
    return Curve("triplets group_score", "zeroshot top1", points)


def section(card: ModelCard, title: str) -> str:
    return card.text.split(f"## {title}\n")[1].split("\n## ")[0]


def python_of(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def test_metadata_is_what_the_hub_understands(tmp_path):
    make_card(dataset="me/triplets", base_model="openai/clip-vit-base-patch32").save(tmp_path / "README.md")
    data = ModelCard.load(tmp_path / "README.md").data
    assert data.pipeline_tag == "zero-shot-image-classification"
    assert data.library_name == "transformers"
    assert data.datasets == ["me/triplets"]
    assert data.base_model == "openai/clip-vit-base-patch32"
    assert data.base_model_relation == "finetune"
    assert {entry.metric_type: entry.metric_value for entry in data.eval_results} == {
        "accuracy": 0.75,
        "group_score": 0.5,
    }
    name, entries = model_index_to_eval_results(eval_results_to_model_index(data.model_name, data.eval_results))
    assert name == "my-model"
    assert {entry.dataset_type for entry in entries} == {"me/triplets"}


@pytest.mark.parametrize(
    ("given", "base_model", "relation"),
    [
        ({"kind": "peft", "base_model": "user/clip"}, "user/clip", "adapter"),
        ({"base_model": "user/clip"}, "user/clip", "finetune"),
        ({"base_model": None}, None, None),
        ({"base_model": "outputs/some/clip"}, None, None),
    ],
)
def test_the_relation_to_the_base(given, base_model, relation):
    data = make_card(**given).data
    assert data.base_model == base_model
    assert data.get("base_model_relation") == relation
    assert ("lora" in data.tags) == (given.get("kind") == "peft")


def test_text_says_what_was_done_and_what_it_is_worth():
    card = make_card()
    assert card.data.datasets is None
    text = str(card)
    assert "| accuracy | 0.250 | 0.750 | 0.500 |" in text
    assert "| learning_rate | 0.001 |" in text
    assert "say nothing about photographs" in text
    assert "https://arxiv.org/abs/2411.02545" in text
    training = section(card, "Training")
    assert r"\mathrm{CE}(v \to T \cup T') + \mathrm{CE}(t \to V)" in training
    assert "Text tower full, image tower frozen" in training
    assert "- hardware: a CPU\n- training time: 3.0 minutes" in training
    assert "![Loss](loss_curve.png)" in training
    assert "![Evaluation before and after training](evaluation.png)" in section(card, "Evaluation")


def test_without_an_evaluation():
    card = make_card(before=None, after=None, plots=[])
    assert "It was not evaluated." in str(card)
    assert card.data.eval_results is None
    assert "before" not in section(make_card(before=None, plots=[]), "Evaluation")
    assert "![" not in str(card)


def test_only_what_is_known():
    card = create_model_card(name="bare")
    assert [line for line in card.text.splitlines() if line.startswith("#")] == ["# bare", "## Use", "## Limits"]
    assert card.data.to_dict() == {
        "library_name": "transformers",
        "pipeline_tag": "zero-shot-image-classification",
        "tags": ["clip"],
    }
    text = make_card(hyperparameters={"mini_batch_size": None, "seed": 0}).text
    assert "mini_batch_size" not in text
    assert "| seed | 0 |" in text
    assert "None" not in text
    assert "Information Needed" not in text


def test_no_token_gets_in():
    token = "hf_" + "aB3" * 12
    card = str(make_card(hyperparameters={"hub_token": "secret-1", "max_new_tokens": 7, "run_name": f"x {token}"}))
    assert "secret-1" not in card
    assert token not in card
    assert "| run_name | x [token] |" in card
    assert "| max_new_tokens | 7 |" in card


def test_paths_of_this_machine_stay_here(tmp_path):
    retention = Retention(curve(), 1.0)
    for point in retention.curve.points:
        for result in point.results.values():
            result.data["source"] = str(tmp_path / "pairs")
    card = make_card(
        dataset=str(tmp_path / "triplets"),
        base_model=str(tmp_path / "start"),
        tuned_model=str(tmp_path / "tuned"),
        retention=retention,
        kind="peft",
    )
    assert card.data.datasets is None
    assert card.data.base_model is None
    assert str(tmp_path) not in str(card)
    assert "on `triplets`, from <!-- base:begin -->`start`<!-- base:end -->." in str(card)
    assert "`triplets` on `pairs`, 10 rows" in str(card)


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
    assert "hard-negatives" not in make_card(objective=get_objective("clip")).data.tags


def test_sections_come_in_order_and_the_citation_is_whole():
    card = make_card(retention=Retention(curve(), 1.0))
    heads = [line for line in card.text.splitlines() if line.startswith("#")]
    order = ["Use", "Training", "Evaluation", "Retention", "Limits", "Citation"]
    assert heads == ["# my-model", *(f"## {name}" for name in order)]
    citation = section(card, "Citation")
    assert "@inproceedings{patel2024tripletclip," in citation
    assert "@inproceedings{wortsman2022robust," in citation
    assert citation.count("{") == citation.count("}")
    assert card.text.count("```") % 2 == 0
    assert "wortsman" not in make_card().text


def test_tables_have_as_many_cells_in_every_row():
    tables = [line for line in make_card().text.splitlines() if line.startswith("|")]
    assert [line.count("|") for line in tables] == [3, 3, 3, 5, 5, 5, 5]
    assert "| group_score | 0.000 | 0.500 |  |" in tables  # nobody knows its chance here
    alone = [line for line in make_card(before=None).text.splitlines() if line.startswith("|")]
    assert "| accuracy | 0.750 | 0.500 |" in alone
    result = EvaluationResult("triplets", {"accuracy": 0.5, "x": 1.0}, intervals={"accuracy": (0.25, 0.75)})
    lines = make_card(before=None, after=result).text.splitlines()
    assert "| metric | value | 95 % interval | chance |" in lines
    assert "| accuracy | 0.500 | 0.250 – 0.750 |  |" in lines
    assert "| x | 1.000 |  |  |" in lines


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


def test_limits_are_those_of_the_data_of_the_model_and_of_its_base():
    assert "drawings of icons" in make_card().text
    other = make_card(dataset="me/triplets", config=tiny_config(), base_model="user/clip").text
    assert "drawings of icons" not in other
    assert "Evaluate it on your own data" in other
    assert "Images are seen at 16 × 16 pixels and captions are cut after 16 tokens." in other
    assert "limits and biases that the card of its base model tells of" in other
    assert "biases" not in make_card(base_model="outputs/some/clip").text  # nobody can read that


def test_what_was_lost_stands_beside_what_was_gained():
    retention = Retention(curve(), 1.0, chosen=curve().points[1], max_loss=0.01, plot="interpolation.png")
    text = section(make_card(retention=retention, bound="Training was to stop at 0.02."), "Retention")
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("|")]
    table = {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows if len(row) == 5}
    assert table["base"] == ["0.200", "", "0.900", ""]
    assert table["this model"][0] == "0.900"
    assert table["this model"][1].startswith("+0.700 [+0.")
    assert table["this model"][3].startswith("+0.500 [+0.")
    assert table["WiSE-FT, α = 0.5"][2:] == ["0.900", "+0.000 [n/a]"]
    assert "| 0.5 | 0.600 | 0.900 | chosen |" in text
    assert "| 1 | 0.900 | 0.400 | this model |" in text
    assert "of those that lose at most 0.01 of retention" in text
    assert "![Composition and retention between base and tuned model](interpolation.png)" in text
    assert text.rstrip().endswith("Training was to stop at 0.02.")
    values = {(one.metric_type, one.metric_value) for one in make_card(retention=retention).data.eval_results}
    assert ("top1", 0.4) in values  # this model's
    assert ("top1", 0.9) not in values


def test_a_merge_names_both_models():
    chosen = curve().points[1]
    card = create_model_card(
        name="merged",
        base_model="user/clip",
        tuned_model="user/tuned",
        merged=True,
        retention=Retention(curve(), 0.5, chosen, 0.01, "interpolation.png"),
    )
    assert card.data.base_model == ["user/clip", "user/tuned"]
    assert card.data.base_model_relation == "merge"
    assert "wise-ft" in card.data.tags
    assert "and of `user/tuned`, at α = 0.5" in card.text
    rows = [line.split("|")[1].strip() for line in section(card, "Retention").splitlines() if line.count("|") == 6]
    assert rows[2:] == ["base", "this model", "tuned model"]
    one = create_model_card(name="m", base_model="/a/clip", tuned_model="user/t", merged=True, retention=None)
    assert one.data.base_model == ["user/t"]


def test_a_single_point_is_no_curve_and_nothing_is_compared():
    alone = Curve("triplets group_score", "zeroshot top1", [measured(0.5, [True, False], [True, True])])
    card = create_model_card(
        name="m", base_model="user/clip", tuned_model="user/t", merged=True, retention=Retention(alone, 0.5)
    )
    assert "## Retention" not in card.text
    assert "α = 0.5" in card.text


@pytest.mark.parametrize("kind", ["transformers", "peft", "open_clip"])
def test_code_is_python_and_names_the_model(kind):
    blocks = python_of(make_card(kind=kind, name="user/mine", base_model="user/clip").text)
    assert len(blocks) == 2
    for block in blocks:
        ast.parse(block)
        assert "user/mine" in block
    assert ("user/clip" in blocks[0]) == (kind == "peft")
    assert "hf_tripletclip" not in blocks[0]
    assert "hf_tripletclip" in blocks[1]


def test_an_adapter_of_a_published_checkpoint_needs_this_package():
    text = make_card(kind="peft", name="user/mine", base_model="TripletCLIP/CC3M_TripletCLIP_ViTB12").text
    assert 'base = TripletCLIPModel.from_pretrained("TripletCLIP/CC3M_TripletCLIP_ViTB12")' in text
    assert "opens without" not in text


def test_openclip_is_opened_from_the_hub_or_from_a_folder():
    assert '"hf-hub:user/mine"' in make_card(kind="open_clip", name="user/mine").text
    assert '"local-dir:mine"' in make_card(kind="open_clip", name="mine").text


def test_what_others_wrote_is_shown_as_it_is():
    hostile = '<script>alert(1)</script> [a](javascript:b) "quoted" `c`'
    result = EvaluationResult("triplets", {"accuracy": 0.5}, counts={"rows": 4}, data={"source": hostile})
    card = create_model_card(
        name=f"my {hostile}", dataset=f"a <b> {hostile}", base_model=f"base {hostile}", towers=None,
        hyperparameters={hostile: hostile}, hardware={hostile: hostile}, further=[result],
    )  # fmt: skip
    outside = re.sub(r"```.*?\n```|`[^`\n]*`", "", card.text, flags=re.DOTALL)
    assert not re.search(r"(?<!\\)<(script|b>)|(?<!\\)\]\(javascript", outside)
    for block in re.findall(r"```python\n(.*?)\n```", card.text, flags=re.DOTALL):
        compile(block, "card", "exec")

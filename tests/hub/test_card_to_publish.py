# SPDX-License-Identifier: Apache-2.0
"""What becomes of a card, or of none, when a model's folder goes to the Hub."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from PIL import Image

from hf_tripletclip import TripletCLIPModel
from hf_tripletclip.checkpoints import convert
from hf_tripletclip.hub import create_model_card, model_push
from hf_tripletclip.hub.card import Card
from hf_tripletclip.hub.eval_results import write_eval_results
from hf_tripletclip.hub.model_card import Retention, Use
from hf_tripletclip.hub.model_folder import ModelFolder
from hf_tripletclip.hub.repository import HubId
from hf_tripletclip.layouts.adapters import save_logit_scale
from hf_tripletclip.objectives import get_objective
from hf_tripletclip.results import EvaluationResult
from tests.checkpoints import small_processor, write_published
from tests.hub import FAKE, adapted, scores, small_model
from tests.hub.test_model_card import curve, python_of


def content_to_publish(path: Path, repo_id: str, **kwargs) -> str:
    """The card of a folder that goes to a new repository."""
    folder = ModelFolder.read(path)
    return model_push.card_to_publish(folder, Use(folder.layout, HubId(repo_id)), **kwargs).content


def card_to_publish(path: Path, repo_id: str, **kwargs) -> ModelCard:
    return ModelCard(content_to_publish(path, repo_id, **kwargs))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "clip"
    small_model().save_pretrained(folder)
    small_processor().save_pretrained(folder)
    return folder


@pytest.fixture
def adapter(model: Path) -> Path:
    folder = model.with_name("lora")
    adapted(TripletCLIPModel.from_pretrained(model)).save_pretrained(folder)  # with peft's empty template
    small_processor().save_pretrained(folder)
    return folder


def test_a_card_of_ours_names_the_repository_and_the_base(adapter, model):
    result = EvaluationResult("triplets", {"accuracy": 0.75}, {}, {"rows": 10})
    objective = get_objective("clip")
    made = create_model_card(
        name="lora", kind="peft", base_model=str(model), dataset="scenes", objective=objective, after=result
    )
    made.save(adapter / "README.md")
    before = (adapter / "README.md").read_bytes()
    card = card_to_publish(adapter, "user/mine", base_model="user/clip")
    assert (adapter / "README.md").read_bytes() == before  # the folder stays as it is
    assert card.text.strip().startswith("# mine\n")
    assert card.data.model_name == "mine"
    assert card.data.base_model == "user/clip"
    assert card.data.base_model_relation == "adapter"
    assert card.data.library_name == "peft"
    assert "from <!-- base:begin -->[`user/clip`](https://huggingface.co/user/clip)<!-- base:end -->." in card.text
    code = "".join(python_of(card.text))
    assert re.findall(r'"((?:user|lora|clip)[^"]*)"', code) == ["user/clip", "user/mine", "user/mine", "user/mine"]
    assert "no place on the Hub" not in card.text
    # What was measured stays, and publishing twice is publishing once.
    assert card.text.split("## Training")[1] == made.text.split("## Training")[1]
    card.save(adapter / "README.md")
    assert str(card_to_publish(adapter, "user/mine", base_model="user/clip")) == str(card)


def test_a_merge_keeps_its_other_model(model):
    merged = create_model_card(
        name="merged",
        merged=True,
        base_model="somewhere/deep/clip",
        tuned_model="user/tuned",
        retention=Retention(curve(), 0.5, curve().points[1]),
    )
    merged.save(model / "README.md")
    card = card_to_publish(model, "user/merged", base_model="user/base")
    assert card.data.base_model == ["user/base", "user/tuned"]
    assert card.data.base_model_relation == "merge"
    assert card_to_publish(model, "user/merged").data.base_model == ["user/tuned"]


def test_what_somebody_wrote_stays(model):
    text = f"# Mine\n\nIt sees `clip`. Token {FAKE}\n\n```python\nload('clip')\n```\n"
    (model / "README.md").write_text(f"---\nlicense: mit\nlibrary_name: mine\nother: [1, 2]\n---\n{text}")
    card = card_to_publish(model, "user/mine", base_model="user/base")
    assert card.text == text.replace(FAKE, "[token]")
    assert card.data.to_dict() == {
        "license": "mit",
        "library_name": "mine",
        "other": [1, 2],
        "pipeline_tag": "zero-shot-image-classification",
        "base_model": "user/base",
        "base_model_relation": "finetune",
    }
    (model / "README.md").write_text("---\nbase_model: their/base\n---\nText [More Information Needed]\n")
    kept = card_to_publish(model, "user/mine", base_model="user/base")
    assert kept.data.base_model == "user/base"  # it was given
    assert card_to_publish(model, "user/mine").data.base_model == "their/base"
    assert kept.text.strip() == "Text [More Information Needed]"
    (model / "README.md").write_text("No metadata.\n")
    assert card_to_publish(model, "user/mine").data.library_name == "transformers"


def test_the_text_that_somebody_wrote_stays_byte_for_byte(model):
    head, text = "---\r\nlanguage: no\r\nmodel-index: {}\r\n---\r\n", "\r\n```sh\r\n# not a heading\r\n```\r\n"
    (model / "README.md").write_bytes(b"\xef\xbb\xbf" + (head + text).encode())
    card = content_to_publish(model, "user/mine", license="mit", tags=["a"])
    added = (
        "pipeline_tag: zero-shot-image-classification\r\nlibrary_name: transformers\r\nlicense: mit\r\ntags:\r\n- a"
    )
    assert card == f"---\r\nlanguage: 'no'\r\nmodel-index: {{}}\r\n{added}\r\n---\r\n{text}"


def test_a_base_that_is_given_goes_before_what_somebody_wrote(adapter):
    head = "---\nbase_model: 5\nlibrary_name: transformers\nbase_model_relation: finetune\n---\nText\n"
    (adapter / "README.md").write_text(head)
    with pytest.raises(ValueError, match=r"README\.md has `base_model: 5`"):
        card_to_publish(adapter, "user/mine", base_model="user/base")
    (adapter / "README.md").write_text(head.replace("5", "[their/base]"))
    data = card_to_publish(adapter, "user/mine", base_model="user/base").data
    assert (data.base_model, data.base_model_relation, data.library_name) == ("user/base", "adapter", "peft")


def test_only_the_heading_is_renamed(model):
    card = create_model_card(name="clip", base_model="user/base")
    text = str(card).replace("# clip\n", "").replace("## Limits", "```python\n# load it\n```\n\n## Limits")
    (model / "README.md").write_text(text)
    published = card_to_publish(model, "user/mine")
    assert "# load it" in published.text
    assert "# mine" not in published.text


def test_hand_made_entries_of_our_results_stay(model):
    result = EvaluationResult("winoground", {"group_score": 0.5}, primary="group_score")
    card = create_model_card(name="clip", after=result)
    (model / "README.md").write_text(str(card).replace("  results:", "  note: mine\n  results:"))
    index = Card.read(content_to_publish(model, "user/mine"), "user/mine").fields["model-index"]
    assert (index[0]["name"], index[0]["note"]) == ("mine", "mine")


def test_an_empty_template_is_no_card(adapter):
    template = (adapter / "README.md").read_text()
    assert "[More Information Needed]" in template
    card = card_to_publish(adapter, "user/mine", base_model="user/base")
    assert "More Information Needed" not in str(card)
    assert "LoRA of rank 2, alpha 8, on `q_proj`, `v_proj`." in card.text
    assert card.data.base_model == "user/base"
    assert str(adapter.parent) not in str(card)
    (adapter / "README.md").write_text(template.replace("[More Information Needed]", "Told.", 2))
    assert "Told." in card_to_publish(adapter, "user/mine").text  # somebody has begun


def test_without_a_card_only_what_lies_there_is_told(model):
    card = card_to_publish(model, "user/mine")
    assert "# mine" in card.text
    assert "objective" not in card.text  # every config names one, whatever the weights were trained with
    assert card.data.base_model is None
    assert "Images are seen at 16 × 16 pixels" in card.text
    state = {"config": json.loads((model / "config.json").read_text())}
    state["config"].update(objective="negclip", objective_kwargs=None)
    (model / "config.json").write_text(json.dumps(state["config"]))
    for name in ("trainer_state.json", "metrics.json"):
        (model / name).write_text("{}")
    for name, value in (("before", 0.25), ("after", 0.75)):
        EvaluationResult("triplets", {"accuracy": value}, {}, {"rows": 4}).save_json(model / f"evaluation_{name}.json")
    EvaluationResult("zeroshot", {"top1": 0.5}).save_json(model / "evaluation_zeroshot.json")
    entry = {"primary": "group_score", "hub_dataset": "facebook/winoground"}
    write_eval_results(model, [EvaluationResult("winoground", {"group_score": 0.1}, **entry)])
    (model / "README.md").unlink()
    curve().save(model / "interpolation.json", curve().points[1])
    for name in ("loss_curve.png", "evaluation.png", "interpolation.png"):
        Image.new("RGB", (4, 4)).save(model / name)
    card = card_to_publish(model, "user/mine", base_model="user/base")
    assert "trained with the objective `negclip`" in card.text
    assert "| accuracy | 0.250 | 0.750 |" in card.text
    assert "| top1 | 0.500 |" in card.text
    assert "| `facebook/winoground` | 0.1 | group_score" in card.text
    assert "| 1 | 0.900 | 0.400 | this model |" in card.text
    assert re.findall(r"!\[.*\]\((.*)\)", card.text) == [
        "loss_curve.png",
        "evaluation.png",
        "interpolation.png",
    ]
    assert {one.metric_type for one in card.data.eval_results} >= {"accuracy", "top1"}


def test_a_folder_of_merge_without_its_card(model):
    curve().save(model / "interpolation.json", curve().points[1])
    card = card_to_publish(model, "user/mine", base_model="user/base")
    assert card.data.base_model == ["user/base"]
    assert card.data.base_model_relation == "merge"
    assert "| 0.5 | 0.600 | 0.900 | this model, chosen |" in card.text


def test_an_openclip_folder(model):
    convert(model, model.with_name("openclip"), to="openclip")
    card = card_to_publish(model.with_name("openclip"), "user/mine")
    assert card.data.library_name == "open_clip"
    assert 'create_model_from_pretrained("hf-hub:user/mine")' in card.text


def test_what_cannot_be_read_is_named(model):
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        card_to_publish(model / "nowhere", "user/mine")
    (model / "README.md").write_text("---\n- a\n- b\n---\n")
    with pytest.raises(ValueError, match=r"the metadata at the head of .*README\.md cannot be read"):
        card_to_publish(model, "user/mine")
    (model / "README.md").unlink()
    (model / "interpolation.json").write_text('{"points": [{"beta": 1}]}')
    with pytest.raises(ValueError, match=r"interpolation\.json is no curve"):
        card_to_publish(model, "user/mine")
    (model / "interpolation.json").unlink()
    (model / "evaluation_after.json").write_text("[]")
    with pytest.raises(ValueError, match=r"evaluation_after\.json is no evaluation result"):
        card_to_publish(model, "user/mine")


@pytest.mark.parametrize("kind", ["transformers", "peft", "open_clip"])
def test_the_code_of_the_card_runs(kind, model, adapter, tmp_path, monkeypatch, capsys):
    """Each block, as it stands, in a folder that holds the model by its name."""
    folder = {"transformers": model, "peft": adapter, "open_clip": tmp_path / "openclip"}[kind]
    if kind == "open_clip":
        pytest.importorskip("open_clip")
        convert(model, folder, to="openclip")
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (20, 20), "red").save("photo.jpg")
    base = "clip" if kind == "peft" else None
    card = create_model_card(name=folder.name, kind=kind, base_model=base)
    blocks = python_of(ModelCard(str(card)).text)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, "card", "exec"), {})
    assert capsys.readouterr().out


@pytest.mark.parametrize("split", [False, True])
def test_the_code_for_an_adapter_applies_its_scale(split, model, tmp_path, monkeypatch):
    """Also on a base of the published layout, whose processor it takes where the adapter brings none."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (20, 20), "red").save("photo.jpg")
    base = "clip"
    if split:
        write_published(tmp_path / "published")
        small_processor().save_pretrained(tmp_path / "published")
        base = "published"
    tuned = adapted(TripletCLIPModel.from_pretrained(base))
    tuned.save_pretrained("lora")
    save_logit_scale(tuned, "lora")
    use = Use("peft", "lora", base, published_base=split, scale=True, processor=False)
    names: dict[str, object] = {}
    exec(compile(python_of(create_model_card(name="lora", use=use).text)[0], "card", "exec"), names)
    assert names["model"].logit_scale.item() == 2.0
    assert scores(names["model"].eval()) == scores(tuned)

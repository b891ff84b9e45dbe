# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import re
from html import unescape

import pytest
from datasets import Dataset
from PIL import Image

from hf_tripletclip.evaluation import evaluate_triplets
from hf_tripletclip.evaluation.benchmarks.sugarcrepe import SugarCrepe
from hf_tripletclip.evaluation.images import ImageFile
from hf_tripletclip.evaluation.items import WINOGROUND, Item
from hf_tripletclip.evaluation.report import write_errors_page, write_examples_page
from hf_tripletclip.evaluation.report.errors import Row, card
from hf_tripletclip.results import EvaluationResult
from tests.pages.looking import browse, needs_browser, stands_alone, visit

NASTY = "<script>document.title='in'</script> & \"x\""
COLOURS = ("red", "blue", "green", "gray")


def cards(text: str) -> list[dict[str, str]]:
    return [
        {name: unescape(value) for name, value in re.findall(r'data-(\w+)="([^"]*)"', tag)}
        for tag in re.findall(r'<article class="card"[^>]*>', text)
    ]


@pytest.fixture
def benchmark(tmp_path):
    """SugarCrepe-like files: ids with holes, two kinds."""
    for kind, rows in (("swap_obj", 8), ("add_att", 4)):
        table = {}
        for index in range(rows):
            name = f"{kind}{index}.png"
            Image.new("RGB", (300, 200), COLOURS[index % 4]).save(tmp_path / name)
            table[str(3 * index)] = {
                "filename": name,
                "caption": f"a red cat {index} {NASTY}",
                "negative_caption": f"a blue cat {index}",
            }
        (tmp_path / f"{kind}.json").write_text(json.dumps(table))
    return SugarCrepe(annotations=str(tmp_path))


@pytest.fixture
def result(benchmark):
    """Wrong in the first five of one kind and the first of the other, by a tie once."""
    keys = [item.key for item in benchmark.items()]
    wrong = {key: -0.1 * (1 + place) for place, key in enumerate(keys[:5])} | {"add_att/0": 0.0}
    first = [0.5 + wrong.get(key, 0.25) for key in keys]
    return EvaluationResult(
        "sugarcrepe",
        {"macro": 0.5625},
        primary="macro",
        counts={"rows": 12},
        predictions={
            "key": keys,
            "category": [key.split("/")[0] for key in keys],
            "score_i0c0": first,
            "score_i0c1": [0.5] * 12,
            "accuracy": [value > 0.5 for value in first],
        },
        model={"name": "/runs/mine"},
    )


def test_only_wrong_rows_are_shown_and_all_are_counted(tmp_path, benchmark, result):
    page = write_errors_page(tmp_path / "new" / "errors.html", benchmark, result)
    elements = stands_alone(page)
    text = page.read_text(encoding="utf-8")
    found = cards(text)
    assert len(found) == 6
    assert {one["verdict"] for one in found} == {"wrong"}
    assert sorted(one["kinds"] for one in found) == ['["add_att"]'] + ['["swap_obj"]'] * 5
    margins = sorted(json.loads(one["scores"])["margin"] for one in found)
    assert margins == pytest.approx([-0.5, -0.4, -0.3, -0.2, -0.1, 0.0])
    words = " ".join("".join(elements.words).split())
    assert "6 of the 6 rows that are wrong, of 12 rows in all. The model's macro 56.2 %." in words
    assert "<title>SugarCrepe: what mine gets wrong</title>" in text
    for line in (["swap_obj", 8, 3, 5, "37.5%", 5], ["add_att", 4, 3, 1, "75.0%", 1], ["all", 12, 6, 6, "50.0%", 6]):
        assert "".join(f"<td>{value}</td>" for value in line[1:]) in text.split(f">{line[0]}</td>")[1]
    assert "a <mark>red</mark> cat 0" in text
    assert "a <mark>blue</mark> cat 0" in text
    assert "0.400 ✗" in text
    assert NASTY not in text
    assert sum(tag == "img" for tag, _ in elements.found) == 6


def test_categories_take_turns_and_the_seed_chooses(tmp_path, benchmark, result):
    def shown(**options):
        text = write_errors_page(tmp_path / "errors.html", benchmark, result, 3, **options).read_text("utf-8")
        return [re.search(r'where">([^ <]*)', part)[1] for part in text.split("<article")[1:]]

    assert sorted(key.split("/")[0] for key in shown()) == ["add_att", "swap_obj", "swap_obj"]
    assert shown() == shown()
    assert len({tuple(shown(seed=seed)) for seed in range(6)}) > 1


def test_images_that_have_gone_are_said_to(tmp_path, benchmark, result):
    (tmp_path / "add_att0.png").unlink()
    text = write_errors_page(tmp_path / "errors.html", benchmark, result).read_text(encoding="utf-8")
    assert text.count('<p class="quiet">image: no such file') == 1
    assert text.count("<img") == 5


def test_a_model_without_errors(tmp_path, benchmark, result):
    result.predictions["accuracy"] = [True] * 12
    text = write_errors_page(tmp_path / "errors.html", benchmark, result).read_text(encoding="utf-8")
    assert "There is no such row." in text
    assert "0 of the 0 rows that are wrong" in text


def test_results_that_do_not_fit_are_refused(tmp_path, benchmark, result):
    path = tmp_path / "errors.html"
    with pytest.raises(ValueError, match=r"without its \.parquet beside has none"):
        write_errors_page(path, benchmark, EvaluationResult.from_dict(result.to_dict()))
    with pytest.raises(ValueError, match="at least 1"):
        write_errors_page(path, benchmark, result, 0)
    with pytest.raises(ValueError, match="does not consist of questions"):
        write_errors_page(path, object(), result)
    result.predictions["key"] = ["swap_obj/1", *result.predictions["key"][1:]]
    with pytest.raises(ValueError, match=r"1 of 12 rows of the result are not in .*'swap_obj/1'.*other data"):
        write_errors_page(path, benchmark, result)
    assert not path.exists()


def row(scores, outcomes, **changes):
    fields = {
        "key": "k" * 500,
        "images": (ImageFile("nothing-1.png"), ImageFile("nothing-2.png")),
        "captions": ("a cat above a dog", "a dog above a cat"),
        "comparisons": WINOGROUND,
    }
    return Row(Item(**{**fields, **changes}), scores, outcomes)


def test_a_card_of_two_images():
    scores = {"i0c0": 0.3, "i0c1": 0.2, "i1c0": 0.3, "i1c1": 0.4}
    one = row(scores, {"text_score": True, "image_score": False, "group_score": False})
    assert not one.is_right
    assert one.margin == 0.0  # a tie is no win
    html = card(one)
    assert html.count('scope="row"') == 2
    assert '<td class="bad">0.300 ✗</td><td>0.300</td>' in html  # no higher than the other image
    assert '<td>0.200</td><td class="good">0.400 ✓</td>' in html
    assert "✓ text score" in html
    assert "✗ image score" in html
    assert json.loads(unescape(html.split('data-failed="')[1].split('"')[0])) == ["image_score", "group_score"]
    assert "k" * 100 not in html


def test_a_card_of_captions_compared_with_each_other():
    comparisons = {"itt": (("i0c0", "i0c2"), ("i0c1", "i0c2")), "tot": (("c0c1", "c0c2"), ("c0c1", "c1c2"))}
    scores = {"i0c0": 0.3, "i0c1": 0.1, "i0c2": 0.2, "c0c1": 0.9, "c0c2": 0.8, "c1c2": 0.7}
    one = row(
        scores,
        {"itt": False, "tot": True},
        images=(ImageFile("nothing.png"),),
        captions=("one", "two", "three"),
        comparisons=comparisons,
    )
    html = card(one)
    assert html.count("caption positive") == 2
    assert html.count("caption negative") == 1
    assert 'captions 1 and 2</th><td class="good">0.900 ✓</td>' in html
    assert "captions 2 and 3</th><td>0.700</td>" in html
    assert one.margin == pytest.approx(-0.1)


def triplets(rows: int = 12, **columns) -> Dataset:
    data = {
        "image": [Image.new("RGB", (300, 200), (200, index, 0)) for index in range(rows)],
        "caption": [f"a red cat {index}" for index in range(rows)],
        "neg_image": [Image.new("RGB", (8, 8), (0, index, 200)) for index in range(rows)],
        "neg_caption": [f"a blue cat {index}" for index in range(rows)],
        "negative_type": [("swap_obj", "add_att", "replace_rel")[index % 3] for index in range(rows)],
        **columns,
    }
    return Dataset.from_dict({name: values for name, values in data.items() if values is not None})


def hand_made(right: list[bool], rows: list[int] | None = None) -> EvaluationResult:
    rows = list(range(len(right))) if rows is None else rows
    high, low = [0.75 if good else 0.25 for good in right], [0.5] * len(right)
    columns = {"score_i0c0": high, "score_i0c1": low, "score_i1c0": low, "score_i1c1": high}
    outcomes = dict.fromkeys(("accuracy", "text_score", "image_score", "group_score"), right)
    kinds = [("swap_obj", "add_att", "replace_rel")[place % 3] for place in rows]
    return EvaluationResult(
        "triplets",
        {"group_score": sum(right) / len(right)},
        predictions={"row": rows, "key": [str(place) for place in rows], "category": kinds, **columns, **outcomes},
    )


def test_examples_are_right_and_wrong_ones_of_every_kind(tmp_path):
    data = triplets()
    result = hand_made([index < 6 for index in range(12)])
    page = write_examples_page(tmp_path / "examples.html", data, result, examples=6)
    stands_alone(page)
    text = page.read_text(encoding="utf-8")
    found = cards(text)
    assert sorted((json.loads(one["kinds"])[0], one["verdict"]) for one in found) == [
        (kind, verdict) for kind in ("add_att", "replace_rel", "swap_obj") for verdict in ("right", "wrong")
    ]
    assert "6 of 12 test triplets" in text
    assert "group score 50.0 %" in text
    assert 'data-by="verdict"' in text
    pages = [
        write_examples_page(tmp_path / "more.html", data, result, examples=3, seed=seed).read_text("utf-8")
        for seed in (0, 0, 1)
    ]
    assert pages[0] == pages[1]
    assert pages[0] != pages[2]
    assert len(cards(write_examples_page(tmp_path / "all.html", data, result).read_text("utf-8"))) == 12


def test_predictions_find_their_row_when_others_were_broken(tmp_path):
    data = triplets(caption=[""] * 11 + ["the last one"])
    text = write_examples_page(tmp_path / "page.html", data, hand_made([True], [11])).read_text(encoding="utf-8")
    assert "last" in text
    assert "a blue cat 11" in text.replace("<mark>", "").replace("</mark>", "")
    assert text.count("0.750 ✓") == 2


def test_examples_of_a_real_evaluation(tmp_path, model, processor):
    for dropped in (None, "neg_image", "neg_caption", "negative_type"):
        data = triplets(6).remove_columns([dropped] if dropped else [])
        result = evaluate_triplets(model, processor, data, progress=False)
        text = write_examples_page(tmp_path / "page.html", data, result).read_text(encoding="utf-8")
        assert len(cards(text)) == 6
        wrong = sum(one["verdict"] == "wrong" for one in cards(text))
        outcome = {"neg_image": "accuracy", "neg_caption": "image_accuracy"}.get(dropped, "group_score")
        assert wrong == 6 - round(6 * result.metrics[outcome])
        head = "share right (group score)" if outcome == "group_score" else "share right"  # not the accuracy's share
        assert f">{head}</th>" in text


def test_without_predictions_there_are_no_examples(tmp_path):
    result = hand_made([True])
    with pytest.raises(ValueError, match="needs the predictions"):
        write_examples_page(tmp_path / "page.html", triplets(1), EvaluationResult.from_dict(result.to_dict()))
    del result.predictions["row"]
    with pytest.raises(ValueError, match="no column `row`"):
        write_examples_page(tmp_path / "page.html", triplets(1), result)
    assert not (tmp_path / "page.html").exists()


@pytest.mark.slow
@needs_browser
def test_the_page_is_filtered_in_a_browser(tmp_path, benchmark, result):
    page = write_errors_page(tmp_path / "errors.html", benchmark, result)
    ran = browse(page, tmp_path)
    assert "<title>SugarCrepe: what mine gets wrong</title>" in ran  # no caption's script ran
    assert "6 of 6 rows" in ran
    script = """
      const choose = (name, value) => {
        const box = document.getElementById(name);
        box.focus();
        if (document.activeElement !== box) throw new Error("it cannot be reached by keyboard");
        box.value = value;
        box.dispatchEvent(new Event("change", { bubbles: true }));
      };
      choose("category", "swap_obj");
      choose("sort", "margin up");
      const seen = [...document.querySelectorAll(".card:not([hidden])")];
      document.title = JSON.stringify([
        seen.map((card) => card.dataset.kinds),
        seen.map((card) => JSON.parse(card.dataset.scores).margin),
        document.documentElement.scrollWidth <= document.documentElement.clientWidth,
      ]);
    """
    kinds, margins, fits = visit(page, script, tmp_path)
    assert kinds == ['["swap_obj"]'] * 5
    assert margins == sorted(margins)
    assert fits

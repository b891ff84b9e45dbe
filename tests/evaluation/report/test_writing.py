# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import importlib.util
import re

import numpy as np
import pytest
from PIL import Image

from hf_tripletclip.evaluation.report import write_report
from hf_tripletclip.evaluation.report.arguments import main
from hf_tripletclip.results import EvaluationResult
from hf_tripletclip.results.result import Mean
from tests.evaluation.report.conftest import make_result
from tests.pages.looking import browse, needs_browser, stands_alone, visit

HALF = [index % 2 == 0 for index in range(40)]
WHOLE = {"rows": 7_511}  # what SugarCrepe's published figures are of
MOST = [index % 10 != 0 for index in range(40)]


def zeroshot(value: float, name: str, source: str = "clip-benchmark/wds_imagenet1k") -> EvaluationResult:
    return EvaluationResult(
        "zeroshot",
        {"top1": value},
        primary="top1",
        counts={"rows": 50_000, "classes": 1_000},
        means={"top1": Mean("top1", where={"set": "imagenet1k"})},
        model={"name": name, "fingerprint": f"weights of {name}"},
        data={"source": source, "fingerprint": "1"},
    )


def similarity(name: str) -> EvaluationResult:
    values = np.random.default_rng(0).normal(0.2, 0.05, 50).tolist()
    columns = dict.fromkeys(("image_caption", "image_neg_caption", "image_neg_image"), values)
    metrics = {f"{column}_{part}": 0.2 for column in columns for part in ("mean", "q05")}
    return EvaluationResult(
        "similarity",
        {**metrics, "modality_gap": 1.25},
        primary="modality_gap",
        predictions=columns,
        model={"name": name, "fingerprint": f"weights of {name}"},
    )


@pytest.fixture
def results(save):
    blind = {"text tower": {"macro": 0.611, "micro": 0.622}}
    probe = {"real or drawn": {"accuracy": 0.933, "accuracy_low": 0.91, "accuracy_high": 0.95}}
    first = make_result(HALF, baselines={**blind, **probe}, counts={**WHOLE, "missing": 3})
    second = make_result(MOST, "/runs/<b>b", counts=WHOLE)
    return save(first, second, zeroshot(0.25, "/runs/a"), zeroshot(0.2, "/runs/<b>b"), similarity("/runs/a"))


def rows(markdown: str, start: str) -> list[list[str]]:
    lines = [line for line in markdown.splitlines() if line.startswith(f"| {start}")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_everything_is_in_the_page_and_in_markdown(results, tmp_path):
    written = write_report([results], tmp_path / "out")
    assert [path.name for path in written] == [
        "report.html",
        "report.md",
        "sugarcrepe_categories.png",
        "sugarcrepe_similarities.png",
        "similarity_across.png",
        "similarity_within.png",
        "tradeoff_sugarcrepe_zeroshot_top1.png",
    ]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(path.name for path in written)
    for path in written[2:]:
        with Image.open(path) as image:
            assert image.format == "PNG"
            assert len(set(image.convert("RGB").resize((60, 60)).tobytes())) > 10  # there is something on it
    stands_alone(written[0])
    page, markdown = (path.read_text(encoding="utf-8") for path in written[:2])
    assert "/runs/" not in page + markdown  # where things lie on this machine
    assert "<b>b" not in page
    for found in (page, markdown):
        for words in ("Patel et al. 2024, Table 4", "arXiv 2411.02545", "74.45", "chance", "3 missing", "text tower"):
            assert words in found, words
    # Folded away: below all that is of this report, and closed on the page.
    section = page.split('id="sugarcrepe"')[1].split("</section>")[0]
    assert section.count("<details><summary>Published figures</summary>") == 1
    assert "Patel" not in section.split("<details>")[0] + section.split("</details>")[1]
    assert "Patel" not in markdown.split("### Published figures")[0]
    assert page.count('<svg class="plot"') == 5
    assert markdown.count(".png)") == 5


def test_numbers_are_right(results, tmp_path):
    markdown = write_report([results], tmp_path / "out")[1].read_text(encoding="utf-8")
    own, *_ = rows(markdown.split("## SugarCrepe")[1], "a ")
    assert own[1].startswith("50.0 (")
    assert own[3:] == ["0.0", "7,511 (3 missing)", "this report"]
    other, *_ = rows(markdown.split("## SugarCrepe")[1], r"\<b\>b ")
    assert other[1].startswith("**90.0** (")
    assert rows(markdown, "↳ text tower")[0][1:3] == ["61.1", "62.2"]
    assert [row for row in rows(markdown, "a ") if "real or drawn" in row] == [
        ["a", "real or drawn", "93.3 (91.0–95.0)"]
    ]
    assert rows(markdown, "chance")[0][1:3] == ["50.0", "50.0"]
    (macro, micro) = rows(markdown, "a less") or rows(markdown, r"\<b\>b less")
    assert {macro[2], micro[2]} == {"**-40.0**"} or {macro[2], micro[2]} == {"**+40.0**"}
    assert macro[-1] == r"\<b\>b is better"
    gap = rows(markdown.split("## Overview")[1].split("## SugarCrepe")[0], "a ")[0]
    assert gap[-1] == "1.250"  # no share
    assert "q05" not in markdown


def test_one_model_alone(save, tmp_path):
    written = write_report([save(make_result(HALF))], tmp_path / "out")
    markdown = written[1].read_text(encoding="utf-8")
    assert markdown.startswith("# Evaluation of a\n")
    assert "Differences" not in markdown
    assert "**" not in markdown  # best of one is nothing


def test_other_data_is_not_compared(save, tmp_path):
    other = make_result(MOST, "/runs/b", data={"source": "/data/other", "fingerprint": "f01"})
    markdown = write_report([save(make_result(HALF), other)], tmp_path / "out")[1].read_text(encoding="utf-8")
    assert "Not compared row by row: b and a: the data are not the same" in markdown
    assert "not evaluated on the same data" in markdown
    limited = make_result(HALF, settings={"protocol": "strict", "max_rows": 40})
    markdown = write_report([save(limited)], tmp_path / "out")[1].read_text(encoding="utf-8")
    assert "Only a part of the rows was evaluated (max\\_rows): a." in markdown


def test_each_data_set_has_tables_of_its_own(tmp_path):
    few, none = {"rows": 8, "swap_obj": 4, "add_att": 4}, {"source": "/here/own.csv", "fingerprint": "f02"}
    for name in ("a", "b"):
        right = HALF if name == "a" else MOST
        make_result(right, f"/runs/{name}").save(tmp_path / name / "one.json")
        small = make_result([True] * 8 if name == "a" else HALF[:8], f"/runs/{name}", counts=few, data=none)
        small.save(tmp_path / name / "two.json")
    written = write_report([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    markdown = written[1].read_text(encoding="utf-8")
    assert markdown.startswith("# Evaluation of 2 models\n")  # and not of 4 results
    one, two = (
        markdown.split(f"### By category on {name}\n")[1].split("###")[0] for name in ("sugarcrepe", "own.csv")
    )
    assert rows(one, "rows") == [["rows", "20", "20", ""]]
    assert rows(two, "rows") == [["rows", "4", "4", ""]]
    assert "own.csv" not in one.split("| model |")[1]
    assert "**90.0** (" in rows(one, "b, ")[0][1]  # the best of its own data, though 100 was reached on the other
    assert "**100.0** (" in rows(two, "a, ")[0][1]
    overview = markdown.split("## Overview")[1].split("## SugarCrepe")[0]
    assert {row[0]: row[1] for start in "ab" for row in rows(overview, start)} == {
        "a, sugarcrepe": "50.0",
        "a, own.csv": "**100.0**",
        "b, sugarcrepe": "**90.0**",
        "b, own.csv": "50.0",
    }
    assert {"sugarcrepe_categories.png", "sugarcrepe_categories_2.png"} <= {path.name for path in written}
    alone = write_report([tmp_path / "a"], tmp_path / "alone")[1].read_text(encoding="utf-8")
    assert alone.startswith("# Evaluation of a\n")
    assert "**" not in alone  # there is nothing that it could be compared with


def test_published_points_are_shown_beside_the_same_data_only(save, tmp_path):
    def section(source):
        folder = save(make_result(HALF, counts=WHOLE), zeroshot(0.25, "/runs/a", source))
        page = write_report([folder], tmp_path / "out")[0].read_text(encoding="utf-8")
        return page.split('id="composition-and-retention"')[1]

    assert "Patel et al. 2024: CC3M, from scratch" in section("clip-benchmark/wds_imagenet1k")
    other = section("/data/dtd")
    assert "Patel" not in other
    assert "No figures are published of this pair on the same data." in other


def test_many_metrics_stand_below_each_other(save, tmp_path):
    kinds = [f"kind{index}" for index in range(30)]
    means = {
        **{f"group_score_{kind}": Mean("group_score", where={"category": kind}) for kind in kinds},
        **{f"score_{index}": Mean("group_score") for index in range(12)},
        "group_score": Mean("group_score"),
    }
    result = make_result(HALF, benchmark="triplets", primary="group_score", means=means, intervals={}, chance={})
    result.metrics = dict.fromkeys(means, 0.5)
    result.counts = {"rows": 40, **{kind: index for index, kind in enumerate(kinds)}}
    written = write_report([save(result)], tmp_path / "out")
    markdown = written[1].read_text(encoding="utf-8")
    assert "### All metrics" in markdown
    assert rows(markdown, "score 11") == [["score 11", "50.0", ""]]
    assert "TripletCLIP (CC3M, from scratch)" not in markdown  # nobody has published figures of these rows
    assert rows(markdown, "kind7") == [["kind7", "7", "50.0"]]
    assert "the 24 of most rows" in markdown


def test_figures_of_other_rows_are_left_out_and_said_to_be(save, tmp_path):
    whole, part = make_result(HALF, counts=WHOLE), make_result(MOST, "/runs/b")  # 40 rows
    markdown = write_report([save(whole, part)], tmp_path / "out")[1].read_text(encoding="utf-8")
    assert "Patel" not in markdown
    assert "not the rows that they are of: SugarCrepe (7,511 rows)." in markdown


def test_names_and_kinds_are_words_in_markdown(save, tmp_path):
    name = "/runs/<img src=x>`|`[a](b) https:&lt;www.c.d"
    result = make_result(HALF, name)
    kind = "<script>|![a](b)"
    result.predictions["category"] = [kind] * 20 + ["add_att"] * 20
    result.means = {kind: Mean("accuracy", where={"category": kind}), "macro": Mean("accuracy", by="category")}
    result.metrics, result.intervals, result.chance = {kind: 0.5, "macro": 0.5}, {}, {}
    result.save(tmp_path / "result" / "sugarcrepe.json")
    page, markdown = (p.read_text("utf-8") for p in write_report([tmp_path / "result"], tmp_path / "out")[:2])
    for piece in ("<img", "<script>|", "![a](b)", "[a](b)", "https:", "&lt;www", "www.c"):
        assert not re.search(rf"(?<!\\){re.escape(piece)}", markdown), piece
    assert r"\<script\>\|!\[a\](b)" in markdown
    table = markdown.split("### By category")[1].strip().split("\n\n")[0].splitlines()
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1, table  # no cell was cut in two
    assert "<script>|" not in page
    assert "<img src=x" not in page


def test_what_cannot_be_written_is_said(save, tmp_path, monkeypatch):
    folder = save(make_result(HALF))
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="file is a file: name a folder"):
        write_report([folder], tmp_path / "file")
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find_spec(name))
    with pytest.raises(ImportError, match=r"hf_tripletclip\[plots\]"):
        write_report([folder], tmp_path / "out")


def test_the_command_line(save, tmp_path, capsys):
    folder = save(make_result(HALF))
    model = tmp_path / "a"
    model.mkdir()
    assert main([str(folder), "--output", str(tmp_path / "out"), "--card", str(model)]) == 0
    said = capsys.readouterr().out
    for name in ("report.html", "report.md", "sugarcrepe_categories.png", "README.md", "sugarcrepe.yaml"):
        assert re.search(f"wrote .*{name}", said), name
    with pytest.raises(SystemExit):
        main([])


@pytest.mark.slow
@needs_browser
def test_the_page_fits_a_browser(results, tmp_path):
    page = write_report([results], tmp_path / "out")[0]
    assert "<title>Evaluation of 2 models</title>" in browse(page, tmp_path)
    script = """
      const ink = getComputedStyle(document.querySelector("svg.plot")).color;
      const bars = [...document.querySelectorAll("svg.plot path")].map((path) => getComputedStyle(path).fill);
      document.title = JSON.stringify([
        document.documentElement.scrollWidth <= document.documentElement.clientWidth,
        [...document.querySelectorAll("svg.plot")].every((plot) => plot.getBoundingClientRect().height > 100),
        ink === getComputedStyle(document.body).color,
        bars.includes("rgb(0, 114, 178)"),
      ]);
    """
    assert visit(page, script, tmp_path) == [True, True, True, True]

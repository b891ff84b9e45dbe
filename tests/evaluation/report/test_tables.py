# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from hf_tripletclip.evaluation.report.tables import Folded, Heading, Note, Picture, Section, Table, Value
from hf_tripletclip.evaluation.report.writing import as_markdown


def test_a_table_in_both_forms():
    rows = [["a | b", Value("70.1", "68.0–72.0", best=True), None, "x<y"], ["c", Value("1.0"), 1234, "z"]]
    table = Table(["model", "macro", "rows", "source"], rows, [False, True], words=("source",))
    assert table.markdown().splitlines() == [
        "| model | macro | rows | source |",
        "| --- | ---: | ---: | --- |",
        r"| a \| b | **70.1** (68.0–72.0) |  | x\<y |",
        "| c | 1.0 | 1,234 | z |",
    ]
    html = Section("T", [table]).html()
    assert "<td><b>70.1</b><small>68.0–72.0</small></td>" in html
    assert '<tr class="quiet"><td class="words">c</td><td>1.0</td><td>1,234</td>' in html
    assert "x&lt;y" in html


def test_a_section_puts_pictures_side_by_side():
    pictures = [Picture(name, f"<svg>{name}</svg>", f"{name} & more") for name in ("one", "two")]
    section = Section("Title_x", [Heading("A"), *pictures, Note("<b>")])
    assert section.html().count('class="charts"') == 1
    assert "<svg>two</svg>" in section.html()
    assert "one &amp; more" in section.html()
    assert "&lt;b&gt;" in section.html()
    text = as_markdown("a_b", [section])
    assert text.startswith("# Evaluation of a\\_b\n\n## Title\\_x\n\n### A\n\n![one & more](one.png)\n\n![two")
    assert "\n\n\\<b\\>\n\nWritten by tripletclip report" in text


def test_details_are_folded_on_the_page_and_under_a_heading_in_markdown():
    section = Section("T", [Folded("More", [Note("a & b"), Table(["x"], [["1"]])])])
    assert "<details><summary>More</summary>" in section.html()
    assert "a &amp; b" in section.html()
    assert "### More\n\na & b\n\n| x |\n| --- |\n| 1 |\n" in as_markdown("m", [section])

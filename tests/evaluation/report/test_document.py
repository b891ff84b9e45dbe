# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from hf_tripletclip.evaluation.report.document import Heading, Note, Picture, Section, Table, Value, escape_markdown


def test_a_table_in_both_forms():
    rows = [["a | b", Value("70.1", "68.0–72.0", best=True), None, "x<y"], ["c", Value("1.0"), 1234, "z"]]
    table = Table(["model", "macro", "rows", "source"], rows, [False, True], words=("source",))
    assert table.markdown().splitlines() == [
        "| model | macro | rows | source |",
        "| --- | ---: | ---: | --- |",
        r"| a \| b | **70.1** (68.0–72.0) |  | x\<y |",
        "| c | 1.0 | 1,234 | z |",
    ]
    html = table.html()
    assert "<td><b>70.1</b><small>68.0–72.0</small></td>" in html
    assert '<tr class="quiet"><td class="words">c</td><td>1.0</td><td>1,234</td>' in html
    assert "x&lt;y" in html


def test_a_section_puts_pictures_side_by_side():
    pictures = [Picture(name, f"<svg>{name}</svg>", f"{name} & more") for name in ("one", "two")]
    section = Section("Title_x", [Heading("A"), *pictures, Note("<b>")])
    assert section.html().count('class="charts"') == 1
    assert "one &amp; more" in section.html()
    assert "&lt;b&gt;" in section.html()
    text = section.markdown()
    assert text.startswith("## Title\\_x\n\n### A\n\n![one & more](one.png)")
    assert text.endswith("\\<b\\>")


def test_words_stay_words_in_markdown():
    assert escape_markdown("a*b_c\n[d](e)\ud800") == r"a\*b\_c \[d\](e)?"

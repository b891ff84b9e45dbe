# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from hf_tripletclip.utils.pages.markup import escape_markdown, text
from hf_tripletclip.utils.pages.parts import controls, table


def test_text_cannot_leave_its_place():
    assert text("</script><b a=\"1\" b='2'>&") == "&lt;/script&gt;&lt;b a=&quot;1&quot; b=&#x27;2&#x27;&gt;&amp;"
    assert text("a\u202eb\x00c\ud800d\n") == "a\ufffdb\ufffdc?d\n"


def test_a_table():
    html = table(["name", "rows", "why"], [["<a>", 12345, None], ["b", 0.5, "x"]], ["bad", ""], words=["why"])
    assert '<tr class="bad"><td class="words">&lt;a&gt;</td><td>12,345</td><td class="words">–</td></tr>' in html
    assert '<tr><td class="words">b</td><td>0.5</td>' in html
    assert html.count('<th class="words">') == 2


def test_boxes_with_nothing_to_choose_are_left_out():
    html = controls({"kind": ("kinds", [("", "all"), ("a", "a"), ("b", "b")]), "split": ("split", [("", "all")])}, [])
    assert '<select id="kind" data-by="kinds">' in html
    assert 'id="split"' not in html
    assert 'id="sort"' not in html


def test_words_stay_words_in_markdown():
    assert escape_markdown("a*b_c\n[d](e)\ud800") == r"a\*b\_c \[d\](e)?"

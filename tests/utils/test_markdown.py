# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from hf_tripletclip.utils.markdown import markdown_table


def test_a_markdown_table():
    assert markdown_table(["a", "rows"], [["`x`", 12345], ["y", None]], numbers=["rows"]).splitlines() == [
        "| a | rows |",
        "| --- | ---: |",
        "| `x` | 12,345 |",
        "| y |  |",
    ]

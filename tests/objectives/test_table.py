# SPDX-License-Identifier: Apache-2.0
"""The generated table, and the examples of the docstrings."""

from __future__ import annotations

import doctest
import subprocess
import sys

import pytest

from hf_tripletclip.objectives import OBJECTIVES, available_objectives, get_objective, terms_table
from hf_tripletclip.objectives.describe import BEGIN, END, with_table


def test_documented_table_is_the_generated_one(pytestconfig):
    page = (pytestconfig.rootpath / "docs" / "objectives.md").read_text(encoding="utf-8")
    assert with_table(page) == page
    for without in ("no markers", page.replace(BEGIN, ""), page.replace(END, "")):
        with pytest.raises(ValueError, match="terms:begin"):
            with_table(without)


def test_table_has_a_row_per_objective_and_each_term():
    lines = terms_table().replace(r"\|", "¦").splitlines()
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [row[0].strip("`") for row in rows] == list(available_objectives())
    for (_, columns, loss), objective in zip(rows, OBJECTIVES.values(), strict=True):
        assert [name.strip("`") for name in columns.split(", ")] == list(get_objective(objective.name).columns)
        terms = [f"{term.weight:.4g} {term.formula}".replace("|", "¦") for term in objective.terms]
        assert loss == " + ".join(terms)
    triplet = dict(zip(head, rows[list(OBJECTIVES).index("tripletclip")], strict=True))
    assert triplet["loss"] == "0.5 CE(v → T ∪ T') + 0.5 CE(t → V) + 0.5 CE(v' → T' ∪ T) + 0.5 CE(t' → V')"


def test_generator_rewrites_the_page(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nstale\n{END}\nafter\n", encoding="utf-8")
    command = [sys.executable, "-W", "error", "-m", "hf_tripletclip.objectives.describe"]
    subprocess.run([*command, str(page)], check=True, timeout=120)
    assert page.read_text(encoding="utf-8") == f"before\n{BEGIN}\n{terms_table()}\n{END}\nafter\n"
    without = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert without.returncode == 1
    assert "usage" in without.stderr


@pytest.mark.parametrize("name", available_objectives())
def test_docstring_example_runs(name):
    text = OBJECTIVES[name].__doc__
    assert text is not None
    example = doctest.DocTestParser().get_doctest(text.replace("```", ""), {}, name, None, 0)
    assert example.examples
    results = doctest.DocTestRunner(verbose=False).run(example)
    assert results.failed == 0

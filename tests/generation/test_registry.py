# SPDX-License-Identifier: Apache-2.0
"""Every source and check of the registry is one of its kind, and the documentation has it."""

from __future__ import annotations

import pytest

from hf_tripletclip.data.schema import NEG_CAPTION, NEG_IMAGE, PARAPHRASE, SCORES
from hf_tripletclip.generation.filters import QUANTITIES
from hf_tripletclip.generation.registry import CHECKS, PACKAGE, STAGES
from hf_tripletclip.utils.registry import load_class

MADE = {"captions": NEG_CAPTION, "images": NEG_IMAGE, "paraphrases": PARAPHRASE}
EVERY = [(kind, name) for kind, known in STAGES.items() for name in known]


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_it_has_the_name_of_its_line_and_a_row_in_the_documentation(kind, name, pytestconfig):
    stage = load_class(kind, name, STAGES[kind], PACKAGE)
    assert stage.name == name
    path = stage.__module__.replace(".", "/")
    page = (pytestconfig.rootpath / "docs" / "tripletdata.md").read_text(encoding="utf-8")
    assert f"| [`{name}`](../src/{path}.py) |" in page


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, name in EVERY if kind in MADE])
def test_a_source_makes_what_its_kind_is_for(kind, name):
    stage = load_class(kind, name, STAGES[kind], PACKAGE)
    needed = {"model": "m"} if "model" in stage.__annotations__ else {}
    assert MADE[kind] in stage(**needed).produces


@pytest.mark.parametrize("name", CHECKS)
def test_the_schema_lists_the_scores_of_a_check(name):
    """Only listed columns are shown by `inspect`, explained on cards, and dropped when the negatives change."""
    made = load_class("check", name, CHECKS, PACKAGE)().produces
    numbers = {column: dtype for column, one in made.items() if "float" in (dtype := getattr(one, "dtype", ""))}
    assert numbers == {column: "float32" for column, score in SCORES.items() if score.check == name}


def test_bounds_are_on_scores():
    assert {column for columns in QUANTITIES.values() for column in columns} <= SCORES.keys()
    assert QUANTITIES["margin"] == ("clip_score", "cross_clip_score")
    assert QUANTITIES["vqa_score"] == ("vqa_score",)

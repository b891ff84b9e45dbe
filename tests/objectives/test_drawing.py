# SPDX-License-Identifier: Apache-2.0
"""The drawings of `docs/methods.md`."""

from __future__ import annotations

import pytest
from PIL import Image

from hf_tripletclip.objectives import OBJECTIVES, LossTerm, Term, get_objective
from hf_tripletclip.objectives.drawing import (
    COMPARED,
    NOTHING,
    OPTIONS,
    TARGET,
    WRONG,
    draw_objective,
    main,
    picture_of,
)


def test_a_batch_term_has_one_right_answer_and_all_others_wrong():
    picture = picture_of(Term("image", ("text", "negative_text"), 1.0))
    assert picture.queries == ["v1", "v2", "v3"]
    assert picture.keys == ["t1", "t2", "t3", "t'1", "t'2", "t'3"]
    assert [row.count(TARGET) for row in picture.cells] == [1, 1, 1]
    assert [row.index(TARGET) for row in picture.cells] == [0, 1, 2]
    assert not any(NOTHING in row for row in picture.cells)


def test_own_terms_use_only_their_row():
    own = OBJECTIVES["tsvlc"].terms[2]
    picture = picture_of(own)
    for row, cells in enumerate(picture.cells):
        used = {key.rstrip("ab")[-1] for key, cell in zip(picture.keys, cells, strict=True) if cell}
        assert used == {str(row + 1)}
        assert (cells.count(TARGET), cells.count(WRONG)) == (1, 2)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_is_drawn_and_documented(name, tmp_path, pytestconfig):
    objective = get_objective(name, **OPTIONS.get(name, {}))
    for term in objective.terms:
        picture = picture_of(term)
        assert all(len(row) == len(picture.keys) for row in picture.cells)
        assert any(cell in (TARGET, COMPARED) for row in picture.cells for cell in row)
    draw_objective(objective, tmp_path / "drawn.png")
    drawn = Image.open(tmp_path / "drawn.png")
    docs = pytestconfig.rootpath / "docs"
    assert Image.open(docs / "images" / "methods" / f"{name}.png").size == drawn.size
    page = (docs / "methods.md").read_text(encoding="utf-8")
    assert f"`--objective {name}`" in page
    assert f"(images/methods/{name}.png)" in page


def test_a_term_of_another_package_has_no_drawing():
    class Own(LossTerm):
        pass

    with pytest.raises(ValueError, match="no drawing of a Own"):
        picture_of(Own())
    with pytest.raises(SystemExit, match="usage"):
        main([])

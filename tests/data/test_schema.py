# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

import hf_tripletclip.data
from hf_tripletclip.data import schema
from hf_tripletclip.data.scenes.negatives import CHANGES, EXCLUSIVE
from hf_tripletclip.objectives import available_objectives, get_objective
from hf_tripletclip.roles import ROLES, TRIPLET


def test_names_are_those_of_the_published_shards():
    assert schema.COLUMNS == ("image", "caption", "neg_image", "neg_caption")
    assert schema.IMAGE_COLUMNS == ("image", "neg_image")
    assert schema.CAPTION_COLUMNS == ("caption", "neg_caption")


def test_objectives_read_these_columns():
    assert tuple(ROLES[role].column for role in TRIPLET) == schema.COLUMNS
    for role in ROLES.values():
        assert role.name.startswith("negative_") == role.column.startswith("neg_")
        assert role.name.endswith("image") == role.is_image == (role.column in schema.IMAGE_COLUMNS)
        assert role.is_image or role.column in schema.TEXT_COLUMNS


@pytest.mark.parametrize("name", available_objectives())
def test_every_objective_asks_for_known_columns(name):
    columns = get_objective(name).columns
    assert {"image", "caption"} <= set(columns) <= {*schema.COLUMNS, *schema.TEXT_COLUMNS}
    assert list(columns) == [role.column for role in ROLES.values() if role.column in columns]


def test_kinds_are_the_seven_and_each_has_its_change():
    assert len(set(schema.NEGATIVE_TYPES)) == 7
    assert tuple(CHANGES) == schema.NEGATIVE_TYPES
    assert tuple(kind for kind in schema.NEGATIVE_TYPES if not kind.startswith("add_")) == EXCLUSIVE


def test_the_package_exports_what_it_lists():
    assert set(hf_tripletclip.data.__all__) <= set(dir(hf_tripletclip.data))
    for name in hf_tripletclip.data.__all__:
        assert getattr(hf_tripletclip.data, name).__class__.__name__ in ("type", "function", "tuple", "dict"), name
    assert hf_tripletclip.data.NEGATIVE_TYPES is schema.NEGATIVE_TYPES
    with pytest.raises(AttributeError, match="nothing"):
        hf_tripletclip.data.nothing  # noqa: B018

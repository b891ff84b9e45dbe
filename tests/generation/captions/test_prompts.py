# SPDX-License-Identifier: Apache-2.0
"""The chat that asks for a negative caption."""

from __future__ import annotations

from collections import Counter

import pytest

from hf_tripletclip.data.schema import NEGATIVE_TYPES
from hf_tripletclip.generation.captions.parsing import parse_answer
from hf_tripletclip.generation.captions.prompts import (
    CHANGES,
    EXAMPLES,
    build_messages,
    check_kinds,
    choose_kind,
    instruction,
)

KINDS = [None, *NEGATIVE_TYPES]


@pytest.mark.parametrize("kind", KINDS)
def test_turns_alternate_and_end_with_the_caption(kind):
    messages = build_messages("a dog\n on  a mat", kind)
    assert [message["role"] for message in messages] == ["user", "assistant"] * 2 + ["user"]
    assert messages[0]["content"].startswith(instruction(kind))
    assert messages[-1]["content"] == "Caption: a dog on a mat"
    answers = [message["content"] for message in messages if message["role"] == "assistant"]
    assert answers == [negative for _, negative in EXAMPLES[kind]]


@pytest.mark.parametrize("kind", KINDS)
def test_examples_are_what_the_parser_accepts(kind):
    for positive, negative in EXAMPLES[kind]:
        assert parse_answer(negative, positive, kind) == (negative, None)


def test_each_kind_has_an_instruction_of_its_own():
    assert set(CHANGES) == set(NEGATIVE_TYPES)
    assert len({instruction(kind) for kind in KINDS}) == len(KINDS)
    assert "{" not in "".join(map(instruction, KINDS))


def test_kinds_are_checked():
    assert check_kinds(None) is None
    assert check_kinds("all") == NEGATIVE_TYPES
    assert check_kinds("swap_obj, add_att") == ("swap_obj", "add_att")
    assert check_kinds(["swap_obj"]) == ("swap_obj",)
    with pytest.raises(ValueError, match="swap_color"):
        check_kinds(["swap_obj", "swap_color"])
    with pytest.raises(ValueError, match="empty"):
        check_kinds([])


def test_a_rows_kind_depends_on_its_id_and_all_come_up():
    chosen = [choose_kind(NEGATIVE_TYPES, 0, str(row)) for row in range(700)]
    assert chosen == [choose_kind(NEGATIVE_TYPES, 0, str(row)) for row in range(700)]
    assert chosen != [choose_kind(NEGATIVE_TYPES, 1, str(row)) for row in range(700)]
    counts = Counter(chosen)
    assert set(counts) == set(NEGATIVE_TYPES)
    assert min(counts.values()) > 60
    assert choose_kind(None, 0, "1") is None

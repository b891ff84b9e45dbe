# SPDX-License-Identifier: Apache-2.0
"""Questions as language models write them, and the answers that count."""

from __future__ import annotations

import pytest

from hf_tripletclip.generation.checks.questions import (
    EXAMPLES,
    Question,
    build_chat,
    is_yes_no,
    parse_questions,
    read_answer,
)

DOG, CAT = Question("Is there a dog?", "yes"), Question("Is the cat black?", "no")


@pytest.mark.parametrize(
    "text",
    [
        "1. Is there a dog? yes\n2. Is the cat black? no",
        "1) Is there a dog? Yes.\n2) Is the cat black? No.",
        "Q1: Is there a dog? (yes)\nQ2: Is the cat black? (no)",
        "Question 1: Is there a dog? - Yes\nQuestion 2: Is the cat black? - No",
        "- Is there a dog? **Yes**\n- Is the cat black? **No**",
        '* "Is there a dog?" yes\n* "Is the cat black?" no',
        "Is there a dog? Answer: yes\nIs the cat black? Answer: no",
        "Here are the questions:\n\n1. Is there a dog?\n   Answer: Yes\n\n2. Is the cat black?\n   A: No\nDone!",
        "1. **Is there a dog?** Yes, there is.\n2. **Is the cat black?** No, it is white.",
        "<think>Is the dog big? no</think>1. Is there a dog? yes\n2. Is the cat black? no",
        "analysisIs it? We need two.assistantfinal1. Is there a dog? yes\n2. Is the cat black? no",
        "1. Is  there a dog? yes\r\n2. Is the cat black? no\r\n3. IS THERE A DOG? no",
    ],
)
def test_ways_to_write_questions(text):
    assert parse_questions(text) == [DOG, CAT]


def test_without_an_answer_yes_is_right():
    assert parse_questions("Is there a dog?\nAre there cats?") == [DOG, Question("Are there cats?", "yes")]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I cannot see the picture.",
        "What colour is the dog? black",
        "How many dogs are there? two",
        "Is the dog black or white? black",
        "Is it? yes",
        "Is " + "very " * 40 + "black? yes",
        "Is there a dog",
        "The dog is black, isn't it? yes",
        "Yes\nNo",
    ],
)
def test_what_is_no_question_for_yes_or_no(text):
    assert parse_questions(text) == []


def test_an_answer_belongs_to_the_line_above_only():
    text = "Is there a dog?\nSome remark\nNo\nWhat is it?\nno"
    assert parse_questions(text) == [DOG]


def test_the_examples_are_what_they_ask_for():
    for _, questions in EXAMPLES:
        written = "\n".join(f"{place}. {text} {answer}" for place, (text, answer) in enumerate(questions, start=1))
        assert parse_questions(written) == [Question(*question) for question in questions]
        for number in (5, 8):
            assert {answer for _, answer in questions[:number]} == {"yes", "no"}


@pytest.mark.parametrize("number", [1, 5, 8])
def test_the_chat_asks_for_the_number_that_its_examples_have(number):
    chat = build_chat("a cat\non a  mat", number)
    assert [turn["role"] for turn in chat] == ["user", "assistant"] * 2 + ["user"]
    assert chat[-1]["content"].endswith("Caption: a cat on a mat")
    assert all(f"Write {number} short questions" in turn["content"] for turn in chat[::2])
    assert all(len(parse_questions(turn["content"])) == number for turn in chat[1::2])


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("yes", "yes"),
        ("No.", "no"),
        ("Yes, there is a dog.", "yes"),
        ("**No**", "no"),
        ("The answer is yes", "yes"),
        ("The answer is: no", "no"),
        ("not sure", None),
        ("none", None),
        ("2", None),
        ("", None),
        ("maybe yes", None),
    ],
)
def test_answers_in_words(text, answer):
    assert read_answer(text) == answer


def test_openings():
    assert is_yes_no("Isn’t the dog black?")
    assert is_yes_no("Can't you see a dog?")
    assert not is_yes_no("Island dogs are black?")

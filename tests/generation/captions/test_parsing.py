# SPDX-License-Identifier: Apache-2.0
"""What is taken off a model's answer, and which answers hold no negative caption."""

from __future__ import annotations

import pytest

from hf_tripletclip.generation.captions.parsing import Parsed, parse_answer

CAPTION = "A brown dog chases a ball on the beach"
NEGATIVE = "A white dog chases a ball on the beach"


@pytest.mark.parametrize(
    "answer",
    [
        NEGATIVE,
        f"  {NEGATIVE}\n\n",
        f"{NEGATIVE}.",
        f'"{NEGATIVE}"',
        f'"{NEGATIVE}."',
        f"“{NEGATIVE}”",
        f"'{NEGATIVE}'",
        f"`{NEGATIVE}`",
        f'"{NEGATIVE}',
        f"Negative caption: {NEGATIVE}",
        f"negative caption: a{NEGATIVE[1:]}",
        f'**Negative caption:** "{NEGATIVE}"',
        f"**{NEGATIVE}**",
        f"*{NEGATIVE}*",
        f"### {NEGATIVE}",
        f"> {NEGATIVE}",
        f"- {NEGATIVE}",
        f"1. {NEGATIVE}\n2. A brown cat chases a ball on the beach",
        f"a) {NEGATIVE}",
        f"Caption: {NEGATIVE}",
        f"New description (attribute changed): {NEGATIVE}",
        f"The hard negative caption: {NEGATIVE}",
        f"Negative caption:\n{NEGATIVE}",
        f"Sure! Here is a negative caption:\n\n{NEGATIVE}",
        f"Sure, here's the new caption: {NEGATIVE}",
        f"Certainly!\n{NEGATIVE}",
        f"Here is a caption of a similar picture that is false of the given one:\n{NEGATIVE}",
        f"{NEGATIVE} (changed the colour of the dog)",
        f'"{NEGATIVE}" (I changed the colour.)',
        f"{NEGATIVE}\n\nNote: I changed the colour of the dog.",
        f"{NEGATIVE}\nCaption: A red car",
        f"```\n{NEGATIVE}\n```",
        f"<think>The dog could be white.</think>\n\n{NEGATIVE}",
        f"The dog could be white.</think>\n{NEGATIVE}",
        f"{NEGATIVE}</s>",
        f"{NEGATIVE}<|im_end|>\n<|endoftext|>",
        f"{NEGATIVE} [/INST]",
    ],
)
def test_what_surrounds_a_caption_is_taken_off(answer):
    assert parse_answer(answer, CAPTION) == Parsed(NEGATIVE, None)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("", "empty answer"),
        (" \n ", "empty answer"),
        ('""', "empty answer"),
        ("...", "empty answer"),
        ("Negative caption:", "empty answer"),
        ("<think>The dog could", "unfinished answer"),
        ("I'm sorry, but I can't write a caption for a dog on the beach", "refusal"),
        ("I cannot help with a brown dog on the beach.", "refusal"),
        ("I am unable to see the brown dog on the beach.", "refusal"),
        ("As an AI language model, I do not see a dog on the beach.", "refusal"),
        ("Unfortunately, the caption of a brown dog is unclear", "refusal"),
        ("Please provide the caption of the dog on the beach", "refusal"),
        (CAPTION, "same as the caption"),
        ("a brown dog chases a ball on the beach!", "same as the caption"),
        ('"A Brown Dog chases a ball, on the beach."', "same as the caption"),
        ("A brown dog chases a ball", "prefix of the caption"),
        ("A brown dog chases a ball on the beach at sunset", "extension of the caption"),
        ("A dog", "too short"),
        ("A white dog chases " + "a ball and " * 10 + "a cat on the beach", "too long"),
        ("Photographs of mountains in winter, seen from above", "unlike the caption"),
        ("A white <|im_start|> dog chases a ball on the beach", "template tokens"),
        ("A white dog [INST] chases a ball on the beach", "template tokens"),
        ("A wh\ufffdte dog chases a ball on the beach", "undecodable characters"),
        ("A white\x00 dog chases a ball on the beach", "undecodable characters"),
    ],
)
def test_an_answer_without_a_negative_caption_is_rejected(answer, reason):
    assert parse_answer(answer, CAPTION) == Parsed(None, reason)


def test_an_answer_that_was_cut():
    assert parse_answer(NEGATIVE, CAPTION, cut=True).reason == "unfinished answer"
    assert parse_answer("", CAPTION, cut=True).reason == "unfinished answer"
    assert parse_answer(f"{NEGATIVE}.", CAPTION, cut=True).caption == NEGATIVE
    assert parse_answer(f"{NEGATIVE}\nNote: I chan", CAPTION, cut=True).caption == NEGATIVE


@pytest.mark.parametrize(
    ("caption", "answer"),
    [
        ('A sign that says "Stop" beside a road', '"Stop" sign behind a road that says no'),
        ('"Stop" and "Go" signs beside a road', '"Go" and "Stop" signs above a road'),
        ("A 1. class train at the station", "A 2. class train at the station"),
        ("<PERSON> talks to a woman on the stage", "<PERSON> talks to a man on the stage"),
        ("I can see a boat on the lake", "I can see a plane on the lake"),
        ("The Eiffel Tower in Paris", "The Eiffel Tower behind Paris"),
        ("Snow_white figure on a shelf", "Snow_black figure on a shelf"),
        ("ein Hund läuft über die Straße", "eine Katze läuft über die Straße"),
        ("一只棕色的狗在海滩上追球", "一只白色的狗在海滩上追球"),
    ],
)
def test_what_belongs_to_a_caption_stays(caption, answer):
    assert parse_answer(answer, caption) == Parsed(answer, None)


@pytest.mark.parametrize(
    ("caption", "answer", "expected"),
    [
        ("a dog in Paris", "A cat in Paris.", "a cat in Paris"),
        ("A dog in Paris.", "a cat in Paris", "A cat in Paris."),
        ("a dog in the park .", "A cat in the park", "a cat in the park ."),
        ("a cat beside Tom", "Tom beside a cat", "Tom beside a cat"),
        ("a tv beside a lamp", "LED beside a lamp", "LED beside a lamp"),
        ("What a dog!", "What a cat!", "What a cat!"),
    ],
)
def test_case_and_full_stop_follow_the_caption(caption, answer, expected):
    assert parse_answer(answer, caption).caption == expected


@pytest.mark.parametrize(
    ("kind", "answer", "accepted"),
    [
        ("add_obj", f"{CAPTION} beside a boat", True),
        ("add_att", "A brown dog chases a striped ball on the beach", True),
        ("add_att", NEGATIVE, False),
        ("replace_att", NEGATIVE, True),
        ("replace_att", "A brown dog chases a striped ball on the beach", False),
        ("replace_obj", "A ball chases a brown dog on the beach", False),
        ("swap_obj", "A ball chases a brown dog on the beach", True),
        ("swap_obj", "A brown cat chases a stick on the beach", False),
        ("swap_att", NEGATIVE, False),
    ],
)
def test_the_kind_of_change_is_checked(kind, answer, accepted):
    expected = Parsed(answer, None) if accepted else Parsed(None, "another kind of change")
    assert parse_answer(answer, CAPTION, kind) == expected


@pytest.mark.parametrize(
    ("caption", "answer"),
    [
        ("Two dogs chase a white cat", "A white cat chases two dogs"),
        ("A boy carries two bags", "Two bags carry a boy"),
        ("A van goes past two cars", "Two cars go past a van"),
        ("Two cars are behind a van", "A van is behind two cars"),
        ("A boy holds an umbrella over a woman's head", "A woman holds an umbrella over a boy's head"),
        ("A surfer is riding the waves as a boat sails by", "A boat is riding the waves as a surfer surfs by"),
    ],
)
def test_a_swap_lets_the_verb_agree(caption, answer):
    assert parse_answer(answer, caption, "swap_obj") == Parsed(answer, None)


def test_short_captions_may_change_altogether():
    assert parse_answer("Cat", "Dog").caption == "Cat"
    assert parse_answer("Two black cats", "A brown dog").caption == "Two black cats"

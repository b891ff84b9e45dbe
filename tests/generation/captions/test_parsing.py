# SPDX-License-Identifier: Apache-2.0
"""What is taken off a model's answer, and which answers hold no negative caption."""

from __future__ import annotations

import time

import pytest

from hf_tripletclip.generation.captions.content import ADDED, LEFT_OUT, SAME
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
        f"No, {NEGATIVE}",
        f"The image shows {NEGATIVE}",
        f"A picture of {NEGATIVE}",
    ],
)
def test_what_surrounds_a_caption_is_taken_off(answer):
    assert parse_answer(answer, CAPTION) == Parsed(NEGATIVE, None)


# `<N>` is the negative and `<C>` the caption.
WRAPPED = [
    "<|im_start|>assistant\n<N><|im_end|>",
    "<start_of_turn>model\n<N><end_of_turn>",
    "<N>\u200b",
    "\ufeff<N>",
    "<N> ✓",
    "<N> 🐶",
    "🐶 <N>",
    "<N> // changed color",
    '<N>"',
    "'<N>",
    "&lt;answer&gt;<N>&lt;/answer&gt;",
    "Thought: change the colour\nAnswer: <N>",
    '{"type": "function", "function": {"name": "answer", "parameters": {"negative": "<N>"}}}',
    '<negative id="1"><N></negative>',
    "<N> – now the dog is white instead of brown",
    '{"negative_caption": "<N>"}',
    '{"caption": "<N>", "explanation": "I changed brown to white"}',
    '```json\n{"negative_caption": "<N>"}\n```',
    '```json {"negative": "<N>"} ```',
    '{"original_caption": "<C>", "negative_caption": "<N>"}',
    '["<N>"]',
    '["<N>", "A black dog chases a ball on the beach"]',
    '[{"caption": "<N>"}]',
    "{'negative_caption': '<N>'}",
    '{"negative_captions": ["<N>"]}',
    '{"result": {"negative_caption": "<N>"}}',
    'Here is the JSON:\n{"negative_caption": "<N>"}',
    '{"negative_caption": "<N>",}',
    '{"negative_caption": "<N>"',
    '{\n  "type": "replace_att",\n  "caption": "<N>"\n}',
    '{"negative_type": "replace_att", "text": "<N>"}',
    "analysisWe need to change one attribute. assistantfinal<N>",
    'analysisThe user wants "x".assistantfinal<N>',
    "analysis We need to think. assistant final <N>",
    "<|channel|>analysis<|message|>We change it.<|end|><|start|>assistant<|channel|>final<|message|><N><|return|>",
    "<|channel|>final<|message|><N>",
    "assistantfinal<N>",
    "final<N>",
    "[THINK]hm, white[/THINK]<N>",
    "[THINK]hm\nwhite[/THINK]\n\n<N>",
    "<thinking>x</thinking><N>",
    "<think>\n\n</think>\n\n<N>",
    "◁think▷hm◁/think▷<N>",
    "<reasoning>a</reasoning><answer><N></answer>",
    "<|begin_of_thought|>x<|end_of_thought|><|begin_of_solution|><N><|end_of_solution|>",
    "<answer><N></answer>",
    "<answer>\n<N>\n</answer>",
    "<negative_caption><N></negative_caption>",
    "<original><C></original><negative><N></negative>",
    "<caption><N></caption>\n<explanation>I changed the colour</explanation>",
    "<answer><N>",
    "<N></answer>",
    "<output><caption><N></caption></output>",
    "<p><N></p>",
    "A <b>white</b> dog chases a ball on the beach",
    "[ANSWER]<N>[/ANSWER]",
    "[Answer] <N>",
    "\\boxed{<N>}",
    "\\boxed{\\text{<N>}}",
    "<|begin_of_box|><N><|end_of_box|>",
    "Option A: <N>",
    "Option 1: <N>",
    "(A) <N>",
    "A: <N>",
    "Option A) <N>",
    "**Option A:** <N>",
    "Option A: <N>\nOption B: A black dog chases a ball",
    "Option A: <N> Option B: A black dog chases a ball on the beach",
    "Version 2 - <N>",
    "1: <N>",
    "Negative caption: <N>",
    "Negative Caption (replace_att): <N>",
    "**Negative:** <N>",
    "Negative - <N>",
    "negative_caption: <N>",
    "Hard negative: <N>",
    "Original: <C>\nNegative: <N>",
    "Original: <C> Negative: <N>",
    "Original: <C>. Negative: <N>",
    'Original caption: "<C>"\nNegative caption: "<N>"',
    "Original: <C>\n\nNew: <N>",
    "**Original:** <C>\n**Negative:** <N>",
    "Caption: <C>\nNegative caption: <N>",
    "Input: <C>\nOutput: <N>",
    "Original: <C>\n<N>",
    "<N> (Original: <C>)",
    "<N> Original: <C>",
    "Original: <C> -> Negative: <N>",
    "<C> -> <N>",
    "<C> → <N>",
    "Before: <C>\nAfter: <N>",
    "<N>. I changed the colour of the dog.",
    "<N> - changed brown to white",
    "<N> (changed brown to white)",
    "<N> [attribute changed]",
    "<N>. Explanation: the dog is white.",
    "<N>\nExplanation: the dog is white.",
    "<N>, replacing the brown dog with a white one",
    "<N> because the dog is not brown",
    "<N>. This caption is false because the dog is brown.",
    "<N>; the dog was brown",
    '"<N>" - The colour was changed.',
    '"<N>" is a negative caption.',
    "<N> (The dog is white.)",
    "(color) <N>",
    "1. <N> 2. A black dog chases a ball",
    "1) <N>",
    "• <N>",
    "✅ <N>",
    "***<N>***",
    "__<N>__",
    "# <N>",
    "*   <N>",
    "\"'<N>'\"",
    "“<N>.”",
    "‘<N>’",
    'Sure! "<N>"',
    "Sure, here is one: '<N>'",
    "Here is a hard negative caption for the given image\n<N>",
    "I have changed the colour of the dog.\n<N>",
    'The negative caption is: "<N>"',
    "A possible negative caption could be: <N>",
    'The negative caption would be "<N>"',
    "assistant\n<N>",
    "Assistant: <N>",
    "Answer: <N>",
    "A: <N>\nB: x",
    "Swap attribute: <N>",
    "replace_att: <N>",
    "Changed attribute (color): <N>",
    "&quot;<N>&quot;",
    '{"name": "answer", "arguments": {"negative_caption": "<N>"}}',
    '<tool_call>{"name": "f", "arguments": {"caption": "<N>"}}</tool_call>',
    "Step 1: change the colour.\nNegative caption: <N>",
    "<N>\n---\nI changed it",
    "<N> <end>",
    "Response:\n\n<N>",
    "Caption 1: <N>",
    '"negative_caption": "<N>"',
    'negative = "<N>"',
    "Q: Caption? A: <N>",
]


@pytest.mark.parametrize("answer", WRAPPED)
def test_known_wrappers_are_taken_off(answer):
    filled = answer.replace("<N>", NEGATIVE).replace("<C>", CAPTION)
    assert parse_answer(filled, CAPTION) == Parsed(NEGATIVE, None)


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
        ("This request goes against my guidelines.", "refusal"),
        ("I'm not comfortable with that.", "refusal"),
        ("I must decline to write about the dog on the beach.", "refusal"),
        ("As an AI, I see no dog on the beach", "refusal"),
        ("As a language model I cannot chase a ball on the beach", "refusal"),
        ("Could you clarify which dog on the beach?", "question"),
        ("What kind of change would you like for the dog on the beach?", "question"),
        ("Would you like me to change the dog on the beach?", "question"),
        ("Which dog chases a ball on the beach?", "question"),
        ("I would need more context about the dog on the beach", "refusal"),
        ("Sorry, the dog on the beach is not something I can change", "refusal"),
        ("You want a negative caption of a dog chasing a ball on the beach", "refusal"),
        ("Please let me know which dog chases a ball", "refusal"),
        ("The caption shows a white dog on the beach", "more than a caption"),
        ("A {color} dog chases a ball on the beach", "more than a caption"),
        ("$A white dog chases a ball on the beach$", "more than a caption"),
        ("A white dog chases a ball on the beach #negative", "more than a caption"),
        ("A white dog chases a ball on the beach, which is incorrect", "more than a caption"),
        ("A white dog chases a ball on the beach, which contradicts the picture", "more than a caption"),
        ("A white dog chases a ball on the beach, making it false", "more than a caption"),
        ("A white dog chases a ball on the beach | A black dog", "more than a caption"),
        ("A white/brown dog / cat chases a ball", "more than a caption"),
        ("analysisWe need to change", "unfinished answer"),
        ("<think>hm", "unfinished answer"),
        ("[THINK]hm", "unfinished answer"),
        ("<|channel|>analysis<|message|>We", "unfinished answer"),
        ("N/A", "refusal"),
        ("None", "refusal"),
        ("The dog was changed to white on the beach", "more than a caption"),
        ("It violates the policy to describe a dog on the beach", "refusal"),
        ("I can't assist with that request.", "refusal"),
        ("There is a white dog; would you like another?", "question"),
        ("The original caption is about a brown dog on the beach", "more than a caption"),
        ("[your caption of a dog on the beach here", "more than a caption"),
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


# Of each caption, what is true of the same picture and so is no negative.
TRUE_TOO = [
    ("A child frolicks on the shore of an ocean", "A child frolics on the shore of the ocean", SAME),
    ("A dog runs on the grass", "The dog ran on grass", SAME),
    ("A light-colored dog on the beach", "A light colored dog is on a beach", SAME),
    ("A child is on the stairs in an entry way .", "A child is on the stairs in an entryway .", SAME),
    ("a gray cat and a colourful ball", "a grey cat and the colorful ball", SAME),
    ("2 dogs play in the snow", "two dogs are playing in the snow", SAME),
    ("A man lays on a bench while his dog sits by him .", "A man lies on a bench, his dog sits by him .", SAME),
    ("A man in an orange hat starring at something", "A man in an orange hat staring at something", SAME),
    ("Two constructions workers on a beam", "Two construction workers on a beam", SAME),
    ("A woman at waters edge in a city", "A woman at water's edge in a city", SAME),
    ("A girl in pigtails splashes in the water", "A girl in a pigtail splashing in the water", SAME),
    ("a traveller wearing jewellery", "the traveler wears jewelry", SAME),
    ("A boy takes a jump over two benches", "A boy took a jump over two benches", SAME),
    ("a black dog splashing in the water", "a dog splashing in the water", LEFT_OUT),
    ("A little girl looking at a brochure on train rides", "A girl looks at a brochure on a train ride", LEFT_OUT),
    ("a couple of several people on a ledge", "a couple of people on the ledge", LEFT_OUT),
    ("A couple and an infant , held by the male , sit by a pond", "A couple and an infant sit by a pond", LEFT_OUT),
    ("Two dogs run through the snow", "The dogs run through the snow", LEFT_OUT),
    ("A boy with a stick in front of a net", "A young boy with a wooden stick is in front of a net", ADDED),
    ("A dog runs after a ball on the beach", "A brown dog quickly runs after a ball on the beach", ADDED),
    ("Dogs run through the snow", "Two dogs run through the snow", ADDED),
    ("A guy on a motor bike", "A man on motor bikes", SAME),
]


@pytest.mark.parametrize(("caption", "negative", "reason"), TRUE_TOO)
def test_what_is_true_of_the_same_picture_is_no_negative(caption, negative, reason):
    assert parse_answer(negative, caption) == Parsed(None, reason)


@pytest.mark.parametrize(
    ("caption", "negative"),
    [
        ("One dog on the grass", "Two dogs on the grass"),
        ("A dog runs on the grass", "Three dogs run on the grass"),
        ("A dog runs on the grass", "Some dogs run on the grass"),
        ("A pineapple and some oranges on a table", "Some pineapples and an orange on a table"),
        ("A dog on a bench", "A dog under a bench"),
        ("A cup to the left of a plate", "A cup to the right of a plate"),
        ("A man with a hat on a horse", "A man without a hat on a horse"),
        ("A dog runs on the grass", "A dog does not run on the grass"),
        ("A dog is running on the grass", "A dog isn't running on the grass"),
        ("A boy and his dog", "A boy and her dog"),
        ("A dog does not run on the grass", "A dog runs on the grass"),
        ("A man with no hat on a horse", "A man with a hat on a horse"),
        ("A dog is chasing a cat", "A dog is being chased by a cat"),
        ("A cat is chased by a dog", "A cat chases a dog"),
        ("A man wearing glasses reads", "A man wearing a glass reads"),
        ("A cat chases a dog", "A dog chases a cat"),
        ("A red ball and a blue bus", "A blue ball and a red bus"),
        ("A man is waiting for a bus", "A man is waving for a bus"),
        ("4 dogs on the grass", "40 dogs on the grass"),
        ("A plate in the desert", "A plate in the dessert"),
        ("the door of the house is open", "the door of the house is closed"),
        ("A man walks to the house", "A man walks from the house"),
        ("People watch balloons", "Women watch balloons"),
        ("a boot on a stair", "a boat on a stair"),
        ("A man rides a motor bike", "A man rides a bicycle"),
        ("A room with a picture of flowers", "A picture of a room with flowers"),
        ("Two dogs run on grass; one chases the other", "Two horses run on grass; one chases the other"),
        ("Two dirt bikes on a road", "Two bikes on a road"),
    ],
)
def test_what_changes_the_meaning_stays(caption, negative):
    assert parse_answer(negative, caption) == Parsed(negative, None)


def test_words_may_be_added_where_that_is_asked_for():
    caption, negative = "A boy with a stick in front of a net", "A boy with a wooden stick in front of a net"
    assert parse_answer(negative, caption, "add_att") == Parsed(negative, None)
    assert parse_answer("The boy with the stick is in front of a net", caption, "add_att").reason == SAME


@pytest.mark.parametrize(
    ("caption", "answer"),
    [
        ("A sign says: no dogs on the beach", "A sign says: no cats on the beach"),
        ("A dog (left) and a cat (right) on a mat", "A cat (left) and a dog (right) on a mat"),
        ("Option A: a dog on a mat", "Option A: a cat on a mat"),
        ("A dog on a mat. A cat sits by it.", "A dog on a mat. A horse sits by it."),
        ("The sign is behind the fence instead of on it", "The fence is behind the sign instead of on it"),
        ("St. Louis at night, seen from a boat", "St. Louis at noon, seen from a boat"),
        ("Is this a dog on a mat?", "Is this a cat on a mat?"),
        ("A caption under a picture of a dog", "A caption above a picture of a dog"),
        ("I changed a tire beside a red car", "I changed a tire beside a blue car"),
        ("A man kneels by a car, replacing a tire", "A man kneels by a bus, replacing a tire"),
        ("A woman on a bed, changing a diaper", "A woman on a floor, changing a diaper"),
        ("A clock at 12:30 on a wall", "A clock at 11:30 on a wall"),
        ("{A} dog -> cat", "{A} dog -> horse"),
        ("A man in shirt #7 & a boy", "A man in shirt #8 & a boy"),
        ("AT&amp;T building in the rain", "AT&amp;T building in the snow"),
        ("A dog / wolf on the snow", "A dog / wolf on the sand"),
    ],
)
def test_what_looks_like_a_wrapper_and_is_the_captions_own_stays(caption, answer):
    assert parse_answer(answer, caption) == Parsed(answer, None)


def test_what_follows_a_comma_is_no_explanation_for_its_verb_alone():
    assert parse_answer("A man kneels by a bus, replacing a tire", "A man kneels by a car with a tire").caption == (
        "A man kneels by a bus, replacing a tire"
    )


@pytest.mark.parametrize(
    "sign", ["(", "[", "{", '{"a":', "<a>", "1. ", " - ", "a: ", "negative: ", "<think></think>", " "]
)
def test_an_endless_answer_is_read_in_no_time(sign):
    started = time.process_time()
    assert parse_answer((sign * 5_000)[:5_000], CAPTION).caption is None
    assert time.process_time() - started < 5

# SPDX-License-Identifier: Apache-2.0
"""Yes/no questions about a caption: how a language model is asked for them, and how its answer is read."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hf_tripletclip.generation.captions.unwrapping import without_thoughts

YES, NO = "yes", "no"

INSTRUCTION = """\
You check whether a picture shows what a caption says. Write {number} short questions about the picture, each about \
another thing in the caption: objects, counts, colours and other attributes, actions, places. Each must be answerable \
with yes or no by looking at the picture, without knowing the caption. After each question write the answer that is \
right if the picture fits the caption. Write one question per line and nothing else.

Caption: {caption}"""

EXAMPLES = (
    (
        "A black dog runs after a white cat on the beach.",
        (
            ("Is there a dog?", YES),
            ("Is the dog black?", YES),
            ("Is the cat running after the dog?", NO),
            ("Is the cat white?", YES),
            ("Are the animals on a beach?", YES),
            ("Is the dog running?", YES),
            ("Are there two dogs?", NO),
            ("Is there sand on the ground?", YES),
        ),
    ),
    (
        "Three red apples lie in a wooden bowl left of a blue cup.",
        (
            ("Are there three apples?", YES),
            ("Are the apples green?", NO),
            ("Is the bowl made of wood?", YES),
            ("Is the cup to the right of the bowl?", YES),
            ("Is the cup blue?", YES),
            ("Are the apples in the bowl?", YES),
            ("Is the bowl empty?", NO),
            ("Is there a cup?", YES),
        ),
    ),
)

MAX_WORDS = 30
# How a question begins that yes or no answers.
OPENINGS = re.compile(
    r"^(?:am|is|are|was|were|do|does|did|has|have|had|can|could|will|would|should"
    r"|(?:is|are|was|were|do|does|did|has|have|had|ca|could|would|should)n['’]t)\b",
    re.IGNORECASE,
)
LINE = re.compile(
    r"""^[\s\-*•>]*                                     # bullets
        (?:(?:q(?:uestion)?\s*)?\d+\s*[.):\]-]+|q(?:uestion)?\s*[:.])?   # numbers
        [\s"'“*_]*
        (?P<question>[^?]+\?)
        (?P<rest>.*)$""",
    re.IGNORECASE | re.VERBOSE,
)
ANSWER = re.compile(
    r"""^[\s"'”*_(\[\-–—:=>]*(?:(?:answer|expected|a)\s*[:=]\s*)?[\s"'*_(]*(?P<answer>yes|no)\b""", re.IGNORECASE
)


@dataclass(frozen=True)
class Question:
    """
    A question about a picture.

    Args:
        text (`str`): The question.
        answer (`str`): The right answer, `yes` or `no`.
    """

    text: str
    answer: str = YES


def build_chat(caption: str, number: int) -> list[dict[str, str]]:
    """
    The chat that asks for questions: the instruction and two examples as turns of user and assistant, without a
    system turn, which some templates refuse.
    """
    chat = []
    for example, questions in EXAMPLES:
        lines = [f"{place}. {text} {answer}" for place, (text, answer) in enumerate(questions[:number], start=1)]
        chat.append({"role": "user", "content": INSTRUCTION.format(number=len(lines), caption=example)})
        chat.append({"role": "assistant", "content": "\n".join(lines)})
    chat.append({"role": "user", "content": INSTRUCTION.format(number=number, caption=" ".join(caption.split()))})
    return chat


def parse_questions(text: str) -> list[Question]:
    """
    The questions in a model's answer, one per line, without thoughts, numbers, bullets and quotes, each once.

    A line counts if it has a question that yes or no answers: one that begins with a verb such as *is*, *does* or
    *can*, offers no choice (*red or blue*) and has at most 30 words. The yes or no that follows it, on the same line
    or the next, is the right answer; where none follows, that is *yes*.
    """
    questions: dict[str, Question] = {}
    last: str | None = None
    for line in (without_thoughts(text) or "").splitlines():
        match = LINE.match(line)
        if match is None:
            if last is not None and (answer := ANSWER.match(line)):
                questions[last] = Question(questions[last].text, answer["answer"].lower())
            last = None if line.strip() else last
            continue
        question = " ".join(match["question"].split())
        last = None
        if not is_yes_no(question) or question.lower() in questions:
            continue
        answer = ANSWER.match(match["rest"])
        questions[question.lower()] = Question(question, answer["answer"].lower() if answer else YES)
        last = None if answer else question.lower()
    return list(questions.values())


def is_yes_no(question: str) -> bool:
    """Whether yes or no answers a question."""
    words = re.findall(r"[\w'’-]+", question.lower())
    return 3 <= len(words) <= MAX_WORDS and bool(OPENINGS.match(question)) and "or" not in words


def read_answer(text: str) -> str | None:
    """What an answer in words says, `yes` or `no`; `None` where it says neither."""
    match = re.match(r"[\W_]*(?:the answer is\W+)?(yes|no)\b", (without_thoughts(text) or "").lower())
    return match[1] if match else None

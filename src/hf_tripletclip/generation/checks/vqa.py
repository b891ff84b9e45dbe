# SPDX-License-Identifier: Apache-2.0
"""Whether a negative image shows what its caption says, by questions that a model answers about it."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any, ClassVar

from datasets import Features, List, Value
from PIL import Image

from hf_tripletclip.data.decoding import BrokenValue, decode_caption, decode_image
from hf_tripletclip.data.schema import ID, NEG_CAPTION, NEG_IMAGE, VQA_SCORE
from hf_tripletclip.generation.captions.unwrapping import without_thoughts
from hf_tripletclip.generation.chat import ChatModel
from hf_tripletclip.generation.checks.answering import NO, YES, load_answerer
from hf_tripletclip.generation.stage import ERROR, Batch, Stage, row_seed
from hf_tripletclip.utils.devices import check_dtype

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
    or the next, is the right answer; if none follows, that is *yes*.
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
    """What an answer in words says, `yes` or `no`; `None` if it says neither."""
    match = re.match(r"[\W_]*(?:the answer is\W+)?(yes|no)\b", (without_thoughts(text) or "").lower())
    return match[1] if match else None


VQA_QUESTIONS = "vqa_questions"  # the questions about neg_caption
VQA_EXPECTED = "vqa_expected"  # their right answers, yes or no
VQA_ANSWERS = "vqa_answers"  # what the model answered about neg_image


@dataclasses.dataclass
class VqaScores(Stage):
    r"""
    A language model writes yes/no questions about the negative caption and says which answer is right; a model for
    visual question answering answers them about the negative image. `vqa_score` is the share that it answers right.

    The questions are first written without sampling. If too few can be used, the model writes more, sampled from
    a seed that the rows of the batch determine, and usable ones are added up.

    Args:
        model (`str`, defaults to `"dandelin/vilt-b32-finetuned-vqa"`): What answers: a directory or the id of a Hub
            repository of any visual question answering model (ViLT, BLIP) or image-text-to-text model. A chat
            template is used if there is one.
        revision (`str`, *optional*): Branch, tag or commit of its repository.
        question_model (`str`, defaults to `"mistralai/Mistral-7B-Instruct-v0.2"`): What asks: any causal language
            model with a chat template.
        question_revision (`str`, *optional*): Branch, tag or commit of its repository.
        questions (`int`, defaults to 5): Per row, 1 to 8.
        keep_questions (`bool`, defaults to `True`): Whether to add the questions and answers too.
        max_new_tokens (`int`, defaults to 256): Where the text of the questions is cut.
        max_attempts (`int`, defaults to 3): How often the language model is asked.
        temperature (`float`, defaults to 0.7): Of the sampling in the second and later attempts.
        seed (`int`, defaults to 0): Of that sampling.
        dtype (`str`, defaults to `"auto"`): Of both models, `float32`, `float16` or `bfloat16`. `auto` is that of its
            files for the language model, and for the other `float16` on an accelerator.
        batch_size (`int`, defaults to 32): Rows, chats and questions that are processed at once.
        device (`str`, *optional*): The accelerator by default.

    Adds `vqa_score` (float32) and the lists `vqa_questions`, `vqa_expected` and `vqa_answers`.

    Raises:
        ValueError: A setting is out of range, or a model is not of its kind.
        OSError: A model is not there or cannot be reached. Both when it is loaded.
    """

    name: ClassVar[str] = "vqa"
    requires: ClassVar[tuple[str, ...]] = (NEG_IMAGE, NEG_CAPTION)

    model: str = "dandelin/vilt-b32-finetuned-vqa"
    revision: str | None = None
    question_model: str = "mistralai/Mistral-7B-Instruct-v0.2"
    question_revision: str | None = None
    questions: int = 5
    keep_questions: bool = True
    max_new_tokens: int = 256
    max_attempts: int = 3
    temperature: float = 0.7
    seed: int = 0
    dtype: str = "auto"
    batch_size: int = 32

    _writer: Any = dataclasses.field(default=None, init=False, repr=False, compare=False)
    _answerer: Any = dataclasses.field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_dtype(self.dtype)
        for name in ("questions", "max_new_tokens", "max_attempts", "batch_size"):
            if (number := getattr(self, name)) < 1:
                raise ValueError(f"`{name}` is {number}; give at least 1.")
        if self.questions > 8:
            raise ValueError(f"`questions` is {self.questions}; give at most 8, as many as the examples have.")
        if self.temperature <= 0:
            raise ValueError(f"`temperature` is {self.temperature}; a second attempt needs more than 0 to differ.")

    @property
    def produces(self) -> Features:
        texts = {name: List(Value("string")) for name in (VQA_QUESTIONS, VQA_EXPECTED, VQA_ANSWERS)}
        return Features({VQA_SCORE: Value("float32"), **(texts if self.keep_questions else {})})

    @property
    def label(self) -> str:
        return f"{self.name}:{self.question_model} + {self.model}"

    def setup(self) -> None:
        if self._answerer is not None:
            return
        answerer = load_answerer(self.model, self.revision, self.dtype, self.device)
        self._writer = ChatModel.from_pretrained(
            self.question_model, revision=self.question_revision, dtype=self.dtype, device=self.device
        )
        self._answerer = answerer

    def __call__(self, batch: Batch) -> Batch:
        self.setup()
        rows = len(batch[NEG_CAPTION])
        made: Batch = {name: [None] * rows for name in (VQA_SCORE, VQA_QUESTIONS, VQA_EXPECTED, VQA_ANSWERS, ERROR)}
        images: dict[int, Image.Image] = {}
        captions: dict[int, str] = {}
        for row in range(rows):
            column = NEG_IMAGE
            try:
                images[row] = decode_image(batch[NEG_IMAGE][row])
                column = NEG_CAPTION
                captions[row] = decode_caption(batch[NEG_CAPTION][row])
            except BrokenValue as error:
                reason, colon, detail = str(error).partition(":")
                made[ERROR][row] = f"{reason} in {column}{colon}{detail}"
        asked, errors = self.write_questions({row: (str(batch[ID][row]), captions[row]) for row in captions})
        for row, problem in errors.items():
            made[ERROR][row] = problem
        if asked:
            texts = [[question.text for question in asked[row]] for row in asked]
            answers = iter(self._answerer.answer([images[row] for row in asked], texts, self.batch_size))
            for row, questions in asked.items():
                given = [next(answers) for _ in questions]
                right = sum(
                    read_answer(answer) == question.answer for answer, question in zip(given, questions, strict=True)
                )
                made[VQA_SCORE][row] = right / len(questions)
                made[VQA_QUESTIONS][row] = [question.text for question in questions]
                made[VQA_EXPECTED][row] = [question.answer for question in questions]
                made[VQA_ANSWERS][row] = given
        return {name: made[name] for name in (*self.produces, ERROR)}

    def write_questions(
        self, captions: dict[int, tuple[str, str]]
    ) -> tuple[dict[int, list[Question]], dict[int, str]]:
        """
        Questions about captions.

        Args:
            captions (`dict[int, tuple[str, str]]`): By row, its id and its caption.

        Returns:
            By row, as many questions as `questions` says; and by row, why there are none.
        """
        found: dict[int, dict[str, Question]] = {row: {} for row in captions}
        errors: dict[int, str] = {}
        open_rows = list(captions)
        for attempt in range(self.max_attempts):
            if not open_rows:
                break
            names = "\x1f".join(captions[row][0] for row in open_rows)
            texts = self._writer.answer(
                [build_chat(captions[row][1], self.questions) for row in open_rows],
                max_new_tokens=self.max_new_tokens,
                batch_size=self.batch_size,
                temperature=self.temperature if attempt else 0.0,
                seed=row_seed(self.seed, names, f"questions, attempt {attempt + 1}"),
            )
            for row, text in zip(open_rows, texts, strict=True):
                if text is None:
                    errors[row] = f"caption too long: it and {self.max_new_tokens} new tokens exceed the context"
                    continue
                for question in parse_questions(text):
                    found[row].setdefault(question.text.lower(), question)
                if len(found[row]) < self.questions:
                    shown = " ".join(text.split())[:80]
                    errors[row] = (
                        f"too few questions: {len(found[row])} of {self.questions} after {attempt + 1} attempts, "
                        f"the last answer was {shown!r}"
                    )
                else:
                    errors.pop(row, None)
            open_rows = [row for row, text in zip(open_rows, texts, strict=True) if row in errors and text is not None]
        usable = {row: list(found[row].values())[: self.questions] for row in captions if row not in errors}
        return usable, errors

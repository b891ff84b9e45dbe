# SPDX-License-Identifier: Apache-2.0
"""Whether a negative image shows what its caption says, by questions that a model answers about it."""

from __future__ import annotations

import dataclasses
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from datasets import Features, List, Value
from PIL import Image

from hf_tripletclip.data.decoding import BrokenValue, decode_caption, decode_image
from hf_tripletclip.data.schema import ID, NEG_CAPTION, NEG_IMAGE, VQA_SCORE
from hf_tripletclip.data.tokenizer import tokenize_captions
from hf_tripletclip.generation.captions.unwrapping import without_thoughts
from hf_tripletclip.generation.chat import ChatModel, sampling
from hf_tripletclip.generation.stage import ERROR, Batch, Stage, row_seed
from hf_tripletclip.layouts.configs import read_config
from hf_tripletclip.layouts.weights import no_report_of_what_is_refused
from hf_tripletclip.utils.devices import check_dtype, loading, pick_device, pick_dtype

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

    The questions are first written without sampling. Where too few can be used, the model writes more, sampled from
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


MAX_NEW_TOKENS = 16  # of an answer
SHORT = "{question} Answer yes or no."
PLAIN = "Question: {question} Answer:"


class Answerer(ABC):
    """Answers questions about pictures in words."""

    @abstractmethod
    def answer(self, images: Sequence[Image.Image], questions: Sequence[Sequence[str]], batch_size: int) -> list[str]:
        """
        Args:
            images (`Sequence[PIL.Image.Image]`): Pictures.
            questions (`Sequence[Sequence[str]]`): The questions about each, at least one.
            batch_size (`int`): Questions at once.

        Returns:
            `list[str]`: The answers to all questions, of the first picture first.
        """


def load_answerer(source: str, revision: str | None, dtype: str, device: str | None) -> Answerer:
    """
    Load a model that answers questions about pictures: of the kind visual question answering (ViLT, BLIP) or of the
    kind image-text-to-text, with a chat template or without.

    Raises:
        ValueError: It is neither, lacks weights, or is a classifier that knows no yes and no.
        OSError: It is not there or cannot be reached.
    """
    from transformers import (
        AutoModelForImageTextToText,
        AutoModelForVisualQuestionAnswering,
        AutoProcessor,
    )

    place = pick_device(device)
    options: dict[str, Any] = {"trust_remote_code": False} | ({} if revision is None else {"revision": revision})
    with loading(source, "a model that answers questions about pictures"):
        config = read_config(source, **options)
    if type(config) in AutoModelForVisualQuestionAnswering._model_mapping and config.model_type != "blip-2":
        auto: Any = AutoModelForVisualQuestionAnswering
    elif type(config) in AutoModelForImageTextToText._model_mapping:
        auto = AutoModelForImageTextToText
    else:
        raise ValueError(
            f"{source} is of type {config.model_type!r}, which answers no questions about pictures; it takes a model "
            "for visual question answering or of the kind image-text-to-text."
        )
    with no_report_of_what_is_refused():
        with loading(source, "a model that answers questions about pictures"):
            processor = AutoProcessor.from_pretrained(source, **options)
            model, info = auto.from_pretrained(
                source, config=config, dtype=pick_dtype(dtype, place), output_loading_info=True, **options
            )
        if missing := sorted(info["missing_keys"]):
            raise ValueError(f"{source} lacks weights, so that answers would be random: {', '.join(missing[:5])}")
    model = model.to(place).eval()
    if model.can_generate():
        return Generator(model, processor, chats=auto is AutoModelForImageTextToText)
    labels = {str(label).lower() for label in model.config.id2label.values()}
    if not {YES, NO} <= labels:
        raise ValueError(f"{source} chooses among {len(labels)} answers, but yes and no are not among them.")
    return Classifier(model, processor)


class Classifier(Answerer):
    """A model that chooses among the answers that it was trained on, such as ViLT."""

    def __init__(self, model: Any, processor: Any) -> None:
        self.model = model
        self.processor = processor
        self.limit = min(processor.tokenizer.model_max_length, model.config.max_position_embeddings)

    @torch.inference_mode()
    def answer(self, images: Sequence[Image.Image], questions: Sequence[Sequence[str]], batch_size: int) -> list[str]:
        # Preparing a picture takes longer than answering about it: once, not once per question.
        prepared = [self.processor.image_processor(images=[image], return_tensors="pt") for image in images]
        pairs = [(number, question) for number, asked in enumerate(questions) for question in asked]
        shapes: dict[Any, list[int]] = {}  # pictures of one size go together, so that none is padded
        for place, (number, _) in enumerate(pairs):
            shapes.setdefault(prepared[number]["pixel_values"].shape, []).append(place)
        answers = [""] * len(pairs)
        for places in shapes.values():
            for start in range(0, len(places), batch_size):
                chosen = places[start : start + batch_size]
                pixels = [prepared[pairs[place][0]] for place in chosen]
                found = self._classify(pixels, [pairs[place][1] for place in chosen])
                for place, answer in zip(chosen, found, strict=True):
                    answers[place] = answer
        return answers

    def _classify(self, pixels: list[Any], questions: list[str]) -> list[str]:
        inputs = tokenize_captions(
            self.processor.tokenizer,
            questions,
            padding=True,
            truncation=True,
            max_length=self.limit,
            return_tensors="pt",
        )
        inputs.update({name: torch.cat([part[name] for part in pixels]) for name in pixels[0]})
        inputs = {
            name: value.to(self.model.device, self.model.dtype if value.is_floating_point() else None)
            for name, value in inputs.items()
        }
        with torch.random.fork_rng(devices=[]):  # ViLT shuffles its patches
            torch.manual_seed(0)
            chosen = self.model(**inputs).logits.argmax(-1)
        return [str(self.model.config.id2label[index]).lower() for index in chosen.tolist()]


class Generator(Answerer):
    """A model that writes its answers, such as BLIP or a vision-language chat model."""

    def __init__(self, model: Any, processor: Any, chats: bool) -> None:
        self.model = model
        self.processor = processor
        self.chats = chats and getattr(processor, "chat_template", None) is not None
        self.prompt = "{question}" if not chats else SHORT if self.chats else PLAIN
        self.padded = chats  # BLIP's decoder does not mask the padding of questions
        tokenizer = processor.tokenizer
        self.marks: list[str] = []  # which a question does not have: what a caption says is text
        if chats:
            tokenizer.padding_side = "left"  # the answer goes on where the question ends
            if not self.chats:  # its processor puts marks of its own beside the question
                self.marks = sorted({str(token) for token in tokenizer.added_tokens_decoder.values()}, key=len)
        else:
            tokenizer.split_special_tokens = True  # BLIP's processor adds no marks
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token

    @torch.inference_mode()
    def answer(self, images: Sequence[Image.Image], questions: Sequence[Sequence[str]], batch_size: int) -> list[str]:
        pairs = [
            (image, self.prompt.format(question=self._unmarked(text)))
            for image, asked in zip(images, questions, strict=True)
            for text in asked
        ]
        answers = [""] * len(pairs)
        for places in self._alike([prompt for _, prompt in pairs]):
            for start in range(0, len(places), batch_size):
                chosen = places[start : start + batch_size]
                written = self._generate([pairs[place][0] for place in chosen], [pairs[place][1] for place in chosen])
                for place, answer in zip(chosen, written, strict=True):
                    answers[place] = answer.strip()
        return answers

    def _unmarked(self, question: str) -> str:
        for mark in self.marks:
            question = question.replace(mark, f"{mark[:1]} {mark[1:]}")
        return question

    def _alike(self, prompts: list[str]) -> list[list[int]]:
        """Which questions may go through the model together."""
        if self.padded:
            return [list(range(len(prompts)))]
        lengths: dict[int, list[int]] = {}
        for place, prompt in enumerate(prompts):
            lengths.setdefault(len(self.processor.tokenizer(prompt)["input_ids"]), []).append(place)
        return list(lengths.values())

    def _generate(self, images: list[Image.Image], prompts: list[str]) -> list[str]:
        inputs = self._prepare(images, prompts).to(self.model.device, self.model.dtype)
        output = self.model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, **sampling(0.0))
        length = inputs["input_ids"].shape[1]
        # Some models repeat the question before their answer.
        if output.shape[1] >= length and torch.equal(output[:, :length], inputs["input_ids"]):
            output = output[:, length:]
        return self.processor.batch_decode(output, skip_special_tokens=True)

    def _prepare(self, images: list[Image.Image], prompts: list[str]) -> Any:
        if not self.chats:
            return self.processor(images=images, text=prompts, padding=True, return_tensors="pt")
        chats = [
            [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": prompt}]}]
            for image, prompt in zip(images, prompts, strict=True)
        ]
        return self.processor.apply_chat_template(
            chats,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            sanitize_control_tokens=True,  # a template's own marks in a caption are text
            processor_kwargs={"padding": True},
        )

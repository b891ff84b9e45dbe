# SPDX-License-Identifier: Apache-2.0
"""Models that answer questions about pictures: those that choose among answers, and those that write them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from hf_tripletclip.data.tokenizer import tokenize_captions
from hf_tripletclip.generation.chat import sampling
from hf_tripletclip.layouts.configs import read_config
from hf_tripletclip.layouts.weights import no_report_of_what_is_refused
from hf_tripletclip.utils.devices import loading, pick_device, pick_dtype

YES, NO = "yes", "no"
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
        self.marks: list[str] = []  # that a question must not hold: what a caption says is text
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

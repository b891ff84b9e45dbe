# SPDX-License-Identifier: Apache-2.0
"""Negative captions from a causal language model of transformers, on this machine."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple

from hf_tripletclip.generation.captions.instructed import Answer, InstructedCaptions, Question
from hf_tripletclip.generation.captions.prompts import build_messages
from hf_tripletclip.generation.captions.unwrapping import opened_thought
from hf_tripletclip.generation.stage import row_seed

PROMPT_END = 12  # tokens at the end of a prompt that are looked at for an opened thought


class Loaded(NamedTuple):
    """A language model and its tokenizer."""

    model: Any
    tokenizer: Any


@dataclasses.dataclass
class LLMCaptions(InstructedCaptions):
    r"""
    Asks a causal language model of transformers for negative captions, through its chat template.

    The same batch gives the same captions again on the same kind of device: sampling is seeded by the rows of each
    call of the model. `mistralai/Mistral-7B-Instruct-v0.2`, `google/gemma-2b-it` and
    `microsoft/Phi-3-mini-4k-instruct` are the TripletCLIP paper's.

    Args:
        model (`str`, defaults to `"mistralai/Mistral-7B-Instruct-v0.2"`): A directory or the id of a Hub repository
            with a causal language model and a chat template. No code from it is run.
        revision (`str`, *optional*): Branch, tag or commit of the repository.
        dtype (`str`, defaults to `"auto"`): `float32`, `float16` or `bfloat16`; `auto` is what the weights are
            stored in.
        kinds (`Sequence[str]` or `str`, *optional*): The kinds of change to ask for, of SugarCrepe's seven names, or
            `"all"`; a row's is drawn from its id, and is in `negative_type`. By default the model is free and
            `negative_type` is `None`.
        do_sample (`bool`, defaults to `True`): Sample. Without, the first answer is the likeliest, and only rows whose
            first answer was rejected are sampled.
        temperature (`float`, defaults to 0.7): Of sampling; more than 0.
        top_p (`float`, defaults to 0.95): Of sampling. Further settings are the model's `generation_config.json`.
        max_new_tokens (`int`, defaults to 96): Largest length of an answer, in tokens, thoughts included: a model
            that thinks first needs some 2,000.
        max_attempts (`int`, defaults to 3): Answers that a row may have until one is accepted.
        seed (`int`, defaults to 0): Another seed gives other captions.
        batch_size (`int`, defaults to 256): Rows that are sorted by their length together.
        model_batch_size (`int`, defaults to 32): Rows that the model answers at once.
        device (`str`, *optional*): By default the machine's GPUs, over which accelerate spreads the model, or its CPU.

    Adds `neg_caption` and `negative_type`. A caption that does not fit into the model's context is an error of its
    row.

    Raises:
        ValueError: A setting is out of range, or the model has no chat template, or one that refuses the prompt.
        OSError: The model is not there or cannot be reached. Both when it is loaded.
    """

    name: ClassVar[str] = "llm"
    length: ClassVar[str] = "max_new_tokens"

    revision: str | None = None
    dtype: str = "auto"
    do_sample: bool = True
    max_new_tokens: int = 96
    model_batch_size: int = 32

    _kept: Loaded | None = dataclasses.field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        from hf_tripletclip.utils.devices import check_dtype

        super().__post_init__()
        check_dtype(self.dtype)
        if self.temperature == 0:
            raise ValueError("`temperature` is 0; give `do_sample=False` for the likeliest answer.")
        for name in ("max_new_tokens", "model_batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` is {getattr(self, name)}; give at least 1.")

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": None}  # other processes load their own

    @property
    def _loaded(self) -> Loaded:
        # Kept by the stage alone, so that the memory is free for the next one.
        if self._kept is None:
            self._kept = load_model(self.model, self.revision, self.dtype, self.device)
        return self._kept

    def setup(self) -> None:
        tokens = len(_tokenize(self._loaded.tokenizer, [build_messages("A dog")])[0])
        if (room := _context(self._loaded.model)) is not None and tokens + self.max_new_tokens > room:
            raise ValueError(
                f"{self.model} takes {room} tokens; the instruction has {tokens} and `max_new_tokens` is "
                f"{self.max_new_tokens}."
            )

    def answer(self, questions: list[Question], ids: list[str]) -> list[Answer]:
        model, tokenizer = self._loaded
        prompts = _tokenize(tokenizer, [question.messages for question in questions])
        room = _context(model)
        answers: list[Answer] = [Answer(error="caption too long for the model")] * len(questions)
        fitting = [row for row, ids in enumerate(prompts) if room is None or len(ids) + self.max_new_tokens <= room]
        fitting.sort(key=lambda row: (-len(prompts[row]), row))  # what needs most memory first
        for start in range(0, len(fitting), self.model_batch_size):
            rows = fitting[start : start + self.model_batch_size]
            padded = tokenizer.pad(
                {"input_ids": [prompts[row] for row in rows]}, padding_side="left", return_tensors="pt"
            )
            attempt = questions[rows[0]].attempt
            seed = row_seed(self.seed, "\x1f".join(questions[row].id for row in rows), f"sampling {attempt}")
            for row, answer in zip(rows, self._generate(dict(padded), attempt, seed), strict=True):
                answers[row] = answer
        return answers

    def _generate(self, padded: dict[str, Any], attempt: int, seed: int) -> list[Answer]:
        import torch

        model, tokenizer = self._loaded
        sampled = self.do_sample or attempt > 0
        config = copy.deepcopy(model.generation_config)
        ends = config.eos_token_id if config.eos_token_id is not None else tokenizer.eos_token_id
        config.update(
            do_sample=sampled,
            temperature=self.temperature if sampled else None,
            top_p=self.top_p if sampled else None,
            top_k=config.top_k if sampled else None,
            max_new_tokens=self.max_new_tokens,
            max_length=None,
            num_return_sequences=1,
            return_dict_in_generate=False,
            eos_token_id=ends,
            pad_token_id=tokenizer.pad_token_id,
        )
        with torch.inference_mode(), _seeded(seed):
            inputs = {name: value.to(model.device) for name, value in padded.items()}
            ids = model.generate(**inputs, generation_config=config)[:, inputs["input_ids"].shape[1] :].tolist()
        # Some templates begin the thoughts themselves, so that the answer lacks their opening mark.
        opened = opened_thought(tokenizer.decode(padded["input_ids"][0, -PROMPT_END:].tolist()))
        stops = set(ends if isinstance(ends, list) else [ends])
        answers = []
        for row in ids:
            end = next((place for place, token in enumerate(row) if token in stops), None)
            text = tokenizer.decode(row[:end], skip_special_tokens=True)
            answers.append(Answer(f"{opened}{text}", cut=end is None and len(row) >= self.max_new_tokens))
        return answers


def load_model(model: str, revision: str | None, dtype: str, device: str | None) -> Loaded:
    """
    A causal language model and its tokenizer.

    Raises:
        ValueError: It is no causal language model, has no chat template, or one that refuses our prompt.
        OSError: It is not there or cannot be reached.
    """
    import torch
    from jinja2 import TemplateError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from hf_tripletclip.layouts.configs import read_config
    from hf_tripletclip.utils.devices import loading, pick_device

    if device is not None:
        pick_device(device)
    with loading(model, "a language model"):
        tokenizer = AutoTokenizer.from_pretrained(model, revision=revision, trust_remote_code=False)
    if tokenizer.chat_template is None:
        raise ValueError(
            f"{model} has no chat template, so it cannot be asked for captions; give an instruction-tuned model such "
            "as mistralai/Mistral-7B-Instruct-v0.2, or add a chat_template.jinja to its directory."
        )
    try:
        _tokenize(tokenizer, [build_messages("A dog")])
    except TemplateError as error:
        raise ValueError(f"The chat template of {model} refuses turns of user and assistant: {error}") from error
    if tokenizer.pad_token_id is None:  # Mistral's; what it is does not matter, as it is masked
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    placement = device or ("auto" if torch.cuda.is_available() else None)
    with loading(model, "a language model"):
        loaded = AutoModelForCausalLM.from_pretrained(
            model,
            config=read_config(model, **({} if revision is None else {"revision": revision})),
            revision=revision,
            dtype=dtype,
            device_map=placement,
            trust_remote_code=False,
        )
    return Loaded(loaded.eval(), tokenizer)


def _tokenize(tokenizer: Any, chats: list[list[dict[str, str]]]) -> list[list[int]]:
    # Marks of the template that a caption holds are encoded as text; models that think first are asked not to.
    return tokenizer.apply_chat_template(
        chats, add_generation_prompt=True, return_dict=True, sanitize_control_tokens=True, enable_thinking=False
    )["input_ids"]


def _context(model: Any) -> int | None:
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Torch's generators, of all devices, seeded; as they were afterwards."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield

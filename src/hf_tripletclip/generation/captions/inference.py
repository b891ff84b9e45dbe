# SPDX-License-Identifier: Apache-2.0
"""Negative captions from a language model on an OpenAI-compatible server or at an Inference Provider."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from hf_tripletclip.generation.captions.instructed import Answer, InstructedCaptions, Question
from hf_tripletclip.generation.captions.prompts import build_messages
from hf_tripletclip.generation.client import Failure, Request
from hf_tripletclip.generation.served import INT32, ServedModel


@dataclasses.dataclass
class InferenceCaptions(ServedModel, InstructedCaptions):
    r"""
    Asks a language model behind `huggingface_hub.InferenceClient` for negative captions.

    Any server with OpenAI's chat completions will do: vLLM, TGI, `transformers serve`, an Inference Endpoint; or an
    Inference Provider. Answers are kept in `cache_dir` as they come, so a run that is killed pays for none twice.
    [`~hf_tripletclip.generation.client.Requests`] says what is retried, and how a row's own errors are distinguished
    from those of the server.

    Whether the same seed gives the same caption again is up to the server; answers in `cache_dir` stay as they are.

    Args:
        model (`str`, defaults to `"mistralai/Mistral-7B-Instruct-v0.2"`): What the server calls the model.
        base_url (`str`, *optional*): The server, such as `http://127.0.0.1:8000/v1`.
        provider (`str`, *optional*): An Inference Provider, such as `"together"`. Hugging Face chooses one by default.
        api_key_env (`str`, *optional*): The environment variable that holds the API key. Defaults to `HF_TOKEN` for
            providers and Inference Endpoints; other servers get no key by default.
        bill_to (`str`, *optional*): The organisation on the Hub that pays.
        kinds (`Sequence[str]` or `str`, *optional*): The kinds of change to ask for, of SugarCrepe's seven names, or
            `"all"`; a row's is drawn from its id, and is in `negative_type`. By default the model is free.
        temperature (`float`, defaults to 0.7): Of sampling.
        top_p (`float`, defaults to 0.95): Of sampling.
        max_tokens (`int`, defaults to 96): Largest length of an answer, in tokens, thoughts included: a model that
            thinks first needs some 2,000.
        extra_body (`dict`, *optional*): Further parameters of the server. `transformers serve` samples only with
            `{"generation_config": '{"do_sample": true}'}`.
        max_attempts (`int`, defaults to 3): Answers that a row may have until one is accepted.
        seed (`int`, defaults to 0): Another seed gives other captions.
        concurrency (`int`, defaults to 16): Requests at once, of each worker.
        timeout (`float`, defaults to 120): Seconds to wait for an answer; 10 to connect. After both together a request
            is given up, however its bytes come.
        max_retries (`int`, defaults to 5): Times that a request that fails for a while is sent again.
        backoff (`float`, defaults to 1): Seconds before the first of them.
        cache_dir (`str`, *optional*): Folder for answers, one file of JSON lines for each batch. It may be deleted
            when the run is over.
        batch_size (`int`, defaults to 256): Rows that are sent together.

    Adds `neg_caption` and `negative_type`.

    Raises:
        ValueError: A setting is out of range, or the variable of the API key is not set.
        ServerError: The server cannot be reached, refuses the key or does not know the model.
    """

    name: ClassVar[str] = "inference"
    length: ClassVar[str] = "max_tokens"

    max_tokens: int = 96

    def __post_init__(self) -> None:
        InstructedCaptions.__post_init__(self)
        self._check_server_settings()
        if self.max_tokens < 1:
            raise ValueError(f"`max_tokens` is {self.max_tokens}; give at least 1.")

    def setup(self) -> None:
        self._connect(self._complete, self._content(build_messages("A red cup on a wooden table"), 0))

    def answer(self, questions: list[Question], ids: list[str]) -> list[Answer]:
        requests = [Request(question.id, self._content(question.messages, question.seed)) for question in questions]
        return [
            Answer(error=outcome.error) if outcome.error is not None else Answer(*outcome.value)
            for outcome in self._send(requests, ids)
        ]

    def _content(self, messages: list[dict[str, str]], seed: int) -> dict[str, Any]:
        return {
            "model": self.model,
            "messages": messages,
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "seed": seed & INT32,
            "extra_body": self.extra_body,
        }

    def _complete(self, client: Any, content: dict[str, Any]) -> list[Any]:
        """The text of an answer, whether it was cut, and the error of a row that the server refuses to answer."""
        choices = client.chat_completion(**content).choices
        if not isinstance(choices, list) or not choices:
            raise Failure("unreadable answer: it has no choices", again=True)
        choice = choices[0]
        if not hasattr(choice.message, "content"):
            raise Failure("unreadable answer: it has no message", again=True)
        if choice.finish_reason == "content_filter":
            return ["", False, "refusal: content filter of the server"]
        return [self._told(_text(choice.message.content)), choice.finish_reason == "length", None]


def _text(content: Any) -> str:
    """
    The words of a message's content: a text, or a list of parts, of which the model's thoughts are left out.

    Raises:
        Failure: It is none of these.
    """
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(_text(part) for part in content)
    if isinstance(content, dict):
        if content.get("type", "text") not in ("text", "output_text"):
            return ""  # "thinking", "reasoning", "image_url"
        for name in ("text", "content", "value"):
            if isinstance(content.get(name), str | list | dict):
                return _text(content[name])
    raise Failure(f"unreadable answer: its content is a {type(content).__name__}", again=False, answered=True)

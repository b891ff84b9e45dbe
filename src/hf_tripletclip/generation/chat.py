# SPDX-License-Identifier: Apache-2.0
"""Answers of a chat model that runs in this process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from hf_tripletclip.layouts.configs import read_config
from hf_tripletclip.utils.devices import loading, pick_device

Chat = list[dict[str, str]]  # turns of `role` and `content`


@dataclass
class ChatModel:
    """
    A causal language model and its tokenizer, which has a chat template.

    Args:
        model ([`~transformers.PreTrainedModel`]): The model, in evaluation mode.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): Its tokenizer, with a padding token.
    """

    model: Any
    tokenizer: Any

    @classmethod
    def from_pretrained(
        cls, source: str, *, revision: str | None = None, dtype: str = "auto", device: str | None = None
    ) -> ChatModel:
        """
        Load it.

        Args:
            source (`str`): A directory or the id of a Hub repository. No code from it is run.
            revision (`str`, *optional*): Branch, tag or commit of the repository.
            dtype (`str`, defaults to `"auto"`): `float32`, `float16` or `bfloat16`; `auto` is that of the files.
            device (`str`, *optional*): The accelerator by default.

        Raises:
            ValueError: It has no chat template, or is no causal language model.
            OSError: It is not there or cannot be reached.
        """
        from transformers import AutoModelForCausalLM, AutoTokenizer

        place = pick_device(device)
        options: dict[str, Any] = {"trust_remote_code": False} | ({} if revision is None else {"revision": revision})
        with loading(source, "a chat model"):
            tokenizer = AutoTokenizer.from_pretrained(source, **options)
        if tokenizer.chat_template is None:
            raise ValueError(
                f"{source} has no chat template, so it cannot be asked; take an instruction-tuned model, such as "
                "mistralai/Mistral-7B-Instruct-v0.2."
            )
        if tokenizer.pad_token is None:  # its value does not matter, it is masked
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
        with loading(source, "a chat model"):
            model: Any = AutoModelForCausalLM.from_pretrained(
                source, config=read_config(source, **options), dtype=dtype, **options
            )
        return cls(model.to(place).eval(), tokenizer)

    @torch.inference_mode()
    def answer(
        self,
        chats: list[Chat],
        *,
        max_new_tokens: int,
        batch_size: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> list[str | None]:
        """
        The answers to chats, each of which ends with the user's turn.

        Chats of like length go through the model together, padded on the left. The same call gives the same answers
        on the same kind of device.

        Args:
            chats (`list`): Lists of turns.
            max_new_tokens (`int`): Where an answer is cut.
            batch_size (`int`): Chats at once.
            temperature (`float`, defaults to 0.0): Of sampling; 0 takes the likeliest token each time.
            top_p (`float`, defaults to 1.0): Share of the probability to sample from.
            seed (`int`, defaults to 0): Of sampling.

        Returns:
            `list[str | None]`: `None` for a chat that leaves no room for an answer in the model's context.
        """
        prompts = [self._tokenize(chat) for chat in chats]
        context = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        room = None if context is None else context - max_new_tokens
        order = [index for index, prompt in enumerate(prompts) if room is None or len(prompt) <= room]
        order.sort(key=lambda index: len(prompts[index]))
        answers: list[str | None] = [None] * len(chats)
        device = self.model.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            for start in range(0, len(order), batch_size):
                chosen = order[start : start + batch_size]
                inputs = self.tokenizer.pad(
                    {"input_ids": [prompts[index] for index in chosen]}, padding_side="left", return_tensors="pt"
                ).to(device)
                output = self.model.generate(
                    **inputs,
                    max_new_tokens=max_new_tokens,
                    pad_token_id=self.tokenizer.pad_token_id,
                    **sampling(temperature, top_p),
                )
                texts = self.tokenizer.batch_decode(
                    output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
                )
                for index, text in zip(chosen, texts, strict=True):
                    answers[index] = text
        return answers

    def _tokenize(self, chat: Chat) -> list[int]:
        # A template's own marks in a caption are text, and models that think first are asked not to.
        return self.tokenizer.apply_chat_template(
            chat,
            add_generation_prompt=True,
            return_dict=True,
            sanitize_control_tokens=True,
            enable_thinking=False,
        )["input_ids"]


def sampling(temperature: float, top_p: float = 1.0) -> dict[str, Any]:
    """Arguments of `generate`, whatever the model's own generation config says."""
    if temperature <= 0:
        # The values that mean nothing: those of the config would bring warnings that they are not used.
        return {"do_sample": False, "num_beams": 1, "temperature": 1.0, "top_p": 1.0, "top_k": 50}
    return {"do_sample": True, "num_beams": 1, "temperature": temperature, "top_p": top_p, "top_k": 0}

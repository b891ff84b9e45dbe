# SPDX-License-Identifier: Apache-2.0
"""From a language model's answer to a negative caption, or the reason why it holds none."""

from __future__ import annotations

import re
from collections import Counter
from typing import NamedTuple

from hf_tripletclip.generation.captions.content import ADDED, content_problem, find_words
from hf_tripletclip.generation.captions.lines import beside_the_original, first_line, is_more, refusal_in
from hf_tripletclip.generation.captions.unwrapping import unwrap, without_thoughts

# Bounds of a negative's length in words, relative to the caption's; a few words more or less always pass.
MIN_RATIO, MAX_RATIO, SLACK = 0.5, 2.0, 3
MAX_WORDS = 200
MIN_SHARED = 0.2  # share of the caption's words that a negative keeps: less describes something else altogether
FEW = 4  # one of so many words may change along with those that were to be swapped or added
SHORT = 4  # words; a caption shorter than this may have all of them replaced

# Kinds that may only add words to the caption; see `hf_tripletclip.data.schema.NEGATIVE_TYPES`.
ADDING = frozenset({"add_obj", "add_att"})

AUXILIARY = frozenset(
    {"a", "an", "the", "is", "are", "was", "were", "has", "have", "and"}
)  # words that change along with others

# Marks of chat templates, such as <|im_end|>, [/INST], <end_of_turn>, </s>; `<person>` of a caption is none.
TEMPLATE = re.compile(
    r"<\|[^<>|\n]{1,40}\|>|\[/?(?:INST|SYS|AVAILABLE_TOOLS|TOOL_CALLS)\]|<</?SYS>>|<(?:start|end)_of_turn>"
    r"|</?s>|<(?:unk|pad|bos|eos|eot|end|stop)>|<end▁of▁sentence>",
)
AT_END = re.compile(rf"(?:{TEMPLATE.pattern})$")


class Parsed(NamedTuple):
    """A negative caption, or why there is none: words for counting."""

    caption: str | None
    reason: str | None


def parse_answer(answer: str, caption: str, kind: str | None = None, cut: bool = False) -> Parsed:
    """
    The negative caption that a model's answer holds.

    What models put around it is taken off: thoughts and the channels of gpt-oss, JSON, tags, code fences, quotation
    marks, markdown, list markers, labels such as "Negative caption:" and "Option A:", the original beside it,
    sentences of courtesy, explanations and what follows the first line. An answer that still looks as if it held more
    than a caption is rejected. First letter and final full stop then follow the caption's, so that neither gives
    negatives away.

    What is left must say something else than the caption, see
    [`~hf_tripletclip.generation.captions.content.content_problem`].

    Args:
        answer (`str`): What the model wrote.
        caption (`str`): The caption that it was given.
        kind (`str`, *optional*): The kind of change that was asked for. Only `add_obj` and `add_att` may leave the
            caption as it is and add to it.
        cut (`bool`, defaults to `False`): The answer was cut at its largest length.

    Returns:
        [`Parsed`]: The caption, or a reason: `empty answer`, `unfinished answer`,
        `template tokens`, `undecodable characters`, `refusal`, `question`, `more than a caption`,
        `same as the caption`, `prefix of the caption`, `extension of the caption`, `same words as the caption`,
        `words of the caption left out`, `words added to the caption`, `too short`, `too long`, `unlike the caption` or
        `another kind of change`.
    """
    text = without_thoughts(answer)
    if text is None:
        return Parsed(None, "unfinished answer")
    while (found := AT_END.search(text := text.rstrip())) is not None:
        text = text[: found.start()]
    text = beside_the_original(unwrap(text, caption), caption)
    line, is_last = first_line(text, caption)
    if not find_words(line):
        return Parsed(None, "unfinished answer" if cut else "empty answer")
    if TEMPLATE.search(line):
        return Parsed(None, "template tokens")
    if not line.isprintable() or "\ufffd" in line:
        return Parsed(None, "undecodable characters")
    if reason := refusal_in(line, caption):
        return Parsed(None, reason)
    if cut and is_last and line[-1] not in ".!?":
        return Parsed(None, "unfinished answer")
    if is_more(line, caption):
        return Parsed(None, "more than a caption")
    reason = _problem(line, caption, kind)
    return Parsed(None, reason) if reason else Parsed(_in_style_of(caption, line), None)


def _problem(line: str, positive: str, kind: str | None) -> str | None:
    negative, caption = find_words(line), find_words(positive)
    if negative == caption:
        return "same as the caption"
    if negative == caption[: len(negative)]:
        return "prefix of the caption"
    if caption == negative[: len(caption)] and kind not in ADDING:
        return "extension of the caption"
    if len(negative) < min(MIN_RATIO * len(caption), len(caption) - SLACK):
        return "too short"
    if len(negative) > max(MAX_RATIO * len(caption), len(caption) + SLACK) or len(negative) > MAX_WORDS:
        return "too long"
    problem = content_problem(positive, line)
    if problem is not None and problem != ADDED:
        return problem
    known = set(caption)
    if len(known) >= SHORT and len(known.intersection(negative)) < MIN_SHARED * len(known):
        return "unlike the caption"
    if kind is not None and not _is_kind(negative, caption, kind):
        return "another kind of change"
    return None if kind in ADDING else problem


def _is_kind(negative: list[str], caption: list[str], kind: str) -> bool:
    """
    Whether words were swapped, added or replaced as asked; whether objects or attributes were, this cannot say. A few
    other words may change along with them.
    """
    now, before = _stems(negative), _stems(caption)
    new, gone = Counter(now) - Counter(before), Counter(before) - Counter(now)
    few = max(1, len(before) // FEW)
    if kind.startswith("swap"):
        reordered = [word for word in now if word in before] != [word for word in before if word in now]
        return reordered and new.total() <= few and gone.total() <= few
    if kind.startswith("add"):
        return new.total() > gone.total() and gone.total() <= few
    return new.total() > 0 and gone.total() > 0


def _stems(words: list[str]) -> list[str]:
    """Words without the endings by which a verb agrees with another noun: chase, chases; carry, carries."""
    kept = (word.removesuffix("'s").rstrip("s").rstrip("e") for word in words if word not in AUXILIARY)
    return [f"{word[:-1]}i" if word.endswith("y") else word for word in kept]


def _in_style_of(caption: str, negative: str) -> str:
    """The negative with the caption's final full stop, or lack of it, and the case of its first letter."""
    caption = caption.strip()
    if caption[-1] not in ".!?" and negative[-1] == "." and not negative.endswith(".."):
        negative = negative[:-1].rstrip()
    elif caption[-1] == "." and negative[-1].isalnum():
        negative += " ." if caption.endswith(" .") else "."
    first = negative.split()[0]
    if caption[0].islower() and first[0].isupper() and first[1:] == first[1:].lower() and first not in caption.split():
        return negative[0].lower() + negative[1:]
    if caption[0].isupper() and negative[0].islower():
        return negative[0].upper() + negative[1:]
    return negative

# SPDX-License-Identifier: Apache-2.0
"""From a language model's answer to a negative caption, or the reason why it holds none."""

from __future__ import annotations

import re
from collections import Counter
from typing import NamedTuple

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

THINKING = re.compile(r"<(think|thinking|reasoning)>.*?</\1>", re.DOTALL | re.IGNORECASE)
UNFINISHED_THINKING = re.compile(r"<(think|thinking|reasoning)>", re.IGNORECASE)
# Marks of chat templates, such as <|im_end|>, [/INST], <end_of_turn>, </s>; `<person>` of a caption is none.
TEMPLATE = re.compile(
    r"<\|[^<>|\n]{1,40}\|>|\[/?(?:INST|SYS|AVAILABLE_TOOLS|TOOL_CALLS)\]|<</?SYS>>|<(?:start|end)_of_turn>"
    r"|</?s>|<(?:unk|pad|bos|eos)>|<end▁of▁sentence>",
)
AT_END = re.compile(rf"(?:\s*(?:{TEMPLATE.pattern}))+\s*$")
LABEL = re.compile(
    r"^(?:the\s+|my\s+|your\s+)?"
    r"(?:(?:(?:hard|new|changed|modified|altered|revised|different|possible)\s+)*(?:negative\s+|new\s+)?"
    r"(?:caption|description|answer|output|response|result|negative))"
    r"(?:\s*\([^()]*\))?(?:\s+\d+)?\s*[:：]\s*",
    re.IGNORECASE,
)
PREAMBLE = re.compile(
    r"^(?:(?:sure(?: thing)?|certainly|of course|okay|ok|absolutely|great|yes)\b[^\w:]*)?"
    r"(?:(?:here(?:'s|’s| is| are| you go)|i (?:have |would )?(?:change|suggest|propose|write)d?)\b[^:：]{0,120})?"
    r"[:：]\s*",
    re.IGNORECASE,
)
POLITE = re.compile(r"^(?:sure(?: thing)?|certainly|of course|okay|ok|absolutely|great|yes)\s*[!.,]*$", re.IGNORECASE)
MARKER = re.compile(r"^(?:#{1,6}\s+|>\s+|[-*•–—]\s+|\(?\d{1,2}[.)]\s+|\(?[a-zA-Z][)]\s+)")
FENCE = re.compile(r"^(?:```|~~~)\w*$")
EMPHASIS = re.compile(r"(\*\*|__|\*|_|`)(?=\S)(.+?)(?<=\S)\1")
REMARK = re.compile(
    r"\s*[(\[](?:note|change[ds]?|replac|swap|add(?:ed|ing)|instead|negative|(?:instead|rather) of|originally|was|"
    r"explanation|different)\b[^()\[\]]*[)\]]\s*\.?$",
    re.IGNORECASE,
)
QUOTES = {'"': '"', "“": "”", "”": "”", "„": "“", "«": "»", "‘": "’", "'": "'", "`": "`"}
REFUSAL = re.compile(
    r"^(?:(?:i(?:'|’)?m|i am) (?:very |so |really )?(?:sorry|unable|not able|afraid|just an? |an? )"
    r"|i (?:can(?:'|’)?t|cannot|can not|could(?:n(?:'|’)t| not)|won(?:'|’)t|will not|don(?:'|’)t|do not)\b"
    r"|i apologi[sz]e\b"
    r"|sorry\b|apologies\b|my apologies\b|as an? (?:ai|artificial|language|large|helpful|text)\b|unfortunately\b"
    r"|(?:it is|it's|it’s) not possible\b|please (?:provide|give|specify|share|clarify)\b"
    r"|(?:could|can|would) you (?:please )?(?:provide|give|specify|share|clarify)\b|there is no caption\b"
    r"|no caption (?:was|is|has)\b)",
    re.IGNORECASE,
)
# A word; each character of a script that writes no spaces counts as one.
WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W_]+(?:['’\-][^\W_]+)*")


class Parsed(NamedTuple):
    """A negative caption, or why there is none: words for counting."""

    caption: str | None
    reason: str | None


def parse_answer(answer: str, caption: str, kind: str | None = None, cut: bool = False) -> Parsed:
    """
    The negative caption that a model's answer holds.

    What models put around it is taken off: thinking, quotation marks, markdown, list markers, labels such as
    "Negative caption:", sentences of courtesy, remarks and what follows the first line. Its first letter and its
    final full stop then follow the caption's, so that neither gives negatives away.

    Args:
        answer (`str`): What the model wrote.
        caption (`str`): The caption that it was given.
        kind (`str`, *optional*): The kind of change that was asked for. Only `add_obj` and `add_att` may leave the
            caption as it is and add to its end.
        cut (`bool`, defaults to `False`): The answer was cut at its largest length.

    Returns:
        [`Parsed`]: The caption, or a reason: `empty answer`, `unfinished answer`, `template tokens`,
        `undecodable characters`, `refusal`, `same as the caption`, `prefix of the caption`,
        `extension of the caption`, `too short`, `too long`, `unlike the caption` or `another kind of change`.
    """
    text = THINKING.sub("", answer)
    if UNFINISHED_THINKING.search(text):
        return Parsed(None, "unfinished answer")
    text = text.rpartition("</think>")[2]  # templates that open the thought themselves
    text = AT_END.sub("", text)
    line, is_last = _first_line(text)
    if not _words(line):
        return Parsed(None, "unfinished answer" if cut else "empty answer")
    if TEMPLATE.search(line):
        return Parsed(None, "template tokens")
    if not line.isprintable() or "\ufffd" in line:
        return Parsed(None, "undecodable characters")
    if REFUSAL.match(line):
        return Parsed(None, "refusal")
    if cut and is_last and line[-1] not in ".!?":
        return Parsed(None, "unfinished answer")
    reason = _problem(_words(line), _words(caption), kind)
    return Parsed(None, reason) if reason else Parsed(_in_style_of(caption, line), None)


def _first_line(text: str) -> tuple[str, bool]:
    """The first line that is more than courtesy or a label, without what surrounds it; whether it is the last."""
    lines = [line for line in map(str.strip, text.splitlines()) if line and not FENCE.match(line)]
    for number, line in enumerate(lines):
        stripped = _strip(line)
        if stripped and not POLITE.match(stripped):
            return stripped, number == len(lines) - 1
    return "", True


def _strip(line: str) -> str:
    """A line without markers, markdown, labels, quotation marks and remarks, in whatever order they come."""
    before = None
    while line != before:
        before = line
        line = MARKER.sub("", line.strip())
        line = EMPHASIS.sub(r"\2", line)
        line = LABEL.sub("", line)
        line = PREAMBLE.sub("", line)
        line = REMARK.sub("", line)
        line = _unquote(line)
    return " ".join(line.split())


def _unquote(line: str) -> str:
    closing = QUOTES.get(line[:1])
    if closing is None:
        return line
    end = line.rfind(closing, 1)
    if end == -1:  # opened and never closed; an apostrophe may open a word
        return line if line[0] in "'’" else line[1:]
    inside, after = line[1:end], line[end + 1 :].strip()
    if closing in inside and not (closing in "'’" and '"' not in inside):
        return line  # '"Stop" and "go" signs': the marks are the caption's own
    return inside if not _words(after) or after[0] in "([-–—" else line


def _words(text: str) -> list[str]:
    return [word.casefold().replace("’", "'") for word in WORD.findall(text)]


def _problem(negative: list[str], caption: list[str], kind: str | None) -> str | None:
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
    known = set(caption)
    if len(known) >= SHORT and len(known.intersection(negative)) < MIN_SHARED * len(known):
        return "unlike the caption"
    return None if kind is None or _is_kind(negative, caption, kind) else "another kind of change"


def _is_kind(negative: list[str], caption: list[str], kind: str) -> bool:
    """
    Whether words were swapped, added or replaced as asked; of objects or attributes, nobody can tell from here. A few
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

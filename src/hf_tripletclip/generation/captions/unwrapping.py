# SPDX-License-Identifier: Apache-2.0
"""
What language models put around the text that they were asked for, taken off: thoughts, the channels of gpt-oss, code
fences, tags and JSON.
"""

from __future__ import annotations

import ast
import html
import json
import re
from typing import Any

MAX_LAYERS = 6  # of wrappers in each other

_THOUGHT = (
    "think|thinking|thoughts?|reason|reasoning|reflection|scratchpad|analysis|rationale|planning|inner_monologue|"
    "seed:think"
)
# What begins and what ends a model's thoughts.
_THOUGHTS = tuple(
    (re.compile(begin, re.IGNORECASE), re.compile(end, re.IGNORECASE))
    for begin, end in (
        (rf"[<\[◁]\|?(?:{_THOUGHT})\|?[>\]▷]", rf"[<\[◁]\|?/(?:{_THOUGHT})\|?[>\]▷]"),
        (r"<\|(?:begin_of_thought|start_thinking)\|>", r"<\|(?:end_of_thought|end_thinking)\|>"),
        (r"<unused94>", r"<unused95>"),
    )
)
# Channels of gpt-oss, with the marks of its template and without them: "analysisWe need ...assistantfinalA white dog".
_CHANNEL = re.compile(r"<\|channel\|>\s*(?P<name>\w+)[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>", re.IGNORECASE)
_END_OF_MESSAGE = re.compile(r"<\|(?:end|return|start|call)\|>", re.IGNORECASE)
_BARE_FINAL = re.compile(r"assistant\s*final(?:\s*json)?(?![a-z])\s*")
_BARE_ANALYSIS = re.compile(
    r"\s*(?:assistant\s*)?(?:analysis|commentary)(?:(?=[A-Z\"'(*])|\s+(?=We\b|The user\b|I\b|User\b))"
)
_BARE_START = re.compile(r"^\s*(?:assistant\s*)?final(?=[A-Z\"'{<*])")

# What a template begins a turn with.
_TURN = re.compile(
    r"^\s*(?:<\|(?:im_start|start_header_id|start|assistant|bot)\|>|<start_of_turn>)\s*(?:assistant|model|bot)?"
    r"\s*(?:<\|end_header_id\|>)?\s*",
    re.IGNORECASE,
)
_INVISIBLE = re.compile("[\u200b\u2060\ufeff\u00ad]")
_FENCED = re.compile(
    r"(?P<fence>```|~~~)[ \t]*(?:(?:json|jsonc|text|plaintext|txt|markdown|md|xml|html|yaml|python|bash)\b|\w*(?=\n))?"
    r"(?P<inside>.*?)(?P=fence)",
    re.DOTALL | re.IGNORECASE,
)
_BOXED = re.compile(r"\\boxed\s*\{\s*(?:\\text\s*\{)?(?P<inside>[^{}]*)\}?\s*\}")
_BOX_MARKS = re.compile(r"<\|(?:begin|end)_of_(?:box|solution)\|>", re.IGNORECASE)
_TAGGED = re.compile(
    r"(?P<open>[<\[])(?P<name>[A-Za-z][\w:.-]*)(?:\s[^<>\[\]]*)?[>\]](?P<inside>.*?)[<\[]/(?P=name)\s*[>\]]",
    re.DOTALL | re.IGNORECASE,
)
_FORMAT_TAGS = re.compile(
    r"</?(?:b|i|u|em|strong|mark|span|p|div|br|code|small|sup|sub|font|q|h[1-6]|li|ul|ol|body|html)(?:\s[^<>]*)?/?>",
    re.IGNORECASE,
)
_ENTITY = re.compile(r"&(?:#\d{1,6}|#x[0-9a-fA-F]{1,5}|[a-zA-Z]{2,8});")

# Names of tags and of JSON keys, without what is no letter.
_NEGATIVE = re.compile(r"neg|counterfactual|distractor|mismatch")
_CHANGED = re.compile(
    r"^(?:new|modif|chang|alter|edit|revis|hard|false|differ|rewrit|swap|replac|generat|output|updat)"
)
_PLAIN = re.compile(
    r"caption|descri|sentence|answer|result|response|text|final|content|output|solution|arguments|value"
)
_OTHER = re.compile(
    r"origin|positiv|input|source|given|reason|explan|justif|why|note|comment|thought|think|analys|score|confid|before|"
    r"^old|refer|^inst$|^sys$|^id$|index|role|status|error|^name$|^type$|kind|category|changes?$|^change|modification"
)
_COMPLETE = re.compile(
    r"""["'](?P<name>[A-Za-z_ ]{2,40})["']\s*:\s*["'](?P<value>(?:[^"'\\]|\\.|(?<=\w)'(?=\w))+)["']"""
)


def opened_thought(prompt: str) -> str:
    """The mark at the end of a prompt with which its template begins the model's thoughts; empty if it does not."""
    found = [match for begin, _ in _THOUGHTS for match in begin.finditer(prompt)]
    return next((match[0] for match in found if not prompt[match.end() :].strip()), "")


def without_thoughts(text: str) -> str | None:
    """An answer without the model's thoughts; `None` if it has not come to an end of them."""
    text = _INVISIBLE.sub("", text)
    if channels := list(_CHANNEL.finditer(text)):
        finals = [match for match in channels if match["name"].lower() == "final"]
        return _END_OF_MESSAGE.split(text[finals[-1].end() :])[0] if finals else None
    if ends := list(_BARE_FINAL.finditer(text)):
        text = text[ends[-1].end() :]
    elif _BARE_ANALYSIS.match(text):
        return None
    text = _BARE_START.sub("", _TURN.sub("", text))
    for begin, end in _THOUGHTS:
        while (started := begin.search(text)) and (ended := end.search(text, started.end())):
            text = f"{text[: started.start()]} {text[ended.end() :]}"
        if ends := list(end.finditer(text)):  # templates that open the thought themselves
            text = text[ends[-1].end() :]
        if begin.search(text):
            return None
    return text


def unwrap(text: str, caption: str) -> str:
    """
    What is inside code fences, `\\boxed{}`, tags and JSON, however they lie in each other. Of several tags or keys the
    one that is named after a negative or a changed caption is taken.

    Args:
        text (`str`): An answer without thoughts.
        caption (`str`): The caption; marks that it has itself are no wrapper.
    """
    for _ in range(MAX_LAYERS):
        before = text
        if _ENTITY.search(text) and not _ENTITY.search(caption):
            text = html.unescape(text)
        text = _FENCED.sub(lambda match: f"\n{match['inside'].strip()}\n", text)
        text = _BOX_MARKS.sub("", _BOXED.sub(lambda match: match["inside"], text)).strip()
        if "<" not in caption:
            text = _FORMAT_TAGS.sub(
                lambda match: "\n" if match[0].lower().startswith(("<br", "</p", "</li")) else "", text
            )
        text = _untagged(text, caption)
        text = _from_json(text, caption)
        if text == before:
            break
    return text


def _untagged(text: str, caption: str) -> str:
    found = [
        (rank, -number, match["inside"])
        for number, match in enumerate(_TAGGED.finditer(text))
        if match["open"] not in caption and (rank := _rank(match["name"])) is not None
    ]
    if found:
        return min(found)[2].strip()
    # One that was not closed, or not opened.
    for mark in "<[":
        if mark not in caption:
            close = {"<": ">", "[": r"\]"}[mark]
            for name in re.findall(rf"\{mark}/?([A-Za-z][\w -]{{2,30}}){close}", text):
                if _rank(name) in (0, 1, 2):
                    text = re.sub(rf"\{mark}/?{re.escape(name)}{close}", "\n", text).strip()
    return text


def _rank(name: str) -> int | None:
    """How likely a tag or key of this name holds the negative: 0 the most; `None` for what holds something else."""
    letters = "".join(filter(str.isalpha, name)).lower()
    if _NEGATIVE.search(letters):
        return None if re.search("type|kind|explan|reason", letters) else 0
    if _CHANGED.match(letters) and (_PLAIN.search(letters) or _CHANGED.fullmatch(letters)):
        return 1
    if _OTHER.search(letters):
        return None
    return 2 if _PLAIN.search(letters) else 3


def _from_json(text: str, caption: str) -> str:
    start = re.search(r"[\[{]\s*[\"'{\[]", text)
    if start is None or caption.lstrip()[:1] in "{[":
        return _unquoted_json(text)
    value = _decode(text[start.start() :])
    if value is not None and (picked := _pick(value)) is not None:
        return picked.strip()
    # JSON that breaks off or has mistakes: the first strings of it that are whole.
    found = [
        (rank, number, match["value"])
        for number, match in enumerate(_COMPLETE.finditer(text, start.start()))
        if (rank := _rank(match["name"])) is not None
    ]
    return min(found)[2].replace('\\"', '"').strip() if found else text


def _unquoted_json(text: str) -> str:
    """A JSON string alone: `"A \\"Stop\\" sign"`."""
    if text[:1] == '"' and "\\" in text:
        try:
            value = json.loads(text)
        except ValueError:
            return text
        return value if isinstance(value, str) else text
    return text


def _decode(text: str) -> Any:
    try:
        return json.JSONDecoder(strict=False).raw_decode(text)[0]
    except (ValueError, RecursionError):
        pass
    end = max(text.rfind("}"), text.rfind("]")) + 1
    try:  # a dictionary of Python's, a comma too many
        return ast.literal_eval(" ".join(text[:end].split()))
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return None


def _pick(value: Any, depth: int = 0) -> str | None:
    """The string in a JSON value that is most likely the negative."""
    if isinstance(value, str):
        return value if value.strip() else None
    if depth > MAX_LAYERS:
        return None
    if isinstance(value, list | tuple):
        return next((found for part in value if (found := _pick(part, depth + 1)) is not None), None)
    if not isinstance(value, dict):
        return None
    ranked = [
        (rank, number, found)
        for number, (name, part) in enumerate(value.items())
        if (rank := _rank(str(name))) is not None and (found := _pick(part, depth + 1)) is not None
    ]
    return min(ranked)[2] if ranked else None

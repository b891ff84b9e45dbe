# SPDX-License-Identifier: Apache-2.0
"""
The caption in the lines of an answer: without labels, list markers, quotation marks, explanations and what else models
write beside it; and whether what is left is a refusal or still more than a caption.

What a caption has itself, such as a colon or brackets, is not taken for any of these.
"""

from __future__ import annotations

import re
import unicodedata

from hf_tripletclip.generation.captions.content import content_words, find_words

_CHANGED = (
    r"negative|hard|new|changed|modified|altered|revised|edited|updated|rewritten|different|possible|alternative|"
    r"counterfactual|contrasting|contrastive|opposite|false|incorrect|swapped|replaced|generated|rephrased|transformed|"
    r"mismatched|adversarial|final|best|corrected"
)
_THING = r"caption|description|sentence|answer|output|response|result|version|text|negative|counterfactual|distractor"
_OTHERS = r"original|positive|given|input|source|reference|initial|old|first|user(?:'s)?"
_COLON = r"\s*(?:\([^()]*\))?(?:\s*#?\d{1,2})?\s*[*_]{0,3}[:：][*_]{0,3}\s*"
LABEL = re.compile(
    rf"^(?:the\s+|my\s+|your\s+|an?\s+)?(?:(?:{_CHANGED})[\s_-]+){{0,4}}(?:{_THING}|{_CHANGED}|ans|assistant){_COLON}",
    re.IGNORECASE,
)
NEGATIVE_DASH = re.compile(r"^(?:hard\s+)?negative(?:\s+(?:caption|description))?\s+[-–—=]\s+", re.IGNORECASE)
COURTESY = re.compile(
    r"^(?:sure(?: thing)?|certainly|of course|okay|absolutely|great|got it|here you go|thank you|yes|no|well|alright)"
    r"\s*[!.,]\s+(?=[\"“'A-Z])",
    re.IGNORECASE,
)
IMAGE = re.compile(r"\b(?:images?|pictures?|photos?|photographs?|scenes?)\b", re.IGNORECASE)
OF_THE_IMAGE = re.compile(
    r"^(?:the|this|an?) (?:image|picture|photo|photograph|scene) (?:now )?(?:of|shows?|depicts?|features?)\s+",
    re.IGNORECASE,
)
QUOTED = re.compile(r"[\"“]([^\"“”]{8,})[\"”]")
# "Option A:", "(1)", "B.", "Version 2 -"
OPTION = re.compile(
    r"^[(\[]?(?:(?:option|choice|version|candidate|example|variant|variation|alternative|suggestion|caption)s?\s*"
    r"#?\s*(?:[a-zA-Z]|\d{1,2}|[ivxIVX]{1,4})\s*(?:[:：.)\]]|\s[-–—])|[a-zA-Z]\s*[:：)]|#?\d{1,2}\s*[:：.)\]])[)\]]?\s+",
    re.IGNORECASE,
)
NEXT_OPTION = re.compile(
    r"[\s,;|/]{1,6}[(\[]?(?:(?:option|choice|version|candidate|variant|variation|alternative)\s*#?\s*(?:[b-z]|[2-9]|ii)\s*"
    r"(?:[:：.)\]]|\s[-–—])|[b-e]\)|\(?2[.)])\s.*$",
    re.IGNORECASE | re.DOTALL,
)
# The label of a negative in an answer that repeats the original.
NEGATIVE_LABEL = re.compile(
    rf"(?:^|(?<=[\s.;|,*_(>\"'”’\]-]))(?:(?:{_CHANGED})[\s_-]+){{0,3}}(?:negative|counterfactual|distractor)"
    rf"(?:[\s_-]+(?:{_THING}))?{_COLON}",
    re.IGNORECASE,
)
CHANGED_LABEL = re.compile(
    rf"(?:^|(?<=[\s.;|,*_(>\"'”’\]-]))(?:(?:{_CHANGED})[\s_-]+){{0,3}}(?:{_THING}|{_CHANGED}|after){_COLON}",
    re.IGNORECASE,
)
ORIGINAL_LABEL = re.compile(
    rf"^[\s*_#>\"'-]*(?:the\s+)?(?:{_OTHERS}|before)(?:[\s_-]+(?:{_THING}|image|picture))?{_COLON}", re.IGNORECASE
)
# Thoughts without marks, and the answer after them.
STEPS = re.compile(
    r"^[\s*_#-]*(?:thoughts?|thinking|reasoning|analysis|step \d+|plan|rationale)\s*[*_]{0,3}[:：]", re.IGNORECASE
)
ANSWER_LABEL = re.compile(
    rf"^[\s*_#-]*(?:(?:{_CHANGED})[\s_-]+){{0,3}}(?:{_THING}){_COLON}", re.IGNORECASE | re.MULTILINE
)
# What comes after the caption.
NEXT_LABEL = re.compile(
    rf"[\s(\[|,;.–-]{{1,6}}(?:(?:{_OTHERS})(?:[\s_-]+(?:{_THING}|image|picture))?|explanation|note|reason(?:ing)?|changes?|"
    rf"change made|rationale|justification|type|kind|edit)\s*[*_]{{0,3}}[:：](?:\s|[*_]).*$",
    re.IGNORECASE | re.DOTALL,
)
ARROW = re.compile(r"\s*(?:-+>|=+>|[→⇒➜➔⟶↦])\s*")
PREAMBLE = re.compile(
    r"^(?:(?:sure(?: thing)?|certainly|of course|okay|ok|absolutely|great|yes)\b[^\w:]*)?"
    r"(?:(?:here(?:'s|’s| is| are| you go)|(?:the|this|below|following)\b[^:：]{0,60}\b(?:is|are|would be|could be)"
    r"|i(?:'ve|’ve)? (?:have |would |will )?(?:change|suggest|propose|write|replace|swap|made|came up)d?)\b"
    r"[^:：]{0,120})?"
    r"[:：]\s*",
    re.IGNORECASE,
)
POLITE = re.compile(
    r"^(?:(?:sure(?: thing)?|certainly|of course|okay|ok|absolutely|great|yes|got it|assistant|final|json|answer)"
    r"\s*[!.,:]*"
    r"|(?:(?:sure|certainly|okay)[,!.]?\s+)?(?:here(?:'s|’s| is| are)|below is|this is|the following is)\b"
    r"[^\n]{0,120}\b(?:caption|description|negative|version|sentence|answer)s?\b[^\n]{0,80})$",
    re.IGNORECASE,
)
MARKER = re.compile(
    r"^(?:#{1,6}\s+|>\s+|[-*•–—]\s+|[·‣▪●◦➤►✅✔❌👉✨]\ufe0f?\s*|(?P<number>\(?\d{1,2}[.)]\s+|\(?[a-zA-Z][)]\s+))"
)
FENCE = re.compile(r"^(?:```|~~~)\w*$")
EMPHASIS = re.compile(r"(\*\*\*|___|\*\*|__|\*|_|`)(?=\S)(.+?)(?<=\S)\1")
BRACKETED = re.compile(r"\s*[(\[][^()\[\]]*[)\]]\s*[.!]?$")
BRACKETED_FIRST = re.compile(r"^[(\[][^()\[\]]*[)\]]\s*[:：–-]?\s*(?=[\w\"'“])")
QUOTES = {'"': '"', "“": "”", "”": "”", "„": "“", "«": "»", "‘": "’", "'": "'", "`": "`"}
REFUSAL = re.compile(
    r"^(?:(?:i(?:'|’)?m|i am) (?:very |so |really )?(?:sorry|unable|not able|afraid|just an? |an? )"
    r"|i (?:can(?:'|’)?t|cannot|can not|could(?:n(?:'|’)t| not)|won(?:'|’)t|will not|don(?:'|’)t|do not)\b"
    r"|i apologi[sz]e\b"
    r"|sorry\b|apologies\b|my apologies\b|as an? (?:ai|artificial|language|large|helpful|text)\b|unfortunately\b"
    r"|(?:it is|it's|it’s) not possible\b|please (?:provide|give|specify|share|clarify|let me|note|tell)\b"
    r"|(?:could|can|would|do|did|should|may|shall) (?:you|i|we)\b|there is no caption\b|no caption (?:was|is|has)\b"
    r"|(?:none|n/?a|null|nil|no (?:answer|change|changes|negative|output|response))\b[.!]?$)",
    re.IGNORECASE,
)
# Said of the request, wherever in a line. Only what the caption does not say itself counts.
REFUSES = re.compile(
    r"\bas an? (?:ai|artificial intelligence|language model|assistant)\b|\blanguage model\b|\bguidelines\b"
    r"|\bcontent polic|\bgoes against\b|\bviolat(?:es?|ing|ion)\b|\binappropriate\b|\bharmful\b|\boffensive\b"
    r"|\b(?:cannot|can(?:'|’)t|can not|won(?:'|’)t|will not|must|unable to|not able to|not comfortable)\s+(?:\w+ly )?"
    r"(?:decline|refuse|help|assist|provid|fulfil|compl[iy]|generat|creat|writ|answer|engag|process|continue|proceed)"
    r"|\b(?:more|additional|further) (?:context|information|details)\b|\blet me know\b|\bfeel free\b|\bhappy to help\b"
    r"|\bi(?:'|’)?m sorry\b|\bi am sorry\b|\b(?:this|the|your) request\b",
    re.IGNORECASE,
)
FIRST_PERSON = re.compile(r"^(?:i|i['’](?:m|ve|d|ll)|we|we['’](?:ve|re|ll)|let me|let['’]s|you|your)\b", re.IGNORECASE)
# Said of the task.
TASK = re.compile(
    r"\b(?:captions?|hard negatives?|negative (?:caption|description|version)"
    r"|original(?:ly)? (?:caption|image|picture|description|sentence|was|is)"
    r"|(?:the|your|this) (?:original|given|instructions?|description|prompt|sentence)"
    r"|(?:given|other|another|new|original) (?:picture|image|photo|description)|instead of|rather than"
    r"|(?:was|were|been|is|has|have|i|we|colou?r|object|attribute|word|by) (?:replac|chang|swapp|substitut|alter)"
    r"(?:ed|ing)"
    r"|(?:replac|chang|swapp|substitut)(?:ed|ing|es) (?:the |an? |['\"“‘]?\w+['\"”’]? )?['\"“‘]?\w+['\"”’]? "
    r"(?:with|by|to|for|into)"
    r"|(?:replace|swap|add)_(?:obj|att|rel)|as requested|mak(?:es|ing) (?:it|this) (?:a )?(?:false|different|negative)"
    r"|(?:mak(?:es|ing) it|(?:which|this|that) is) (?:not (?:true|correct|accurate)|incorrect|inaccurate|untrue|wrong)"
    r"|(?:which|that|this) (?:is|makes|contradicts) (?:it |the )?"
    r"(?:false|different|original|caption|given|image|picture))\b",
    re.IGNORECASE,
)
# After a dash, a comma or the like: an explanation, if it speaks of the task or of what the caption alone has.
AFTERWARDS = re.compile(
    r"(?:\s+[-–—]+\s*|\s*[;,:|]\s+|\s+(?=(?:instead|because|rather|where|since)\b))(?P<rest>[^\n]+)$", re.IGNORECASE
)
ADDITION = re.compile(r";|\s[-–—]")
EXPLAINS = re.compile(
    r"^(?:here|now|(?:i|we)(?:['’]ve| have)?\b|this|it|the (?:change|colou?r|object|attribute|original|word|relation)|"
    r"(?:has |have |was |is )?(?:chang|replac|swapp?|substitut|alter|modif|switch|adding|added)\w*|instead|rather|"
    r"because|since|note|not|where|colou?r|was|originally|explanation)\b",
    re.IGNORECASE,
)
COMMENT = re.compile(r"\s+(?://|#)\s.*$")
DOING = re.compile(r"^\w+ing\b", re.IGNORECASE)
EXCHANGE = re.compile(r"\b(?:with|by|to|for|into|from)\b|['\"“‘]", re.IGNORECASE)
WRAPPING = "{}<>|\\^=[]`*→⇒➜_~#$"  # marks that no caption has
SENTENCE_END = re.compile(r"(?<=[.!?])[\"”’')]*\s+(?=[\"“‘'(\[]?[A-Z])")
ABBREVIATION = re.compile(
    r"(?:^|[\s(\"“])(?:[A-Z]|[A-Z]\.[A-Z]|St|Mr|Mrs|Ms|Dr|Jr|Sr|Mt|No|vs|Prof|Sgt|Ft|Ave|U\.S|a\.m|p\.m)\.$"
)
LIKE = 0.4  # share of the content words of a caption that a variant of it has
LONGEST = 2_000  # signs of a line that are looked at; a caption has 200 words at most
WORDY = 8  # words at most before a colon that are taken for a label


def beside_the_original(text: str, caption: str) -> str:
    """The negative of a pair "Original: ... Negative: ...", or of an arrow between the two."""
    if ":" in caption:
        return text
    if (label := ORIGINAL_LABEL.match(text)) is not None:
        rest = text[label.end() :]
        if found := NEGATIVE_LABEL.search(rest) or CHANGED_LABEL.search(rest):
            return rest[found.end() :]
        lines = rest.strip().splitlines()
        return "\n".join(lines[1:]) if len(lines) > 1 else rest
    if STEPS.match(text) and (ends := list(ANSWER_LABEL.finditer(text))):
        return text[ends[-1].end() :]
    if (found := NEGATIVE_LABEL.search(text)) is not None and find_words(text[found.end() :]):
        return text[found.end() :]
    return text


def first_line(text: str, caption: str) -> tuple[str, bool]:
    """The first line that is more than courtesy or a label, without what surrounds it; whether it is the last."""
    lines = [line for line in map(str.strip, text.splitlines()) if line and not FENCE.match(line)]
    for number, line in enumerate(lines):
        is_last = number == len(lines) - 1
        stripped = _strip(line, caption)
        if not stripped or POLITE.match(stripped) or (line.endswith((":", "：")) and not is_last):
            continue
        is_about = FIRST_PERSON.match(stripped) and not FIRST_PERSON.match(caption.lstrip("\"'“ "))
        if is_about and not is_last and not REFUSAL.match(stripped) and not REFUSES.search(stripped):
            continue  # "I have changed the colour."
        return stripped, is_last
    return "", True


def _strip(line: str, caption: str) -> str:
    """A line without markers, markdown, labels, quotation marks and remarks, in whatever order they come."""
    before, line = None, " ".join(line[:LONGEST].split())
    while line != before:
        before = line
        line = _unquote(_without_symbols(line, caption))
        line = EMPHASIS.sub(lambda match: match[2], line)
        line = _quoted(line, caption)
        if not COURTESY.match(caption):
            line = COURTESY.sub("", line)
        if not IMAGE.search(caption):
            line = OF_THE_IMAGE.sub("", line)
        if (found := (None if OPTION.match(caption) else OPTION.match(line)) or MARKER.match(line)) is not None:
            line = line[found.end() :]
            if found.re is OPTION or found["number"]:
                line = NEXT_OPTION.sub("", line)
        if ":" not in caption:
            line = NEXT_LABEL.sub("", line)
            line = NEGATIVE_DASH.sub("", LABEL.sub("", line))
            line = PREAMBLE.sub("", line)
            line = _without_label(line, caption)
        if "(" not in caption and "[" not in caption:
            line = BRACKETED.sub("", BRACKETED_FIRST.sub("", line))
        if not ARROW.search(caption) and len(parts := ARROW.split(line)) == 2 and _is_like(parts[0], caption):
            line = parts[1]
        line = _sentences(line, caption)
        line = _without_explanation(line, caption)
        line = _unquote(line)
    return " ".join(line.split())


def _without_symbols(line: str, caption: str) -> str:
    """A line without what stands at its ends and is no letter: ticks, faces, one quotation mark without another."""
    ends = "".join(
        sign for sign in {*line[:4], *line[-4:]} if unicodedata.category(sign) in ("So", "Mn") and sign not in caption
    )
    line = line.strip(f"{ends} \t")
    if not re.search('["“”]', caption):
        line = line[:-1] if line.endswith(('"', "”")) and len(re.findall('["“”]', line)) == 1 else line
        line = line[1:] if re.match("['‘’][A-Z][^'’]*$", line) else line
    return line


def _quoted(line: str, caption: str) -> str:
    """The one thing in quotation marks, if it may be the negative and what is around it may not."""
    found = [] if re.search('["“]', caption) else list(QUOTED.finditer(line))
    if len(found) != 1 or not _is_like(found[0][1], caption):
        return line
    around = f"{line[: found[0].start()]} {line[found[0].end() :]}"
    return line if set(content_words(around)) & set(content_words(found[0][1])) else found[0][1]


def _without_label(line: str, caption: str) -> str:
    """A line without a label that nobody has foreseen: what stands before or after a colon is no caption."""
    head, colon, tail = line.partition(": ")
    if not colon or not tail.strip():
        return line
    if _is_like(tail, caption) and len(find_words(head)) <= WORDY and not _is_like(head, caption):
        return tail
    return head if _is_like(head, caption) and not _is_like(tail, caption) else line


def _is_like(text: str, caption: str) -> bool:
    """Whether it may be a variant of the caption."""
    words = content_words(caption)
    return bool(words) and len(set(words) & set(content_words(text))) >= max(1.0, LIKE * len(set(words)))


def _sentences(line: str, caption: str) -> str:
    """As many sentences as the caption has: more are remarks. "I changed the colour." may also stand before them."""
    allowed = len(_sentence_ends(caption)) + 1
    while len(ends := _sentence_ends(line)) >= allowed:
        first, rest = line[: ends[0]], line[ends[0] :].strip()
        refused = REFUSAL.match(first) or REFUSES.search(first) or not FIRST_PERSON.match(first)
        if refused or not _is_like(rest, caption) or FIRST_PERSON.match(caption):
            return line[: ends[allowed - 1]]
        line = rest
    return line


def _sentence_ends(text: str) -> list[int]:
    return [match.start() for match in SENTENCE_END.finditer(text) if not ABBREVIATION.search(text[: match.start()])]


def _without_explanation(line: str, caption: str) -> str:
    """A line without an explanation at its end: one that speaks of the task, or of what only the caption has."""
    line = line if COMMENT.search(caption) else COMMENT.sub("", line)
    if any(EXPLAINS.match(match["rest"]) for match in AFTERWARDS.finditer(caption)):
        return line
    for match in AFTERWARDS.finditer(line):
        rest, head = match["rest"], line[: match.start()]
        if DOING.match(rest) and not EXCHANGE.search(rest):
            continue  # "replacing a tire"
        before, told = set(content_words(caption)), set(content_words(rest))
        gone = before - set(content_words(head))
        repeats = match[0].lstrip()[0] in ";-–—" and told <= before and not ADDITION.search(caption)
        if not EXPLAINS.match(rest) and not repeats:
            continue
        if (gone & told) or (TASK.search(rest) and not TASK.search(caption)):
            return head
    return line


def refusal_in(line: str, caption: str) -> str | None:
    said = caption.casefold()
    if REFUSAL.match(line) and not REFUSAL.match(caption):
        return "question" if line.endswith("?") else "refusal"
    if any(match[0].casefold() not in said for match in REFUSES.finditer(line)):
        return "refusal"
    if line.endswith("?") and "?" not in caption:
        return "question"
    if FIRST_PERSON.match(line) and not FIRST_PERSON.match(caption.lstrip("\"'“ ")):
        return "refusal"
    return None


def is_more(line: str, caption: str) -> bool:
    """Whether a line still holds what no caption has, unless its own caption has it, too."""
    said = caption.casefold()
    if any(sign in line and sign not in caption for sign in WRAPPING):
        return True
    if re.search(r"[:：](?!\d)", line) and not re.search(r"[:：]", caption):
        return True
    if " / " in line and "/" not in caption:
        return True
    if any(line.count(one) != line.count(other) for one, other in ("()", "“”")) and "(" not in caption:
        return True
    if line.count('"') % 2 and not caption.count('"') % 2:
        return True
    return any(match[0].casefold() not in said for match in TASK.finditer(line))


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
    return inside if not find_words(after) or after[0] in "([-–—" else line

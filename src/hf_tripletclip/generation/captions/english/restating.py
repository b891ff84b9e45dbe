# SPDX-License-Identifier: Apache-2.0
"""Says a caption in another order or form: conjuncts change places, fragments become sentences and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from hf_tripletclip.generation.captions.english import grammar, lexicon, words
from hf_tripletclip.generation.captions.english.grammar import (
    ADJ,
    ADV,
    AUX,
    ED,
    ING,
    NOUN,
    NUMBERS,
    OTHER,
    PREP,
    PRON,
    PUNCT,
    VERB,
    Parsed,
    Site,
)
from hf_tripletclip.generation.captions.english.nouns import Noun, is_plural, look_up
from hf_tripletclip.generation.wordnet import load_wordnet

PLAIN = ("a", "an", "the", "some", "several", "many", *NUMBERS)


def swap_conjuncts(parsed: Parsed) -> Iterator[Site]:
    """Two noun phrases around "and" change places with all that stands before them."""
    for left in range(len(parsed.phrases) - 1):
        first, second = parsed.phrases[left], parsed.phrases[left + 1]
        if second.start == first.stop + 1 and parsed.words[first.stop] == "and" and _conjoined(parsed, left):
            yield Site((((first.start, first.stop, parsed.text_of(second)),
                         (second.start, second.stop, parsed.text_of(first))),))  # fmt: skip


def _conjoined(parsed: Parsed, left: int) -> bool:
    """Whether "and" joins these two phrases alone, and what stands around them is said of both."""
    first, second = parsed.phrases[left], parsed.phrases[left + 1]
    one, other = parsed.nouns[left], parsed.nouns[left + 1]
    if one is None or other is None or parsed.titled or first.noun == second.noun == "":
        return False
    if words("referring") & set(parsed.words) or {"and", "or", ","} & set(parsed.words[: first.start]):
        return False
    if "and" in parsed.words[second.stop :] or "or" in parsed.words:
        return False
    bare = not first.determiner and not second.determiner
    if bare:
        plain = first.start == first.head and second.start == second.head and one.plural and other.plural
        if not plain:
            return False
    elif first.determiner not in PLAIN or second.determiner not in PLAIN:
        return False
    before, after, tag = parsed.before(first.start), parsed.after(second.stop), parsed.tag(second.stop)
    if tag == OTHER or after in ("-", "'", "/") or before in ("of", "between", "both"):
        return False
    alike = _alike(one, other)
    ends = after in ("", ".", "!")
    if first.start == 0:
        if ends or tag in (AUX, VERB):
            return alike or ends
        if tag == ING:
            return alike and one.isa("person", "animal") and after in words("joint")
        return alike and after in words("places") and _at_a_place(parsed, second.stop)
    if not alike or not ends:
        return False
    if before in ("is", "are"):
        return one.plural == other.plural
    return parsed.tag(first.start - 1) in (PREP, ING, VERB)


def _alike(one: Noun, other: Noun) -> bool:
    """Whether two nouns are of one kind: people, animals, food, clothing, or the same group."""
    kinds = ("person", "animal", "food", "clothing")
    return one.entry.group == other.entry.group or any(one.isa(kind) and other.isa(kind) for kind in kinds)


def _at_a_place(parsed: Parsed, start: int) -> bool:
    """Whether a preposition says where both are: "on a couch", not "in a red shirt"."""
    for index in range(start, min(start + 3, len(parsed.tokens))):
        if (number := parsed.phrase_at(index)) is not None:
            noun = parsed.nouns[number]
            last = parsed.phrases[number].noun
            return (noun is not None and not noun.isa("clothing")) or last in ("background", "air")
    return False


def swap_colours(parsed: Parsed) -> Iterator[Site]:
    """ "a black and white dog" to "a white and black dog"."""
    for index in range(1, len(parsed.words) - 1):
        first, second = parsed.before(index), parsed.after(index + 1)
        if parsed.words[index] != "and" or first not in lexicon.COLOURS or second not in lexicon.COLOURS:
            continue
        if first == second or parsed.tag(index - 1) != ADJ or parsed.tag(index + 1) != ADJ:
            continue
        around = {parsed.before(index - 1), parsed.after(index + 2)}
        if around & {"and", ",", "-", "dark", "light", "bright", "pale", "deep", "or"}:
            continue
        number = parsed.phrase_of(index)
        if number is None or parsed.tag(index - 2) in (ADJ, OTHER) or words("pictures") & set(parsed.words):
            continue
        yield Site((((index - 1, index, second), (index + 1, index + 2, first)),))


# ---- Fragments and sentences ----


SOME = ("a", "an", "some", "several", "many", *NUMBERS)


def _subject(parsed: Parsed) -> tuple[int, bool] | None:
    """Where the subject that a caption begins with ends, and whether it is more than one."""
    if not parsed.phrases or parsed.phrases[0].start != 0:
        return None
    phrase, noun = parsed.phrases[0], parsed.nouns[0]
    head = phrase.noun.split()[-1]
    if phrase.determiner not in ("", "the", *SOME) or head in words("pictures") | words("pictured"):
        return None
    if not phrase.determiner and (noun is None or not noun.plural):
        return None  # telegraphic: "dog on couch"
    stop = phrase.stop
    if head in words("collective") and parsed.after(stop) == "of" and len(parsed.phrases) > 1:
        second = parsed.phrases[1]
        if second.start != stop + 1 or second.determiner or not is_plural(second.noun.split()[-1]):
            return None
        return second.stop, True
    if noun is None or parsed.after(stop) == "of":
        return None
    if parsed.after(stop) == "and" and len(parsed.phrases) > 1 and parsed.phrases[1].start == stop + 1:
        other = parsed.nouns[1]
        if parsed.phrases[1].determiner in ("", *PLAIN) and parsed.phrases[1].head <= parsed.phrases[1].stop:
            base = look_up(parsed.phrases[1].noun, "a", False) if other is None else other
            return (parsed.phrases[1].stop, True) if base is not None and _alike(noun, base) else None
        return None
    return stop, noun.plural


def _is_fragment(parsed: Parsed) -> bool:
    """Whether a caption has no finite verb, as far as the tags say."""
    if words("not nominal") & set(parsed.words):
        return False
    for index, token in enumerate(parsed.tokens):
        if token.tag in (AUX, VERB, OTHER):
            return False
        if token.tag == PRON and token.word != "each":
            return False
        if token.tag == ED and not (token.word in words("done") and parsed.tag(index + 1) == PREP):
            return False
        if token.tag == NOUN and parsed.tag(index - 1) in (NOUN, PUNCT) and index:
            verb = grammar.counts(token.word)[1]
            if verb and (token.word.endswith("s") or is_plural(parsed.before(index))):
                return False  # perhaps "a man in a hat jumps", "two dogs play", "a man in a hat, jumps"
        worn = parsed.before(index) in lexicon.COLOURS and parsed.before(index - 1) in ("wearing", "in")
        if worn and token.word.endswith("s") and grammar.counts(token.word)[1] and parsed.tag(index + 1) == PREP:
            return False  # "a girl wearing pink dances on"
        if token.word in (";", ":", '"', "?", "(") or (token.word == "." and index < len(parsed.tokens) - 1):
            return False
    return True


def _to_be(many: bool) -> str:
    return "are" if many else "is"


def there_is(parsed: Parsed) -> Iterator[Site]:
    """ "a dog on a couch" to "there is a dog on a couch", and back."""
    if parsed.words[:1] == ["there"] and parsed.after(1) in ("is", "are") and len(parsed.words) > 3:
        number = parsed.phrase_at(2)
        if number is not None and parsed.phrases[number].determiner in SOME:
            yield Site((((0, 3, parsed.words[2]),),))
        return
    subject = _subject(parsed)
    if subject is None or not _is_fragment(parsed) or parsed.titled or parsed.words[0] == "the":
        return
    stop, many = subject
    first = parsed.phrases[0]
    joined, collective = parsed.after(first.stop) == "and", parsed.after(first.stop) == "of"
    if joined or collective:  # "there is a man and a woman", "there is a group of people"
        many = parsed.nouns[0] is not None and parsed.nouns[0].plural
    if stop < len(parsed.tokens) and parsed.tag(stop) in (ING, PREP, ED, PUNCT):
        yield Site((((0, 1, f"there {_to_be(many)} {parsed.words[0]}"),),))


def with_is(parsed: Parsed) -> Iterator[Site]:
    """ "a man riding a horse" to "a man is riding a horse"."""
    subject = _subject(parsed)
    if subject is None or not _is_fragment(parsed) or parsed.titled:
        return
    stop, many = subject
    if parsed.tag(stop + 1) == PUNCT or (parsed.tag(stop + 1) == NOUN and not is_plural(parsed.after(stop + 1))):
        return  # "a man fishing pole"
    if parsed.tag(stop) == ING and parsed.words[stop] not in words("not progressive"):
        yield Site((((stop - 1, stop, f"{parsed.tokens[stop - 1].text} {_to_be(many)}"),),))


def without_is(parsed: Parsed) -> Iterator[Site]:
    """ "a man is riding a horse" to "a man riding a horse"."""
    subject = _subject(parsed)
    if subject is None or parsed.titled:
        return
    stop, _ = subject
    finite = [index for index, token in enumerate(parsed.tokens) if token.tag in (AUX, VERB, OTHER)]
    if finite != [stop] or parsed.words[stop] not in ("is", "are") or parsed.tag(stop + 1) != ING:
        return
    rest = parsed.tokens[stop + 1 :]
    if any(
        token.tag in (PRON, ED) or token.word in words("not nominal") or token.word in (",", "being") for token in rest
    ):
        return
    yield Site((((stop, stop + 2, parsed.tokens[stop + 1].text),),))


def progressive(parsed: Parsed) -> Iterator[Site]:
    """ "a man rides a horse" to "a man is riding a horse"."""
    subject = _subject(parsed)
    if subject is None or parsed.titled:
        return
    stop, many = subject
    finite = [index for index, token in enumerate(parsed.tokens) if token.tag in (AUX, VERB, OTHER)]
    participle = _participle(parsed.after(stop), many)
    if finite != [stop] or participle is None or not _alive(parsed, stop):
        return
    if any(token.tag == PRON or token.word in ("and", "or", ",") for token in parsed.tokens[stop:]):
        return
    if parsed.tag(stop + 1) in (ADV, ADJ):
        return  # "lies open"
    yield Site((((stop, stop + 1, f"{_to_be(many)} {participle}"),),))


def _alive(parsed: Parsed, stop: int) -> bool:
    """Whether the subject that ends there is people or animals: a sign reads, and is not reading."""
    number = parsed.phrase_before(stop)
    noun = None if number is None else parsed.nouns[number]
    return noun is not None and noun.isa("person", "animal")


def _participle(verb: str, many: bool) -> str | None:
    """The participle of a verb in the present, as it stands behind one thing or many."""
    form = lexicon.VERB_FORMS.get(verb)
    if form is not None:
        return lexicon.inflect(form[0], "ing") if form[1] == ("" if many else "s") else None
    wordnet = load_wordnet()
    base = wordnet.morphy(verb, "v") if verb else None
    if base is None or (base == verb) != many or base in words("states") or (not many and not verb.endswith("s")):
        return None
    doubled = f"{base}{base[-1]}ing"
    if base in wordnet._exception_map["v"].get(doubled, ()):
        return doubled
    if base.endswith("ie"):
        return f"{base[:-2]}ying"
    return f"{base[:-1] if base.endswith('e') and not base.endswith(('ee', 'oe', 'ye')) else base}ing"


def without_picture(parsed: Parsed) -> Iterator[Site]:
    """ "a picture of a dog" to "a dog"."""
    begins = parsed.words[:1] in (["a"], ["an"], ["the"]) and parsed.after(2) == "of" and len(parsed.words) > 4
    if begins and parsed.words[1] in ("picture", "photo", "photograph", "image") and parsed.phrase_at(3) is not None:
        yield Site((((0, 4, parsed.words[3]),),))


STRUCTURAL: tuple[Callable[[Parsed], Iterator[Site]], ...] = (
    swap_conjuncts,
    swap_colours,
    there_is,
    with_is,
    without_is,
    progressive,
    without_picture,
)

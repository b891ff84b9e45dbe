# SPDX-License-Identifier: Apache-2.0
"""Tokens of captions, and a CLIP tokenizer that is trained offline, for captions of few words."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from tokenizers import pre_tokenizers
from transformers import CLIPProcessor, CLIPTokenizer
from transformers.models.clip.image_processing_clip import CLIPImageProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.utils import is_torchvision_available

START, END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"
PROBES = ("", "a", "two cats.")  # a token at the end of all of these belongs to no word
# Processors of transformers for text towers that pool the last position, so that captions have one length.
FIXED_LENGTH_PROCESSORS = ("SiglipProcessor", "Siglip2Processor")


def tokenize_captions(tokenizer: Any, captions: Sequence[str], **options: Any) -> Any:
    """
    The tokens of captions. A special token that is spelt out in a caption is read as text.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): The tokenizer.
        captions (`Sequence[str]`): The captions.
        options: Further arguments of the tokenizer, which does not warn of long captions.
    """
    return tokenizer(list(captions), split_special_tokens=True, verbose=False, **options)


def end_token_id(tokenizer: Any) -> int | None:
    """
    The id of the token that a tokenizer appends to every caption, whatever its name; `None` if it appends none, or
    the same token that it puts before the caption.
    """
    ends = set()
    for ids in tokenize_captions(tokenizer, PROBES)["input_ids"]:
        if not ids or ids[0] == ids[-1]:
            return None
        ends.add(ids[-1])
    return ends.pop() if len(ends) == 1 else None


def misread(ids: Sequence[int], end: int) -> str | None:
    """The problem of a caption whose end token is missing or not at its end; `None` if it has no problem."""
    if end not in ids:
        return "caption without an end-of-text token: its embedding is not that of the caption"
    if (read := list(ids).index(end) + 1) < len(ids):
        return f"caption read in part: an end-of-text token is the {read}th of its {len(ids)} tokens"
    return None


def train_tokenizer(captions: Iterable[str], *, model_max_length: int = 77, vocab_size: int = 4096) -> CLIPTokenizer:
    """
    Train a byte-pair tokenizer on captions, with CLIP's normalisation, splitting into words, end-of-word suffix and
    special tokens. The result is an ordinary `CLIPTokenizer`.

    Args:
        captions (`Iterable[str]`): The captions.
        model_max_length (`int`, defaults to 77): Tokens per caption, including the two special tokens.
        vocab_size (`int`, defaults to 4096): Upper bound of the vocabulary. It holds the 256 bytes as letters and as
            ends of words, so any text can be encoded.

    Returns:
        [`~transformers.CLIPTokenizer`], which is the same for equal captions in any order, process or machine.

    Raises:
        ValueError: `vocab_size` has no room for the bytes.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    # As in CLIP's own vocabulary: letters, letters that end a word, merges, and the special tokens last.
    tokens = dict.fromkeys([*alphabet, *(f"{letter}{WORD_END}" for letter in alphabet)])
    if vocab_size < len(tokens) + 2:
        raise ValueError(f"`vocab_size` is {vocab_size}; bytes and special tokens alone take {len(tokens) + 2}.")
    template = CLIPTokenizer().backend_tokenizer
    normalize, split = template.normalizer.normalize_str, template.pre_tokenizer.pre_tokenize_str
    words: Counter[str] = Counter()
    for caption, times in Counter(captions).items():
        for word, _ in split(normalize(caption)):
            words[word] += times
    merges: Any = _learn_merges(words, vocab_size - len(tokens) - 2)
    tokens |= dict.fromkeys(left + right for left, right in merges)
    vocabulary = {token: number for number, token in enumerate([*tokens, START, END])}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=model_max_length)


def _learn_merges(words: Mapping[str, int], limit: int) -> list[tuple[str, str]]:
    """
    The merges of byte-pair encoding (Sennrich et al. 2016, arXiv 1508.07909, algorithm 1), most frequent pair first,
    and in alphabetical order among equally frequent pairs.

    `tokenizers` has this too, but breaks such ties at random.

    Args:
        words (`Mapping[str, int]`): Words, as letters of the byte alphabet, and their frequencies.
        limit (`int`): Upper bound of the number of different tokens that the merges create.
    """
    spelled = [[*word[:-1], f"{word[-1]}{WORD_END}"] for word in words]
    frequencies = list(words.values())
    counts: Counter[tuple[str, str]] = Counter()
    places: defaultdict[tuple[str, str], set[int]] = defaultdict(set)  # which words a pair may occur in
    for place, symbols in enumerate(spelled):
        for pair in pairwise(symbols):
            counts[pair] += frequencies[place]
            places[pair].add(place)
    queue = [(-count, pair) for pair, count in counts.items()]
    heapq.heapify(queue)
    merges: dict[tuple[str, str], None] = {}  # a pair may occur again after other merges created its halves
    made: set[str] = set()
    while queue and len(made) < limit:
        expected, pair = heapq.heappop(queue)
        if (count := counts[pair]) != -expected:  # other merges reduced it
            if count > 0:
                heapq.heappush(queue, (-count, pair))
            continue
        merges[pair] = None
        left, right = pair
        joined = left + right
        made.add(joined)
        new = set()
        for place in places.pop(pair):
            symbols, times = spelled[place], frequencies[place]
            at = 0
            while at < len(symbols) - 1:
                if symbols[at] == left and symbols[at + 1] == right:
                    symbols[at : at + 2] = [joined]
                    counts[pair] -= times
                    neighbours = []
                    if at > 0:
                        counts[symbols[at - 1], left] -= times
                        neighbours.append((symbols[at - 1], joined))
                    if at + 1 < len(symbols):
                        counts[right, symbols[at + 1]] -= times
                        neighbours.append((joined, symbols[at + 1]))
                    for neighbour in neighbours:
                        counts[neighbour] += times
                        places[neighbour].add(place)
                        new.add(neighbour)
                at += 1
        for neighbour in new:
            heapq.heappush(queue, (-counts[neighbour], neighbour))
    return list(merges)


def default_image_processor() -> type[Any]:
    """CLIP's image processor; if torchvision is not installed, the PIL one, without a warning."""
    return CLIPImageProcessor if is_torchvision_available() else CLIPImageProcessorPil


def build_processor(captions: Iterable[str], *, image_size: int, model_max_length: int = 77) -> CLIPProcessor:
    """
    Build a CLIP processor whose tokenizer is trained on captions.

    Args:
        captions (`Iterable[str]`): The captions.
        image_size (`int`): Side of the square images, in pixels.
        model_max_length (`int`, defaults to 77): Tokens per caption.

    Returns:
        [`~transformers.CLIPProcessor`], with the PIL image processor if torchvision is not installed.
    """
    return CLIPProcessor(
        image_processor=default_image_processor()(
            size={"shortest_edge": image_size}, crop_size={"height": image_size, "width": image_size}
        ),
        tokenizer=train_tokenizer(captions, model_max_length=model_max_length),
    )

# SPDX-License-Identifier: Apache-2.0
"""What a language model is asked: the instruction, the kinds of change and examples of them, as turns of a chat."""

from __future__ import annotations

from collections.abc import Sequence

from hf_tripletclip.data.schema import NEGATIVE_TYPES
from hf_tripletclip.generation.stage import row_seed

Message = dict[str, str]  # `role` (`user` or `assistant`) and `content`

# After the TripletCLIP paper (Patel et al. 2024, arXiv 2411.02545), in our own words: mostly alike, but never true of
# the same picture, about as long, by a few changes of counts, objects, attributes or relations.
INSTRUCTION = (
    "You are given the caption of a picture. Write the caption of another picture that looks much the same, yet is "
    "clearly a different one: your caption must be false of the given picture, and the given caption must be false of "
    "yours. {change} Keep all other words as they are. Keep about the same length. Describe only what can be seen, in "
    "plain grammatical English, and something that could really be photographed. Say what is there, not what is "
    "missing. Answer with the new caption alone, on one line, without quotation marks or remarks."
)
FREE = "Change one or two things in it: a number, an object, an attribute such as a colour or material, or a relation."
CHANGES = {
    "replace_obj": "Change one thing in it: replace one object by another kind of object.",
    "replace_att": "Change one thing in it: replace one attribute, such as a colour, material, size or number.",
    "replace_rel": "Change one thing in it: replace one relation, such as a position or an action.",
    "swap_obj": "Let two of its objects trade places, so that each does or is where the other was. Add no new word.",
    "swap_att": "Let two of its objects trade their attributes, such as their colours. Add no new word.",
    "add_obj": "Add one object that the given picture does not show, in a few words.",
    "add_att": "Add one attribute that the object in the given picture does not have, in one or two words.",
}
EXAMPLES = {
    None: (
        (
            "A cat sleeps to the left of a lamp and a book lies to the right of it",
            "A cat sleeps to the right of a lamp and a book lies to the left of it",
        ),
        (
            "Three green glass bottles on a rough wooden shelf",
            "Three brown glass bottles on a smooth marble shelf",
        ),
    ),
    "replace_obj": (
        ("A boy carries a kite along the beach", "A boy carries a surfboard along the beach"),
        ("Bowl of apples on the kitchen table", "Bowl of lemons on the kitchen table"),
    ),
    "replace_att": (
        ("A woman in a yellow coat waits for the train", "A woman in a purple coat waits for the train"),
        ("Two wooden chairs in front of a cottage", "Two plastic chairs in front of a cottage"),
    ),
    "replace_rel": (
        ("A dog sits under a garden bench", "A dog sits on a garden bench"),
        ("A man pushes his bicycle up the hill", "A man rides his bicycle up the hill"),
    ),
    "swap_obj": (
        ("A girl watches a horse from behind the fence", "A horse watches a girl from behind the fence"),
        ("A cup on a book beside the window", "A book on a cup beside the window"),
    ),
    "swap_att": (
        ("A red bus passes a white house", "A white bus passes a red house"),
        ("An old man and a young woman on a bench", "A young man and an old woman on a bench"),
    ),
    "add_obj": (
        ("A plate of pasta on a table", "A plate of pasta and a candle on a table"),
        ("A man walks through the snow", "A man with a dog walks through the snow"),
    ),
    "add_att": (
        ("A boat on the lake at sunset", "A blue boat on the lake at sunset"),
        ("Children play near a fountain", "Children play near a frozen fountain"),
    ),
}


def check_kinds(kinds: Sequence[str] | str | None) -> tuple[str, ...] | None:
    """
    The kinds of change to choose from.

    Args:
        kinds (`Sequence[str]` or `str`, *optional*): Some of SugarCrepe's seven names, as a sequence or separated by
            commas; `"all"` for the seven; `None` leaves the change to the model.

    Returns:
        `tuple[str, ...]` or `None`: The names.

    Raises:
        ValueError: A name is unknown, or there is none.
    """
    if kinds is None:
        return None
    if isinstance(kinds, str):
        kinds = NEGATIVE_TYPES if kinds == "all" else [kind.strip() for kind in kinds.split(",")]
    if unknown := [str(kind) for kind in kinds if kind not in NEGATIVE_TYPES]:
        raise ValueError(f"`kinds` names {', '.join(unknown)}; there are {', '.join(NEGATIVE_TYPES)}, and 'all'.")
    if not kinds:
        raise ValueError("`kinds` is empty; give `None` to leave the change to the model.")
    return tuple(kinds)


def choose_kind(kinds: tuple[str, ...] | None, seed: int, row_id: str) -> str | None:
    """The kind of change for a row, each as likely; `None` if the model is free."""
    return kinds[row_seed(seed, row_id, "kind") % len(kinds)] if kinds else None


def instruction(kind: str | None = None) -> str:
    """The instruction for a kind of change, one of SugarCrepe's seven; any change if it is `None`."""
    return INSTRUCTION.format(change=FREE if kind is None else CHANGES[kind])


def build_messages(caption: str, kind: str | None = None) -> list[Message]:
    """
    The chat that asks for a hard negative of a caption.

    The instruction stands at the head of the first user turn and two examples are turns of their own. There is no
    system turn: the templates of Mistral-7B-Instruct-v0.2 and Gemma refuse one.

    Args:
        caption (`str`): The caption. Line breaks become spaces.
        kind (`str`, *optional*): What is to be changed, one of SugarCrepe's seven names.

    Returns:
        `list[dict[str, str]]`: Turns of `user` and `assistant` that alternate; the last is the user's.
    """
    messages: list[Message] = []
    for positive, negative in EXAMPLES[kind]:
        messages += [
            {"role": "user", "content": f"Caption: {positive}"},
            {"role": "assistant", "content": negative},
        ]
    messages.append({"role": "user", "content": f"Caption: {' '.join(caption.split())}"})
    messages[0] = {"role": "user", "content": f"{instruction(kind)}\n\n{messages[0]['content']}"}
    return messages

# SPDX-License-Identifier: Apache-2.0
"""Negative captions by rules."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest
from datasets import Dataset, Features, Value

from hf_tripletclip.data.schema import NEGATIVE_TYPES
from hf_tripletclip.generation.captions.rules import KINDS, RuleCaptions
from hf_tripletclip.generation.registry import get_stage
from tests.generation.needs import needs_wordnet

pytestmark = needs_wordnet


def all_of(caption: str, kind: str) -> set[str]:
    """Every negative caption of a kind."""
    stage = RuleCaptions(kinds=[kind], num_negatives=1000)
    (made,) = stage({"id": ["x"], "caption": [caption]})["neg_caption"]
    return set(made or ())


# Of each caption some of the negatives, and what may not be among them.
REPLACED = [
    ("replace_obj", "A dog sits on a bench.", {"A cat sits on a bench.", "A dog sits on a couch."}),
    ("replace_obj", "Two dogs in the snow", {"Two foxes in the snow", "Two dogs in the sand"}),
    ("replace_obj", "a slice of pizza on a plate", {"a slice of cake on a plate", "a slice of pizza on a bowl"}),
    ("replace_obj", "THE CHEF IS IN THE KITCHEN", {"THE CHEF IS IN THE BATHROOM"}),
    ("replace_obj", "a parakeet near a fire truck", {"a penguin near a fire truck", "a parakeet near a bus"}),
    ("replace_obj", "A man with his dog", {"A man with his fox"}),
    ("replace_obj", "a pear", {"an apple"}),
    ("replace_obj", "An elephant", {"A giraffe"}),
    ("replace_att", "An orange cat on a red couch", {"A black cat on a red couch", "An orange cat on a blue couch"}),
    ("replace_att", "Two zebras in a field", {"Three zebras in a field"}),
    ("replace_att", "A wooden table by an open window", {"A metal table by an open window",
                                                         "A wooden table by a closed window"}),
    ("replace_att", "the street is empty", {"the street is full"}),
    ("replace_att", "an old man in front of an old house", {"a young man in front of an old house",
                                                            "an old man in front of a new house"}),
    ("replace_rel", "A cat under a table", {"A cat on top of a table", "A cat above a table"}),
    ("replace_rel", "A dog to the left of a cat", {"A dog to the right of a cat"}),
    ("replace_rel", "A man riding a horse", {"A man leading a horse", "A man chasing a horse"}),
    ("replace_rel", "Women ride horses", {"Women lead horses"}),
    ("replace_rel", "A girl sits on a chair", {"A girl stands on a chair", "A girl sits under a chair"}),
    ("replace_rel", "A boy walking down the stairs", {"A boy running down the stairs",
                                                     "A boy walking up the stairs"}),
    ("swap_obj", "A dog on top of a horse.", {"A horse on top of a dog."}),
    ("swap_obj", "A man is sitting while a woman is standing", {"A woman is sitting while a man is standing"}),
    ("swap_att", "A red bus and an orange car", {"An orange bus and a red car"}),
    ("swap_att", "a black and white cat on a brown couch", {"a brown cat on a black and white couch"}),
    ("swap_att", "Two dogs and three cats", {"Three dogs and two cats"}),
    ("swap_att", "a small dog beside a large box", {"a large dog beside a small box"}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "caption", "some"), REPLACED)
def test_what_the_rules_make(kind, caption, some):
    made = all_of(caption, kind)
    assert some <= made
    assert caption not in made


# What would be true of the same image, or no English.
NEVER = [
    ("replace_obj", "a couch", {"a sofa"}),
    ("replace_obj", "a bird", {"a duck", "an owl", "a penguin"}),
    ("replace_obj", "a man with her", {"a woman with her"}),
    ("replace_obj", "a boy and a girl", {"a girl and a girl", "a boy and a boy"}),
    ("replace_obj", "a cup of coffee", {"a plate of coffee"}),
    ("replace_att", "a gray car", {"a silver car", "a grey car"}),
    ("replace_att", "a tall building", {"a large building"}),
    ("replace_rel", "a cup sitting on a table", {"a cup standing on a table", "a cup lying on a table"}),
    ("replace_rel", "a man sitting down", {"a man standing down"}),
]


@pytest.mark.parametrize(("kind", "caption", "none"), NEVER)
def test_what_they_do_not_make(kind, caption, none):
    assert not all_of(caption, kind) & none


@pytest.mark.parametrize(
    ("kind", "caption"),
    [
        ("replace_att", "a black and white photo"),
        ("replace_att", "a glass of red wine"),
        ("replace_att", "an open field"),
        ("replace_att", "a black bear"),
        ("replace_att", "a white man"),
        ("replace_obj", "Paris in Spring"),
        ("replace_obj", "a photo"),
        ("replace_obj", "lots of things on top"),
        ("replace_rel", "a man talking on the phone"),
        ("replace_rel", "two dogs in the park"),
        ("swap_obj", "a dog next to a cat"),
        ("swap_obj", "a man and a woman"),
        ("swap_att", "a red car and a red bus"),
        ("swap_att", "a red car and a blue car"),
        ("swap_att", "a little dog and a small cat"),
        ("swap_att", "a brown black and white dog by a gray cat"),
    ],
)
def test_what_they_leave_alone(kind, caption):
    out = RuleCaptions(kinds=[kind])({"id": ["x"], "caption": [caption]})
    assert out == {"neg_caption": [None], "negative_type": [None], "error": ["no rule applies"]}


def captions(number: int) -> dict[str, list[str]]:
    subjects = ["A man", "A woman", "Two dogs", "A small brown dog", "A cat", "An old man", "Three people"]
    relations = ["sitting on", "standing next to", "under", "in front of", "behind", "beside"]
    objects = ["a red bench", "a wooden table", "the car", "a large white horse", "a blue bicycle"]
    texts = [f"{one} {how} {other}." for one in subjects for how in relations for other in objects]
    return {"id": [f"row-{row}" for row in range(number)], "caption": [texts[row % 210] for row in range(number)]}


def test_a_row_depends_on_its_id_and_the_seed_alone():
    batch = captions(210)
    whole = RuleCaptions(seed=3)(batch)
    assert whole["error"] == [None] * 210
    for row in (0, 17, 209):
        alone = RuleCaptions(seed=3)({name: values[row : row + 1] for name, values in batch.items()})
        assert alone == {name: values[row : row + 1] for name, values in whole.items()}
    assert RuleCaptions(seed=4)(batch)["neg_caption"] != whole["neg_caption"]
    for caption, negative, kind in zip(batch["caption"], whole["neg_caption"], whole["negative_type"], strict=True):
        assert negative != caption
        assert negative.endswith(".")
        assert negative[0].isupper()
        assert kind in NEGATIVE_TYPES


AGAIN = """
from tests.generation.captions.test_rules import captions
from hf_tripletclip.generation.captions.rules import RuleCaptions
print(RuleCaptions(seed=3, num_negatives=3)(captions(40))["neg_caption"])
"""


def test_another_process_makes_the_same():
    again = subprocess.run([sys.executable, "-c", AGAIN], capture_output=True, text=True, timeout=120, check=True)
    assert again.stdout.strip() == str(RuleCaptions(seed=3, num_negatives=3)(captions(40))["neg_caption"])


def test_kinds_are_spread():
    kinds = Counter(RuleCaptions()(captions(630))["negative_type"])
    assert set(kinds) == set(KINDS)
    assert min(kinds[kind] for kind in ("replace_obj", "replace_att", "replace_rel", "swap_obj")) > 30, kinds
    assert kinds["swap_att"] > 10  # few of these captions have two attributes of a class


def test_several_negatives_take_turns():
    stage = RuleCaptions(num_negatives=4)
    out = stage({"id": ["a", "b"], "caption": ["A man riding a brown horse next to a fence.", "zzxq"]})
    assert out["error"] == [None, "no rule applies"]
    assert out["neg_caption"][1] is None
    negatives, kinds = out["neg_caption"][0], out["negative_type"][0]
    assert len(set(negatives)) == len(kinds) == 4
    # an attribute, a relation, an object and an action at least, as in NegCLIP, or the swap instead of one
    assert len(set(kinds)) >= 3
    rows = Dataset.from_dict({"id": ["a"], "caption": ["A man riding a brown horse."]})
    mapped = rows.map(
        stage, batched=True, features=Features({**rows.features, **stage.produces, "error": Value("string")})
    )
    assert mapped.features["neg_caption"] == stage.produces["neg_caption"]
    assert len(mapped[0]["neg_caption"]) == 4


def test_only_the_kinds_asked_for():
    for kind in KINDS:
        made = RuleCaptions(kinds=(kind,))(captions(100))["negative_type"]
        assert set(made) - {None} == {kind}


def test_odd_captions_do_not_raise():
    odd = [
        None,
        "",
        "  ",
        "...",
        "<PERSON> at the <PERSON>",
        "’",
        "é",
        "a",
        "an",
        "🐕 on a bench",
        "dog\n\non\ta bench",
        "IMG_0123.jpg",
        "a" * 5000,
        "dog " * 2000,
        "1 2 3",
        "the 'dog'",
        "a dog-",
        "-",
        "isn't",
        "A dog's a bench",
    ]
    for many in (1, 3):
        out = RuleCaptions(num_negatives=many)({"id": list(map(str, range(len(odd)))), "caption": odd})
        assert all(len(values) == len(odd) for values in out.values())
        assert out["error"][:3] == ["no caption", "empty caption", "empty caption"]
        for negative, error in zip(out["neg_caption"], out["error"], strict=True):
            assert (negative is None) != (error is None)
    spaced = all_of("dog\n\non\ta bench ", "replace_obj")
    assert "cat\n\non\ta bench " in spaced


def test_settings():
    stage = get_stage("captions", "rules", {"kinds": ["swap_att"], "num_negatives": 2})
    assert stage.settings() == {"stage": "rules", "seed": 0, "kinds": ["swap_att"], "num_negatives": 2}
    assert stage.label == "rules"
    assert RuleCaptions(kinds="swap_att").settings()["kinds"] == ["swap_att"]
    with pytest.raises(
        ValueError, match=r"cannot make 'add_obj'; it makes replace_att, replace_rel, replace_obj, swap"
    ):
        RuleCaptions(kinds=["add_obj"])
    with pytest.raises(ValueError, match="`kinds` is empty"):
        RuleCaptions(kinds=[])
    with pytest.raises(ValueError, match="`num_negatives` is 0"):
        RuleCaptions(num_negatives=0)

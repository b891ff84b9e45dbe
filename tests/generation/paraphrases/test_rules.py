# SPDX-License-Identifier: Apache-2.0
"""Paraphrases by rules: what is said in other words, and what is left alone because the meaning would change."""

from __future__ import annotations

import json

import pytest
from datasets import Dataset, Image, List, Value, load_dataset

from hf_tripletclip.cli import main
from hf_tripletclip.data.schema import PARAPHRASE
from hf_tripletclip.generation.captions.english import restating, split, synonyms, table
from hf_tripletclip.generation.captions.english.grammar import Parsed
from hf_tripletclip.generation.paraphrases.rules import RuleParaphrases
from hf_tripletclip.generation.registry import get_stage
from hf_tripletclip.generation.wordnet import load_wordnet
from tests.evaluation.benchmarks import picture
from tests.generation.needs import needs_wordnet

pytestmark = needs_wordnet


def by(rule, caption: str) -> list[str]:
    """What a rule makes of a caption."""
    parsed = Parsed(caption)
    return [parsed.render(option) for site in rule(parsed) for option in site.options]


SAID = [
    (restating.swap_conjuncts, "A dog and a cat", ["A cat and a dog"]),
    (restating.swap_conjuncts, "A black dog and a white cat.", ["A white cat and a black dog."]),
    (restating.swap_conjuncts, "A man and an old woman walk outside", ["An old woman and a man walk outside"]),
    (restating.swap_conjuncts, "Two dogs and a cat are playing", ["A cat and two dogs are playing"]),
    (restating.swap_conjuncts, "Dogs and cats are playing", ["Cats and dogs are playing"]),
    (restating.swap_conjuncts, "A boy and a girl sitting on a bench", ["A girl and a boy sitting on a bench"]),
    (restating.swap_conjuncts, "a man with a small dog and a big cat", ["a man with a big cat and a small dog"]),
    (restating.swap_conjuncts, "A black and white dog and a cat run", ["A cat and a black and white dog run"]),
    (restating.swap_colours, "An orange and black cat", ["A black and orange cat"]),
    (restating.there_is, "A dog on a couch", ["There is a dog on a couch"]),
    (restating.there_is, "two dogs playing", ["there are two dogs playing"]),
    (restating.there_is, "A group of people on a beach", ["There is a group of people on a beach"]),
    (restating.there_is, "There are two dogs on a couch", ["Two dogs on a couch"]),
    (restating.with_is, "A man riding a horse", ["A man is riding a horse"]),
    (restating.with_is, "A man and woman riding horses", ["A man and woman are riding horses"]),
    (restating.with_is, "A group of people riding horses", ["A group of people are riding horses"]),
    (restating.without_is, "The man is riding a horse .", ["The man riding a horse ."]),
    (restating.progressive, "A man rides a horse", ["A man is riding a horse"]),
    (restating.progressive, "Two dogs run in the snow", ["Two dogs are running in the snow"]),
    (restating.progressive, "A dog chews on a stick", ["A dog is chewing on a stick"]),
    (restating.without_picture, "A photo of an old bus", ["An old bus"]),
    (synonyms.other_noun, "A cat on a couch", ["A cat on a sofa"]),
    (synonyms.other_noun, "an airplane in the sky", ["a plane in the sky"]),
    (synonyms.other_noun, "Two children play", ["Two kids play"]),
    (synonyms.other_noun, "a red bicycle", ["a red bike"]),
    (synonyms.other_adjective, "A large bus", ["A big bus"]),
    (synonyms.other_verb, "A dog jumping over a log", ["A dog leaping over a log"]),
    (synonyms.other_relation, "A dog next to a tree", ["A dog beside a tree"]),
    (synonyms.other_relation, "Two dogs near each other", ["Two dogs close to each other"]),
    (synonyms.number_in_words, "2 dogs on a bench", ["Two dogs on a bench"]),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "caption", "made"), SAID, ids=lambda value: getattr(value, "__name__", None))
def test_says_the_same(rule, caption, made):
    assert [text.casefold() for text in by(rule, caption)] == [text.casefold() for text in made]


LEFT_ALONE = [
    # what stands behind "and" or before it would be said of the other, or of both
    (restating.swap_conjuncts, "A man in a red shirt and a woman"),
    (restating.swap_conjuncts, "A man and a woman in a red dress"),
    (restating.swap_conjuncts, "A man and a dog wearing a hat"),
    (restating.swap_conjuncts, "A man and his dog"),
    (restating.swap_conjuncts, "A white plate and fork"),
    (restating.swap_conjuncts, "Black dogs and cats"),
    (restating.swap_conjuncts, "A dog, a cat and a bird are playing"),
    (restating.swap_conjuncts, "A man with a dog and a woman"),
    (restating.swap_conjuncts, "A plate of a pizza and a drink"),
    (restating.swap_conjuncts, "a man holding a cup and a plate with a cake"),
    (restating.swap_conjuncts, "A man and a woman holding her bag"),
    (restating.swap_colours, "A black and white photo of a dog"),
    (restating.swap_colours, "A light blue and white bus"),
    (restating.swap_colours, "A red, white and blue flag"),
    # finite verbs, and what cannot be told from them
    (restating.there_is, "A man rides a horse"),
    (restating.there_is, "A girl wearing pink dances on the sidewalk"),
    (restating.there_is, "The dog on a couch"),
    (restating.there_is, "dog on a couch"),
    (restating.there_is, "A man jumped over a fence"),
    (restating.with_is, "A kitchen featuring a sink"),
    (restating.with_is, "A man wearing a hat stands outside"),
    (restating.without_is, "A man is riding a horse and is smiling"),
    (restating.without_is, "A man is happy"),
    (restating.progressive, "A sign reads stop"),
    (restating.progressive, "A man sits and reads"),
    (restating.progressive, "A dog has a ball"),
    # other senses
    (synonyms.other_noun, "A man riding a bike"),
    (synonyms.other_noun, "A cable car"),
    (synonyms.other_noun, "A coffee shop"),
    (synonyms.other_noun, "two wine glasses on a table"),
    (synonyms.other_noun, "a toy car"),
    (synonyms.other_noun, "an elephant and a baby"),
    (synonyms.other_noun, "A child and a child"),
    (synonyms.other_adjective, "A little girl"),
    (synonyms.other_adjective, "A big man"),
    (synonyms.other_adjective, "A large number of birds"),
    (synonyms.other_verb, "A man jumping on a bed"),
    (synonyms.other_relation, "A man right next to a tree"),
    (synonyms.other_relation, "on top of the world"),
    (synonyms.number_in_words, "the number 2 bus"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "caption"), LEFT_ALONE, ids=lambda value: getattr(value, "__name__", None))
def test_leaves_alone_what_it_is_not_sure_of(rule, caption):
    assert by(rule, caption) == []


def test_the_words_stand_in_their_synset_of_wordnet():
    wordnet = load_wordnet()
    for row in table("synonyms"):
        if row["part"] == "relation":
            continue
        synset = wordnet.synset(row["synset"])
        lemmas = {word.lower().replace("_", "") for word in synset.lemma_names()}
        words = split(row["said"]) + split(row["only replaced"])
        if row["part"] == "verb":
            words = tuple(wordnet.morphy(word, "v") for word in words)
        assert {word.replace(" ", "") for word in words} <= lemmas, row
        assert row["said"]


CAPTIONS = [
    *(caption for _, caption, _ in SAID),
    *(caption for _, caption in LEFT_ALONE),
    "Ein Hund und eine Katze auf dem Sofa",
    "A DOG AND A CAT ON A COUCH",
    "A Dog And A Cat On A Couch",
    "the large airplane next to the large building",
]


def test_never_the_caption_and_all_different():
    stage = RuleParaphrases(num_paraphrases=50)
    for number, caption in enumerate(CAPTIONS):
        made = stage.paraphrases(caption, str(number))
        plain = [" ".join(text.casefold().split()) for text in (caption, *made)]
        assert len(set(plain)) == len(plain)
        assert all(text == text.strip() and "  " not in text for text in made)
    assert stage.paraphrases("Ein Hund und eine Katze auf dem Sofa", "x") == []
    assert all(text.isupper() for text in stage.paraphrases("A DOG AND A CAT ON A COUCH", "x"))


def test_the_same_again_and_other_ones_with_another_seed():
    def made(seed, start=0):
        stage = RuleParaphrases(seed=seed)
        return [stage.paraphrases(caption, str(number + start)) for number, caption in enumerate(CAPTIONS)]

    assert made(0) == made(0)
    assert made(0) != made(1)
    assert made(0) != made(0, start=100)


def test_a_change_of_form_and_one_of_a_word_together():
    made = RuleParaphrases(num_paraphrases=20).paraphrases("A man riding a horse next to a tree", "x")
    assert "A man is riding a horse beside a tree" in made or "There is a man riding a horse beside a tree" in made
    assert "A man is riding a horse next to a tree" in made


@pytest.mark.parametrize("number", [1, 3])
def test_rows_without_a_paraphrase_are_kept(number):
    stage = get_stage("paraphrases", "rules", {"num_paraphrases": number})
    assert stage.produces[PARAPHRASE] == (Value("string") if number == 1 else List(Value("string")))
    batch = {"id": list("abcd"), "caption": ["A cat on a couch", "xyzzy", "  ", None]}
    out = stage(batch)
    assert out["error"] == [None, None, "empty caption", "no caption"]
    assert out[PARAPHRASE][1:] == [None if number == 1 else [], None, None]
    assert out[PARAPHRASE][0]


@pytest.mark.parametrize("setting", ["num_paraphrases", "batch_size"])
def test_numbers_that_cannot_be_meant(setting):
    with pytest.raises(ValueError, match=f"`{setting}` is 0"):
        RuleParaphrases(**{setting: 0})


def pairs_in(path):
    captions = ["A cat on a couch", "A dog and a cat", "A man riding a horse next to a tree", "a red frisbee"]
    table = Dataset.from_dict({"image": [picture(caption) for caption in captions], "caption": captions})
    table.cast_column("image", Image()).to_parquet(path)
    return path


def test_as_a_stage_of_generate(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    source = pairs_in(tmp_path / "pairs.parquet")
    common = ["--data", str(source), "--neg_images", "none", "--paraphrases", "rules", "--disable_tqdm", "true"]
    output = tmp_path / "alone"
    assert main(["generate", *common, "--neg_captions", "none", "--output", str(output)]) == 0, capsys.readouterr().err
    rows = load_dataset(str(output), split="train", cache_dir=str(tmp_path / "hub"))
    assert rows[PARAPHRASE][:] == RuleParaphrases()({"id": rows["id"], "caption": rows["caption"]})[PARAPHRASE]
    assert [text is None for text in rows[PARAPHRASE]] == [False, False, False, True]
    card = (output / "README.md").read_text()
    assert "each with *paraphrases*" in card
    assert "hard negative captions*" not in card
    options = ["--neg_captions", "rules", "--paraphrases_options", json.dumps({"num_paraphrases": 2})]
    assert main(["generate", *common, *options, "--output", str(tmp_path / "both")]) == 0, capsys.readouterr().err
    rows = load_dataset(str(tmp_path / "both"), split="train", cache_dir=str(tmp_path / "hub"))
    assert {"neg_caption", PARAPHRASE} <= set(rows.column_names)
    assert set(rows["generator"]) == {"rules"}
    made = RuleParaphrases(num_paraphrases=2)({"id": rows["id"], "caption": rows["caption"]})[PARAPHRASE]
    assert rows[PARAPHRASE][:] == made
    assert {len(few) for few in made} == {0, 1, 2}


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--paraphrases", "magic"], "magic"),
        (["--paraphrases_options", "{}", "--paraphrases", "rules", "--neg_captions", "none"], None),
        (["--paraphrases_options", '{"seed": 1}'], "no `paraphrases`"),
        (["--paraphrases", "rules", "--paraphrases_options", '{"number": 3}'], "number"),
    ],
)
def test_flags_that_cannot_be_meant(tmp_path, monkeypatch, capsys, flags, said):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    source = pairs_in(tmp_path / "pairs.parquet")
    arguments = ["--data", str(source), "--neg_images", "none", "--output", str(tmp_path / "out")]
    captions = [] if "--neg_captions" in flags else ["--neg_captions", "none"]
    assert main(["generate", *arguments, *captions, *flags]) == (0 if said is None else 1)
    assert said is None or said in capsys.readouterr().err

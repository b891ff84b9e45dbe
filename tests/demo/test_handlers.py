# SPDX-License-Identifier: Apache-2.0
"""The actions of the buttons, without Gradio."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf_tripletclip.demo.app import Handlers
from hf_tripletclip.demo.inputs import NegativeWriter
from tests.generation.needs import needs_wordnet

CAPTION = "a red cat above a blue dog"
NO_WORDNET = "WordNet is not installed"


@pytest.fixture
def handlers(models, uploads) -> Handlers:
    writer = NegativeWriter()
    writer.problem = NO_WORDNET
    return Handlers(models, writer, [uploads])


def test_captions_are_compared(handlers, picture):
    page = handlers.compare({"path": picture}, f"{CAPTION}\na red dog")
    assert page.count("<section") == 2
    assert "tc-problem" not in page


@pytest.mark.parametrize(
    ("with_picture", "typed", "message"),
    [(False, CAPTION, "no picture yet"), (True, "", "no captions"), (True, "a" * 1_001, "1001 characters")],
)
def test_missing_inputs_are_reported(handlers, picture, with_picture, typed, message):
    page = handlers.compare({"path": picture} if with_picture else None, typed)
    assert 'role="alert"' in page
    assert message in page


def test_a_file_is_checked_when_it_is_uploaded(handlers, picture, text_file):
    assert handlers.check({"path": picture}) == ""
    message = handlers.check({"path": text_file})
    assert 'role="alert"' in message
    assert "cannot be read as a picture" in message


def test_typed_negatives_are_tested_without_wordnet(handlers, picture):
    typed, kinds, seed, page = handlers.compose(
        {"path": picture}, CAPTION, "a red dog\n a cat ", {"a cat": "add_obj"}, 3
    )
    assert typed == "a red dog\na cat"
    assert (kinds, seed) == ({"a cat": "add_obj"}, 3)
    assert page.count("your own") == page.count("object added") == 2


@pytest.mark.parametrize(
    ("caption", "negatives", "message"),
    [
        (CAPTION, "", NO_WORDNET),
        (CAPTION, CAPTION, "no hard negatives that differ"),
        ("", "a cat", "no caption"),
        ("a cat\na dog", "a cow", "several captions"),
    ],
)
def test_a_composition_that_cannot_be_tested(handlers, picture, caption, negatives, message):
    typed, kinds, seed, page = handlers.compose({"path": picture}, caption, negatives, {"x": "add_obj"}, 3)
    assert (typed, kinds, seed) == (None, {"x": "add_obj"}, 3)
    assert 'role="alert"' in page
    assert message in page


def test_files_elsewhere_are_not_read(handlers, models, picture, tmp_path):
    copy = tmp_path / "copy.png"
    copy.write_bytes(Path(picture).read_bytes())
    answers = [
        (handlers.check(upload), handlers.compare(upload, CAPTION), handlers.compose(upload, CAPTION, "a dog", {}, 0))
        for upload in ({"path": str(copy)}, {"path": str(tmp_path / "missing.png")})
    ]
    assert answers[0] == answers[1]
    assert "no picture yet" in answers[0][0]
    assert "no picture yet" in Handlers(models, handlers.writer).check({"path": picture})  # without any folder


def test_words_that_a_model_does_not_know_give_no_verdict(handlers, picture):
    _, _, _, page = handlers.compose({"path": picture}, CAPTION, "a red cat\na purple giraffe\n<b>зебра</b>", {}, 0)
    assert page.count("“purple” and “giraffe” unknown to this model") == 2  # of both models
    assert page.count("“зебра” unknown to this model") == 2
    assert page.count(" of 1</strong>") == page.count("2 not tested: this model does not know all the words") == 2
    _, _, _, page = handlers.compose({"path": picture}, "a zebra", CAPTION, {}, 0)
    assert "Right on" not in page
    assert "1 not tested" in page
    page = handlers.compare({"path": picture}, f"{CAPTION}\na zebra")
    assert "first does not know “zebra”: the score of “a zebra” means nothing." in page


@needs_wordnet
def test_negatives_are_written_if_none_are_typed(models, uploads, picture):
    handlers = Handlers(models, NegativeWriter(number=3), [uploads])
    typed, kinds, seed, page = handlers.compose({"path": picture}, CAPTION, "", {}, 0)
    assert typed.split("\n") == list(kinds)
    assert len(kinds) == 3
    assert seed == 1
    assert page.count("<section") == 2
    written, again, seed, _ = handlers.write(CAPTION, 0)
    assert (written, again, seed) == (typed, kinds, 1)


@pytest.mark.parametrize("typed", ["", CAPTION])
def test_writing_reports_problems(handlers, typed):
    text, kinds, seed, page = handlers.write(typed, 3)
    assert (text, kinds, seed) == (None, {}, 3)
    assert 'role="alert"' in page

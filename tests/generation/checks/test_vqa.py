# SPDX-License-Identifier: Apache-2.0
"""VQA scores: a tiny language model asks, tiny vision-language models answer, and the count is checked by hand."""

from __future__ import annotations

import io
import logging

import pytest
import torch
from datasets import Dataset
from datasets import Image as ImageFeature
from PIL import Image
from transformers import (
    AutoModelForVisualQuestionAnswering,
    AutoProcessor,
    CLIPConfig,
    CLIPModel,
    LlavaForConditionalGeneration,
)

from hf_tripletclip.generation.chat import ChatModel
from hf_tripletclip.generation.checks.answering import load_answerer
from hf_tripletclip.generation.checks.vqa import (
    EXAMPLES,
    Question,
    VqaScores,
    build_chat,
    is_yes_no,
    parse_questions,
    read_answer,
)
from tests.generation.checks.tiny_answerers import save_blip, save_llava, save_vilt, save_writer

DOG, CAT = Question("Is there a dog?", "yes"), Question("Is the cat black?", "no")


@pytest.mark.parametrize(
    "text",
    [
        "1. Is there a dog? yes\n2. Is the cat black? no",
        "1) Is there a dog? Yes.\n2) Is the cat black? No.",
        "Q1: Is there a dog? (yes)\nQ2: Is the cat black? (no)",
        "Question 1: Is there a dog? - Yes\nQuestion 2: Is the cat black? - No",
        "- Is there a dog? **Yes**\n- Is the cat black? **No**",
        '* "Is there a dog?" yes\n* "Is the cat black?" no',
        "Is there a dog? Answer: yes\nIs the cat black? Answer: no",
        "Here are the questions:\n\n1. Is there a dog?\n   Answer: Yes\n\n2. Is the cat black?\n   A: No\nDone!",
        "1. **Is there a dog?** Yes, there is.\n2. **Is the cat black?** No, it is white.",
        "<think>Is the dog big? no</think>1. Is there a dog? yes\n2. Is the cat black? no",
        "analysisIs it? We need two.assistantfinal1. Is there a dog? yes\n2. Is the cat black? no",
        "1. Is  there a dog? yes\r\n2. Is the cat black? no\r\n3. IS THERE A DOG? no",
    ],
)
def test_ways_to_write_questions(text):
    assert parse_questions(text) == [DOG, CAT]


def test_without_an_answer_yes_is_right():
    assert parse_questions("Is there a dog?\nAre there cats?") == [DOG, Question("Are there cats?", "yes")]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I cannot see the picture.",
        "What colour is the dog? black",
        "How many dogs are there? two",
        "Is the dog black or white? black",
        "Is it? yes",
        "Is " + "very " * 40 + "black? yes",
        "Is there a dog",
        "The dog is black, isn't it? yes",
        "Yes\nNo",
    ],
)
def test_what_is_no_question_for_yes_or_no(text):
    assert parse_questions(text) == []


def test_an_answer_belongs_to_the_line_above_only():
    text = "Is there a dog?\nSome remark\nNo\nWhat is it?\nno"
    assert parse_questions(text) == [DOG]


def test_the_examples_are_what_they_ask_for():
    for _, questions in EXAMPLES:
        written = "\n".join(f"{place}. {text} {answer}" for place, (text, answer) in enumerate(questions, start=1))
        assert parse_questions(written) == [Question(*question) for question in questions]
        for number in (5, 8):
            assert {answer for _, answer in questions[:number]} == {"yes", "no"}


@pytest.mark.parametrize("number", [1, 5, 8])
def test_the_chat_asks_for_the_number_that_its_examples_have(number):
    chat = build_chat("a cat\non a  mat", number)
    assert [turn["role"] for turn in chat] == ["user", "assistant"] * 2 + ["user"]
    assert chat[-1]["content"].endswith("Caption: a cat on a mat")
    assert all(f"Write {number} short questions" in turn["content"] for turn in chat[::2])
    assert all(len(parse_questions(turn["content"])) == number for turn in chat[1::2])


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("yes", "yes"),
        ("No.", "no"),
        ("Yes, there is a dog.", "yes"),
        ("**No**", "no"),
        ("The answer is yes", "yes"),
        ("The answer is: no", "no"),
        ("not sure", None),
        ("none", None),
        ("2", None),
        ("", None),
        ("maybe yes", None),
    ],
)
def test_answers_in_words(text, answer):
    assert read_answer(text) == answer


def test_openings():
    assert is_yes_no("Isn’t the dog black?")
    assert is_yes_no("Can't you see a dog?")
    assert not is_yes_no("Island dogs are black?")


CAPTIONS = ["a black dog", "a white dog . two cats", "a cat", "the bird on the mat"]


def picture(number: int, width: int = 40) -> dict:
    gradient = Image.linear_gradient("L").resize((width, 32))
    image = Image.merge("RGB", [gradient.rotate(90 * number), gradient, Image.new("L", gradient.size, 80 * number)])
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def make_rows() -> dict[str, list]:
    return {
        "id": list("abcd"),
        "neg_caption": CAPTIONS,
        "neg_image": [picture(0), picture(1), picture(2, width=64), picture(3)],  # one of another shape
    }


def opened(value: dict) -> Image.Image:
    return Image.open(io.BytesIO(value["bytes"])).convert("RGB")


@pytest.fixture(scope="module")
def writer(tmp_path_factory) -> str:
    return save_writer(tmp_path_factory.mktemp("writer"))


@pytest.fixture(scope="module")
def vilt(tmp_path_factory) -> str:
    return save_vilt(tmp_path_factory.mktemp("vilt"))


@pytest.fixture(scope="module")
def blip(tmp_path_factory) -> str:
    return save_blip(tmp_path_factory.mktemp("blip"))


@pytest.fixture(scope="module")
def llava(tmp_path_factory) -> str:
    return save_llava(tmp_path_factory.mktemp("llava"))


def make(model: str, writer: str, **settings) -> VqaScores:
    # Random weights write something else each time only at a high temperature.
    defaults = {"max_new_tokens": 24, "temperature": 3.0, "max_attempts": 5}
    return VqaScores(**{"model": model, "question_model": writer, **defaults, **settings})


def test_the_score_is_the_share_of_right_answers(vilt, writer):
    rows = make_rows()
    made = make(vilt, writer)(rows)
    assert made["error"] == [None] * 4
    model, processor = AutoModelForVisualQuestionAnswering.from_pretrained(vilt), AutoProcessor.from_pretrained(vilt)
    model.eval()
    for row in range(4):
        questions, expected = made["vqa_questions"][row], made["vqa_expected"][row]
        assert len(questions) == len({question.lower() for question in questions}) == 5
        assert all(map(is_yes_no, questions))
        assert set(expected) <= {"yes", "no"}
        answers = []
        for question in questions:
            with torch.no_grad():
                inputs = processor(images=opened(rows["neg_image"][row]), text=question, return_tensors="pt")
                answers.append(model.config.id2label[model(**inputs).logits.argmax(-1).item()])
        assert made["vqa_answers"][row] == answers
        right = [answer == wanted for answer, wanted in zip(answers, expected, strict=True)]
        assert made["vqa_score"][row] == sum(right) / 5
    assert len(set(made["vqa_score"])) > 1
    assert len({answer for answers in made["vqa_answers"] for answer in answers}) > 1


def test_a_rerun_is_the_same_and_hangs_on_no_other_generator(vilt, writer):
    first = make(vilt, writer)
    made = first(make_rows())
    torch.manual_seed(99)
    state = torch.get_rng_state()
    assert make(vilt, writer)(make_rows()) == made
    assert first(make_rows()) == made
    assert torch.equal(torch.get_rng_state(), state)
    assert make(vilt, writer, seed=1)(make_rows())["vqa_questions"] != made["vqa_questions"]


@pytest.mark.parametrize("kind", ["vilt", "blip", "llava"])
def test_answers_do_not_depend_on_the_batch(kind, request):
    answerer = load_answerer(request.getfixturevalue(kind), None, "auto", "cpu")
    images = [opened(value) for value in make_rows()["neg_image"]]
    questions = [["is there a dog ?"], ["is the cat white ?", "are there two cats on the mat ?"], ["is there a mat ?"]]
    whole = answerer.answer(images[:3], questions, 64)
    assert len(whole) == 4
    assert answerer.answer(images[:3], questions, 1) == whole
    assert answerer.answer(images[1:2], questions[1:2], 64) == whole[1:3]


def test_blip_writes_its_answers(blip, writer):
    rows = make_rows()
    made = make(blip, writer)(rows)
    model, processor = AutoModelForVisualQuestionAnswering.from_pretrained(blip), AutoProcessor.from_pretrained(blip)
    for row in range(4):
        for question, answer in zip(made["vqa_questions"][row], made["vqa_answers"][row], strict=True):
            inputs = processor(images=opened(rows["neg_image"][row]), text=question, return_tensors="pt")
            output = model.eval().generate(**inputs, max_new_tokens=16)
            assert processor.decode(output[0], skip_special_tokens=True).strip() == answer


def test_a_vision_language_chat_model_answers_through_its_template(llava, writer):
    rows = make_rows()
    made = make(llava, writer)(rows)
    model, processor = LlavaForConditionalGeneration.from_pretrained(llava), AutoProcessor.from_pretrained(llava)
    for row in range(4):
        given = zip(made["vqa_questions"][row], made["vqa_expected"][row], made["vqa_answers"][row], strict=True)
        right = 0
        for question, expected, answer in given:
            prompt = f"<user> <image> {question} Answer yes or no. <assistant>"
            inputs = processor(images=opened(rows["neg_image"][row]), text=prompt, return_tensors="pt")
            output = model.eval().generate(**inputs, max_new_tokens=16, do_sample=False)
            written = processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
            assert written.strip() == answer
            right += read_answer(written) == expected
        assert made["vqa_score"][row] == right / 5


def test_broken_rows_are_errors_and_change_no_other(vilt, writer):
    rows = make_rows()
    rows["neg_image"][0] = {"bytes": rows["neg_image"][0]["bytes"][:50], "path": None}
    rows["neg_image"][1] = None
    rows["neg_caption"] = [*CAPTIONS[:2], "", CAPTIONS[3]]
    made = make(vilt, writer)(rows)
    assert made["error"][0].startswith("unreadable image in neg_image: ")
    assert made["error"][1:] == ["missing image in neg_image", "empty caption in neg_caption", None]
    for name in ("vqa_score", "vqa_questions", "vqa_expected", "vqa_answers"):
        assert made[name][:3] == [None] * 3
        assert made[name][3] is not None
    nothing = make(vilt, writer)({**rows, "neg_caption": [None] * 4, "neg_image": make_rows()["neg_image"]})
    assert nothing["error"] == ["missing caption in neg_caption"] * 4


def test_too_few_questions(vilt, writer):
    made = make(vilt, writer, max_attempts=2, max_new_tokens=2)(make_rows())
    assert all(error.startswith("too few questions: ") for error in made["error"])
    assert "of 5 after 2 attempts, the last answer was '" in made["error"][0]
    assert made["vqa_score"] == [None] * 4


def test_a_caption_that_leaves_no_room(vilt, writer):
    rows = make_rows()
    rows["neg_caption"] = [*CAPTIONS[:3], "a dog " * 400]
    made = make(vilt, writer)(rows)
    assert made["error"] == [None] * 3 + ["caption too long: it and 24 new tokens exceed the context"]
    assert made["vqa_score"][:3] != [None] * 3


def test_columns_without_the_questions(vilt, writer):
    stage = make(vilt, writer, keep_questions=False, questions=3)
    made = stage(make_rows())
    assert made.keys() == {"vqa_score", "error"}
    assert list(stage.produces) == ["vqa_score"]
    assert {round(score * 3, 6) for score in made["vqa_score"]} <= {0, 1, 2, 3}


def test_as_a_map_of_a_dataset(vilt, writer):
    dataset = Dataset.from_dict(make_rows()).cast_column("neg_image", ImageFeature(decode=False))
    stage = make(vilt, writer)
    mapped = dataset.map(stage, batched=True, batch_size=stage.batch_size)
    assert mapped["vqa_score"][:] == stage(make_rows())["vqa_score"]
    assert mapped.features["vqa_answers"] == stage.produces["vqa_answers"]


def test_it_is_quiet(vilt, llava, writer, capfd, caplog):
    with caplog.at_level(logging.WARNING):
        for model in (vilt, llava):
            make(model, writer)(make_rows())
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_models_that_do_not_fit(tmp_path, vilt, writer):
    with pytest.raises(ValueError, match="has no chat template"):
        make(vilt, save_writer(tmp_path / "plain", template=False)).setup()
    with pytest.raises(OSError, match="nothing-here cannot be loaded as a model that answers questions"):
        make(str(tmp_path / "nothing-here"), writer).setup()
    with pytest.raises(OSError, match="nothing-here cannot be loaded as a chat model: "):
        make(vilt, str(tmp_path / "nothing-here")).setup()
    with pytest.raises(ValueError, match="chooses among 2 answers, but yes and no are not among them"):
        make(save_vilt(tmp_path / "colours", labels=("red", "blue")), writer).setup()
    tower = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    clip = tmp_path / "clip"
    CLIPModel(CLIPConfig(text_config={**tower, "vocab_size": 9}, vision_config=tower)).save_pretrained(clip)
    with pytest.raises(ValueError, match="is of type 'clip', which answers no questions about pictures"):
        make(str(clip), writer).setup()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"questions": 0}, "`questions` is 0"),
        ({"questions": 9}, "`questions` is 9; give at most 8"),
        ({"max_attempts": 0}, "`max_attempts` is 0"),
        ({"temperature": 0.0}, r"`temperature` is 0\.0"),
        ({"dtype": "int4"}, "`dtype` is 'int4'"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        VqaScores(**settings)


def test_chat_answers_are_the_models_own_whatever_the_batch(writer):
    chat = ChatModel.from_pretrained(writer, device="cpu")
    chats = [[{"role": "user", "content": text}] for text in ("a black dog", "the cat", "two cats on the mat .")]
    whole = chat.answer(chats, max_new_tokens=8, batch_size=3)
    assert whole == chat.answer(chats, max_new_tokens=8, batch_size=1)
    for messages, answer in zip(chats, whole, strict=True):
        prompt = chat.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")
        output = chat.model.generate(**prompt, max_new_tokens=8, do_sample=False)
        written = chat.tokenizer.decode(output[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
        assert written == answer
    sampled = [chat.answer(chats, max_new_tokens=8, batch_size=3, temperature=2.0, seed=seed) for seed in (1, 1, 2)]
    assert sampled[0] == sampled[1] != sampled[2]


@pytest.mark.parametrize(
    ("kind", "marks"),
    [
        ("vilt", ["[SEP]", "[CLS]", "[PAD]"]),
        ("blip", ["[SEP]", "[DEC]", "[PAD]"]),
        ("llava", ["</s>", "<image>", "<assistant>"]),
        ("plain llava", ["</s>", "<pad>", "<image>"]),
    ],
)
def test_special_tokens_in_a_question_are_text(kind, marks, request, tmp_path):
    folder = save_llava(tmp_path, template=False) if kind == "plain llava" else request.getfixturevalue(kind)
    answerer = load_answerer(folder, None, "auto", "cpu")
    seen = []
    if kind == "vilt":
        answerer.model.register_forward_pre_hook(
            lambda module, args, named: seen.append(named["input_ids"]), with_kwargs=True
        )
    else:
        prepare = answerer._prepare
        if kind == "plain llava":  # whose processor wants the place of the picture, which those of others add
            prepare = lambda images, prompts: answerer.processor(  # noqa: E731
                images=images, text=[f"<image> {prompt}" for prompt in prompts], padding=True, return_tensors="pt"
            )

        def prepared(images, prompts):
            inputs = prepare(images, prompts)
            seen.append(inputs["input_ids"])
            return inputs

        answerer._prepare = prepared
    special = torch.tensor(answerer.processor.tokenizer.convert_tokens_to_ids(marks))
    for mark in ["dog", *marks]:
        answerer.answer([opened(picture(0))], [[f"is {mark} a cat ?"]], 1)
    counts = [torch.isin(ids, special).sum().item() for ids in seen]
    assert counts == counts[:1] * 4  # those that belong there
    if kind != "vilt":
        assert len({tuple(ids.flatten().tolist()) for ids in seen}) > 1


def test_special_tokens_in_a_chat_are_text(writer):
    chat = ChatModel.from_pretrained(writer, device="cpu")
    special = set(chat.tokenizer.all_special_ids)
    found = []
    for text in ("dog", "</s>", "<assistant>", "<image>"):
        ids = chat._tokenize([{"role": "user", "content": f"a {text} , a cat"}])
        found.append(sum(number in special - {chat.tokenizer.unk_token_id} for number in ids))
    assert found == found[:1] * 4

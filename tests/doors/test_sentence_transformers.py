# SPDX-License-Identifier: Apache-2.0
"""sentence-transformers: embeddings of images and captions, and its evaluators."""

from __future__ import annotations

import numpy as np
import pytest
from transformers import CLIPModel

from tests.doors.conftest import CAPTIONS

sentence_transformers = pytest.importorskip("sentence_transformers")
EXACT = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture
def encoder(saved, without_package):
    return sentence_transformers.SentenceTransformer(saved.folder, device="cpu")


def test_embeddings_are_the_models(encoder, saved):
    assert type(encoder[0].auto_model) is CLIPModel
    np.testing.assert_allclose(encoder.encode(saved.images), saved.image, **EXACT)
    np.testing.assert_allclose(encoder.encode(CAPTIONS), saved.text, **EXACT)
    similarity = encoder.similarity(encoder.encode(saved.images), encoder.encode(CAPTIONS))
    np.testing.assert_allclose(similarity, saved.cosines, **EXACT)


def test_lengths_are_one_when_asked_for(encoder, saved):
    for inputs, embeddings in ((saved.images, saved.image), (CAPTIONS, saved.text)):
        normalised = encoder.encode(inputs, normalize_embeddings=True)
        np.testing.assert_allclose(np.linalg.norm(normalised, axis=1), 1, rtol=1e-5)
        lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
        np.testing.assert_allclose(normalised, embeddings / lengths, **EXACT)


def test_long_captions_are_cut_as_ours(encoder):
    long = "a red cat above a blue dog " * 20
    assert encoder.max_seq_length == 16
    ids = encoder.tokenizer(long, truncation=True)["input_ids"]
    seen = encoder.tokenizer.decode(ids, skip_special_tokens=True)
    np.testing.assert_allclose(*encoder.encode([long, seen]), **EXACT)


def test_saved_by_it_and_opened_again(encoder, saved, tmp_path):
    encoder.save_pretrained(str(tmp_path / "saved"))
    again = sentence_transformers.SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    np.testing.assert_allclose(again.encode(saved.images), saved.image, **EXACT)
    np.testing.assert_allclose(again.encode(CAPTIONS), saved.text, **EXACT)
    assert not any(CLIPModel.from_pretrained(tmp_path / "saved", output_loading_info=True)[1].values())


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_an_adapter_opens_by_its_folder(adapter, saved, without_package):
    assert np.abs(adapter.text - saved.text).max() > 0.1
    encoder = sentence_transformers.SentenceTransformer(adapter.folder, device="cpu")
    np.testing.assert_allclose(encoder.encode(adapter.images), adapter.image, **EXACT)
    np.testing.assert_allclose(encoder.encode(CAPTIONS), adapter.text, **EXACT)


def test_evaluators_take_pictures_and_captions(encoder, saved):
    from sentence_transformers.sentence_transformer.evaluation import (
        InformationRetrievalEvaluator,
        TranslationEvaluator,
        TripletEvaluator,
    )

    negatives = [*CAPTIONS[1:], CAPTIONS[0]]
    triplets = TripletEvaluator(saved.images, CAPTIONS, negatives, name="captions", write_csv=False)(encoder)
    positive, negative = np.diag(saved.cosines), np.diag(np.roll(saved.cosines, -1, axis=1))
    assert triplets["captions_cosine_accuracy"] == pytest.approx((positive > negative).mean())

    places = range(len(CAPTIONS))
    retrieval = InformationRetrievalEvaluator(
        queries={f"caption{place}": CAPTIONS[place] for place in places},
        corpus={f"picture{place}": saved.images[place] for place in places},
        relevant_docs={f"caption{place}": {f"picture{place}"} for place in places},
        accuracy_at_k=[1, 2],
        write_csv=False,
    )(encoder)
    ranks = (saved.cosines > np.diag(saved.cosines)).sum(axis=0)
    for k in (1, 2):
        assert retrieval[f"cosine_accuracy@{k}"] == pytest.approx((ranks < k).mean())

    translation = TranslationEvaluator(saved.images, CAPTIONS, write_csv=False)(encoder)
    assert translation["src2trg_accuracy"] == pytest.approx((saved.cosines.argmax(axis=1) == places).mean())
    assert translation["trg2src_accuracy"] == pytest.approx((saved.cosines.argmax(axis=0) == places).mean())

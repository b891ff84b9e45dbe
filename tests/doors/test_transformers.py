# SPDX-License-Identifier: Apache-2.0
"""Plain transformers: auto classes, single towers, pipelines, adapters."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoProcessor,
    AutoTokenizer,
    CLIPModel,
    CLIPTextModelWithProjection,
    CLIPVisionModelWithProjection,
    pipeline,
)

from hf_tripletclip import TripletCLIPModel
from hf_tripletclip.checkpoints import convert
from tests.checkpoints import small_processor, write_published
from tests.doors.conftest import CAPTIONS, ours

EXACT = {"rtol": 1e-5, "atol": 1e-5}


def plain(opened) -> bool:
    return type(opened).__module__.startswith("transformers.")


@pytest.mark.parametrize("auto_class", [AutoModel, CLIPModel])
def test_model_and_processor(saved, without_package, auto_class):
    model, info = auto_class.from_pretrained(saved.folder, output_loading_info=True)
    assert type(model) is CLIPModel
    assert not any(info.values())
    processor = AutoProcessor.from_pretrained(saved.folder)
    assert plain(processor)
    inputs = processor(text=CAPTIONS, images=saved.images, padding=True, return_tensors="pt")
    with torch.no_grad():
        output = model(**inputs)
        text = model.get_text_features(inputs["input_ids"], attention_mask=inputs["attention_mask"]).pooler_output
        image = model.get_image_features(inputs["pixel_values"]).pooler_output
    np.testing.assert_allclose(image, saved.image, **EXACT)
    np.testing.assert_allclose(text, saved.text, **EXACT)
    np.testing.assert_allclose(output.logits_per_image.softmax(dim=1), saved.probabilities, **EXACT)


def test_one_tower_alone(saved, without_package):
    vision, info = CLIPVisionModelWithProjection.from_pretrained(saved.folder, output_loading_info=True)
    assert not info["missing_keys"]
    text, info = CLIPTextModelWithProjection.from_pretrained(saved.folder, output_loading_info=True)
    assert not info["missing_keys"]
    pixels = AutoImageProcessor.from_pretrained(saved.folder)(saved.images, return_tensors="pt")
    tokens = AutoTokenizer.from_pretrained(saved.folder)(CAPTIONS, padding=True, return_tensors="pt")
    with torch.no_grad():
        np.testing.assert_allclose(vision(**pixels).image_embeds, saved.image, **EXACT)
        np.testing.assert_allclose(text(**tokens).text_embeds, saved.text, **EXACT)


def classified(classifier, images, **kwargs) -> np.ndarray:
    """Probabilities of shape `(images, captions)`, in the order of the captions."""
    answers = classifier(images, candidate_labels=CAPTIONS, hypothesis_template="{}", **kwargs)
    return np.array(
        [[{one["label"]: one["score"] for one in answer}[caption] for caption in CAPTIONS] for answer in answers]
    )


def test_zero_shot_pipeline(saved, without_package):
    classifier = pipeline("zero-shot-image-classification", model=saved.folder)
    assert plain(classifier.model)
    np.testing.assert_allclose(classified(classifier, saved.images), saved.probabilities, **EXACT)


def test_zero_shot_pipeline_does_not_cut_long_captions(saved, without_package):
    classifier = pipeline("zero-shot-image-classification", model=saved.folder)
    long = ["a red cat", "a blue dog " * 20]
    with pytest.raises(ValueError, match="Sequence length must be less than max_position_embeddings"):
        classifier(saved.images[0], candidate_labels=long, hypothesis_template="{}")
    ids = classifier.tokenizer(long, truncation=True)["input_ids"]
    short = classifier.tokenizer.decode(ids, skip_special_tokens=True)
    answers = classifier(saved.images[0], candidate_labels=short, hypothesis_template="{}")
    model, processor = CLIPModel.from_pretrained(saved.folder), AutoProcessor.from_pretrained(saved.folder)
    inputs = processor(text=long, images=saved.images[0], padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        expected = model(**inputs).logits_per_image.softmax(dim=1)[0]
    scores = {answer["label"]: answer["score"] for answer in answers}
    np.testing.assert_allclose([scores[caption] for caption in short], expected, **EXACT)


def test_feature_extraction_pipelines(saved, without_package):
    vision = CLIPVisionModelWithProjection.from_pretrained(saved.folder)
    images = pipeline("image-feature-extraction", model=vision, image_processor=saved.folder)
    np.testing.assert_allclose(np.concatenate(images(saved.images)), saved.image, **EXACT)
    text = CLIPTextModelWithProjection.from_pretrained(saved.folder)
    captions = pipeline("feature-extraction", model=text, tokenizer=saved.folder)
    np.testing.assert_allclose(np.concatenate(captions(CAPTIONS)), saved.text, **EXACT)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_an_adapter_opens_by_its_folder(adapter, saved, without_package):
    assert np.abs(adapter.text - saved.text).max() > 0.1
    classifier = pipeline("zero-shot-image-classification", model=adapter.folder)
    assert plain(classifier.model)
    np.testing.assert_allclose(classified(classifier, adapter.images), adapter.probabilities, **EXACT)


@pytest.mark.filterwarnings("ignore:.*no `logit_scale`:UserWarning")
def test_the_published_layout_opens_once_converted(tmp_path, request):
    published = tmp_path / "published"
    write_published(published)
    small_processor().save_pretrained(tmp_path / "processor")
    folder = convert(published, tmp_path / "converted", processor=tmp_path / "processor", logit_scale=2.0)
    expected = ours(TripletCLIPModel.from_pretrained(published, logit_scale=2.0).eval(), folder)
    request.getfixturevalue("without_package")
    with pytest.raises((OSError, ValueError)):
        pipeline("zero-shot-image-classification", model=str(published))
    classifier = pipeline("zero-shot-image-classification", model=str(folder))
    np.testing.assert_allclose(classified(classifier, expected.images), expected.probabilities, **EXACT)

# SPDX-License-Identifier: Apache-2.0
"""The guards, each alone, on embeddings that are chosen."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from hf_tripletclip.mining.candidates import OWN_TEXT, SAME_WORDS, find_negatives
from hf_tripletclip.mining.settings import MiningSettings
from tests.mining import caption_of, pairs_of, vectors

ANY = MiningSettings(relative_margin=None, num_negatives=1, num_neighbours=3, range_max=10)
KINDS = [
    (negatives, similarity) for negatives in ("pairs", "captions") for similarity in ("image", "text", "image_text")
]


def fan(number: int, step: float = 0.2) -> torch.Tensor:
    """Unit vectors at growing angles: the nearest are the neighbours in order."""
    angles = torch.arange(number) * step
    return torch.stack([angles.cos(), angles.sin()], dim=1)


@pytest.mark.parametrize(("negatives", "similarity"), KINDS)
def test_the_nearest_come_first_and_ties_by_place(negatives, similarity):
    pairs = pairs_of(["red cat", "blue dog", "green bird", "white horse"], range(4))
    settings = dataclasses.replace(ANY, negatives=negatives, similarity=similarity)
    mined = find_negatives(pairs, fan(4), fan(4), settings)
    assert mined.negatives == [[1, 2, 3], [0, 2, 3], [1, 3, 0], [2, 1, 0]]
    assert mined.scores[0] == pytest.approx([torch.cos(torch.tensor(0.2 * step)).item() for step in (1, 2, 3)])


@pytest.mark.parametrize(("negatives", "similarity"), KINDS)
def test_what_is_the_same_never_competes(negatives, similarity):
    """Captions of one image, images of one group, and equal words."""
    captions = ["a cat sits", "a dog runs", "a bird flies", "A cat sits.", "a horse jumps", "a cow eats"]
    image_of = [0, 0, 1, 2, 3, 4]
    pairs = pairs_of(captions, image_of, groups=[0, 1, 2, 0, 4])  # image 3 is a copy of image 0
    settings = dataclasses.replace(ANY, negatives=negatives, similarity=similarity, num_neighbours=5)
    generator = torch.Generator().manual_seed(0)
    images, texts = (torch.nn.functional.normalize(torch.randn(n, 4, generator=generator), dim=-1) for n in (5, 6))
    mined = find_negatives(pairs, images, texts, settings)
    for pair, found in enumerate(mined.negatives):
        group = {other for other in range(6) if pairs.groups[image_of[other]] == pairs.groups[image_of[pair]]}
        of_group = {captions[other].lower().rstrip(".") for other in group}
        assert not group & set(found)
        assert not of_group & {captions[other].lower().rstrip(".") for other in found}
        if negatives == "pairs":  # nor is the row's own caption one of the other image's
            own = captions[pair].lower().rstrip(".")
            for other in found:
                same_image = [one for one in range(6) if pairs.groups[image_of[one]] == pairs.groups[image_of[other]]]
                assert own not in {captions[one].lower().rstrip(".") for one in same_image}
    assert set(mined.negatives[2]) >= {5}


@pytest.mark.parametrize(
    ("changed", "left", "refused"),
    [
        ({}, [1, 2, 3], set()),
        ({"range_min": 1}, [2, 3], {"range_min"}),
        ({"max_score": 0.95}, [2, 3], {"max_score"}),
        ({"min_score": 0.8}, [1, 2], {"min_score"}),
        ({"absolute_margin": 0.05}, [2, 3], {"absolute_margin"}),
        ({"relative_margin": 0.05}, [2, 3], {"relative_margin"}),
        ({"absolute_margin": 0.0, "relative_margin": 0.2}, [3], {"relative_margin"}),
        ({"range_max": 2, "num_neighbours": 2}, [1, 2], set()),
    ],
)
def test_each_guard(changed, left, refused):
    """The cosines with row 0 are 0.955, 0.825 and 0.622, of images, captions and both alike; its own pair has 1."""
    pairs = pairs_of(["red cat", "blue dog", "green bird", "white horse"], range(4))
    mined = find_negatives(pairs, fan(4, 0.3), fan(4, 0.3), dataclasses.replace(ANY, **changed))
    assert mined.negatives[0] == left
    assert set(mined.refused) == refused
    assert mined.looked_at == sum(mined.refused.values()) + sum(map(len, mined.negatives))


def test_margins_are_of_images_with_captions_whatever_is_ranked_by():
    """The nearest caption is as good for the image as its own: a false negative that text alone does not show."""
    pairs = pairs_of(["red cat", "blue dog", "green bird"], range(3))
    images = vectors([1, 0, 0], [0, 1, 0], [0, 0, 1])
    texts = vectors([1, 0, 0.5], [1, 0, 0.4], [0, 0.2, 1])
    settings = dataclasses.replace(ANY, negatives="captions", similarity="text", relative_margin=0.05)
    mined = find_negatives(pairs, images, texts, settings)
    assert mined.negatives[0] == [2]
    assert mined.refused["relative_margin"] >= 1


def test_a_negative_image_of_which_the_caption_is_true_is_refused():
    """The other caption is false of this image, but this caption is as true of the other image."""
    pairs = pairs_of(["red cat", "blue dog", "green bird"], range(3))
    images = vectors([1, 0, 0], [1, 0.1, 0], [0, 0, 1])
    texts = vectors([1, 0, 0], [0, 1, 0], [0, 0, 1])
    settings = dataclasses.replace(ANY, relative_margin=0.05)
    assert find_negatives(pairs, images, texts, settings).negatives[0] == [2]
    captions = dataclasses.replace(settings, negatives="captions")
    assert find_negatives(pairs, images, texts, captions).negatives[0] == [1, 2]


def test_a_margin_of_an_own_pair_below_zero_goes_down():
    pairs = pairs_of(["red cat", "blue dog"], range(2))
    images, texts = vectors([1, 0], [0.9, 0.1]), vectors([-1, 0.5], [-1, 0.52])
    settings = dataclasses.replace(ANY, negatives="captions", relative_margin=0.05)
    assert find_negatives(pairs, images, texts, settings).negatives[0] == []


@pytest.mark.parametrize(
    ("negative", "refused"),
    [
        ("two dogs run", False),
        ("a small dog runs", True),
        ("a dog runs", True),
        ("a black cat runs", False),
        ("a dog sleeps", True),  # of the image's other caption words are left out
    ],
)
def test_captions_that_say_what_one_of_the_image_says(negative, refused):
    pairs = pairs_of(["a small black dog runs", "a dog sleeps on a couch", negative], [0, 0, 1])
    settings = dataclasses.replace(ANY, negatives="captions", similarity="text")
    mined = find_negatives(pairs, fan(2), fan(3), settings)
    assert (mined.negatives[0] == []) == refused
    assert (SAME_WORDS in mined.refused) == refused


def test_of_a_near_image_the_caption_that_is_nearest_and_passes():
    captions = ["a red cat", "a red cat", "a blue dog", "a green bird"]
    pairs = pairs_of(captions, [0, 1, 1, 1])
    texts = vectors([1, 0], [1, 0], [0.5, 0.5], [0, 1])
    settings = dataclasses.replace(ANY, negatives="captions")
    mined = find_negatives(pairs, fan(2), texts, settings)
    assert mined.negatives[0] == [2]  # not the equal one, and not the one that is farther
    both = find_negatives(pairs, fan(2), texts, ANY)
    assert both.negatives[0] == []  # the row's caption is one of that image's
    assert both.refused == {OWN_TEXT: 4}  # either way


def test_copies_of_the_embeddings_give_the_same_in_any_chunks(monkeypatch):
    """A dataset where everything ties."""
    pairs = pairs_of([caption_of(number) for number in range(60)], range(60))
    same = torch.ones(60, 3) / 3**0.5
    whole = find_negatives(pairs, same, same, ANY)
    monkeypatch.setattr("hf_tripletclip.mining.search.QUERIES", 7)
    assert find_negatives(pairs, same, same, ANY) == whole
    assert whole.negatives[0] == [1, 2, 3]
    assert whole.negatives[2] == [0, 1, 3]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"similarity": "sound"}, "`similarity` is 'sound'; give image, text, image_text"),
        ({"negatives": "images"}, "`negatives` is 'images'; give pairs, captions"),
        ({"num_negatives": -1}, "`num_negatives` is -1"),
        ({"num_negatives": 0, "num_neighbours": 0}, "nothing to mine"),
        ({"range_min": 95}, "leave 5 candidates, and 10 are wanted"),
        ({"relative_margin": float("nan")}, "`relative_margin` is nan"),
        ({"absolute_margin": -0.1}, "`absolute_margin` is -0.1"),
        ({"max_score": 0.1, "min_score": 0.2}, "less than `min_score`"),
    ],
)
def test_settings_that_cannot_be_meant(changed, said):
    with pytest.raises(ValueError, match=said):
        MiningSettings(**changed)

# SPDX-License-Identifier: Apache-2.0
"""The metric modules for `evaluate.load`: hand-computed cases, ties, wrong shapes, their own examples."""

from __future__ import annotations

import doctest
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import evaluate
import numpy as np
import pytest
import torch

from hf_tripletclip.evaluation.metrics import METRICS, metric_path
from hf_tripletclip.evaluation.triplets import triplet_metrics, triplet_scores
from tests.evaluation import recall_of_rows


@pytest.fixture
def load(tmp_path):
    return lambda name: evaluate.load(metric_path(name), cache_dir=str(tmp_path))


def test_paths_are_those_of_the_modules():
    for name in METRICS:
        assert (Path(metric_path(name)) / f"{name}.py").is_file()
        assert (Path(metric_path(name)) / "README.md").read_text(encoding="utf-8").startswith("---\n")
    with pytest.raises(ValueError, match="unknown metric 'bleu'; there are winoground_score, "):
        metric_path("bleu")


def test_winoground_scores_by_hand_with_ties(load):
    rows = [
        [[0.9, 0.1], [0.2, 0.8]],  # right in every comparison
        [[0.9, 0.1], [0.95, 0.96]],  # caption 0 chooses the wrong image
        [[0.5, 0.6], [0.1, 0.9]],  # image 0 chooses the wrong caption
        [[0.5, 0.5], [0.1, 0.9]],  # image 0 cannot decide
        [[0.3, 0.3], [0.3, 0.3]],  # collapsed
    ]
    assert load("winoground_score").compute(predictions=rows) == pytest.approx(
        {"text_score": 2 / 5, "image_score": 3 / 5, "group_score": 1 / 5, "tie_rate": 2 / 5}
    )
    alone = load("winoground_score").compute(predictions=rows[:1])
    assert alone == {"text_score": 1.0, "image_score": 1.0, "group_score": 1.0, "tie_rate": 0.0}


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_winoground_scores_are_those_of_the_evaluation(load, kind):
    generator = torch.Generator().manual_seed(0)
    given = [torch.nn.functional.normalize(torch.randn(50, 8, generator=generator), dim=-1) for _ in range(4)]
    scores = triplet_scores(*given)
    table = torch.stack([torch.stack([scores[f"i{i}c{c}"] for c in (0, 1)], dim=1) for i in (0, 1)], dim=1)
    expected = triplet_metrics(*given)
    for name, value in load("winoground_score").compute(predictions=kind(table.numpy())).items():
        assert value == pytest.approx(expected[name]), name


def test_pairwise_accuracy_by_hand_with_ties_and_categories(load):
    predictions = [[0.3, 0.2], [0.2, 0.3], [0.1, 0.1], [0.1, 0.5, 0.4], [0.5, 0.5, 0.4]]
    references = [0, 0, 1, 1, 2]
    found = load("pairwise_accuracy").compute(predictions=predictions, references=references)
    assert found == pytest.approx({"accuracy": 2 / 5, "tie_rate": 1 / 5})
    found = load("pairwise_accuracy").compute(
        predictions=predictions, references=references, categories=["add", "add", "swap", None, "swap"]
    )
    assert found == pytest.approx(
        {"accuracy": 2 / 5, "tie_rate": 1 / 5, "accuracy_add": 1 / 2, "accuracy_swap": 0, "accuracy_macro": 1 / 4}
    )


def test_scores_are_compared_in_float32(load):
    close = [[0.5 + 1e-12, 0.5]]  # apart in float64 only
    assert load("pairwise_accuracy").compute(predictions=close, references=[0]) == {"accuracy": 0.0, "tie_rate": 1.0}


def test_retrieval_recall_by_hand_with_ties_and_several_right_ones(load):
    predictions = [
        [0.9, 0.1, 0.2, 0.3],  # first
        [0.9, 0.8, 0.7, 0.1],  # third, and fourth
        [0.5, 0.5, 0.1, 0.2],  # ties with a wrong one: second
        [0.4, 0.4, 0.4, 0.4],  # nothing to tell them apart: fourth
    ]
    references = [[0], [2, 3], [0], [1]]
    found = load("retrieval_recall").compute(predictions=predictions, references=references, k=[1, 2, 3, 4, 9])
    assert found == {"recall@1": 0.25, "recall@2": 0.5, "recall@3": 0.75, "recall@4": 1.0, "recall@9": 1.0} | {
        "tie_rate": 0.5
    }
    one = load("retrieval_recall").compute(predictions=[[0.1]], references=[[0]], k=1)
    assert one == {"recall@1": 1.0, "tie_rate": 0.0}  # nothing competes


def test_recall_is_that_of_the_evaluation(load):
    generator = torch.Generator().manual_seed(1)
    image, text = (torch.nn.functional.normalize(torch.randn(40, 4, generator=generator), dim=-1) for _ in range(2))
    found = load("retrieval_recall").compute(
        predictions=(image.double() @ text.double().T).numpy(), references=[[row] for row in range(40)]
    )
    for k, value in recall_of_rows(image, text, at=(1, 5, 10)).items():
        assert found[f"recall@{k}"] == pytest.approx(value)


@pytest.mark.parametrize(
    ("name", "inputs", "message"),
    [
        ("winoground_score", {"predictions": [[[0.1, 0.2]]]}, "row 0 is .* not two images times two captions"),
        ("winoground_score", {"predictions": [[1.0, 2.0]]}, "expected format"),
        ("winoground_score", {"predictions": [[[0.1, 0.2], [0.3, float("nan")]]]}, r"not finite in rows \[0\]"),
        ("winoground_score", {"predictions": []}, "no rows"),
        ("pairwise_accuracy", {"predictions": [[0.1]], "references": [0]}, "row 0 is .* not at least two"),
        ("pairwise_accuracy", {"predictions": [[0.1, 0.2]], "references": [2]}, "2 candidates; 2 is none of them"),
        ("pairwise_accuracy", {"predictions": [[0.1, 0.2]], "references": [0, 1]}, "Mismatch"),
        ("pairwise_accuracy", {"predictions": [[0.1, 0.2]], "references": [0], "categories": []}, "0 categories"),
        ("pairwise_accuracy", {"predictions": [], "references": []}, "no rows"),
        ("retrieval_recall", {"predictions": [[0.1, 0.2]], "references": [[]]}, "2 candidates; right ones: "),
        ("retrieval_recall", {"predictions": [[0.1, 0.2]], "references": [[-1]]}, "2 candidates; right ones: "),
        ("retrieval_recall", {"predictions": [[0.1, 0.2]], "references": [[0]], "k": 0}, "at least 1"),
        ("retrieval_recall", {"predictions": [[float("inf"), 0.2]], "references": [[0]]}, "not finite"),
        ("retrieval_recall", {"predictions": [], "references": []}, "no rows"),
    ],
)
def test_what_does_not_fit_is_refused(load, name, inputs, message):
    with pytest.raises(ValueError, match=message):
        load(name).compute(**inputs)


@pytest.mark.parametrize("name", METRICS)
def test_the_examples_of_the_documentation_are_right(load, name):
    file = Path(metric_path(name)) / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    test = doctest.DocTestParser().get_doctest(module.INPUTS, {}, name, str(file), 0)
    assert len(test.examples) == 4
    results = doctest.DocTestRunner(verbose=False).run(test)
    assert results.failed == 0
    assert module.INPUTS.strip() in load(name).inputs_description
    for example in test.examples:  # the card has the same
        assert example.source.strip() in (file.parent / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_loading_needs_no_network_and_makes_no_noise(tmp_path):
    code = (
        "import evaluate, socket\n"
        "def refuse(*args): raise AssertionError('the network was asked')\n"
        "socket.socket.connect = refuse\n"
        "from hf_tripletclip.evaluation.metrics import metric_path\n"
        "metric = evaluate.load(metric_path('winoground_score'))\n"
        "print(metric.compute(predictions=[[[0.4, 0.2], [0.3, 0.5]]])['group_score'])\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment, "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("1.0\n", "")

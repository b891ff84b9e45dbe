# SPDX-License-Identifier: Apache-2.0
"""What benchmarks declare, and that results carry it."""

from __future__ import annotations

import pytest

from hf_tripletclip.evaluation.registry import (
    BENCHMARKS,
    EMBEDDINGS,
    NEGATIVE_IMAGES,
    ONE_IMAGE,
    OWN,
    RETENTION,
    SUITES,
    benchmark_class,
)
from hf_tripletclip.results import EvaluationResult


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_has_the_name_of_its_registry_line_and_declares_fields_of_results(name):
    kind = benchmark_class(name)
    assert kind.name == name
    assert kind.title
    assert kind.reference
    result = EvaluationResult(name, {kind.primary: 0.5}, **kind.declared())
    assert result.title == kind.title
    assert EvaluationResult.from_dict(result.to_dict()) == result


def test_suites_and_families():
    families = {name: benchmark_class(name).family for name in BENCHMARKS}
    groups = {
        "composition": {*ONE_IMAGE, *OWN, *NEGATIVE_IMAGES},
        "retention": {*RETENTION},
        "embeddings": {*EMBEDDINGS},
    }
    for family, names in groups.items():
        assert {name for name in BENCHMARKS if families[name] == family} == names
    assert set(SUITES["composition"]) == groups["composition"] - {*OWN}
    assert set(BENCHMARKS) - set(SUITES["all"]) == {*OWN} == {"captions"}
    assert benchmark_class("similarity").raw
    assert not any(benchmark_class(name).raw for name in {*BENCHMARKS} - {*EMBEDDINGS})
    assert benchmark_class("retrieval").task == "image-text-retrieval"
    assert benchmark_class("winoground").task == "zero-shot-image-classification"


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_page_describes_it_and_names_its_data(name, pytestconfig):
    page = (pytestconfig.rootpath / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    table = [line for line in page.splitlines() if line.startswith("| `")]
    assert any(f"`{name}`" in line.split("|")[1] for line in table)
    if (source := benchmark_class(name).hub_dataset) is not None:
        assert source.count("/") == 1
        assert source in page

# SPDX-License-Identifier: Apache-2.0
"""What benchmarks declare, and that results carry it."""

from __future__ import annotations

import pytest

from hf_tripletclip.evaluation.registry import BENCHMARKS, SUITES, benchmark_class
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
    assert [name for name, family in families.items() if family == "retention"] == ["retrieval", "zeroshot"]
    assert [name for name, family in families.items() if family == "embeddings"] == ["similarity"]
    assert all(families[name] == "composition" for name in SUITES["composition"])
    assert set(BENCHMARKS) - set(SUITES["all"]) == {"captions"}
    assert [name for name in BENCHMARKS if benchmark_class(name).raw] == ["similarity"]


def test_data_on_the_hub():
    declared = {name: benchmark_class(name).hub_dataset for name in BENCHMARKS}
    assert {name: source for name, source in declared.items() if source} == {
        "sugarcrepe": "mteb/SUGARCREPE_fmt",
        "sugarcrepe_pp": "Aman-J/SugarCrepe_pp",
        "valse": "Mayfull/valse_vlms",
        "whatsup": "Mayfull/whats_up_vlms",
        "bivlc": "imirandam/BiVLC",
        "winoground": "facebook/winoground",
        "colorswap": "stanfordnlp/colorswap",
        "mmvp": "MMVP/MMVP_VLM",
    }
    assert {name for name in BENCHMARKS if benchmark_class(name).task != "zero-shot-image-classification"} == {
        "retrieval"
    }

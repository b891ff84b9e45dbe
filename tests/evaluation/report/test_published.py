# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from hf_tripletclip.data.schema import NEGATIVE_TYPES
from hf_tripletclip.evaluation.registry import BENCHMARKS
from hf_tripletclip.evaluation.report.reading import is_of, published, published_beside, published_of
from hf_tripletclip.results.result import EvaluationResult

# Rows of SugarCrepe's files, in the order of NEGATIVE_TYPES.
ROWS = dict(zip(NEGATIVE_TYPES, (1652, 788, 1406, 245, 666, 2062, 692), strict=True))


def test_every_figure_has_a_source_and_is_a_fraction():
    figures = published()
    assert len(figures) > 100
    for figure in figures:
        assert figure.benchmark in BENCHMARKS
        assert figure.cite
        assert "arXiv" in figure.reference
        assert all(0 < value < 1 for value in figure.metrics.values())
    names = [(one.cite, one.benchmark, one.data, one.model, one.training) for one in figures]
    assert len(set(names)) == len(names)


def test_table_4_adds_up():
    table = [figure for figure in published_of("sugarcrepe") if figure.cite == "Patel et al. 2024, Table 4"]
    assert len(table) == 9
    for figure in table:
        values = [figure.metrics[kind] for kind in NEGATIVE_TYPES]
        assert sum(values) / 7 == pytest.approx(figure.metrics["macro"], abs=0.00006)
        for kind, rows in ROWS.items():  # each is a share of the rows of its file, rounded or cut
            share = figure.metrics[kind] * rows
            assert abs(share - round(share)) / rows < 0.0001, (figure, kind)
    best = max(table, key=lambda figure: figure.metrics["macro"])
    assert (best.model, best.training) == ("TripletCLIP", "CC12M, from scratch")
    micro = sum(best.metrics[kind] * rows for kind, rows in ROWS.items()) / sum(ROWS.values())
    assert micro == pytest.approx(0.7664, abs=0.0001)


def test_every_mean_of_seven_is_that_of_its_categories():
    figures = [figure for figure in published_of("sugarcrepe") if NEGATIVE_TYPES[0] in figure.metrics]
    assert {figure.group for figure in figures} == {"Patel et al. 2024", "vl_compo"}
    for figure in figures:
        mean = sum(figure.metrics[kind] for kind in NEGATIVE_TYPES) / 7
        assert mean == pytest.approx(figure.metrics["macro"], abs=0.00011), figure


def test_valse_is_a_mean_over_its_eleven_pieces():
    figures = {figure.model: figure.metrics for figure in published_of("valse")}
    values = {"CLIP": 65.8, "NegCLIP": 71.8, "CE-CLIP": 74.3, "DAC-LLM": 67.3, "CLoVe": 67.7, "TSVLC-RB": 66.8}
    assert figures == {model: {"macro": pytest.approx(value / 100)} for model, value in values.items()}


COCO, FLICKR, IMAGENET = "COCO, Karpathy's test split", "Flickr30k", "ImageNet-1k"


@pytest.mark.parametrize(
    ("benchmark", "counts", "source", "data"),
    [
        ("sugarcrepe", {"rows": 7511}, "mteb/SUGARCREPE_fmt", {"SugarCrepe"}),
        ("sugarcrepe", {"rows": 7510, "missing": 1}, "sugar-crepe/data", set()),
        ("valse", {"rows": 7702}, "valse", {"VALSE"}),
        ("valse", {"rows": 8782}, "valse", set()),
        ("aro", {"rows": 23937}, "mteb/ARO-Visual-Relation", set()),  # one of the four parts
        ("winoground", {"rows": 400}, "facebook/winoground", {"Winoground"}),
        ("colorswap", {"rows": 1000}, "stanfordnlp/colorswap", set()),
        ("triplets", {"rows": 50_000}, "TripletCLIP/TripletCLIP-High-Quality", set()),  # which rows, nobody says
        ("retrieval", {"images": 5000, "captions": 25_000}, "karpathy/dataset_coco.json", {COCO}),
        ("retrieval", {"images": 5000, "captions": 25_010}, "clip-benchmark/wds_mscoco_captions", {COCO}),
        ("retrieval", {"images": 5000, "captions": 25_000}, "coco/captions_val2017.json", set()),
        ("retrieval", {"images": 1000, "captions": 5000}, "clip-benchmark/wds_flickr30k", {FLICKR}),
        ("retrieval", {"images": 1000, "captions": 5000}, "clip-benchmark/wds_flickr8k", set()),
        ("retrieval", {"images": 313, "captions": 1565}, "my/captions.csv", set()),
        ("zeroshot", {"rows": 50_000, "classes": 1000}, "clip-benchmark/wds_imagenet1k", {IMAGENET}),
        ("zeroshot", {"rows": 10_000, "classes": 1000}, "imagenetv2-matched-frequency", set()),
        ("zeroshot", {"rows": 7500, "classes": 200}, "imagenet-a", set()),
    ],
)
def test_figures_stand_beside_the_same_data_only(benchmark, counts, source, data):
    result = EvaluationResult(benchmark, {}, counts=counts, data={"source": source})
    found = {figure.data for figure in published_beside([result])}
    assert found - {"18 sets of VTAB"} == data  # these have metrics of their own name
    other = EvaluationResult(benchmark, {}, counts={"rows": 3}, data={"source": source})
    assert {figure.data for figure in published_beside([result, other])} <= {"18 sets of VTAB"}


def test_the_data_of_every_figure_can_be_told():
    for figure in published():
        is_of(EvaluationResult(figure.benchmark, {}), figure.data)
        assert figure.data != "18 sets of VTAB" or all(name.startswith("vtab_") for name in figure.metrics)


def test_models_are_found_again_in_other_tables():
    joined = {
        (figure.group, figure.model, figure.training): figure.metrics["macro"]
        for figure in published_of("sugarcrepe")
        if "macro" in figure.metrics
    }
    for figure in published_of("zeroshot"):
        assert (figure.group, figure.model, figure.training) in joined

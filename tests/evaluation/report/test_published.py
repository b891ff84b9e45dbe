# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from hf_tripletclip.data.schema import NEGATIVE_TYPES
from hf_tripletclip.evaluation.registry import BENCHMARKS
from hf_tripletclip.evaluation.report.published import published, published_of

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


def test_models_are_found_again_in_other_tables():
    joined = {
        (figure.group, figure.model, figure.training): figure.metrics["macro"]
        for figure in published_of("sugarcrepe")
        if "macro" in figure.metrics
    }
    for figure in published_of("zeroshot"):
        assert (figure.group, figure.model, figure.training) in joined

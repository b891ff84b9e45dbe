# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from hf_tripletclip.evaluation.report.drawings import (
    Bar,
    Point,
    draw_bars,
    draw_histograms,
    draw_scatter,
    inline_svg,
)


def test_bars_are_where_they_should_be():
    rows = {
        "one": {"swap_obj": Bar(0.5, (0.4, 0.6), 0.25), "add_att": Bar(0.75)},
        "two": {"swap_obj": Bar(0.25)},
    }
    figure = draw_bars(rows, "accuracy, %")
    (axes,) = figure.axes
    assert [bar.get_width() for bar in axes.patches] == [50, 75, 25]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["swap_obj", "add_att"]
    assert list(axes.lines[0].get_xdata()) == [40, 60]  # the interval
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["one", "two", "chance"]
    bottoms = [bar.get_y() for bar in axes.patches]
    assert bottoms[0] < bottoms[2] < bottoms[1]  # the two of a category are next to each other


def test_histograms_share_their_bins():
    figure = draw_histograms({"a": {"true": [0.1, 0.2], "false": [0.0]}, "b": {"true": [0.4]}}, "cosine")
    first, second = figure.axes
    assert first.get_xlim() == second.get_xlim()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["true", "false"]
    shares = sum(patch.get_height() for patch in first.patches if type(patch).__name__ == "Rectangle")
    assert shares == pytest.approx(200)  # two series of 100 %
    draw_histograms({"a": {"true": [0.3, 0.3]}}, "cosine")  # all equal


def test_labels_of_a_scatter_plot_do_not_overlap():
    points = [Point("mine", 0.2, 0.5, 0, "models of this report")]
    points += [Point(f"other {index}", 0.2 + index / 500, 0.5, 1, "others", own=False) for index in range(30)]
    figure = draw_scatter(points, "x", "y")
    texts = figure.axes[0].texts
    names = [text.get_text() for text in texts]
    assert names[0] == "mine"
    assert 3 <= len(names) < len(points)  # others where there is room
    boxes = [text.get_window_extent() for text in texts]
    for place, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[place + 1 :])
    crowd = [Point(f"a model of a long name {index}", 0.5, 0.5, 0, "models") for index in range(12)]
    assert len(draw_scatter(crowd, "x", "y").axes[0].texts) == 12  # one's own are all named


def test_svg_inside_a_page_takes_its_colours_and_keeps_its_ids():
    figure = draw_bars({"a & <b>": {"x": Bar(0.5, None, 0.5)}, "c": {"x": Bar(0.25)}}, "accuracy, %")
    first, second = (inline_svg(figure, name, 'bars & "more"') for name in ("one", "two"))
    root = ET.fromstring(first)
    assert root.get("aria-label") == 'bars & "more"'
    assert root.get("width") is None  # as wide as there is room
    assert "var(--c0)" in first
    assert "var(--c1)" in first
    assert "currentColor" in first
    assert "var(--line)" in first
    assert "<style" not in first
    assert "metadata" not in first
    assert "http" not in first.replace("http://www.w3.org", "")
    names = [set(re.findall(r'\bid="([^"]*)"', drawing)) for drawing in (first, second)]
    assert not names[0] & names[1]
    for reference in re.findall(r'(?:href="#|url\(#)([^")]*)', first):
        assert reference in names[0]
    assert "a &amp; &lt;b&gt;" in first  # words are words, not outlines

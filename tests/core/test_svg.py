from __future__ import annotations

import math
import re
import xml.etree.ElementTree as tree

import pytest

from wordmill.core.svg import COLOURS, MOST_POINTS, _Axis, line_plot, matrix_plot, short_number


def _labels(svg: str) -> list[str]:
    return [element.text or "" for element in tree.fromstring(svg).iter() if element.tag.endswith("}text")]


def test_a_plot_is_valid_xml_with_its_words_escaped():
    svg = line_plot({"a < b": [(1, 2), (2, 3)], "c & d": [(1, 1)]}, title="<Title>", x_label="step", y_label="loss")
    assert {"<Title>", "a < b", "c & d", "step", "loss"} <= set(_labels(svg))
    assert "http" not in svg.replace("http://www.w3.org/2000/svg", "")


def test_hovering_shows_the_values():
    svg = line_plot({"loss": [(1, 2.5), (2, 3.5)]}, title="t", x_label="step", y_label="loss")
    titles = [element.text for element in tree.fromstring(svg).iter() if element.tag.endswith("}title")]
    assert titles == ["step 1\nloss: 2.5", "step 2\nloss: 3.5"]


def test_long_series_are_thinned_and_keep_their_last_point():
    svg = line_plot({"x": [(step, math.sin(step)) for step in range(1, 100_001)]}, title="t", x_label="x", y_label="y")
    points = re.search(r'points="([^"]+)"', svg).group(1).split()
    assert len(points) == MOST_POINTS
    assert points[-1].startswith("622.0,")


@pytest.mark.parametrize("series", [{}, {"a": []}, {"a": [(1, math.nan), (math.inf, 2)]}])
def test_nothing_to_show_is_said(series):
    assert "nothing measured yet" in line_plot(series, title="t", x_label="x", y_label="y")


@pytest.mark.parametrize("points", [[(3, 3)], [(0, 5), (1, 5)], [(1, 0), (1, 0)], [(-4, -2), (4, -1)]])
@pytest.mark.parametrize("log_x", [False, True])
def test_odd_ranges_draw_within_the_frame(points, log_x):
    svg = line_plot({"a": points}, title="t", x_label="x", y_label="y", log_x=log_x, marks=True, highlight=(points[-1][0], "best"))
    assert tree.fromstring(svg) is not None
    assert "nan" not in svg
    assert "inf" not in svg


def test_ticks_are_round():
    assert _Axis(0, 1, 0, 100).ticks(5) == [0, 0.2, 0.4, 0.6, 0.8, 1]
    assert _Axis(1, 1000, 0, 100, log=True).ticks(5) == [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]
    assert _Axis(0, 500, 0, 100, seconds=True).ticks(6) == [0, 120, 240, 360, 480]


def test_a_high_beginning_does_not_squeeze_the_rest():
    points = [(step, 100.0 if step == 0 else 1 + 1 / step) for step in range(100)]
    high = max(float(label) for label in _labels(line_plot({"a": points}, title="t", x_label="", y_label="", y_skip=0.1))[1:-1] if label)
    assert high <= 100
    assert "100" not in _labels(line_plot({"a": points}, title="t", x_label="", y_label="", y_skip=0.1, x_format=lambda _: "x"))


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.0003, "3e-4"), (0.00025, "2.5e-4"), (1.5, "1.5"), (1_500_000, "1.5M"), (12_345, "12.35k"), (6000, "6000")],
)
def test_short_numbers(value, text):
    assert short_number(value) == text


def test_viewers_without_variables_see_the_colours_too():
    """Most programs but browsers know no CSS variables, and drew no line at all: a plain colour stands before each."""
    plots = [line_plot({"a": [(1, 2), (2, 3)], "b": [(1, 1)]}, title="t", x_label="x", y_label="y", marks=True, highlight=(1.5, "best")),
             matrix_plot(["a", "b"], [[9, 1], [2, 8]], title="t")]  # fmt: skip
    for svg in plots:
        used = re.findall(r"(?:([a-z]+):(#\w+);)?([a-z]+):var\(--(\w+)\)", svg)
        assert used and all((plain, colour) == (what, COLOURS[name]) for plain, colour, what, name in used)

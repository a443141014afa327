"""Charts say what the numbers say, and stay legible at any width."""

from __future__ import annotations

import re
import xml.etree.ElementTree as xml
from itertools import pairwise

import pytest

from vlforge.reports import charts
from vlforge.reports.curves import LOSS_HEIGHT, Curve, loss_chart


def parse(markup):
    """The chart as XML: broken markup is an error."""
    return xml.fromstring(f"<div>{markup}</div>")


def shapes(markup, name, style):
    """Elements of one name whose classes include `style`."""
    return [e for e in parse(markup).iter(name) if style in e.get("class", "").split()]


def across(element, attribute):
    """A percentage as a number."""
    return float(element.get(attribute).removesuffix("%"))


def test_funnel_bar_is_as_wide_as_its_share_of_all_rows():
    bar = charts.funnel_bar(kept=60, changed=10, dropped=20, whole=200)
    assert across(shapes(bar, "rect", "fill-kept")[0], "width") == 25
    assert across(shapes(bar, "rect", "fill-changed")[0], "width") == 5
    assert across(shapes(bar, "rect", "fill-dropped")[0], "x") == 30


def test_a_single_dropped_row_among_millions_is_still_seen():
    bar = charts.funnel_bar(kept=9_999_999, changed=0, dropped=1, whole=10_000_000)
    assert across(shapes(bar, "rect", "fill-dropped")[0], "width") > 0.2


def test_histogram_draws_the_bounds_where_they_lie():
    chart = charts.histogram([0, 5, 10], [4, 2], [3, 2], (2.5, 1e18))
    (line,) = shapes(chart, "line", "bound")
    assert across(line, "x1") == 25
    assert "≥ 2.5" in chart
    assert "≤" not in chart


def test_histogram_stretches_to_a_bound_beyond_the_values():
    chart = charts.histogram([0, 5, 10], [4, 2], None, (None, 15))
    (line,) = shapes(chart, "line", "bound")
    assert across(line, "x1") == 100


def test_a_reversed_range_tints_the_inside():
    outside = charts.histogram([0, 5, 10], [4, 2], None, (2, 8))
    inside = charts.histogram([0, 5, 10], [4, 2], None, (2, 8), is_reversed=True)
    assert [across(r, "x") for r in shapes(outside, "rect", "out")] == [0, 80]
    assert [across(r, "x") for r in shapes(inside, "rect", "out")] == [20]
    assert charts.bound_words((2, 8), True) == "drops 2 to 8"


def test_histogram_of_one_value_has_a_width():
    assert shapes(charts.histogram([7, 7], [3]), "rect", "fill-kept")


@pytest.mark.parametrize(
    ("bounds", "words"),
    [
        ((None, None), "no bound"),
        ((3, None), "keeps ≥ 3"),
        ((3, 9223372036854775807), "keeps ≥ 3"),
        ((None, 0.25), "keeps ≤ 0.25"),
        ((1, 2), "keeps 1 to 2"),
    ],
)
def test_bounds_are_said_in_words(bounds, words):
    assert charts.bound_words(bounds) == words


def test_score_track_shows_interval_and_every_seed():
    track = charts.score_track(0.5, (0.4, 0.6), {"0": 0.45, "1": 0.55}, 1, "refined")
    assert across(shapes(track, "rect", "soft")[0], "width") == 50
    assert [across(r, "cx") for r in shapes(track, "circle", "ring")] == [45, 55]
    assert {e.get("x1") for e in shapes(track, "line", "whisker")} == {"40.00%", "60.00%"}


def test_difference_track_puts_zero_in_the_middle():
    dots = shapes(charts.difference_track(0.0, None, 1, 0.3), "circle", "dot")
    assert across(dots[0], "cx") == 50


def test_loss_labels_do_not_overlap():
    curves = [Curve(name, k, [(0, 3.0), (100, 1.0 + k / 1000)]) for k, name in enumerate("abcd")]
    ends = shapes(loss_chart(curves, "loss"), "text", "end")
    ys = sorted(float(e.get("y")) for e in ends)
    assert all(b - a >= 15.9 for a, b in pairwise(ys))
    assert max(ys) <= LOSS_HEIGHT


def test_loss_axis_starts_at_zero():
    chart = loss_chart([Curve("raw", 0, [(0, 4.0), (100, 2.0)])], "loss")
    points = re.search(r'points="([^"]+)"', chart).group(1).split()
    assert points == ["0,0", "1000,500"]


@pytest.mark.parametrize("hostile", ['<script>"&', "]]>"])
def test_names_from_data_are_escaped(hostile):
    for chart in (
        charts.score_track(0.5, None, {hostile: 0.5, "b": 0.4}, 0, hostile),
        loss_chart([Curve(hostile, 0, [(1, 1)])], hostile),
        charts.share_bars([(hostile, 0.5, hostile)], "fill-kept"),
        charts.histogram([0, 1], [1], None, (None, None), hostile),
    ):
        parse(chart)
        assert "<script>" not in chart


def test_every_chart_has_words_for_those_who_cannot_see_it():
    chart = charts.funnel_bar(3, 0, 1, 4)
    assert parse(chart)[0].get("role") == "img"
    assert parse(chart)[0].get("aria-label") == "3 passed unchanged, 0 changed, 1 dropped"

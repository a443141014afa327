"""Numbers as people read them."""

from __future__ import annotations

import pytest

from vlforge.reports import numbers


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0, "0"),
        (0.04251, "0.0425"),
        (0.1, "0.1"),
        (3.14159, "3.14"),
        (12.5, "12.5"),
        (120, "120"),
        (1234.5, "1,230"),
        (99.96, "100"),
        (-0.5, "-0.5"),
        (2.5e9, "2.50e+09"),
        (None, "–"),
        (float("nan"), "–"),
    ],
)
def test_quantities_have_three_significant_figures(value, words):
    assert numbers.figures(value) == words


@pytest.mark.parametrize(
    ("part", "whole", "words"),
    [
        (1, 2, "50 %"),
        (999, 1000, "99.9 %"),
        (1, 5000, "< 0.1 %"),
        (5, 1000, "0.5 %"),
        (0, 9, "0 %"),
    ],
)
def test_shares_neither_vanish_nor_fill_up(part, whole, words):
    assert numbers.percent(part, whole) == words


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.04, "0.0 s"),
        (9.7, "9.7 s"),
        (59.6, "1 min 0 s"),
        (250, "4 min 10 s"),
        (7500, "2 h 5 min"),
    ],
)
def test_durations_use_the_unit_a_reader_would(value, words):
    assert numbers.seconds(value) == words


def test_differences_carry_their_sign():
    assert numbers.signed(0.25) == "+0.250"
    assert numbers.signed(-0.25) == "−0.250"
    assert numbers.signed(0.0) == "±0.000"
    assert numbers.signed(-0.0001) == "±0.000"

"""95 % intervals of a mean."""

from __future__ import annotations

import random

import pytest

from vlforge.evaluation.metrics.intervals import interval, wilson


def test_wilsons_interval_of_a_known_case():
    assert wilson(8, 10) == pytest.approx((0.4901625, 0.9433178), abs=1e-6)
    assert wilson(0, 0) == (0.0, 1.0)


def test_independent_rights_and_wrongs_get_wilsons():
    credits = [1.0] * 8 + [0.0] * 2
    assert interval(credits, range(10)) == wilson(8, 10)


def test_rows_of_one_picture_widen_the_interval():
    generator = random.Random(0)
    per_picture = [float(generator.random() < 0.5) for _ in range(40)]
    credits = [credit for credit in per_picture for _ in range(5)]
    pictures = [place // 5 for place in range(200)]
    low, high = interval(credits, pictures)
    alone_low, alone_high = interval(credits, range(200))
    assert high - low > 1.8 * (alone_high - alone_low)


def test_equal_credits_leave_doubt():
    low, high = interval([1.0] * 6, [0, 0, 1, 1, 2, 2])
    assert (low, high) == wilson(3, 3)
    assert low < 1.0


def test_the_same_credits_give_the_same_interval():
    credits = [0.3, 0.6, 1.0, 0.0, 0.9, 0.3]
    assert interval(credits, range(6)) == interval(credits, range(6))
    low, high = interval(credits, range(6))
    assert low < sum(credits) / 6 < high

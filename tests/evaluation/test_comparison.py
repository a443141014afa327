"""Statistics of comparisons: against values worked out by hand, and against all cases."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from vlforge.evaluation.comparison import changed_ids, mcnemar, paired


def split(only_a: int, only_b: int, same: int = 3) -> tuple[list[float], list[float]]:
    """Credits in which so many questions are right with one side only."""
    a = [1.0] * only_a + [0.0] * only_b + [1.0] * same
    return a, [0.0] * only_a + [1.0] * only_b + [1.0] * same


@pytest.mark.parametrize(
    ("only_a", "only_b", "p"),
    [
        (0, 0, 1.0),
        (1, 1, 1.0),
        (0, 5, 2 / 32),  # both tails of five heads
        (1, 9, 2 * 11 / 1024),
        (2, 8, 2 * 56 / 1024),
        (12, 12, 1.0),
    ],
)
def test_few_changed_questions_get_the_exact_binomial_test(only_a, only_b, p):
    test = mcnemar(*split(only_a, only_b))
    assert (test.only_a, test.only_b, test.method) == (only_a, only_b, "exact")
    assert test.p == pytest.approx(p, abs=1e-12)


@pytest.mark.parametrize(
    ("only_a", "only_b", "p"),
    [
        (10, 20, 0.10035),  # 81 / 30 = 2.7
        (121, 59, 5.4503e-6),  # 61^2 / 180 = 20.672
        (13, 13, 1.0),
    ],
)
def test_many_get_chi_square_with_continuity(only_a, only_b, p):
    test = mcnemar(*split(only_a, only_b))
    assert test.method == "chi-square"
    assert test.p == pytest.approx(p, rel=2e-4)


def test_both_tests_agree_where_one_hands_over_to_the_other():
    exact, rough = mcnemar(*split(7, 17)), mcnemar(*split(7, 18))
    assert (exact.method, rough.method) == ("exact", "chi-square")
    tail = sum(math.comb(25, k) for k in range(8))
    assert rough.p == pytest.approx(2 * tail / 2**25, abs=0.005)


def test_graded_credits_have_no_such_test():
    assert mcnemar([0.3, 1.0], [1.0, 1.0]) is None


def test_the_interval_is_that_of_all_draws_of_whole_pictures():
    a = [0.0, 1.0, 0.0, 0.0, 1.0, 0.3, 0.0]
    b = [1.0, 1.0, 1.0, 0.0, 0.0, 0.9, 1.0]
    pictures = ["p", "p", "p", "q", "r", "r", "s"]
    groups = [[y - x for x, y, z in zip(a, b, pictures, strict=True) if z == p] for p in "pqrs"]
    draws = itertools.product(groups, repeat=4)
    means = sorted(sum(map(sum, draw)) / sum(map(len, draw)) for draw in draws)
    found = paired(a, b, pictures)
    assert (found.n, found.clusters) == (7, 4)
    assert found.value == pytest.approx(sum(map(sum, groups)) / 7)
    for got, share in zip(found.interval, (0.025, 0.975), strict=True):
        near = (means[round(255 * (share - 0.012))], means[round(255 * (share + 0.012))])
        assert near[0] - 1e-9 <= got <= near[1] + 1e-9


def test_pictures_with_many_questions_widen_the_interval():
    rng = random.Random(0)
    gaps = [rng.choice([-1.0, 0.0, 1.0]) for _ in range(50)]
    a = [0.5 - gap / 2 for gap in gaps for _ in range(8)]
    b = [0.5 + gap / 2 for gap in gaps for _ in range(8)]
    alone = paired(a, b, range(400))
    together = paired(a, b, [k // 8 for k in range(400)])
    ratio = (together.interval[1] - together.interval[0]) / (alone.interval[1] - alone.interval[0])
    assert ratio == pytest.approx(math.sqrt(8), rel=0.1)


def test_the_interval_covers_as_often_as_it_says():
    rng = random.Random(1)
    covered = 0
    for _ in range(150):
        b = [float(rng.random() < 0.6) for _ in range(80)]
        a = [float(rng.random() < 0.4) for _ in range(80)]
        low, high = paired(a, b, range(80)).interval
        covered += low <= 0.2 <= high
    assert 133 <= covered <= 150  # 95 % of 150 is 142.5, its deviation 2.7


def test_sides_swapped_swap_the_signs():
    a, b = split(3, 13, same=18)
    one, other = paired(a, b, range(34)), paired(b, a, range(34))
    assert one.value == -other.value
    assert one.outcome == "above"
    assert other.outcome == "below"
    assert one.interval == pytest.approx((-other.interval[1], -other.interval[0]), abs=0.03)


def test_answers_alike_are_not_told_apart_however_few():
    for count in (1, 3, 400):
        found = paired([1.0] * count, [1.0] * count, range(count))
        assert found.outcome == "open"
        assert found.interval[0] < 0 <= found.interval[1]
    assert paired([1.0] * 400, [1.0] * 400, range(400)).interval[0] > -0.02


def test_one_picture_shows_nothing():
    assert paired([0.0] * 5, [1.0] * 5, ["same"] * 5).outcome == "open"
    assert paired([0.0] * 30, [1.0] * 30, range(30)).outcome == "above"


@pytest.mark.parametrize(("rises", "outcome"), [(4, "open"), (5, "open"), (6, "above")])
def test_few_changes_to_one_side_have_to_pass_the_sign_test(rises, outcome):
    a, b = [0.0] * 40, [1.0] * rises + [0.0] * (40 - rises)
    found = paired(a, b, range(40))
    assert found.interval[0] > 0
    assert (found.outcome, found.changed) == (outcome, rises)
    assert found.sign_p == pytest.approx(2 / 2**rises)
    assert bool(found.doubt) == (outcome == "open")
    together = paired(a, b, [k // 3 for k in range(40)])
    assert (together.changed, together.outcome) == (2, "open")


def test_two_models_alike_are_told_apart_no_more_often_than_promised():
    rng = random.Random(5)
    wrong = 0
    for _ in range(200):
        a, b = ([float(rng.random() < 0.9) for _ in range(30)] for _ in "ab")
        wrong += paired(a, b, range(30)).outcome != "open"
    assert wrong <= 10  # 5 % of 200


def test_nothing_to_compare_is_an_error():
    with pytest.raises(ValueError, match="no questions"):
        paired([], [], [])


def test_changed_questions_stand_with_the_greatest_change_first():
    a = {"q1": 1.0, "q2": 0.3, "q3": 0.0, "q4": 0.5, "q5": 0.6}
    b = {"q1": 1.0, "q2": 0.9, "q3": 1.0, "q4": 0.0, "q5": 0.0}
    assert changed_ids(a, b, list(a)) == (["q5", "q4"], ["q3", "q2"])

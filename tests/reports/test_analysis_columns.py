"""Numbers, labels and digests of any number of rows, against what numpy says of all at once."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from vlforge.reports import analysis_columns
from vlforge.reports.analysis_columns import Column, Correlation, Labels, Repeats


def column(tmp_path, values, portions=7):
    """The values, taken in portions."""
    made = Column(tmp_path / "column")
    for part in np.array_split(np.array(values, np.float64), portions):
        made.add(part)
    return made.finish()


@pytest.fixture(params=["one run", "many runs"])
def _runs(request, monkeypatch):
    if request.param == "many runs":
        monkeypatch.setattr(analysis_columns, "RUN", 16)


VALUES = {
    "spread": lambda rng: rng.normal(3, 100, 500),
    "ties": lambda rng: rng.integers(-2, 3, 333),
    "tail": lambda rng: np.exp(rng.normal(0, 4, 257)),
    "one": lambda rng: np.array([0.25]),
    "signs": lambda rng: np.array([-0.0, 0.0, -1e-300, 1e5, -1e5, 5.0]),
}


@pytest.mark.usefixtures("_runs")
@pytest.mark.parametrize("kind", VALUES)
def test_quantiles_and_moments_are_exact(tmp_path, kind):
    values = VALUES[kind](np.random.default_rng(1)).astype(np.float64)
    found = column(tmp_path, values)
    shares = [0, 0.01, 0.25, 1 / 3, 0.5, 0.75, 0.999, 1]
    assert found.count == len(values)
    assert [found.quantile(q) for q in shares] == pytest.approx(
        np.quantile(values, shares), rel=1e-12, abs=1e-300
    )
    assert found.mean == pytest.approx(values.mean(), rel=1e-9)
    assert (found.low, found.high) == (values.min(), values.max())
    if len(values) == 1:
        assert found.std is None
    else:
        assert found.std == pytest.approx(values.std(ddof=1), rel=1e-9)


@pytest.mark.usefixtures("_runs")
def test_numbers_below_a_value_are_counted_with_it_or_without(tmp_path):
    values = np.random.default_rng(2).integers(0, 50, 400)
    found = column(tmp_path, values)
    for value in (-1, 0, 10, 10.5, 49, 60):
        assert found.below(value, inclusive=False) == int((values < value).sum())
        assert found.below(value, inclusive=True) == int((values <= value).sum())


def test_what_is_no_finite_number_is_left_out(tmp_path):
    found = column(tmp_path, [1.0, np.nan, np.inf, 3.0, -np.inf])
    assert (found.count, found.mean, found.high) == (2, 2.0, 3.0)


@pytest.mark.parametrize("portions", [1, 5])
def test_correlations_are_of_the_rows_that_have_both(portions):
    rng = np.random.default_rng(3)
    table = rng.normal(1e6, 1, (300, 3))
    table[:, 1] += table[:, 0]
    table[rng.random((300, 3)) < 0.2] = np.nan
    table = np.column_stack([table, np.full(300, 4.0)])
    found = Correlation("abcd")
    for part in np.array_split(table, portions):
        found.add(part)
    matrix = found.finish()
    for i in range(3):
        for j in range(3):
            both = ~np.isnan(table[:, i]) & ~np.isnan(table[:, j])
            right = np.corrcoef(table[both, i], table[both, j])[0, 1]
            assert matrix[i][j] == pytest.approx(right, abs=1e-9)
    assert matrix[3] == [None] * 4


def test_nothing_is_correlated_before_there_are_two_rows():
    assert Correlation("ab").finish() == []
    one = Correlation("ab")
    one.add(np.array([[1.0, 2.0]]))
    assert one.finish() == [[None, None], [None, None]]


@pytest.mark.usefixtures("_runs")
def test_repeats_are_counted_across_buckets_and_files(tmp_path):
    rng = np.random.default_rng(4)
    digests = [f"{int(v):016x}" for v in rng.integers(0, 2**63, 90)]
    drawn = [digests[k] for k in rng.integers(0, 90, 700)]
    found = Repeats(tmp_path, "digest")
    for place, digest in enumerate(drawn):
        found.add(digest, place)
    repeated, counts = found.finish(), Counter(drawn)
    assert repeated.rows == sum(n - 1 for n in counts.values())
    assert repeated.groups == sum(n > 1 for n in counts.values())
    count, first, last = repeated.largest[0]
    assert count == max(counts.values())
    assert drawn[first] == drawn[last]
    assert first == drawn.index(drawn[first])
    assert last == len(drawn) - 1 - drawn[::-1].index(drawn[last])


def test_words_beyond_measure_count_as_one(monkeypatch):
    monkeypatch.setattr(analysis_columns, "MOST_LABELS", 3)
    labels = Labels()
    labels.add(["en", "de", "fr", "es", "it", "en"])
    assert labels.counts == {"en": 2, "de": 1, "fr": 1, "others": 2}

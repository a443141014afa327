import numpy as np
import pytest

from vlforge.training.batches import TokenRows, group_by_length, walk


def test_every_row_comes_once_per_epoch_and_epochs_differ():
    epochs = walk([7], [21], seed=0).reshape(3, 7)
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


@pytest.mark.parametrize("samples", [1, 6, 7, 8, 20])
def test_the_budget_is_met_exactly(samples):
    assert len(walk([7], [samples], seed=0)) == samples


def test_the_order_depends_on_the_seed_alone():
    assert walk([50], [80], seed=1).tolist() == walk([50], [80], seed=1).tolist()
    assert walk([50], [80], seed=1).tolist() != walk([50], [80], seed=2).tolist()
    assert walk([50], [80], seed=1).tolist()[:40] == walk([50], [40], seed=1).tolist()


def test_several_datasets_are_walked_evenly_and_spread_over_the_run():
    order = walk([10, 1000, 5], [100, 300, 0], seed=0)
    first, second = order[order < 10], order[order >= 10]
    assert (len(first), len(second)) == (100, 300)
    assert np.bincount(first).tolist() == [10] * 10
    assert len(set(second)) == 300
    assert 15 < (order[:100] < 10).sum() < 35


def test_grouping_keeps_samples_and_evens_batches():
    lengths = np.random.default_rng(0).integers(5, 200, 1003)
    order = walk([1003], [1003], seed=0)
    grouped = group_by_length(order, lengths, 10, seed=0)
    assert sorted(grouped) == sorted(order)

    def padding(rows):
        batches = [lengths[rows[n : n + 10]] for n in range(0, 1000, 10)]
        return sum(batch.max() * len(batch) - batch.sum() for batch in batches)

    assert padding(grouped) < 0.1 * padding(order)
    assert grouped[-3:].tolist() == order[-3:].tolist()


def test_rows_are_padded_on_the_right():
    rows = TokenRows.of([([1, -200, 4], [-100, -100, 4], (0,), 10), ([1, 5], [-100, 5], (), 2)])
    ids, labels, mask = rows.pad([1, 0])
    assert ids.tolist() == [[1, 5, 0], [1, -200, 4]]
    assert labels.tolist() == [[-100, 5, -100], [-100, -100, 4]]
    assert mask.tolist() == [[True, True, False], [True, True, True]]
    assert rows.supervised.tolist() == [1, 1]

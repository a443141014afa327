import numpy as np
import pytest

from vlforge.training.batches import TokenRows, draw_order, group_by_length, share_out
from vlforge.types import DataError


def test_every_row_comes_once_per_epoch_and_epochs_differ():
    order = draw_order([7], 21, seed=0)
    epochs = order.reshape(3, 7)
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


@pytest.mark.parametrize("samples", [1, 6, 7, 8, 20])
def test_the_budget_is_met_exactly(samples):
    assert len(draw_order([7], samples, seed=0)) == samples


def test_the_order_depends_on_the_seed_alone():
    assert draw_order([50], 80, seed=1).tolist() == draw_order([50], 80, seed=1).tolist()
    assert draw_order([50], 80, seed=1).tolist() != draw_order([50], 80, seed=2).tolist()
    assert draw_order([50], 80, seed=1).tolist()[:40] == draw_order([50], 40, seed=1).tolist()


def test_mixtures_keep_their_shares_and_walk_each_dataset_evenly():
    order = draw_order([10, 1000], 400, seed=0, weights=[1, 3])
    first, second = order[order < 10], order[order >= 10]
    assert (len(first), len(second)) == (100, 300)
    assert np.bincount(first).tolist() == [10] * 10
    assert len(set(second)) == 300
    assert 15 < (order[:100] < 10).sum() < 35


@pytest.mark.parametrize(
    ("weights", "samples", "shares"),
    [
        ([1, 1], 5, [3, 2]),
        ([0, 2], 5, [0, 5]),
        ([1, 1, 1], 100, [34, 33, 33]),
        ([0.7, 0.3], 10, [7, 3]),
    ],
)
def test_shares_are_exact_in_sum(weights, samples, shares):
    assert share_out(weights, samples) == shares


@pytest.mark.parametrize("weights", [[], [0, 0], [1, -1]])
def test_weights_that_say_nothing_are_refused(weights):
    with pytest.raises(DataError, match="mixture weights"):
        share_out(weights, 5)


def test_drawing_from_an_empty_dataset_is_refused_unless_its_weight_is_zero():
    with pytest.raises(DataError, match="dataset 2 of 2 has no usable row"):
        draw_order([5, 0], 10, seed=0, weights=[1, 1])
    assert len(draw_order([5, 0], 10, seed=0, weights=[1, 0])) == 10


def test_grouping_keeps_samples_and_evens_batches():
    lengths = np.random.default_rng(0).integers(5, 200, 1003)
    order = draw_order([1003], 1003, seed=0)
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

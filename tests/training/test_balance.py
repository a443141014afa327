"""Rows dealt out by cost: nobody waits, nothing is lost."""

from __future__ import annotations

import numpy as np
import pytest

from tests.tiny_model import llava
from vlforge.training.averaging import Cut
from vlforge.training.balance import by_chunks, by_cost, by_turns, row_costs


def mixed(rows: int, seed: int = 0) -> np.ndarray:
    """Costs of an instruct mix: a picture or none, texts of very different length."""
    draw = np.random.default_rng(seed)
    return (draw.random(rows) > 0.06) * 600 + draw.lognormal(5, 0.8, rows)


def spread(costs: np.ndarray, shares) -> float:
    """How much longer than on average the slowest device works."""
    work = [sum(costs[places].sum() for places in device) for device in shares]
    return max(work) / np.mean(work)


@pytest.mark.parametrize("seed", range(5))
def test_devices_end_together(seed):
    costs, cut = mixed(128, seed), Cut(128, 8, 4)
    assert spread(costs, by_turns(cut)) > 1.03
    assert spread(costs, by_cost(costs, cut)) < 1.005


@pytest.mark.parametrize("rule", ["turns", "chunks", "cost"])
@pytest.mark.parametrize(
    ("rows", "devices", "micro"), [(128, 8, 4), (16, 1, 16), (13, 2, 3), (3, 4, 2), (1, 1, 1)]
)
def test_every_row_is_seen_once_in_as_many_passes(rule, rows, devices, micro):
    cut, costs = Cut(rows, devices, micro), mixed(rows)
    rules = {"turns": lambda: by_turns(cut), "chunks": lambda: by_chunks(cut)}
    shares = rules.get(rule, lambda: by_cost(costs, cut))()
    places = [place for device in shares for part in device for place in part]
    assert sorted(places) == list(range(rows))
    assert [len(device) for device in shares] == [cut.passes] * devices
    assert max(len(part) for device in shares for part in device) <= micro


def test_the_same_costs_give_the_same_shares():
    costs, cut = mixed(64), Cut(64, 4, 4)
    first, second = by_cost(costs, cut), by_cost(costs.copy(), cut)
    assert str(first) == str(second)
    assert str(by_cost(np.ones(8), Cut(8, 2, 2))) == str(by_cost(np.ones(8), Cut(8, 2, 2)))


def test_chunks_are_dealt_out_as_transformers_does():
    shares = by_chunks(Cut(12, 2, 3))
    assert [[part.tolist() for part in device] for device in shares] == [
        [[0, 1, 2], [6, 7, 8]],
        [[3, 4, 5], [9, 10, 11]],
    ]


def test_a_rows_cost_grows_with_pictures_and_length():
    cost = llava().cost()
    lengths, seen = np.array([20, 20, 40, 36]), np.array([0, 8, 0, 16])
    some = row_costs(cost, lengths, seen, np.array([5, 5, 5, 5]), ["connector", "language"])
    assert some[0] < some[1] < some[3]
    assert some[0] < some[2]
    wanted = cost.sample_flops(12, 5, 1, ["connector", "language"])
    assert some[1] == pytest.approx(wanted)

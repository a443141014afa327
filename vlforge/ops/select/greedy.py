"""Greedy choices among rows' unit vectors: those far from each other. N rows, D numbers each."""

from __future__ import annotations

from typing import Any

import numpy as np

from vlforge.ops.select.budgets import Budget
from vlforge.ops.select.vectors import Rows

_AT_ONCE = 256


def farthest(rows: Rows, first: int, weights: Any, budget: Budget) -> list[int]:
    """Places, each the one whose distance to all taken before, times its weight, is largest.

    The distance is 1 - cosine; the earlier of equals is taken. One look at all rows per
    place: O(N D) each.

    Source: Gonzalez 1985 (k-center); Sener and Savarese 2018 (core-sets).
    """
    distance = np.full(rows.count, np.inf)
    is_open = np.ones(rows.count, bool)
    taken: list[int] = []
    place = first
    while True:
        is_open[place] = False
        if budget.take(place):
            taken.append(place)
            _come_nearer(rows, place, distance)
        is_open &= budget.fitting()
        if not is_open.any():
            return taken
        gains = np.where(is_open, distance * weights if taken else weights, -1.0)
        place = int(gains.argmax())


def _come_nearer(rows: Rows, place: int, distance: Any) -> None:
    vector = rows.at([place])[0]
    for part, vectors in rows.blocks():
        away = np.maximum(1 - vectors @ vector, 0)
        np.minimum(distance[part], away, out=distance[part])


def differing(rows: Rows, order: Any, most: float, budget: Budget) -> list[int]:
    """Places in their order, those too near to one taken before at the end only.

    Too near is a cosine of `most` or more. O(N k D) for k places.
    """
    taken: list[int] = []
    passed: list[int] = []
    kept = np.empty((_AT_ONCE, rows.width), np.float32)
    for at in range(0, rows.count, _AT_ONCE):
        places = order[at : at + _AT_ONCE]
        vectors = rows.at(places)
        near = (vectors @ kept[: len(taken)].T >= most).any(axis=1)
        among = vectors @ vectors.T >= most
        mine: list[int] = []
        for number, place in enumerate(places.tolist()):
            if budget.left <= 0:
                return taken
            if near[number] or among[number, mine].any():
                passed.append(place)
            elif budget.take(place):
                mine.append(number)
                taken.append(place)
        kept = _grown(kept, len(taken))
        kept[len(taken) - len(mine) : len(taken)] = vectors[mine]
    return taken + budget.spend(passed)


def _grown(kept: Any, size: int) -> Any:
    if size <= len(kept):
        return kept
    more = np.empty((max(size, 2 * len(kept)), kept.shape[1]), kept.dtype)
    more[: len(kept)] = kept
    return more

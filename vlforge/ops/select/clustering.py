"""k-means over rows' unit vectors: the same clusters each time, memory for a piece of the rows.

N rows, K clusters, D numbers per row.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from vlforge.ops.select.vectors import ROWS_AT_ONCE, Rows

LEARN_ROWS = 256
"""Rows per cluster that centres are learned from, as faiss does; all rows are assigned."""
_SEED_ROWS = 32
_MOST_SEEDS = 4096
"""Clusters up to which seeds are spread out; beyond, drawn rows serve, as in faiss."""
_NUMBERS_AT_ONCE = 1 << 24


def k_means(rows: Rows, count: int, rounds: int) -> tuple[Any, Any]:
    """Labels [N] int64 and centres [K, D] of at most `count` clusters.

    Spherical: centres are unit vectors and rows go where the cosine is highest, the first
    of equals. It ends when no row changes its cluster, or after `rounds`.

    Source: spherical k-means, Dhillon and Modha 2001; seeds as in k-means++, Arthur and
    Vassilvitskii 2007, the best of some tries each.
    """
    count = max(1, min(count, rows.count))
    learned = np.sort(rows.order[: LEARN_ROWS * count])
    centres = _seeds(rows, count)
    before = None
    for _ in range(rounds):
        labels, sums = _round(rows, learned, centres)
        if before is not None and np.array_equal(labels, before):
            break
        before, centres = labels, _unit(sums, centres)
    found = np.empty(rows.count, np.int64)
    for part, vectors in rows.blocks():
        found[part] = nearest(vectors, centres)
    return found, centres


def _seeds(rows: Rows, count: int) -> Any:
    """[K, D] rows to start from, far from each other; fewer where fewer rows differ."""
    if count > _MOST_SEEDS:
        return rows.at(np.sort(rows.order[:count]))
    vectors = rows.at(rows.order[: _SEED_ROWS * count])
    draw = np.random.default_rng(int(rows.drawn.min()))
    taken = [0]
    away = np.maximum(1 - vectors @ vectors[0], 0)
    for _ in range(1, count):
        total = np.cumsum(away, dtype=np.float64)
        if total[-1] <= 1e-6 * len(vectors):
            break
        tries = np.searchsorted(total, draw.random(2 + count.bit_length()) * total[-1])
        tries = np.minimum(tries, len(vectors) - 1)
        left = np.minimum(away, np.maximum(1 - vectors[tries] @ vectors.T, 0))
        best = int(left.sum(axis=1).argmin())
        away = left[best]
        taken.append(int(tries[best]))
    return vectors[taken]


def nearest(vectors: Any, centres: Any) -> Any:
    """[n] the centre with the highest cosine to each of `vectors` [n, D], the first of equals."""
    some = max(1, _NUMBERS_AT_ONCE // len(centres))
    found = np.empty(len(vectors), np.int64)
    for at in range(0, len(vectors), some):
        found[at : at + some] = (vectors[at : at + some] @ centres.T).argmax(axis=1)
    return found


def _round(rows: Rows, places: Any, centres: Any) -> tuple[Any, Any]:
    labels = np.empty(len(places), np.int64)
    sums = np.zeros(centres.shape, np.float64)
    for at in range(0, len(places), ROWS_AT_ONCE):
        part = slice(at, at + ROWS_AT_ONCE)
        vectors = rows.at(places[part])
        labels[part] = nearest(vectors, centres)
        order = np.argsort(labels[part], kind="stable")
        found, begins = np.unique(labels[part][order], return_index=True)
        sums[found] += np.add.reduceat(vectors[order], begins, axis=0, dtype=np.float64)
    return labels, sums


def _unit(sums: Any, before: Any) -> Any:
    """The sums as unit vectors; a centre without rows stays where it was."""
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    return np.where(lengths > 0, sums / np.maximum(lengths, 1e-12), before).astype(np.float32)

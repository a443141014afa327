"""Clusters of rows that repeat each other, for more rows than fit the memory with their keys.

A forest holds for each row an earlier row of its cluster or itself ([N] int64,
each at most the row's own place). Joining lets the later of two roots point to
the earlier, so that in the end each row points to the first of its cluster.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from itertools import combinations, pairwise
from math import comb
from typing import Any

import numpy as np

_BITS = 64
_ROWS_AT_ONCE = 1 << 15
_COLUMN_BYTES = 32 << 20
"""Most bytes of columns that are taken from the keys in one pass over them."""
_SORT, _COMPARE = 100.0, 10.0
"""Nanoseconds to sort a row, and to compare two: only their ratio matters."""
_MOST_PASSES = 2000


def forest(count: int) -> Any:
    """Rows that are all clusters of their own."""
    return np.arange(count, dtype=np.int64)


def join(parents: Any, left: Any, right: Any) -> None:
    """Join the clusters of the rows `left` [E] and `right` [E], pair by pair."""
    while len(left):
        left, right = _roots(parents, left), _roots(parents, right)
        apart = left != right
        left, right = left[apart], right[apart]
        np.minimum.at(parents, np.maximum(left, right), np.minimum(left, right))


def firsts_of(parents: Any) -> Any:
    """[N] int64, the first row of each row's cluster."""
    while True:
        above = parents[parents]
        if np.array_equal(above, parents):
            return parents
        parents = above


def join_equal(parents: Any, values: Any, places: Any = None) -> None:
    """Join rows whose `values` [N] are equal; `places` [N] says which rows they are."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    begins = np.concatenate(([True], ordered[1:] != ordered[:-1]))[: len(order)]
    heads = np.maximum.accumulate(np.where(begins, np.arange(len(order)), 0))
    repeats = np.flatnonzero(~begins)
    left, right = order[heads[repeats]], order[repeats]
    join(parents, *((left, right) if places is None else (places[left], places[right])))


def join_near(parents: Any, values: Any, bits: int, places: Any) -> None:
    """Join rows whose `values` [N] uint64 differ in at most `bits` bits.

    The bits are cut into blocks. Two values that near agree in all but `bits`
    of them; so for each choice of blocks only values that agree in the rest are
    compared. How many blocks changes the time, not the clusters.
    """
    join_equal(parents, values, places)
    values, at = np.unique(values, return_index=True)
    places = places[at]
    for mask in _masks(len(values), bits):
        agreeing = values & np.uint64(mask)
        order = np.argsort(agreeing)
        agreeing = agreeing[order]
        step, here = 0, np.arange(len(order))
        while len(here):
            step += 1
            here = here[: np.searchsorted(here, len(order) - step)]
            here = here[agreeing[here] == agreeing[here + step]]
            left, right = order[here], order[here + step]
            near = np.bitwise_count(values[left] ^ values[right]) <= bits
            join(parents, places[left[near]], places[right[near]])


def columns(keys: Any, width: int = 8) -> Iterator[Any]:
    """Each column of `keys` [N, columns * 8] uint8 as [N] uint64, read some at a time.

    Pages of a mapped file are given back as soon as they were read.
    """
    count = len(keys)
    number = keys.shape[1] // width
    some = max(1, _COLUMN_BYTES // max(1, width * count))
    for first in range(0, number, some):
        last = min(first + some, number)
        found = np.empty((last - first, count), dtype=np.uint64)
        for begin in range(0, count, _ROWS_AT_ONCE):
            rows = slice(begin, begin + _ROWS_AT_ONCE)
            part = np.ascontiguousarray(keys[rows, width * first : width * last])
            found[:, rows] = part.view(np.uint64).T
            _let_go(keys)
        yield from found


def _roots(parents: Any, places: Any) -> Any:
    found = parents[places]
    while True:
        above = parents[found]
        if np.array_equal(above, found):
            parents[places] = found
            return found
        found = above


def _masks(count: int, bits: int) -> Iterator[int]:
    """Which bits have to agree, for each choice of blocks that may differ."""
    blocks = min(range(bits, _BITS + 1), key=lambda blocks: _cost(count, blocks, bits))
    edges = [_BITS * at // blocks for at in range(blocks + 1)] if blocks else [0]
    pieces = [(1 << high) - (1 << low) for low, high in pairwise(edges)]
    for agreeing in combinations(pieces, blocks - bits):
        yield sum(agreeing)


def _cost(count: int, blocks: int, bits: int) -> float:
    passes = comb(blocks, bits)
    if passes > _MOST_PASSES:
        return float("inf")
    agreeing = _BITS * (blocks - bits) // blocks if blocks else 0
    return passes * (count * _SORT + count * count / 2 ** (agreeing + 1) * _COMPARE)


def _let_go(keys: Any) -> None:
    mapped = getattr(keys, "_mmap", None)
    if (
        isinstance(mapped, mmap.mmap)
        and hasattr(mmap, "MADV_DONTNEED")
        and keys.mode in ("r", "r+")
    ):
        mapped.madvise(mmap.MADV_DONTNEED)

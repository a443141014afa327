"""Finding, for a whole batch, where texts repeat a character n-gram."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from vlforge.ops.text.table import TextTable

_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_ROW = np.uint64(0xD6E8FEB86659FD93)


def repeats(table: TextTable, length: int) -> Iterator[tuple[int, list[int]]]:
    """(row, places) of the n-grams that may occur more than once in their text.

    Every n-gram that does is among them, and by a stray equal hash perhaps one
    that does not, so whoever counts must look at the characters. A polynomial
    hash of every n-gram of the batch, salted with its row, is sorted; equal
    neighbours are the find.
    """
    if length < 1 or not (table.lengths >= length).any():
        return
    hashes, rows, places = _hashes(table, length)
    order = np.argsort(hashes)
    ordered = hashes[order]
    equal = ordered[1:] == ordered[:-1]
    repeated = np.zeros(len(order), dtype=bool)
    repeated[1:] = equal
    repeated[:-1] |= equal
    found = np.sort(order[repeated])
    if not len(found):
        return
    cuts = np.flatnonzero(np.diff(rows[found])) + 1
    for some in np.split(found, cuts):
        row = int(rows[some[0]])
        yield row, (places[some] - table.starts[row]).tolist()


def _hashes(table: TextTable, length: int) -> tuple[Any, Any, Any]:
    """One hash per n-gram that stays inside its text, its row, and where it starts."""
    count = len(table.codes) - length + 1
    rows = np.repeat(np.arange(len(table.lengths)), table.lengths)[:count]
    places = np.arange(count)
    inside = places + length <= (table.starts + table.lengths)[rows]
    rows, places = rows[inside], places[inside]
    mixed = _window_hashes(table.codes.astype(np.uint64), length)[inside]
    mixed ^= mixed >> np.uint64(29)
    mixed += rows.astype(np.uint64) * _ROW
    return mixed, rows, places


def _window_hashes(codes: Any, length: int) -> Any:
    """Hash of every run of `length` codes, put together from runs of powers of two."""
    count = len(codes) - length + 1
    total = np.zeros(count, dtype=np.uint64)
    power, factor, taken = codes, int(_FACTOR), 0
    for bit in range(length.bit_length()):
        size = 1 << bit
        if length & size:
            total = total * np.uint64(factor) + power[taken : taken + count]
            taken += size
        if length >> (bit + 1):
            power = power[:-size] * np.uint64(factor) + power[size:]
        factor = factor * factor % 2**64
    return total

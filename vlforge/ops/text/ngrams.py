"""How much texts repeat their n-grams, for a whole batch and exactly.

Every n-gram gets a hash salted with its row. All are written into a table, each
at the slot that its hash names, and read back: who finds another one there has
found its like or a stray neighbour; strays go another round with other slots.
Nothing is sorted. What was found alike is compared character by character, and a
row in which unlike n-grams share a whole hash is left to the plain count, so the
hash decides about speed only.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import numpy as np

from vlforge.ops.text.table import SLICE, TextTable, Words, slices

Plain = Callable[[str, int], float]
"""The same share of one text, counted without numpy."""

LONG = 1 << 18
"""A text with more characters has its words counted by the plain way."""
_HALF = 1 << 16
"""Up to so many n-grams a hash of 32 bits is enough."""
_TABLE_BITS = 20
_ROUNDS = 48
_FACTOR, _ROW, _SLOT = 0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93, 0xC2B2AE3D27D4EB4F
_INVERSE = pow(_FACTOR, -1, 1 << 64)


class Repeats(NamedTuple):
    """The n-grams that occur more than once in their row.

    Attributes:
        rows: [G] the row of each, rising.
        counts: [G] how often it occurs there, at least 2.
        doubtful: rows that must be counted the plain way.
    """

    rows: Any
    counts: Any
    doubtful: Collection[int]


def character_ratios(texts: Sequence[str], length: int, plain: Plain) -> list[float]:
    """Per text, the share of its most frequent character n-grams."""

    def measure(part: TextTable) -> tuple[Any, Collection[int]]:
        return _most_frequent(character_repeats(part, length), part.lengths - length + 1)

    return _by_slices(texts, measure, functools.partial(plain, length=length))


def word_ratios(texts: Sequence[str], length: int, plain: Plain) -> list[float]:
    """Per text, the share of word n-grams, in lower case, that occur more than once."""

    def measure(part: TextTable) -> tuple[Any, Collection[int]]:
        if len(part.codes) > LONG:
            return np.zeros(len(part.texts)), range(len(part.texts))
        lower = TextTable([text.lower() for text in part.texts])
        words = lower.words()
        found = word_repeats(lower.codes, words, length)
        total = np.bincount(words.rows, minlength=len(part.texts)) - length + 1
        repeated = np.bincount(found.rows, weights=found.counts, minlength=len(part.texts))
        return _share(repeated, total), found.doubtful

    return _by_slices(texts, measure, functools.partial(plain, length=length))


def _by_slices(
    texts: Sequence[str],
    measure: Callable[[TextTable], tuple[Any, Collection[int]]],
    plain: Callable[[str], float],
) -> list[float]:
    found: list[float] = []
    for some in slices(texts):
        ratios, doubtful = measure(TextTable(some))
        for row in doubtful:
            ratios[row] = plain(some[row])
        found += ratios.tolist()
    return found


def _share(part: Any, total: Any) -> Any:
    """[R] float64 part / total, 0.0 where there is nothing."""
    return np.divide(part, total, out=np.zeros(len(total)), where=total > 0)


def _most_frequent(found: Repeats, total: Any) -> tuple[Any, Collection[int]]:
    """[R] the share of the most frequent n-grams, as many as the root of the distinct ones.

    `total` [R] is how many n-grams each row has.
    """
    shares = np.zeros(len(total))
    if len(found.rows):
        # One sort puts the counts of each row in falling order.
        most = (1 << 32) - 1
        order = np.sort((found.rows << 32) + (most - found.counts))
        in_row, counts = order >> 32, most - (order & most)
        begins = np.flatnonzero(np.diff(in_row, prepend=-1))
        rows = in_row[begins]
        groups = np.diff(begins, append=len(in_row))
        until = np.concatenate(([0], np.cumsum(counts)))
        distinct = total[rows] - (until[begins + groups] - until[begins]) + groups
        top = np.minimum(np.sqrt(distinct).astype(np.int64), groups)
        shares[rows] = (until[begins + top] - until[begins]) / total[rows]
    return shares, found.doubtful


def character_repeats(table: TextTable, length: int) -> Repeats:
    """The runs of `length` characters that occur more than once in their text."""
    codes = table.codes
    count = len(codes) - length + 1
    if not (table.lengths >= length).any():
        return _NONE
    dtype = _hash_type(count)
    rows = np.repeat(np.arange(len(table.lengths), dtype=np.uint32), table.lengths)
    hashes = _window_hashes(codes.astype(dtype, copy=False), length)
    hashes = hashes + rows[:count].astype(dtype, copy=False) * _cut(_ROW, dtype)
    inside = np.flatnonzero(rows[:count] == rows[length - 1 :])

    def alike(a: Any, b: Any) -> Any:
        same = rows[a] == rows[b]
        for step in range(length):
            same &= codes[a + step] == codes[b + step]
        return same

    return _repeats(hashes[inside], inside, rows, alike)


def word_repeats(codes: Any, words: Words, length: int) -> Repeats:
    """The runs of `length` words that occur more than once in their text."""
    count = len(words.rows) - length + 1
    inside = np.flatnonzero(words.rows[: max(0, count)] == words.rows[length - 1 :])
    if not len(inside):
        return _NONE
    dtype = _hash_type(count)
    hashes = _word_hashes(codes, words)
    if dtype == np.uint32:
        hashes = (hashes >> np.uint64(32)).astype(np.uint32)
    hashes = _window_hashes(hashes, length)
    hashes = hashes + words.rows[:count].astype(dtype) * _cut(_ROW, dtype)

    def alike(a: Any, b: Any) -> Any:
        same = words.rows[a] == words.rows[b]
        for step in range(length):
            same &= _same_words(codes, words, a + step, b + step)
        return same

    return _repeats(hashes[inside], inside, words.rows, alike)


def _same_words(codes: Any, words: Words, a: Any, b: Any) -> Any:
    """[P] whether word `a[p]` is word `b[p]`, character by character."""
    common = np.minimum(words.lengths[a], words.lengths[b])
    begins = np.cumsum(common) - common
    steps = np.arange(int(common.sum())) - np.repeat(begins, common)
    one = codes[np.repeat(words.starts[a], common) + steps]
    other = codes[np.repeat(words.starts[b], common) + steps]
    same = np.logical_and.reduceat(one == other, begins)
    return same & (words.lengths[a] == words.lengths[b])


def _repeats(hashes: Any, places: Any, rows: Any, alike: Callable[[Any, Any], Any]) -> Repeats:
    """Count equal n-grams.

    Args:
        hashes: [N] salted with the row; equal for equal n-grams of a row.
        places: [N] where each n-gram starts, rising.
        rows: the row of each place.
        alike: exactly which of two lists of places, pair by pair, hold the same n-gram of a row.
    """
    members, firsts, left = _pairs(hashes)
    doubtful = set(rows[places[left]].tolist())
    if len(members):
        same = alike(places[members], places[firsts])
        doubtful |= set(rows[places[members[~same]]].tolist())
        firsts = firsts[same]
    if not len(firsts):
        return _NONE._replace(doubtful=doubtful)
    counts = np.bincount(firsts)
    found = np.flatnonzero(counts)
    return Repeats(rows[places[found]].astype(np.int64), counts[found] + 1, doubtful)


def _pairs(hashes: Any) -> tuple[Any, Any, Any]:
    """(members, firsts, left): each member has the hash of its first; one first per hash.

    Whatever shares its hash with no other is in none of the three; `left` was not settled.
    """
    width = 8 * hashes.dtype.itemsize
    bits = min(_TABLE_BITS, max(8, (4 * len(hashes) - 1).bit_length()))
    table = np.empty(1 << bits, dtype=np.uint32)
    shift = _cut(width - bits, hashes.dtype)
    at, keys, factor = np.arange(len(hashes), dtype=np.uint32), hashes, _SLOT
    members, firsts = [at[:0]], [at[:0]]
    for _ in range(_ROUNDS):
        slots = (keys * _cut(factor, hashes.dtype) >> shift).astype(np.intp)
        table[slots] = at
        winners = table[slots]
        lost = np.flatnonzero(winners != at)
        at, keys, winners = at[lost], keys[lost], winners[lost]
        equal = keys == hashes[winners]
        members.append(at[equal])
        firsts.append(winners[equal])
        at, keys = at[~equal], keys[~equal]
        if not len(at):
            break
        factor = factor * _FACTOR | 1
    return np.concatenate(members), np.concatenate(firsts), at


def _window_hashes(codes: Any, length: int) -> Any:
    """Hash of every run of `length` codes, put together from runs of powers of two."""
    count = len(codes) - length + 1
    total: Any = None
    power, factor, taken = codes, _FACTOR, 0
    for bit in range(length.bit_length()):
        size = 1 << bit
        times = _cut(factor, codes.dtype)
        if length & size:
            piece = power[taken : taken + count]
            total = piece if total is None else total * times + piece
            taken += size
        if length >> (bit + 1):
            power = power[:-size] * times + power[size:]
        factor *= factor
    return total


def _word_hashes(codes: Any, words: Words) -> Any:
    """[W] uint64: a polynomial over each word's characters, the high bits well mixed."""
    powers, inverses = _powers(max(SLICE, 1 << len(codes).bit_length()))
    sums = np.zeros(len(codes) + 1, dtype=np.uint64)
    np.cumsum(codes * powers[: len(codes)], out=sums[1:])
    hashes = (sums[words.starts + words.lengths] - sums[words.starts]) * inverses[words.starts]
    hashes ^= hashes >> np.uint64(31)
    return hashes * np.uint64(_SLOT)


@functools.cache
def _powers(count: int) -> tuple[Any, Any]:
    """[count] uint64 powers of the factor, and of its inverse, modulo 2^64."""
    steps = np.full((2, count), [[_FACTOR], [_INVERSE]], dtype=np.uint64)
    steps[:, 0] = 1
    powers, inverses = np.cumprod(steps, axis=1, dtype=np.uint64)
    return powers, inverses


def _hash_type(count: int) -> Any:
    return np.dtype(np.uint32 if count <= _HALF else np.uint64)


def _cut(value: int, dtype: Any) -> Any:
    """The low bits of `value` as a number of this type."""
    return dtype.type(value & ((1 << 8 * dtype.itemsize) - 1))


_NONE = Repeats(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), frozenset())

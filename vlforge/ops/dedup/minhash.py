"""Minhash: signatures whose agreement estimates how many shingles two texts share.

Each of P permutations maps a shingle's hash h to ((a h + b) mod 2^64) mod (2^61 - 1),
of which 32 bits count; a signature holds the least value under each. Bands of
some rows are compared as wholes (locality-sensitive hashing).

Sources: Broder 1997; Leskovec, Rajaraman, Ullman, Mining of Massive Datasets,
chapter 3; hash family and permutations are datasketch's, as Data-Juicer uses them.
"""

from __future__ import annotations

import functools
import hashlib
from typing import Any

import numpy as np

from vlforge.ops.dedup.shingles import Shingles

_PRIME = (1 << 61) - 1
_MOST = np.uint32(0xFFFFFFFF)
_AT_ONCE = 128
"""Runs of shingles whose permuted hashes lie in the cache together."""
_RUN = 32
"""Shingles of a run: a longer text counts as several."""
_SEED = 42
_MIX = np.uint64(0x9E3779B97F4A7C15)
"""2^64 over the golden ratio (Knuth): spreads neighbours."""


def signatures(shingles: Shingles, permutations: int) -> Any:
    """[texts, permutations] uint32; all bits set where a text has no shingle."""
    hashes = _hashes(shingles)
    starts, lengths, owners = _runs(shingles.counts)
    least = _least_of_runs(hashes, starts, lengths, permutations)
    out = np.full((len(shingles.counts), permutations), _MOST)
    firsts = np.flatnonzero(np.diff(owners, prepend=-1))
    out[owners[firsts]] = least[firsts]
    for at in np.flatnonzero(np.diff(owners) == 0) + 1:
        np.minimum(out[owners[at]], least[at], out=out[owners[at]])
    return out


def band_keys(signatures: Any, bands: int, rows: int) -> Any:
    """[texts, bands] uint64: equal where the `rows` values of a band are.

    Different bands agree by chance once in 2^64. Rows past the last permutation
    count as equal everywhere.
    """
    wide = np.zeros((len(signatures), bands, rows + rows % 2), dtype=np.uint32)
    flat = np.zeros((len(signatures), bands * rows), dtype=np.uint32)
    used = min(signatures.shape[1], bands * rows)
    flat[:, :used] = signatures[:, :used]
    wide[:, :, :rows] = flat.reshape(len(signatures), bands, rows)
    pairs = wide.view(np.uint64)
    keys = np.zeros(pairs.shape[:2], dtype=np.uint64)
    for at in range(pairs.shape[2]):
        keys ^= pairs[:, :, at]
        keys *= _MIX
        keys ^= keys >> np.uint64(32)
    return keys


@functools.cache
def bands_and_rows(threshold: float, permutations: int) -> tuple[int, int]:
    """How many bands of how many rows err least around a Jaccard similarity of `threshold`.

    The chance that two texts of similarity s share a band is 1 - (1 - s^rows)^bands.
    Its integral below the threshold and that of the opposite above it weigh the
    same. Gauss's rule is exact for these polynomials.
    """
    nodes, weights = np.polynomial.legendre.leggauss(min(permutations // 2 + 1, 512))
    below, above = threshold * (nodes + 1) / 2, 1 - (1 - threshold) * (1 - nodes) / 2
    best, found = np.inf, (0, 0)
    for bands in range(1, permutations + 1):
        rows = np.arange(1, permutations // bands + 1)[:, None]
        wrong = (1 - (1 - below**rows) ** bands) @ weights * (threshold / 2)
        missed = (1 - above**rows) ** bands @ weights * ((1 - threshold) / 2)
        errors = 0.5 * wrong + 0.5 * missed
        at = int(errors.argmin())
        if errors[at] < best:
            best, found = errors[at], (bands, at + 1)
    return found


@functools.cache
def permutations_of(count: int) -> tuple[Any, Any]:
    """Factors and summands [count] uint64, drawn in turn."""
    draw = np.random.RandomState(_SEED).randint
    pairs = [
        (draw(1, _PRIME, dtype=np.uint64), draw(0, _PRIME, dtype=np.uint64)) for _ in range(count)
    ]
    factors, summands = np.array(pairs, dtype=np.uint64).reshape(count, 2).T.copy()
    return factors, summands


def _hashes(shingles: Shingles) -> Any:
    """[S] uint64: the first 32 bits of each shingle's SHA-1."""
    sha1 = hashlib.sha1
    digests = b"".join(
        b"".join([sha1(shingle).digest() for shingle in some]) for some in shingles.slices()
    )
    return np.frombuffer(digests, dtype="<u4")[::5].astype(np.uint64)


def _runs(counts: Any) -> tuple[Any, Any, Any]:
    """Where each run of at most `_RUN` shingles begins, its length, and whose text it is."""
    pieces = -(-counts // _RUN)
    owners = np.repeat(np.arange(len(counts)), pieces)
    within = (np.arange(len(owners)) - np.repeat(np.cumsum(pieces) - pieces, pieces)) * _RUN
    starts = (np.cumsum(counts) - counts)[owners] + within
    return starts, np.minimum(counts[owners] - within, _RUN), owners


def _least_of_runs(hashes: Any, starts: Any, lengths: Any, permutations: int) -> Any:
    """[runs, permutations] uint32, the least permuted hash of each run.

    Runs of like length go together: their first shingles, their second ones ...
    A value v mod (2^61 - 1) is v's low 61 bits plus its high 3; the sum's low 32
    bits are taken without the last subtraction, which only sums from 2^61 - 1
    on would need. No 32-bit hash reaches one under these permutations (a test
    shows it for the first 4096).
    """
    factors, summands = permutations_of(permutations)
    out = np.empty((len(starts), permutations), dtype=np.uint32)
    order = np.argsort(-lengths, kind="stable")
    for begin in range(0, len(order), _AT_ONCE):
        runs = order[begin : begin + _AT_ONCE]
        least = np.full((len(runs), permutations), _MOST)
        for at in range(int(lengths[runs[0]])):
            still = int(np.searchsorted(-lengths[runs], -at, side="left"))
            values = hashes[starts[runs[:still]] + at][:, None] * factors
            values += summands
            values += values >> np.uint64(61)
            np.minimum(least[:still], values.astype(np.uint32), out=least[:still])
        out[runs] = least
    return out

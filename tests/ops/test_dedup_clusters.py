"""Clusters of repeats equal those by definition, however they are read."""

from __future__ import annotations

from collections import defaultdict
from itertools import combinations

import numpy as np
import pytest

from vlforge.ops.dedup import clusters


def by_definition(count: int, pairs) -> list[int]:
    """The least row that each row reaches over the pairs."""
    near = defaultdict(set)
    for left, right in pairs:
        near[left].add(right)
        near[right].add(left)
    first = [-1] * count
    for start in range(count):
        waiting = [start] if first[start] < 0 else []
        while waiting:
            row = waiting.pop()
            if first[row] < 0:
                first[row] = start
                waiting += near[row]
    return first


@pytest.mark.parametrize("edges", [0, 1, 30, 90, 400])
def test_joined_rows_point_to_the_first_of_their_cluster(edges):
    pick = np.random.default_rng(edges)
    pairs = pick.integers(0, 100, (edges, 2))
    parents = clusters.forest(100)
    for part in np.array_split(pairs, 3):
        clusters.join(parents, part[:, 0], part[:, 1])
    assert clusters.firsts_of(parents).tolist() == by_definition(100, pairs.tolist())


def test_a_long_chain_is_one_cluster():
    order = np.random.default_rng(0).permutation(5000)
    parents = clusters.forest(5000)
    clusters.join(parents, order[1:], order[:-1])
    assert not clusters.firsts_of(parents).any()


@pytest.mark.parametrize("places", [None, np.arange(50) * 2 + 1])
def test_rows_with_equal_values_are_one_cluster(places):
    values = np.random.default_rng(1).integers(0, 20, 50).astype(np.uint64)
    names = list(range(50)) if places is None else places.tolist()
    parents = clusters.forest(101)
    clusters.join_equal(parents, values, places)
    pairs = [(names[a], names[b]) for a, b in combinations(range(50), 2) if values[a] == values[b]]
    assert clusters.firsts_of(parents).tolist() == by_definition(101, pairs)


@pytest.mark.parametrize("bits", [0, 1, 3, 4, 7, 12, 20, 40, 64])
def test_values_within_the_distance_are_one_cluster(bits):
    pick = np.random.default_rng(bits)
    values = pick.integers(0, 1 << 63, 40, dtype=np.uint64)
    flips = [
        sum(1 << int(bit) for bit in pick.choice(64, int(pick.integers(0, bits + 3)) % 65, False))
        for _ in range(160)
    ]
    values = np.concatenate((values, values[pick.integers(0, 40, 160)] ^ np.array(flips, "u8")))
    values = pick.permutation(values)
    parents = clusters.forest(200)
    clusters.join_near(parents, values, bits, np.arange(200))
    known = values.tolist()
    pairs = [(a, b) for a, b in combinations(range(200), 2)
             if (known[a] ^ known[b]).bit_count() <= bits]  # fmt: skip
    assert clusters.firsts_of(parents).tolist() == by_definition(200, pairs)


@pytest.mark.parametrize(("count", "bits"), [(2, 4), (1000, 4), (10**6, 4), (10**6, 8), (10**8, 3)])
def test_whatever_blocks_are_chosen_near_values_agree_in_one_of_the_masks(count, bits):
    masks = list(clusters._masks(count, bits))
    pick = np.random.default_rng(0)
    for _ in range(300):
        differ = sum(1 << int(bit) for bit in pick.choice(64, bits, replace=False))
        assert any(not differ & mask for mask in masks)


@pytest.mark.parametrize("column_bytes", [1, 8 * 70 * 2, 1 << 20])
def test_columns_of_a_mapped_file_are_those_of_the_array(tmp_path, monkeypatch, column_bytes):
    monkeypatch.setattr(clusters, "_COLUMN_BYTES", column_bytes)
    monkeypatch.setattr(clusters, "_ROWS_AT_ONCE", 32)
    keys = np.random.default_rng(0).integers(0, 256, (70, 1 + 40), dtype=np.uint8)
    keys.tofile(tmp_path / "keys")
    mapped = np.memmap(tmp_path / "keys", np.uint8, "r").reshape(70, 41)[:, 1:]
    wanted = np.ascontiguousarray(keys[:, 1:]).view(np.uint64).T
    for given in (keys[:, 1:], mapped):
        assert np.array_equal(list(clusters.columns(given)), wanted)


def test_no_rows_are_no_clusters():
    parents = clusters.forest(0)
    clusters.join_equal(parents, np.empty(0, np.uint64))
    clusters.join_near(parents, np.empty(0, np.uint64), 4, np.empty(0, np.int64))
    assert clusters.firsts_of(parents).tolist() == []

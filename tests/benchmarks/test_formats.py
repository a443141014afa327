"""The parts of `benchmarks/formats.py`: every format made, and read alike in both ways."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

# The parts import one another as `benchmarks/formats.py` finds them.
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from format_parts.decoding import WHAT, decode_alone
from format_parts.layouts import LAYOUTS, make
from format_parts.made import content, made_rows
from format_parts.peers import LIBRARIES
from format_parts.plain import READERS, total
from format_parts.reading import read_ours
from format_parts.writing import UNWRITTEN, write_ours

from vlforge.data.formats.index import places


def test_every_format_is_measured():
    assert set(LAYOUTS) == set(READERS) == set(WHAT) == set(places())
    assert set(LAYOUTS) - set(LIBRARIES) == {"folder"}


def test_made_rows_are_the_same_each_time_and_pictures_differ():
    assert list(made_rows(50))[:5] == list(made_rows(5))
    assert len({content(number) for number in range(300)}) == 300


@pytest.mark.parametrize("name", LAYOUTS)
def test_both_ways_read_the_same(name, tmp_path):
    path = make(name, tmp_path, 30)
    ours, plain = total(read_ours(name, path)), total(READERS[name](path))
    assert ours == plain
    assert ours.rows == (3 if name == "folder" else 30)
    assert ours.characters > 0 < ours.picture_bytes
    decode_alone(name, path)


@pytest.mark.parametrize("name", sorted(set(LAYOUTS) - set(UNWRITTEN)))
def test_what_we_write_reads_the_plain_way(name, tmp_path):
    path = make(name, tmp_path, 30)
    target = tmp_path / "ours" / path.name
    target.parent.mkdir()
    write_ours(name, path, target)
    assert total(READERS[name](target)) == total(READERS[name](path))

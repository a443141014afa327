"""Arrays that are read item by item: the same values, however the file is cut into pieces."""

from __future__ import annotations

import io
import json
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlforge.data import json_arrays
from vlforge.data.json_arrays import Broken, array_items, object_members
from vlforge.data.json_lines import read_values, write_array
from vlforge.types import DataError

TEXTS = st.sampled_from(("", 'a"b\\', '}, {"id"', "é漢", "[", "]", "\n"))
VALUES = st.recursive(
    TEXTS | st.integers() | st.booleans() | st.none(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(("id", "from", 'a"')), inner, max_size=3)
    ),
    max_leaves=8,
)
ROWS = st.lists(st.fixed_dictionaries({"id": st.integers(), "v": VALUES}), max_size=12)
LISTS = ROWS | st.lists(VALUES, max_size=8)


def told(value: object, indent: int | None, ascii_only: bool) -> bytes:
    return json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(LISTS, st.sampled_from((None, 2)), st.booleans(), st.sampled_from((3, 40, 1 << 20)))
def test_items_are_those_of_the_whole_array(values, indent, ascii_only, block):
    data = told(values, indent, ascii_only)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_arrays, "_BLOCK", block)
        assert [json.loads(item) for item in array_items(io.BytesIO(data))] == values
        both = told({"a": 1, "images": values, "annotations": values[::-1]}, indent, ascii_only)
        members = list(object_members(io.BytesIO(both), ("images", "annotations")))
        assert [json.loads(v) for k, v in members if k == "images"] == values
        assert [json.loads(v) for k, v in members if k == "annotations"] == values[::-1]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(ROWS.filter(bool), st.floats(0, 0.999))
def test_an_array_that_is_cut_gives_its_items_before_it_says_so(values, share):
    data = told(values, None, True)
    items = array_items(io.BytesIO(data[: int(len(data) * share)]))
    found: list[object] = []
    with pytest.raises(Broken, match="not JSON"):
        found.extend(json.loads(item) for item in items)
    assert found == values[: len(found)]


def test_a_cut_array_keeps_its_good_rows_and_tells_the_place(tmp_path):
    path = tmp_path / "a.json"
    write_array(path, [{"id": n} for n in range(5)])
    path.write_bytes(path.read_bytes()[:-10])
    found = list(read_values(path))
    assert [value for _, value in found[:-1]] == [{"id": n} for n in range(4)]
    line, error = found[-1]
    assert line == 5
    assert isinstance(error, DataError)
    assert "broken after item 4" in str(error)


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ('[{"id": 1}, {"id" 2}, {"id": 3}]', [1, None, 3]),
        ('[{"id": 1}, {"id": "\xff"}, {"id": 3}]', [1, None, 3]),
        ('[{"id": 1}, {"id": NaN}, {"id": 3}]', [1, float("nan"), 3]),
    ],
)
def test_an_item_that_is_no_json_costs_itself(tmp_path, text, rows):
    path = tmp_path / "a.json"
    path.write_bytes(text.encode("latin-1"))
    found = [None if isinstance(v, DataError) else v["id"] for _, v in read_values(path)]
    assert str(found) == str(rows)


def test_a_second_array_in_the_file_is_told():
    with pytest.raises(Broken, match="behind the array's end"):
        list(array_items(io.BytesIO(b'[{"a": 1}]\n[{"a": 2}]')))


def test_memory_does_not_grow_with_the_array(tmp_path):
    path = tmp_path / "a.json"
    write_array(path, ({"id": n, "text": "x" * 900} for n in range(20_000)))
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_values(path)) == 20_000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < path.stat().st_size / 2

"""Blocks of csv text give the cells that the standard library's reader gives."""

from __future__ import annotations

import csv
import io
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlforge.data import csv_rows
from vlforge.data.csv_rows import CsvText, split_rows
from vlforge.data.formats.index import find

_PIECE = st.sampled_from(
    ["", "a", "b c", ",", ";", "\t", '"', '""', '"a"', '"a,b"', '"a\nb"', '"a\r\nb"',
     '"say ""no"""', '""""', 'x"y', '"x"y', " ", "7", "红", "\x01", "\x02", "\x03", "\n", "\r",
     "\r\n", "\0", "<image>"]
)  # fmt: skip
_ODD_LINE = st.lists(_PIECE, max_size=6).map("".join)
_CELL = st.sampled_from(["a", "", "b c", '"x,y"', '"p\nq"', '"p\r\nq"', '"it""s"', '""', "红", "7"])
_EVEN_LINE = st.tuples(_CELL, _CELL, _CELL).map(",".join)
_LINES = st.lists(st.one_of(_EVEN_LINE, _EVEN_LINE, _EVEN_LINE, _ODD_LINE), max_size=12)


def tables(text: str, block: int) -> list[csv_rows.Table]:
    """What is read after the header."""
    with patch.object(csv_rows, "_BLOCK", block):
        found = CsvText(io.BytesIO(text.encode()))
        found.head()
        return list(found.tables(","))[1:]


def rows_of(found: list[csv_rows.Table]) -> list[list[str]]:
    """Tables as rows."""
    rows: list[list[str]] = []
    for table in found:
        rows += map(list, zip(*table, strict=True)) if isinstance(table, tuple) else table
    return rows


@settings(max_examples=400, deadline=None, derandomize=True)
@given(
    lines=_LINES,
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    is_ended=st.booleans(),
    block=st.sampled_from([7, 20, 1 << 14]),
)
def test_rows_are_those_of_the_standard_librarys_reader(lines, end, is_ended, block):
    text = end.join(["id,image,caption", *lines]) + (end if is_ended else "")
    known = io.StringIO(text.replace("\0", ""), newline="")
    wanted = [cells for cells in csv.reader(known) if cells][1:]
    assert rows_of(tables(text, block)) == wanted


@settings(max_examples=200, deadline=None, derandomize=True)
@given(lines=_LINES, block=st.sampled_from([20, 1 << 14]))
def test_records_are_those_of_rows_read_one_by_one(tmp_path_factory, lines, block):
    path = tmp_path_factory.mktemp("rows") / "a.csv"
    path.write_text("\n".join(["id,image,caption", *lines]), "utf-8", newline="")
    read = find("csv").read
    with patch.object(csv_rows, "_BLOCK", block):
        at_once = list(read(path))
        with patch.object(csv_rows, "split_rows", lambda *_: ()):
            one_by_one = list(read(path))
    assert at_once == one_by_one


@pytest.mark.parametrize("row", ["1,a.jpg,red", '1,a.jpg,"red, and ""round"""', '1,"a\nb",c'])
def test_usual_rows_are_read_by_columns(row):
    found = tables("\n".join(["id,image,caption", *[row] * 500]), 1 << 10)
    assert all(isinstance(table, tuple) for table in found)
    assert len(rows_of(found)) == 500


def test_an_odd_row_costs_columns_for_a_while_only():
    rows = ["1,a.jpg,red"] * 2000
    rows[300] = '2,b.jpg,5" wide'
    found = tables("\n".join(["id,image,caption", *rows]), 1 << 10)
    assert rows_of(found)[300] == ["2", "b.jpg", '5" wide']
    assert isinstance(found[-1], tuple)


@pytest.mark.parametrize(
    "text", ['1,2\n"a"b,c\n', "1,2\n3\n", "1\n2\n", "1,2\n\n", '1,"2\n', "1,2\r3,4\n", "\x01,2\n"]
)
def test_what_is_not_plain_is_left_to_the_reader(text):
    assert split_rows(text, ",", 2) == ()

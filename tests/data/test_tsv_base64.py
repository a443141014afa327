"""Caption TSVs with pictures in base64."""

from __future__ import annotations

import base64
import gzip
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.pictures_made import picture
from vlforge.data.formats import tsv_base64
from vlforge.data.formats.index import detect, find
from vlforge.data.records import Fault, Picture, Record, Unfit
from vlforge.types import Turn

JPG = picture(3)
B64 = base64.b64encode(JPG)


def record(caption="<image>\na red bus", **more):
    return Record("a", (Picture(content=JPG),), (), (caption,), **more)


def test_rows_come_back_as_they_were(tmp_path):
    path = tmp_path / "a.tsv"
    with find("tsv_base64").writer(path) as out:
        out.write(record())
        out.write(record("<image>\n风格:水彩"))
        out.write(Record("b", (Picture(content=JPG),)))
    assert path.read_bytes().split(b"\n")[0] == b"a\t" + B64 + b"\ta red bus"
    found = list(detect(path).read(path))
    assert [one.chunks for one in found] == [("<image>\na red bus",), ("<image>\n风格:水彩",), ()]
    assert [one.line for one in found] == [1, 2, 3]
    assert all(one.pictures[0].content == JPG for one in found)


@pytest.mark.parametrize(
    ("line", "number", "chunks"),
    [
        (b"7\t" + B64, "7", ()),
        (B64 + b"\tred", None, ("<image>\nred",)),
        (b"7\t" + B64 + b"\t", "7", ("<image>\n",)),
        (b"\xef\xbb\xbf7\t" + B64 + b"\tred\r", "7", ("<image>\nred",)),
    ],
)
def test_columns_are_told_apart(tmp_path, line, number, chunks):
    path = tmp_path / "a.tsv"
    path.write_bytes(line + b"\n\n")
    (found,) = detect(path).read(path)
    assert (found.id, found.chunks, found.pictures[0].content) == (number, chunks, JPG)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"1\t" + B64[:-5] + b"\tcut", "a picture is not base64"),
        (b"1\t!!!!\tno", "a picture is not base64"),
        (b"1\t\tno", "a picture is empty"),
        (b"1", "a line has not 2 or 3 columns"),
        (b"1\t" + B64 + b"\ta\tb", "a line has not 2 or 3 columns"),
        (b"1\t" + B64 + b"\t\xff\xfe", "a line is not UTF-8"),
    ],
)
def test_a_broken_row_costs_itself_only(tmp_path, line, reason):
    path = tmp_path / "a.tsv"
    good = b"2\t" + B64 + b"\tgood\n"
    path.write_bytes(good + line + b"\n" + good)
    first, bad, last = detect(path).read(path)
    assert (bad.line, bad.reason) == (2, reason)
    assert (first.id, last.line) == ("2", 3)


def test_a_packed_file_that_is_cut_gives_what_was_whole(tmp_path):
    path = tmp_path / "a.tsv.gz"
    rows = b"".join(b"%d\t%s\tgood\n" % (n, B64) for n in range(5000))
    path.write_bytes(gzip.compress(rows, 0)[: len(rows) // 2])
    *good, bad = find("tsv_base64").read(path)
    assert len(good) > 1000
    assert isinstance(bad, Fault)


def test_what_divides_lines_does_not_fit_unless_a_space_may_stand_there(tmp_path):
    odd = record("<image>\na\tb\nc")
    with find("tsv_base64").writer(tmp_path / "a") as out, pytest.raises(Unfit, match="tab"):
        out.write(odd)
    with find("tsv_base64", line_breaks="space").writer(tmp_path / "b") as out:
        out.write(odd)
    (found,) = find("tsv_base64").read(tmp_path / "b")
    assert found.chunks == ("<image>\na b c",)


def test_an_asked_question_is_lost_only_on_request(tmp_path):
    turns = (Turn("user", "<image>\nWhat?"), Turn("assistant", "A bus."))
    talk = Record("a", (Picture(content=JPG),), turns)
    with find("tsv_base64").writer(tmp_path / "a") as out, pytest.raises(Unfit):
        out.write(talk)
    with find("tsv_base64", loses_question=True).writer(tmp_path / "a") as out:
        out.write(talk)
    assert (tmp_path / "a").read_text().endswith("\tA bus.\n")


_CELL = st.sampled_from(
    [b"", b" ", b"7", B64, B64 + b" ", B64[:-3], b"a b", b'say "hi"', b"back\\slash\\", b"\\u0041",
     "红色".encode(), b"\xff", b"\xed\xa0\x80", b"<image>", b"x<image>y", b"\r", b"a\rb", b"\x0b",
     b'","', b'"],["', b"\xef\xbb\xbf"]
)  # fmt: skip
_WHOLE = st.tuples(_CELL, st.just(B64), _CELL).map(b"\t".join)
_LINE = st.one_of(_WHOLE, _WHOLE, st.lists(_CELL, max_size=4).map(b"\t".join))


@settings(deadline=None, derandomize=True)
@given(
    lines=st.lists(_LINE, max_size=6),
    end=st.sampled_from([b"\n", b"\r\n", b"\r\r\n"]),
    block=st.sampled_from([16, 1000, 1 << 16]),
)
def test_rows_decoded_at_once_are_those_decoded_alone(tmp_path_factory, lines, end, block):
    path = tmp_path_factory.mktemp("rows") / "a.tsv"
    path.write_bytes(end.join(lines))
    read = find("tsv_base64").read
    with patch.object(tsv_base64, "_BLOCK", block):
        at_once = list(read(path))
        with patch.object(tsv_base64, "_at_once", lambda text, number: []):
            alone = list(read(path))
    assert at_once == alone


def test_a_line_that_is_too_long_costs_itself_only(tmp_path):
    path = tmp_path / "a.tsv"
    row = b"1\t" + B64 + b"\tred"
    path.write_bytes(b"\n".join([row, b"2\t" + B64 * 9 + b"\tlong", row, row]))
    with (
        patch.object(tsv_base64, "_LONGEST", len(row) * 2),
        patch.object(tsv_base64, "_BLOCK", 512),
    ):
        found = list(find("tsv_base64").read(path))
    assert [isinstance(one, Fault) for one in found] == [False, True, False, False]
    assert [one.line for one in found] == [1, 2, 3, 4]
    assert "a line is longer" in found[1].reason

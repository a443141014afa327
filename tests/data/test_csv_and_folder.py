"""csv with a header, and folders of pictures with a text beside each."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest

from tests.data.pictures_made import picture
from vlforge.data.formats.csv import cell_of, value_of
from vlforge.data.formats.index import detect, find
from vlforge.data.records import Fault, Picture, Record, Unfit
from vlforge.types import DataError, Turn

JPG, PNG = picture(4), picture(5, "PNG")


def write(name: str, path: Path, records: list[Record], **options) -> Path:
    with find(name, **options).writer(path) as out:
        for record in records:
            out.write(record)
    return path


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_rows_come_back_with_their_other_columns(tmp_path, name):
    extras = [
        {"width": 256, "ok": True, "note": "256", "tags": ["a", 1], "x": None, "s": 'said "hi"'},
        {"late": "007", "image": "a field of that name", "empty": "", "many": "a\nb\tc,d"},
    ]
    records = [
        Record(
            str(n), (Picture(f"p/{n}.jpg", str(tmp_path)),), (), (f'<image>\nred, "{n}"',), extra
        )
        for n, extra in enumerate(extras)
    ]
    records.append(Record("t", (), (), ("no picture",)))
    path = write("csv", tmp_path / name, records)
    assert detect(path).name == "csv"
    found = list(detect(path).read(path))
    assert [(r.id, r.chunks, r.pictures, r.extra) for r in found] == [
        (r.id, r.chunks, r.pictures, r.extra) for r in records
    ]
    with path.open(newline="") as file:
        rows = list(csv.reader(file, delimiter="," if name == "a.csv" else "\t"))
    assert len({len(row) for row in rows}) == 1
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("URL,TEXT,width\nhttp://x/a.jpg,red,256\n", ("http://x/a.jpg", "red", {"width": 256})),
        ("file_name\ttext\tzip\na.jpg\tred\t007\n", ("a.jpg", "red", {"zip": "007"})),
        (
            '\ufeffpath;caption;n\r\na.jpg;"red; blue";1.10\r\n',
            ("a.jpg", "red; blue", {"n": "1.10"}),
        ),
        ('"image","caption","text"\n"a.jpg","red","other"\n', ("a.jpg", "red", {"text": "other"})),
    ],
)
def test_columns_are_found_by_name(tmp_path, text, told):
    path = tmp_path / "a.csv"
    path.write_text(text, encoding="utf-8", newline="")
    (found,) = detect(path).read(path)
    assert (found.pictures[0].path, found.chunks[0].removeprefix("<image>\n"), found.extra) == told


def test_a_bad_row_costs_itself_only(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"image,caption\na.jpg,one\nb.jpg\nc.jpg,x,y\nd.jpg,\xff\ne.jpg,two\n")
    found = list(detect(path).read(path))
    assert [type(one) is Fault for one in found] == [False, True, True, True, False]
    assert [one.line for one in found] == [1, 2, 3, 4, 5]
    assert found[3].reason == "a row is not UTF-8"


def test_a_cell_too_long_to_be_held_is_a_fault(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"image,caption\na.jpg," + b"x" * (40 << 20) + b"\nb.jpg,two\n")
    bad, *_, good = find("csv").read(path)
    assert bad.reason == "a row cannot be read"
    assert good.chunks == ("<image>\ntwo",)


@pytest.mark.parametrize(
    "value", ["", "a", "7", "007", "-", '"', '"7"', '"a"', "null", "[1,2]", "[1, 2]", 7, 1.5, None,
              True, [1, "a"], {"a": {"b": None}}, '"\\"7\\""', "NaN", "1e5", "{"],
)  # fmt: skip
def test_cells_keep_values(value):
    kept = value_of(cell_of(value))
    assert kept == value
    assert type(kept) is type(value)


@pytest.mark.parametrize("cell", ["7", "007", '"7"', '"a"', "null", "1.10", "1e5", "[1, 2]", '"'])
def test_a_cell_is_written_as_it_was_read(cell):
    assert cell_of(value_of(cell)) == cell


def test_a_header_with_a_name_twice_is_refused(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("image,caption,caption\na,b,c\n")
    with pytest.raises(DataError, match="named twice"):
        list(find("csv").read(path))


TALK = Record(
    7, (Picture("sub/y.png", content=PNG),),
    (Turn("user", "<image>\nWhich?"), Turn("assistant", "Both.")), (), {"caption": "kept"},
)  # fmt: skip


def test_a_folder_comes_back_as_it_was(tmp_path):
    records = [
        Record("a", (Picture(content=JPG),), (), ("<image>\nred",)),
        Record("b/c", (Picture(content=PNG),), (), ("<image>\nline\nline ",), {"score": 1.5}),
        Record("d", (Picture(content=JPG),), (), ("behind <image>",)),
        Record("../../e", (Picture("/etc/x.jpg", content=JPG),), (), (), {"text": "t"}),
        TALK,
    ]
    path = write("folder", tmp_path / "out", records, keep_names=True)
    assert detect(path).name == "folder"
    found = {str(one.id): one for one in detect(path).read(path)}
    for record in records:
        back = found[str(record.id)]
        assert (back.id, back.turns, back.chunks, back.extra) == (
            record.id, record.turns, record.chunks, record.extra
        )  # fmt: skip
        assert back.pictures[0].read() == record.pictures[0].content
    names = sorted(str(p.relative_to(path)) for p in path.rglob("*") if p.is_file())
    assert names == [
        "00000/000000003.jpg", "00000/000000003.json", "a.jpg", "a.txt", "b/c.json", "b/c.png",
        "b/c.txt", "d.jpg", "d.json", "d.txt", "sub/y.json", "sub/y.png",
    ]  # fmt: skip
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_name_that_is_taken_is_not_written_over(tmp_path):
    twice = [
        Record("a", (Picture(content=c),), (), (f"<image>\n{n}",)) for n, c in enumerate((JPG, PNG))
    ]
    path = write("folder", tmp_path / "out", twice, keep_names=True)
    found = list(find("folder").read(path))
    assert {(one.id, one.pictures[0].read()) for one in found} == {("a", JPG), ("a", PNG)}


def test_texts_beside_pictures_are_read_sorted_and_bad_ones_cost_themselves(tmp_path):
    for name in ("b.jpg", "a.PNG", "sub/c.webp", "d.jpg", "e.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(JPG)
    (tmp_path / "b.txt").write_text("two\n")
    (tmp_path / "a.json").write_text('{"text": "one", "n": 1}')
    (tmp_path / "d.json").write_text("{")
    (tmp_path / "e.txt").write_bytes(b"\xff")
    a, b, d, e, c = find("folder").read(tmp_path)
    assert (a.chunks, a.extra) == (("<image>\none",), {"n": 1})
    assert (b.chunks, b.id) == (("<image>\ntwo",), "b")
    assert (d.line, d.reason) == (3, "a picture's json cannot be read")
    assert e.reason == "a picture's text is not UTF-8"
    assert (c.id, c.chunks, c.pictures[0].place) == ("sub/c", (), str(tmp_path / "sub/c.webp"))


def test_what_is_no_picture_does_not_fit(tmp_path):
    with find("folder").writer(tmp_path / "out") as out:
        with pytest.raises(Unfit, match="no format"):
            out.write(Record("a", (Picture("a.jpg", content=b"<html>"),)))
        with pytest.raises(Unfit, match="0 pictures"):
            out.write(Record("a", (), (), ("text",)))


def test_numbered_names_keep_the_order(tmp_path):
    ids = ["z", "a", "M", "00000/000000001", "b"]
    records = [Record(one, (Picture("x.jpg", content=JPG),), (), ("<image>\nred",)) for one in ids]
    path = write("folder", tmp_path / "out", records)
    assert [one.id for one in find("folder").read(path)] == ids
    assert (path / "00000" / "000000004.jpg").is_file()


def test_what_stands_beside_a_picture_may_be_a_link_long_or_no_file(tmp_path):
    texts = {
        "bom": b"\xef\xbb\xbfred\r\nbus\n\n", "long": b"a " * (1 << 20), "mark": b"x <image> y",
        "empty": b"", "none": None, "two.dots": b"two",
    }  # fmt: skip
    for name, text in texts.items():
        (tmp_path / f"{name}.JPG").write_bytes(JPG)
        if text is not None:
            (tmp_path / f"{name}.txt").write_bytes(text)
    for name in ("folder", "link", "pipe", "gone"):
        (tmp_path / f"{name}.jpg").write_bytes(JPG)
    (tmp_path / "folder.txt").mkdir()
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "link.txt").symlink_to(tmp_path / "bom.txt")
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere.txt")
    os.mkfifo(tmp_path / "pipe.txt")
    found = {one.id: one.chunks for one in find("folder").read(tmp_path)}
    assert list(found) == sorted([*texts, "folder", "link", "pipe", "gone"])
    assert found["bom"] == found["link"] == ("<image>\nred\r\nbus\n",)
    assert found["long"] == ("<image>\n" + "a " * (1 << 20),)
    assert found["mark"] == ("x <image> y",)
    assert found["empty"] == ("<image>\n",)
    assert found["two.dots"] == ("<image>\ntwo",)
    assert found["folder"] == found["pipe"] == found["gone"] == found["none"] == ()


@pytest.mark.parametrize("name", ["a.txt", "a.json"])
def test_a_text_that_is_too_long_costs_its_picture_only(tmp_path, name):
    (tmp_path / "a.jpg").write_bytes(JPG)
    (tmp_path / "b.jpg").write_bytes(JPG)
    with (tmp_path / name).open("wb") as file:
        file.truncate((16 << 20) + 1)
    bad, good = find("folder").read(tmp_path)
    assert bad.reason == "a text is longer than 16 MiB"
    assert good.id == "b"

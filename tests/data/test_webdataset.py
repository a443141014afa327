"""Tar shards read and written: members grouped by name, nothing else taken from names."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from tests.data.pictures_made import picture
from vlforge.data.formats.index import detect, find
from vlforge.data.records import Fault, Picture, Record
from vlforge.data.shards import expand
from vlforge.data.tars import header_of
from vlforge.types import DataError, Turn

JPG, PNG = picture(1), picture(2, "PNG")
CAPTION = Record("a", (Picture(content=JPG),), (), ("<image>\na red bus",), {"score": 0.5})
TALK = Record(
    7,
    (Picture("x/y.png", content=PNG), Picture(content=JPG)),
    (Turn("system", "s"), Turn("user", "<image><image>\nWhich?"), Turn("assistant", "Both.")),
    (),
    {"id_was": None, "caption": "kept", "tags": ["a", {"b": 1}]},
)
MIXED = Record("c", (Picture(content=PNG),), (), ("before <image> behind", "a second"), {})
TEXT = Record("d", (), (Turn("user", "Hi"), Turn("assistant", "Ho")), (), {"image": "no file"})
BARE = Record("e", (Picture(content=JPG),), (), (), {"text": "not a caption"})


def write(path: Path, records: list[Record], **options) -> Path:
    with find("webdataset", **options).writer(path) as out:
        for record in records:
            out.write(record)
    return path


def told(record: Record) -> tuple:
    pictures = [p.content for p in record.pictures]
    return record.id, pictures, record.turns, record.chunks, dict(record.extra)


def make_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def read(path: Path) -> list[Record | Fault]:
    return list(find("webdataset").read(path))


@pytest.mark.parametrize("name", ["shards", "one.tar"])
def test_records_come_back_as_they_were(tmp_path, name):
    records = [CAPTION, TALK, MIXED, TEXT, BARE]
    path = write(tmp_path / name, records)
    assert detect(path).name == "webdataset"
    assert [told(one) for one in read(path)] == [told(one) for one in records]
    assert read(path)[1].pictures[0].path == "x/y.png"


def test_equal_records_give_equal_tars(tmp_path):
    one, two = (write(tmp_path / f"{n}.tar", [CAPTION, TALK]) for n in "ab")
    assert one.read_bytes() == two.read_bytes()


def test_python_reads_what_is_written(tmp_path):
    path = write(tmp_path / "a.tar", [CAPTION, TALK])
    with tarfile.open(path) as tar:
        names = tar.getnames()
        row = json.load(tar.extractfile("000000000.json"))
        assert tar.extractfile("000000000.txt").read() == b"a red bus"
    assert names == [
        "000000000.jpg", "000000000.json", "000000000.txt",
        "000000001.0.png", "000000001.1.jpg", "000000001.json",
    ]  # fmt: skip
    assert row == {"id": "a", "caption": "a red bus", "score": 0.5}


def test_shards_hold_max_count_and_are_read_in_order(tmp_path):
    records = [
        Record(str(n), (Picture(content=picture(n)),), (), (f"<image>\n{n}",)) for n in range(7)
    ]
    path = write(tmp_path / "shards", records, max_count=3)
    assert sorted(p.name for p in path.iterdir()) == ["00000.tar", "00001.tar", "00002.tar"]
    assert [one.id for one in read(path)] == list("0123456")
    assert [one.id for one in read(path / "{00001..00002}.tar")] == list("3456")


def test_a_missing_shard_of_a_pattern_costs_itself(tmp_path):
    path = write(tmp_path / "shards", [CAPTION] * 2, max_count=1)
    (path / "00001.tar").rename(path / "00002.tar")
    found = read(path / "{00000..00002}.tar")
    assert [type(one) for one in found] == [Record, Fault, Record]
    assert found[1].value.startswith("00001.tar")
    assert detect(path / "{00000..00002}.tar").name == "webdataset"


def test_other_makers_tars_are_read(tmp_path):
    long = "folder/" + "n" * 200
    path = make_tar(
        tmp_path / "a.tar",
        {
            "./0001.jpg": JPG, "./0001.txt": b"one\n",
            "0002.png": PNG, "0002.json": b'{"TEXT": "two", "url": "u", "key": "k"}',
            f"{long}.JPEG": JPG, f"{long}.text": "三".encode(),
            "b.cls": b"7", "c.cls": b"8", "b.json": b'{"caption": "no picture"}',
        },
    )  # fmt: skip
    one, two, fault, three, four = read(path)
    assert (one.id, one.chunks) == ("0001", ("<image>\none",))
    assert (two.chunks, two.extra) == (("<image>\ntwo",), {"url": "u", "key": "k"})
    assert (three.id, three.chunks) == (long, ("<image>\n三",))
    assert fault.reason == "members of the kind .cls are not read"
    assert (four.pictures, four.chunks) == ((), ("no picture",))


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"1.jpg": JPG, "1.json": b"{"}, "a sample's json cannot be read"),
        ({"1.jpg": JPG, "1.json": b"[1]"}, "a sample's json cannot be read"),
        ({"1.jpg": JPG, "1.txt": b"\xff\xfe\x00"}, "a sample's text is not UTF-8"),
        ({"1.jpg": JPG, "1.json": b'{"conversations": [{"from": "x"}]}'}, "a turn has an unknown"),
    ],
)
def test_a_bad_sample_costs_itself_only(tmp_path, members, reason):
    path = make_tar(tmp_path / "a.tar", {**members, "2.jpg": JPG, "2.txt": b"good"})
    bad, good = read(path)
    assert bad.reason.startswith(reason)
    assert good.id == "2"


def test_an_unfinished_folder_does_not_appear(tmp_path):
    with pytest.raises(AttributeError):
        write(tmp_path / "s", [CAPTION, None])
    assert not list(tmp_path.iterdir())


def test_a_folder_with_files_is_not_written_over(tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(DataError, match="exists already"):
        write(tmp_path, [CAPTION])


def test_patterns_count_and_list():
    assert list(expand("a{08..11}-{x,y}.tar"))[:3] == ["a08-x.tar", "a08-y.tar", "a09-x.tar"]
    with pytest.raises(DataError, match="shards"):
        list(expand("{0..99999999999}.tar"))


def test_headers_are_pythons():
    info = tarfile.TarInfo("k.jpg")
    info.size = 12345
    assert header_of("k.jpg", 12345) == info.tobuf(tarfile.USTAR_FORMAT)

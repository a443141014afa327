"""Containers made to do harm, or damaged: nothing is run, unpacked or decoded; good rows stay."""

from __future__ import annotations

import base64
import gzip
import io
import pickle
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.pictures_made import bomb, picture
from vlforge.data import tars
from vlforge.data.convert import convert
from vlforge.data.formats.index import find
from vlforge.data.records import Fault, Picture, Record

JPG = picture(9)
SHARDS = ("webdataset", "img2dataset")


class Trap:
    """Leaves a file behind if it is ever unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def add(tar: tarfile.TarFile, name: str, content: bytes = b"", **fields) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    tar.addfile(info, io.BytesIO(content))


def good(tar: tarfile.TarFile, key: str) -> None:
    add(tar, f"{key}.jpg", JPG)
    add(tar, f"{key}.txt", b"good")


def read(path: Path, name: str = "webdataset") -> tuple[list[Record], list[Fault]]:
    found = list(find(name).read(path))
    return [f for f in found if isinstance(f, Record)], [f for f in found if isinstance(f, Fault)]


@pytest.mark.parametrize("name", SHARDS)
@pytest.mark.parametrize(
    "member",
    ["../escaped.jpg", "a/../../escaped.jpg", "/escaped.jpg", "C:/escaped.jpg", "..\\escaped.jpg",
     "x/" * 90 + "../escaped.jpg"],
)  # fmt: skip
def test_a_name_that_leaves_its_folder_is_refused(tmp_path, name, member):
    folder = tmp_path / "in"
    folder.mkdir()
    with tarfile.open(folder / "00000.tar", "w") as tar:
        good(tar, "1")
        add(tar, member, JPG)
        good(tar, "2")
    records, faults = read(folder, name)
    assert [one.id for one in records] == ["1", "2"]
    assert [one.reason for one in faults] == ["a member's name leaves its folder"]
    done = convert(folder, tmp_path / "out" / "a.jsonl", find(name), find("dj"))
    assert (done.read, done.written) == (3, 2)
    assert not list(tmp_path.rglob("escaped*"))


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]
)
def test_links_and_devices_are_not_followed(tmp_path, kind):
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        add(tar, "1.jpg", JPG)
        add(tar, "1.txt", type=kind, linkname=str(secret))
        good(tar, "2")
    records, (fault,) = read(path)
    assert [one.chunks for one in records] == [(), ("<image>\ngood",)]
    assert fault.reason.endswith("in a tar is not followed")


@pytest.mark.parametrize("kind", ["pkl", "pickle", "pyd", "pth", "npy", "py", "cbor", "mp", "ten"])
def test_nothing_is_unpickled_or_run(tmp_path, kind):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        add(tar, f"1.{kind}", pickle.dumps(Trap(tmp_path / "sprung")))
        good(tar, "1")
        add(tar, f"2.{kind}", pickle.dumps(Trap(tmp_path / "sprung")))
    records, (fault,) = read(path)
    assert [one.chunks for one in records] == [("<image>\ngood",)]
    assert fault.reason == f"members of the kind .{kind} are not read"
    assert not (tmp_path / "sprung").exists()


PICTURE = 512 + -(-len(JPG) // 512) * 512
SAMPLE = PICTURE + 1024
"""Bytes of a picture and of a sample in a tar."""


@pytest.mark.parametrize(
    ("length", "whole"),
    [
        (100, 0), (512, 0), (PICTURE, 0), (SAMPLE - 512, 0), (SAMPLE, 1), (SAMPLE + 9, 1),
        (SAMPLE + PICTURE, 1), (2 * SAMPLE - 1, 1), (2 * SAMPLE, 2), (3 * SAMPLE, 3),
    ],
)  # fmt: skip
def test_a_cut_tar_gives_what_was_whole_and_one_fault(tmp_path, length, whole):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for key in "123":
            good(tar, key)
    path.write_bytes(path.read_bytes()[:length])
    records, faults = read(path)
    assert [one.id for one in records] == list("123")[:whole]
    assert [one.reason for one in faults] == ["the tar breaks off"]


def test_a_damaged_tar_costs_its_rest_and_not_the_next_shard(tmp_path):
    for name in ("00000.tar", "00001.tar"):
        with tarfile.open(tmp_path / name, "w") as tar:
            good(tar, f"{name[4]}a")
            good(tar, f"{name[4]}b")
    path = tmp_path / "00000.tar"
    data = bytearray(path.read_bytes())
    at = data.index(b"0b.jpg")
    data[at + 148 : at + 156] = b"garbage!"
    path.write_bytes(data)
    records, (fault,) = read(tmp_path)
    assert [one.id for one in records] == ["0a", "1a", "1b"]
    assert fault.reason.startswith("the tar is damaged")
    assert "00000.tar" in fault.value


def test_a_packed_tar_that_is_cut_or_no_gzip_is_told(tmp_path):
    with tarfile.open(tmp_path / "whole.tar", "w") as tar:
        for key in range(200):
            good(tar, f"{key:03d}")
    packed = gzip.compress((tmp_path / "whole.tar").read_bytes(), 0)
    path = tmp_path / "a.tar.gz"
    path.write_bytes(packed[: len(packed) // 2])
    records, faults = read(path)
    assert len(records) > 50
    assert len(faults) == 1
    path.write_bytes(b"no gzip at all")
    (fault,) = read(path)[1]
    assert fault.reason.startswith("the tar cannot be read on")


def test_a_member_that_claims_to_be_huge_is_not_held(tmp_path):
    path = tmp_path / "a.tar"
    header = tars.header_of("1.jpg", 7 << 30)
    path.write_bytes(header + JPG)
    records, faults = read(path)
    assert not records
    assert [one.reason for one in faults] == [
        "a member is larger than 256 MiB", "the tar breaks off"
    ]  # fmt: skip


def test_a_packed_bomb_is_passed_over_in_pieces(tmp_path):
    import tracemalloc

    path = tmp_path / "a.tar.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(tars.header_of("0.jpg", 300 << 20))
        for _ in range(300):
            file.write(bytes(1 << 20))
        out = tars.TarFile(file)
        out.add("1.jpg", JPG)
        out.close()
    tracemalloc.start()
    records, faults = read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [one.id for one in records] == ["1"]
    assert len(faults) == 1
    assert peak < 32 << 20


FORMATS = ("webdataset", "img2dataset", "tsv_base64", "parquet", "hf_dataset", "folder")


@pytest.mark.parametrize("name", FORMATS)
def test_a_picture_that_claims_to_be_huge_travels_undecoded(tmp_path, name):
    import tracemalloc

    path = tmp_path / "out"
    tracemalloc.start()
    with find(name).writer(path) as out:
        out.write(Record("a", (Picture(content=bomb()),), (), ("<image>\nboom",)))
    (found,), _ = read(path, name)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.pictures[0].read() == bomb()
    assert peak < 64 << 20


def test_a_zip_in_place_of_a_picture_is_neither_opened_nor_written(tmp_path):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        file.writestr("../escaped.txt", "x" * 1000)
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        add(tar, "1.jpg", packed.getvalue())
        add(tar, "1.txt", b"zip")
        good(tar, "2")
    done = convert(path, tmp_path / "out.tar", find("webdataset"), find("webdataset"))
    assert (done.written, list(done.dropped)) == (
        1, ["a picture is of no format that is known by its first bytes"]
    )  # fmt: skip
    assert not list(tmp_path.rglob("escaped*"))


def test_broken_base64_costs_its_row(tmp_path):
    whole = base64.b64encode(JPG)
    rows = [whole, whole[:-3], b"@@@@", whole.replace(b"/", b"_"), b"", whole]
    path = tmp_path / "a.tsv"
    path.write_bytes(b"".join(b"%d\t%s\tred\n" % (n, row) for n, row in enumerate(rows)))
    records, faults = read(path, "tsv_base64")
    assert [one.id for one in records] == ["0", "5"]
    assert [one.line for one in faults] == [2, 3, 4, 5]
    done = convert(path, tmp_path / "out" / "a.jsonl", find("tsv_base64"), find("dj"))
    assert (done.read, done.written, sum(done.dropped.values())) == (6, 2, 4)


def test_a_cut_arrow_file_gives_what_was_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("vlforge.data.tables.ROWS", 10)
    path = tmp_path / "out"
    with find("hf_dataset").writer(path) as out:
        for n in range(100):
            out.write(Record(str(n), (Picture(content=JPG),), (), ("<image>\nred",)))
    (file,) = path.glob("*.arrow")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    records, faults = read(path, "hf_dataset")
    assert 20 <= len(records) < 100
    assert [one.reason for one in faults] == ["a table cannot be read"]


def test_a_column_of_objects_that_python_could_unpickle_stays_bytes(tmp_path):
    trap = pickle.dumps(Trap(tmp_path / "sprung"))
    table = pa.table({"image": [JPG], "caption": ["red"], "object": [trap]})
    pq.write_table(table, tmp_path / "a.parquet")
    (found,), _ = read(tmp_path / "a.parquet", "parquet")
    assert found.extra == {"object": base64.b64encode(trap).decode()}
    assert not (tmp_path / "sprung").exists()


def test_names_of_pictures_do_not_leave_a_written_folder(tmp_path):
    names = [
        "../../x.jpg",
        "/x.jpg",
        "a/../../x.jpg",
        "C:\\x.jpg",
        "a\0b.jpg",
        "." * 300,
        "é/..jpg",
    ]
    with find("folder", keep_names=True).writer(tmp_path / "deep" / "out") as out:
        for name in names:
            out.write(Record(name, (Picture(name, content=JPG),), (), ("<image>\nred",)))
    assert {p.name for p in tmp_path.iterdir()} == {"deep"}
    assert {p.name for p in (tmp_path / "deep").iterdir()} == {"out"}
    records, faults = read(tmp_path / "deep" / "out", "folder")
    assert (sorted(one.id for one in records), faults) == (sorted(names), [])

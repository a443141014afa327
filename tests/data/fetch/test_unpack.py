"""Archives from strangers: what is good comes out, what is bad stays in and is named."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import stat
import tarfile
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest

from vlforge.data.fetch import unpack as module
from vlforge.data.fetch.unpack import (
    Bloated,
    Damaged,
    Limits,
    Short,
    amount,
    settle,
    unpack,
)
from vlforge.types import DataError

Usage = namedtuple("Usage", "total used free")


def tar_of(path: Path, members: list, mode: str = "w:gz") -> Path:
    """A tar of (name, bytes) or of ready TarInfo objects."""
    with tarfile.open(path, mode) as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
                continue
            info = tarfile.TarInfo(member[0])
            info.size = len(member[1])
            archive.addfile(info, io.BytesIO(member[1]))
    return path


def zip_of(path: Path, members: list) -> Path:
    """A zip of (name or ZipInfo, bytes)."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return path


def out_of(packed: Path, tmp_path: Path, **options):
    """What comes out, and the folder with it."""
    into = tmp_path / "out" / "new"
    into.mkdir(parents=True)
    return unpack(packed, into, lambda done, total: None, **options), into


def special(name: str, kind: bytes, to: str = "") -> tarfile.TarInfo:
    """A tar member that is no file."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, to
    return info


def files_below(folder: Path) -> list[str]:
    """All files, as relative paths."""
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_tars_of_every_packing_come_out(tmp_path, mode):
    packed = tar_of(tmp_path / "a.tar", [("d/a.txt", b"one"), ("b.txt", b"two" * 9000)], mode)
    found, into = out_of(packed, tmp_path)
    assert files_below(into) == ["b.txt", "d/a.txt"]
    assert (into / "b.txt").read_bytes() == b"two" * 9000
    assert found.files == [("d/a.txt", 3), ("b.txt", 27000)]


def test_members_larger_than_any_buffer_are_streamed(tmp_path):
    big = os.urandom(5 << 20)
    found, into = out_of(tar_of(tmp_path / "a.tar.gz", [("big.safetensors", big)]), tmp_path)
    assert (into / "big.safetensors").read_bytes() == big
    assert not found.runnable


HOSTILE = ["../up.txt", "a/../../up.txt", "/etc/absolute.txt", "C:\\windows.txt", "..\\up.txt"]


def test_names_links_and_devices_of_a_tar_are_left_out_and_named(tmp_path):
    members = [(name, b"bad") for name in HOSTILE] + [
        special("link", tarfile.SYMTYPE, "/etc/passwd"), ("link/through.txt", b"bad"),
        special("hard", tarfile.LNKTYPE, "good.txt"), special("null", tarfile.CHRTYPE),
        special("disk", tarfile.BLKTYPE), special("pipe", tarfile.FIFOTYPE), ("good.txt", b"good"),
    ]  # fmt: skip
    found, into = out_of(tar_of(tmp_path / "a.tar.gz", members), tmp_path)
    assert files_below(into) == ["good.txt", "link/through.txt"]
    assert not (into / "link").is_symlink()
    assert files_below(tmp_path) == ["a.tar.gz", "out/new/good.txt", "out/new/link/through.txt"]
    reasons = dict(found.left_out)
    assert all(reasons[name] == "a member's name leaves its folder" for name in HOSTILE)
    assert "symbolic link" in reasons["link"]
    assert "hard link" in reasons["hard"]
    assert "device" in reasons["null"]
    assert "pipe" in reasons["pipe"]


def test_rights_of_members_are_never_taken_over(tmp_path):
    info = tarfile.TarInfo("run.sh")
    info.mode, info.size = 0o6777, 2
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.addfile(info, io.BytesIO(b"hi"))
    _, into = out_of(tmp_path / "a.tar", tmp_path)
    assert stat.S_IMODE((into / "run.sh").stat().st_mode) & 0o7133 == 0


def test_names_links_and_secrets_of_a_zip_are_left_out_and_named(tmp_path):
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    fifo = zipfile.ZipInfo("pipe")
    fifo.external_attr = (stat.S_IFIFO | 0o777) << 16
    members = [(name, "bad") for name in HOSTILE] + [
        (link, "/etc/passwd"), (fifo, ""), ("__MACOSX/._a", "x"), ("good/a.txt", "good"),
    ]  # fmt: skip
    packed = zip_of(tmp_path / "a.zip", members)
    found, into = out_of(packed, tmp_path)
    assert files_below(into) == ["good/a.txt"]
    reasons = dict(found.left_out)
    assert reasons["link"] == "a symbolic link is not followed"
    assert reasons["pipe"] == "a device or pipe is not made"
    assert reasons["__MACOSX/._a"] == "a side file of macOS"
    assert len(found.left_out) == 3 + len(HOSTILE)


def test_an_encrypted_member_is_named(tmp_path):
    packed = zip_of(tmp_path / "a.zip", [("secret.txt", "x"), ("open.txt", "y")])
    data = bytearray(packed.read_bytes())
    at = data.index(b"PK\x01\x02")
    data[at + 8] |= 1
    packed.write_bytes(data)
    found, into = out_of(packed, tmp_path)
    assert found.left_out == [("secret.txt", "it is encrypted")]
    assert files_below(into) == ["open.txt"]


class _Runs:
    def __reduce__(self):
        return os.mkdir, ("was_run",)


def test_pickles_come_out_and_are_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    packed = zip_of(tmp_path / "a.zip", [("w.pth", pickle.dumps(_Runs())), ("a.json", "{}")])
    found, _ = out_of(packed, tmp_path)
    assert found.runnable == ["w.pth"]
    assert not (tmp_path / "was_run").exists()


def test_a_name_taken_twice_keeps_its_first_content(tmp_path):
    members = [("a.txt", b"first"), ("a.txt", b"second"), ("a.txt/b.txt", b"below a file")]
    found, into = out_of(tar_of(tmp_path / "a.tar", members, "w"), tmp_path)
    assert (into / "a.txt").read_bytes() == b"first"
    assert [why for _, why in found.left_out] == ["its name is taken by an earlier member"] * 2


def test_a_name_that_no_disk_takes_costs_itself(tmp_path):
    members = [("x" * 300, b"long"), ("a.txt", b"fine")]
    found, into = out_of(tar_of(tmp_path / "a.tar", members, "w"), tmp_path)
    assert files_below(into) == ["a.txt"]
    assert "name" in found.left_out[0][1]


def test_flat_drops_folders(tmp_path):
    members = [("images/0/a.jpg", "1"), ("images/1/b.jpg", "2"), ("images/1/a.jpg", "3")]
    found, into = out_of(zip_of(tmp_path / "a.zip", members), tmp_path, flat=True)
    assert files_below(into) == ["a.jpg", "b.jpg"]
    assert len(found.left_out) == 1


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_a_bomb_is_refused(tmp_path, kind):
    zeros = bytes(80 << 20)
    packed = tmp_path / f"a.{kind}"
    (zip_of if kind == "zip" else tar_of)(packed, [("zeros", zeros)])
    with pytest.raises(Bloated, match="more than 50 times as much: refused"):
        out_of(packed, tmp_path, limits=Limits(ratio=50, free_bytes=1 << 20))


def test_more_members_than_allowed_are_refused(tmp_path):
    packed = zip_of(tmp_path / "a.zip", [(f"{n}.txt", "x") for n in range(9)])
    with pytest.raises(Bloated, match="more than 5 members"):
        out_of(packed, tmp_path, limits=Limits(members=5))


def test_a_zip_that_does_not_fit_says_how_much_is_missing(tmp_path, monkeypatch):
    packed = zip_of(tmp_path / "a.zip", [("a", bytes(5_000_000))])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(9e9, 9e9, 3_000_000))
    with pytest.raises(Short, match=r"5\.0 MB are needed.* 3\.0 MB are free: 3\.0 MB are missing"):
        out_of(packed, tmp_path, limits=Limits(reserve=1_000_000))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"<!DOCTYPE html><html>sign in</html>", "a web page, no archive"),
        (b"just some text", "neither a zip nor a tar"),
        (b"", "neither a zip nor a tar"),
        (b"PK\x03\x04 and then nothing of the kind", "damaged"),
        (b"\x1f\x8b\x08\x00 cut short", "breaks off|cannot be read|damaged"),
    ],
)
def test_what_is_no_archive_is_said(tmp_path, data, said):
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(Damaged, match=said):
        out_of(tmp_path / "a.zip", tmp_path)


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz", "a.tar"])
def test_an_archive_cut_in_half_is_damaged(tmp_path, name):
    members = [(f"{n}.bin", os.urandom(40_000)) for n in range(6)]
    whole = zip_of(tmp_path / name, members) if "zip" in name else tar_of(
        tmp_path / name, members, "w:gz" if "gz" in name else "w"
    )  # fmt: skip
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(Damaged):
        out_of(whole, tmp_path)


def test_a_flipped_bit_in_a_zip_is_seen(tmp_path):
    packed = zip_of(tmp_path / "a.zip", [("a.bin", os.urandom(50_000))])
    data = bytearray(packed.read_bytes())
    data[20_000] ^= 1
    packed.write_bytes(data)
    with pytest.raises(Damaged):
        out_of(packed, tmp_path)


def hidden_with(tmp_path: Path, files: dict[str, str]) -> Path:
    """A folder as `unpack` leaves it."""
    hidden = tmp_path / ".hidden"
    for name, text in files.items():
        (hidden / name).parent.mkdir(parents=True, exist_ok=True)
        (hidden / name).write_text(text)
    return hidden


def test_a_folder_of_the_same_name_becomes_the_place_itself(tmp_path):
    settle(hidden_with(tmp_path, {"images/a.jpg": "a"}), tmp_path / "data" / "images")
    settle(hidden_with(tmp_path, {"other/a.jpg": "a"}), tmp_path / "data" / "more")
    assert files_below(tmp_path) == ["data/images/a.jpg", "data/more/other/a.jpg"]


def test_what_is_there_stays_and_equal_files_are_no_clash(tmp_path):
    place = tmp_path / "data"
    settle(hidden_with(tmp_path, {"a/1": "one", "b": "b"}), place)
    (place / "mine").write_text("mine")
    settle(hidden_with(tmp_path, {"a/1": "one", "a/2": "two", "c": "c"}), place)
    assert files_below(place) == ["a/1", "a/2", "b", "c", "mine"]


def test_a_file_that_differs_is_never_replaced_and_nothing_moves(tmp_path):
    place = tmp_path / "data"
    place.mkdir()
    (place / "b").write_text("mine")
    with pytest.raises(DataError, match="data/b is there already and holds something else"):
        settle(hidden_with(tmp_path, {"a": "a", "b": "theirs"}), place)
    assert files_below(place) == ["b"]
    assert (place / "b").read_text() == "mine"


def test_amounts_are_in_the_unit_that_a_reader_would_use():
    shown = [amount(n) for n in (0, 812, 3_400_000, 16_800_000_000, 999_600, 2.3e12, 123e9)]
    assert shown == ["0 bytes", "812 bytes", "3.4 MB", "16.8 GB", "1.0 MB", "2.3 TB", "123 GB"]


def test_the_disk_is_looked_at_while_a_tar_comes_out(tmp_path, monkeypatch):
    packed = tar_of(tmp_path / "a.tar", [(f"{n}", bytes(40 << 20)) for n in range(2)], "w")
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: Usage(9e9, 9e9, 1000))
    with pytest.raises(Short, match="are missing"):
        out_of(packed, tmp_path)

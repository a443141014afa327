"""Pictures of a new dataset: named, copied, embedded or taken out, and never lost in silence."""

from __future__ import annotations

import pytest
from PIL import Image

from vlforge.data.placing import Placer, suffix_of
from vlforge.data.records import Picture, Record
from vlforge.types import DataError


@pytest.fixture
def picture(tmp_path):
    """A small file in a folder of its own."""
    folder = tmp_path / "old" / "cats"
    folder.mkdir(parents=True)
    Image.new("RGB", (4, 3), "red").save(folder / "a.png")
    return Picture("cats/a.png", str(tmp_path / "old"))


def placed(placer, *pictures):
    return placer.place(Record(pictures=pictures)).pictures


def test_a_file_that_stays_is_named_so_that_it_is_found(tmp_path, picture):
    (one,) = placed(Placer("auto", tmp_path / "new", embeds=False), picture)
    assert (one.path, one.place) == (picture.place, picture.place)
    (same,) = placed(Placer("keep", tmp_path / "old", embeds=False), picture)
    assert same.path == "cats/a.png"
    (below,) = placed(Placer("keep", tmp_path / "new", embeds=False, root=tmp_path), picture)
    assert (below.path, below.place) == ("old/cats/a.png", picture.place)


def test_a_copy_keeps_its_name_below_images(tmp_path, picture):
    (one,) = placed(Placer("copy", tmp_path / "new", embeds=False), picture)
    assert one.path == "images/cats/a.png"
    assert one.read() == picture.read()


def test_bytes_are_taken_out_and_files_put_in(tmp_path, picture):
    (inside,) = placed(Placer("auto", tmp_path, embeds=True), picture)
    assert inside.content == picture.read()
    (out,) = placed(Placer("auto", tmp_path / "new", embeds=False), inside)
    assert out.path == "images/00000/000000000.png"
    assert out.read() == picture.read()
    with pytest.raises(DataError, match="use --images extract"):
        placed(Placer("keep", tmp_path, embeds=False), inside)


@pytest.mark.parametrize("path", ["../old/cats/a.png", "/etc/a.png"])
def test_a_name_that_leads_out_is_replaced_by_a_number(tmp_path, path):
    content = b"\x89PNG"
    placer = Placer("extract", tmp_path / "new", embeds=False)
    (one,) = placed(placer, Picture(path, "", content))
    assert one.path == "images/00000/000000000.png"


@pytest.mark.parametrize("path", ["gone.png", "a\0b.png", "https://site.example/a.png"])
@pytest.mark.parametrize("embeds", [True, False])
def test_what_cannot_be_read_is_one_line(tmp_path, path, embeds):
    placer = Placer("embed" if embeds else "copy", tmp_path, embeds=embeds)
    with pytest.raises(DataError, match=r"picture (cannot be|is an address)"):
        placed(placer, Picture(path, str(tmp_path)))


def test_an_address_stays_an_address(tmp_path):
    there = Picture("https://site.example/a.png", str(tmp_path))
    assert placed(Placer("auto", tmp_path, embeds=False), there) == (there,)


def test_modes_that_a_format_has_no_place_for_are_refused(tmp_path):
    with pytest.raises(DataError, match="cannot embed"):
        Placer("embed", tmp_path, embeds=False)
    with pytest.raises(DataError, match="has no place"):
        Placer("copy", tmp_path, embeds=True)


def test_suffixes_follow_the_content():
    assert suffix_of(b"\xff\xd8\xff\xe0") == ".jpg"
    assert suffix_of(b"RIFF\0\0\0\0WEBPVP8 ") == ".webp"
    assert suffix_of(b"<html>") == ".bin"

"""Sizes without decoding, upright pixels, and faults that name the file."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image, ImageOps

from vlforge.data import images
from vlforge.data.images import ImageError, ImageFile, header_size, load_rgb

FORMATS = ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF"]


def picture(size=(37, 21)) -> Image.Image:
    """A gradient with a mark in one corner, so that turning it shows."""
    image = Image.linear_gradient("L").resize(size).convert("RGB")
    image.paste((250, 10, 10), (0, 0, size[0] // 3, size[1] // 3))
    return image


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    """The picture's file content."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def exif(orientation: int) -> Image.Exif:
    """EXIF with an orientation."""
    block = Image.Exif()
    block[0x0112] = orientation
    return block


@pytest.mark.parametrize("kind", FORMATS)
def test_header_size_equals_pillows(kind):
    assert header_size(encoded(picture(), kind)) == (37, 21)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_to_sizes_and_pixels(kind, orientation):
    content = encoded(picture(), kind, exif=exif(orientation))
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    assert header_size(content) == upright.size == ((21, 37) if orientation > 4 else (37, 21))
    assert load_rgb(content).tobytes() == upright.convert("RGB").tobytes()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F"])
def test_every_mode_becomes_rgb(mode):
    image = Image.new("L", (4, 3), 128)
    image = image.convert("I").point(lambda v: v * 257).convert(mode) if mode == "I;16" else (
        image.convert(mode)
    )  # fmt: skip
    assert images.to_rgb(image).mode == "RGB"


def test_sixteen_bit_grey_is_scaled_not_clipped():
    image = Image.new("I;16", (4, 3))
    image.putdata([0, 32896, 65535] * 4)
    assert images.to_rgb(image).getpixel((1, 0)) == (128, 128, 128)
    assert images.to_rgb(image).getpixel((2, 0)) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_cut_off_file_has_a_size_and_is_refused_or_filled(kind, tmp_path):
    noise = Image.effect_noise((64, 48), 60).convert("RGB")
    content = encoded(noise, kind)
    path = tmp_path / "cut"
    path.write_bytes(content[: len(content) // 2])
    assert header_size(path) == (64, 48)
    with pytest.raises(ImageError, match="cut off") as raised:
        load_rgb(path)
    assert raised.value.reason == "truncated image"
    assert load_rgb(path, truncated="fill").size == (64, 48)


def test_filling_leaves_pillow_as_it_was(tmp_path):
    from PIL import ImageFile as PillowFiles

    content = encoded(Image.effect_noise((64, 48), 60), "JPEG")
    load_rgb(content[:-300], truncated="fill")
    assert PillowFiles.LOAD_TRUNCATED_IMAGES is False


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "unreadable image"), (b"<html></html>", "unreadable image"),
     (b"\xff\xd8\xff\xe0\x00\x10JFIF", "truncated image")],
)  # fmt: skip
def test_what_is_no_picture_is_named(content, reason, tmp_path):
    path = tmp_path / "page.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"page\.jpg") as raised:
        load_rgb(path)
    assert "\n" not in str(raised.value)
    with pytest.raises(ImageError, match=r"page\.jpg"):
        header_size(path)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(ImageError, match="does not exist") as raised:
        header_size(tmp_path / "gone.jpg")
    assert raised.value.reason == "missing image"
    with pytest.raises(ImageError, match="cannot be read"):
        load_rgb(tmp_path)


def claiming(width: int, height: int) -> bytes:
    """A small PNG whose header claims a size, checksum and all."""
    head = b"IHDR" + struct.pack(">II5B", width, height, 8, 2, 0, 0, 0)
    chunks = [head, b"IDAT" + zlib.compress(b""), b"IEND"]
    coded = (struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(coded)


def test_a_bomb_has_a_size_and_is_never_decoded(monkeypatch):
    bomb = claiming(40_000, 40_000)
    assert header_size(bomb) == (40_000, 40_000)
    monkeypatch.setattr(Image, "open", None)
    with pytest.raises(ImageError, match="has 40000 x 40000 pixels, over the bound") as raised:
        load_rgb(bomb)
    assert raised.value.reason == "image too large"


def test_the_bound_is_pillows(monkeypatch):
    limit = images.MAX_PIXELS
    assert limit == 2 * Image.MAX_IMAGE_PIXELS
    with pytest.raises(ImageError, match="cut off"):
        load_rgb(claiming(limit, 1))
    with pytest.raises(ImageError, match="over the bound"):
        load_rgb(claiming(limit + 1, 1))


def test_a_bomb_that_only_pillow_can_read_is_refused_too():
    content = bytearray(encoded(picture(), "TIFF"))
    at = content.index(struct.pack("<HHI", 256, 4, 1)) + 8
    content[at : at + 4] = struct.pack("<I", 1 << 30)
    with pytest.raises(ImageError, match="over the bound") as raised:
        load_rgb(bytes(content))
    assert raised.value.reason == "image too large"


@pytest.mark.parametrize("whole", [True, False])
def test_a_file_is_opened_once(whole, tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(encoded(picture(), "PNG"))
    opened = []
    really_open = os.open
    monkeypatch.setattr(os, "open", lambda *a, **k: opened.append(a[0]) or really_open(*a, **k))
    file = ImageFile(str(path), whole=whole)
    assert file.size() == (37, 21)
    assert file.byte_count() == path.stat().st_size
    if whole:
        assert file.picture().upright.size == (37, 21)
    assert opened == [str(path)]


def test_a_file_that_pillow_has_to_judge_is_opened_once_too(tmp_path, monkeypatch):
    path = tmp_path / "a.tiff"
    path.write_bytes(encoded(picture(), "TIFF"))
    opened = []
    really_open = os.open
    monkeypatch.setattr(os, "open", lambda *a, **k: opened.append(a[0]) or really_open(*a, **k))
    assert ImageFile(str(path)).size() == (37, 21)
    assert opened == [str(path)]


def test_bytes_of_a_row_stay_after_decoding():
    content = encoded(picture(), "JPEG", exif=exif(6))
    file = ImageFile("nowhere.jpg", content)
    assert file.picture().upright.size == file.size() == (21, 37)
    assert file.picture().stored.size == file.stored_size() == (37, 21)
    assert file.byte_count() == len(content)


def test_damaged_exif_does_not_cost_a_good_picture():
    content = encoded(picture(), "JPEG", exif=exif(6))
    at = content.index(b"Exif\x00\x00MM\x00*") + 6
    broken = content[:at] + b"MM\x00*\xff\xff\xff\xff" + content[at + 8 :]
    assert header_size(broken) == load_rgb(broken).size == (37, 21)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_no_picture_and_nobody_waits_at_it(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    for read in (header_size, load_rgb):
        with pytest.raises(ImageError, match=r"pipe\.jpg"):
            read(tmp_path / "pipe.jpg")


def test_header_reading_is_not_fooled_by_a_wrong_name(tmp_path):
    path: Path = tmp_path / "really_png.jpg"
    path.write_bytes(encoded(picture(), "PNG"))
    assert header_size(path) == (37, 21)

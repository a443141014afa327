"""Sizes without decoding, upright pixels, and faults that name the file."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import pytest
from PIL import Image, ImageOps

from vlforge.data import images
from vlforge.data.headers import size_from_header
from vlforge.data.images import ImageError, ImageFile, header_size, load_rgb, load_upright

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


@pytest.mark.parametrize("kind", [k for k in FORMATS if k != "TIFF"])
def test_common_formats_need_no_pillow(kind):
    assert size_from_header(io.BytesIO(encoded(picture(), kind))) == (37, 21)


@pytest.mark.parametrize("lossless", [True, False])
def test_webp_of_both_kinds_is_read(lossless):
    content = encoded(picture((300, 9)), "WEBP", lossless=lossless)
    assert size_from_header(io.BytesIO(content)) == (300, 9)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_to_sizes_and_pixels(kind, orientation):
    content = encoded(picture(), kind, exif=exif(orientation))
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    assert header_size(content) == upright.size == ((21, 37) if orientation > 4 else (37, 21))
    assert load_rgb(content).tobytes() == upright.convert("RGB").tobytes()


def test_orientation_in_xmp_is_left_to_pillow():
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="6"/></x:xmpmeta>'
    content = encoded(picture(), "JPEG", xmp=xmp)
    assert size_from_header(io.BytesIO(content)) is None
    assert header_size(content) == load_upright(content).size == (21, 37)


def test_long_blocks_before_the_frame_are_skipped():
    content = encoded(picture(), "JPEG", comment=b"x" * 60_000, icc_profile=b"y" * 200_000)
    assert size_from_header(io.BytesIO(content)) == (37, 21)


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
    with pytest.raises(ImageError, match="cut") as raised:
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


def test_a_picture_over_the_bound_is_refused_by_its_header():
    header = b"\x89PNG\r\n\x1a\n" + struct.pack(
        ">I4sII5sI", 13, b"IHDR", 40_000, 40_000, b"\x08\x02", 0
    )
    with pytest.raises(ImageError, match="40000 x 40000 pixels") as raised:
        load_rgb(header)
    assert raised.value.reason == "image too large"


def test_a_file_is_opened_once_for_size_and_pixels(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encoded(picture(), "PNG"))
    file = ImageFile(str(path), whole=True)
    assert file.size() == (37, 21)
    size = path.stat().st_size
    path.unlink()
    assert file.byte_count() == size
    assert file.upright().size == (37, 21)


def test_header_reading_is_not_fooled_by_a_wrong_name(tmp_path):
    path: Path = tmp_path / "really_png.jpg"
    path.write_bytes(encoded(picture(), "PNG"))
    assert header_size(path) == (37, 21)

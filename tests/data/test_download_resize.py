"""Sizes, modes and kinds of the pictures that a download keeps."""

from __future__ import annotations

import io
import json
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from PIL.TiffImagePlugin import IFDRational

from tests.download_site import picture
from tests.made_pictures import encoded, exif, noise
from vlforge.data.download.config import DownloadConfig, config_of
from vlforge.data.download.exif import exif_json
from vlforge.data.download.resize import Unusable, need_opencv, resize
from vlforge.types import RecipeError


def kept(content: bytes, **options) -> Image.Image:
    """The picture that is kept."""
    found = resize(content, DownloadConfig(**{"image_size": 64, **options}))
    image = Image.open(io.BytesIO(found.content))
    assert image.size == (found.width, found.height)
    return image


@pytest.mark.parametrize(
    ("mode", "size", "kept_size"),
    [
        ("border", (100, 50), (64, 64)),
        ("border", (10, 50), (64, 64)),
        ("keep_ratio", (100, 50), (128, 64)),
        ("keep_ratio", (10, 20), (64, 128)),
        ("keep_ratio_largest", (100, 50), (64, 32)),
        ("keep_ratio_largest", (1000, 3), (64, 1)),
        ("center_crop", (100, 50), (64, 64)),
        ("no", (100, 50), (100, 50)),
    ],
)
def test_each_mode_gives_its_size(mode, size, kept_size):
    assert kept(picture(*size), resize_mode=mode).size == kept_size


def test_borders_are_white_and_pictures_in_the_middle():
    content = encoded(Image.new("RGB", (128, 64), (200, 0, 0)), "PNG")
    pixels = np.asarray(kept(content, encode_format="png"))
    assert (pixels[:16] == 255).all()
    assert (pixels[48:] == 255).all()
    assert (pixels[16:48] == (200, 0, 0)).all()


def test_smaller_pictures_stay_where_only_bigger_ones_are_resized():
    small = picture(40, 30)
    assert kept(small, resize_only_if_bigger=True).size == (40, 30)
    assert kept(picture(100, 30), resize_only_if_bigger=True).size == (64, 64)
    assert kept(small).size == (64, 64)


@pytest.mark.parametrize(("kind", "name"), [("jpg", "JPEG"), ("png", "PNG"), ("webp", "WEBP")])
def test_pictures_are_encoded_as_told(kind, name):
    assert kept(picture(), encode_format=kind).format == name


def test_quality_is_heard():
    content = encoded(noise((80, 80)), "PNG")
    sizes = [len(resize(content, DownloadConfig(encode_quality=q)).content) for q in (20, 95)]
    assert sizes[0] < sizes[1] / 2
    packed = DownloadConfig(encode_format="png", encode_quality=0)
    assert len(resize(content, packed).content) > 256 * 256 * 3


def test_what_needs_no_change_keeps_its_bytes_where_told():
    jpeg, png = picture(), picture(kind="PNG")
    same = DownloadConfig(resize_mode="no", skip_reencode=True)
    assert resize(jpeg, same).content == jpeg
    assert resize(png, same).content[:3] == b"\xff\xd8\xff"
    assert resize(jpeg, DownloadConfig(resize_mode="no")).content != jpeg
    untouched = resize(b"anything", DownloadConfig(disable_all_reencoding=True))
    assert (untouched.content, untouched.width) == (b"anything", None)


def test_transparency_is_laid_on_white_and_grey_stays_grey():
    clear = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    assert kept(encoded(clear, "PNG"), encode_format="png").getpixel((5, 5)) == (255, 255, 255)
    assert kept(picture(mode="L")).mode == "L"


def test_sixteen_bits_keep_their_brightness():
    deep = Image.fromarray(np.full((64, 64), 128 * 257, np.uint16))
    assert kept(encoded(deep, "PNG"), encode_format="png").getpixel((9, 9)) == 128


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "Image decoding error"),
        (b"<html></html>", "Image decoding error"),
        (bytes(5000), "Image decoding error"),
        (picture()[:30], "Image decoding error"),
    ],
)
def test_what_is_no_picture_is_not_kept(content, reason):
    with pytest.raises(Unusable, match=reason):
        kept(content)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"min_image_size": 31}, "image too small"),
        ({"max_image_area": 1199}, "image area too large"),
        ({"max_aspect_ratio": 1.3}, "aspect ratio too large"),
    ],
)
def test_bounds_are_kept(options, reason):
    with pytest.raises(Unusable, match=reason):
        kept(picture(40, 30), **options)


def test_a_picture_that_claims_to_be_huge_is_not_decoded():
    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1000)))
    with pytest.raises(Unusable, match="image area too large"):
        kept(bomb + chunk(b"IEND", b""))


def test_a_picture_that_would_become_huge_is_not_resized():
    line = encoded(Image.new("L", (60_000, 1)), "PNG")
    with pytest.raises(Unusable, match="aspect ratio too large"):
        kept(line, resize_mode="keep_ratio", image_size=256)


def test_camera_notes_are_kept_as_text():
    notes = json.loads(exif_json(encoded(noise(), "JPEG", exif=exif(6))))
    assert notes["Image Make"] == "a maker with a long name"
    assert notes["Image Orientation"] == "Rotated 90 CW"
    notes = Image.Exif()
    notes[0x011A] = 3_000_000 / 10_000
    notes.get_ifd(0x8769).update(
        {0x829A: IFDRational(4, 1000), 0x9209: 16, 0x9000: b"0230", 0xA003: 20}
    )
    notes.get_ifd(0x8825).update({1: "N", 5: b"\0"})
    found = json.loads(exif_json(encoded(noise(), "JPEG", exif=notes)))
    assert {k: v for k, v in found.items() if k not in ("Image ExifOffset", "Image GPSInfo")} == {
        "Image XResolution": "300",
        "EXIF ExposureTime": "1/250",
        "EXIF Flash": "Flash did not fire, compulsory flash mode",
        "EXIF ExifVersion": "0230",
        "EXIF ExifImageLength": "20",
        "GPS GPSLatitudeRef": "N",
        "GPS GPSAltitudeRef": "0",
    }
    assert exif_json(picture()) == "{}"
    assert exif_json(b"\xff\xd8\xff\xe1\x00\x20Exif\x00\x00II*\x00broken") == "{}"


def test_without_opencv_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=r"needs opencv to resize: pip install 'vlforge\[fast\]'"):
        need_opencv(DownloadConfig())
    need_opencv(DownloadConfig(disable_all_reencoding=True))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"image_siz": "3"}, "no option 'image_siz'; did you mean image_size?"),
        ({"image_size": "big"}, "image_size is 'big'"),
        ({"image_size": "0"}, "image_size is 0, less than 1"),
        ({"resize_mode": "stretch"}, "resize_mode is 'stretch'"),
        ({"encode_format": "png", "encode_quality": "95"}, "png takes 0 to 9"),
        ({"verify_hash": "sum"}, "give a column and its hash"),
        ({"verify_hash": "sum,md5"}, "compute_hash is sha256"),
        ({"save_additional_columns": "a,width"}, "width, which the output fills itself"),
        ({"distributor": "pyspark"}, "only multiprocessing"),
        ({"timeout": "0"}, "timeout is 0"),
        ({"bbox_col": "b"}, "bbox_col"),
    ],
)
def test_a_wrong_option_is_named_with_what_it_takes(given, words):
    with pytest.raises(RecipeError, match=words):
        config_of(given)


def test_options_of_img2dataset_are_understood():
    config, notes = config_of(
        {"save_additional_columns": '["a", "b"]', "enable_wandb": "True", "subjob_size": "1000",
         "compute_hash": "None", "distributor": "multiprocessing", "max_image_area": "inf",
         "disallowed_header_directives": "[]", "resize_only_if_bigger": "True"}
    )  # fmt: skip
    assert config.save_additional_columns == ("a", "b")
    assert (config.compute_hash, config.disallowed_header_directives) == ("none", ())
    assert config.resize_only_if_bigger is True
    assert [note.split()[0] for note in notes] == ["--enable_wandb"]

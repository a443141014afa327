"""Hashes of pictures: the quick ways against Pillow's, and what an image deduplicator keeps."""

from __future__ import annotations

import io
import random

import numpy as np
import pytest
from PIL import Image
from PIL.Image import Resampling

from vlforge.data.images import ImageFile
from vlforge.ops.batch import Batch, Context, Files, Item, needs_pixels
from vlforge.ops.bind import bind
from vlforge.ops.dedup import hashes_fast, shrink
from vlforge.ops.dedup.hashes import distance, grey_size, hashes_of, image_hash
from vlforge.ops.dedup.hashes_fast import plain_pixels, scaled_grey
from vlforge.ops.dedup.images import METHODS, NearMatcher
from vlforge.ops.dedup.shrink import shrunk_grey
from vlforge.types import Drop, Need

SIZES = [(1, 1), (400, 300), (300, 400), (31, 900), (900, 31), (32, 32), (33, 8), (7, 5), (640, 2),
         (101, 233)]  # fmt: skip


def op_of(name: str = "image_deduplicator", **params):
    (bound,) = bind([{name: params}])
    return bound.op


def keys_of(op, rows: list[dict]) -> list:
    items = [Item(str(n), n, {"text": "", **row}) for n, row in enumerate(rows)]
    return op.keys(Batch(items, Context(), Files([op] if needs_pixels(op) else [])))


def kept(op, rows: list[dict]) -> list[int]:
    matcher, stays = op.matcher(), []
    for row, key in enumerate(keys_of(op, rows)):
        assert not isinstance(key, Drop)
        if key is None or matcher.find(key) is None:
            stays.append(row)
            if key is not None:
                matcher.add(key, str(row))
    return stays


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    levels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(levels)


def scene(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth colours with a little grain, as a photograph has them."""
    soft = np.asarray(noise(6, 5, seed).resize((width, height), Resampling.BICUBIC), float)
    grain = np.random.default_rng(seed).normal(0, 4, (height, width, 1))
    return Image.fromarray(np.clip(soft + grain, 0, 255).astype(np.uint8))


def jpeg(image: Image.Image, **keys) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **{"quality": 90, **keys})
    return file.getvalue()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", SIZES)
def test_shrunk_grey_is_pillows_to_the_bit(size, method, monkeypatch):
    width, height = target = grey_size(method)
    for pixels_at_once in (1 << 17, 1000):
        monkeypatch.setattr(shrink, "_PIXELS_AT_ONCE", pixels_at_once)
        monkeypatch.setattr(shrink, "_ALONE", pixels_at_once)
        for image in (noise(*size), scene(*size), noise(*size).convert("L"),
                      noise(*size).point(lambda v: 255 * (v > 127))):  # fmt: skip
            wanted = image.resize(target, Resampling.LANCZOS).convert("L")
            assert np.array_equal(shrunk_grey(image, target), np.asarray(wanted))
            assert wanted.size == (width, height)


@pytest.mark.parametrize(("source", "target"), [(417, 32), (33, 8), (5, 32), (1999, 9)])
def test_weights_are_those_of_the_c_librarys_sine(source, target):
    lows, counts, weights = shrink._weights(source, target)
    scale = source / target
    for column, (low, count) in enumerate(zip(lows.tolist(), counts.tolist(), strict=True)):
        centre = (column + 0.5) * scale
        places = [(at + low - centre + 0.5) / max(scale, 1) for at in range(count)]
        assert shrink._exact_weights(places) == weights[column, :count].tolist()


@pytest.mark.parametrize("method", METHODS)
def test_hashes_of_many_are_those_of_each(method):
    images = [scene(90, 70, seed) for seed in range(70)] + [Image.new("RGB", (50, 40), "red")]
    greys = np.stack([shrunk_grey(image, grey_size(method)) for image in images])
    assert hashes_of(greys, method) == [image_hash(image, method) for image in images]


def test_phash_is_the_sign_of_low_frequencies_around_their_median():
    grey = np.asarray(scene(32, 32).convert("L"))
    angles = np.pi / 64 * np.outer(np.arange(8), 2 * np.arange(32) + 1)
    low = np.cos(angles) @ grey @ np.cos(angles).T
    bits = low >= np.median(low.ravel()[1:])
    assert hashes_of(grey[None], "phash") == [np.packbits(bits).tobytes()]


def test_whash_of_blocks_that_tie_follows_the_rounding_of_haar_steps():
    """Sums of whole numbers would tie and set every bit; PyWavelets 1.9 gives these."""
    stripes = (3 * np.arange(256)[:, None] + np.arange(256)) // 48 % 2
    grey = np.where(stripes, 200, 13).astype(np.uint8)
    assert hashes_of(grey[None], "whash") == [b"\xdb" * 8]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("keys", [{}, {"subsampling": 0}, {"progressive": True}])
def test_a_fast_hash_is_near_the_exact_one(method, keys):
    rows = [{"images": [f"{n}.jpg"], "image_bytes": [jpeg(scene(400, 300, n), **keys)]}
            for n in range(12)]  # fmt: skip
    exact, fast = (
        keys_of(op_of(method=method), rows),
        keys_of(op_of(method=method, hash="fast"), rows),
    )
    assert sum(map(distance, exact, fast)) < 2 * len(rows)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_fast_hash_is_that_of_the_upright_picture(orientation, tmp_path):
    image = scene(320, 200)
    exif = Image.Exif()
    exif[0x0112] = orientation
    (tmp_path / "turned.jpg").write_bytes(jpeg(image, exif=exif))
    upright = Image.open(tmp_path / "turned.jpg")
    file = ImageFile(str(tmp_path / "turned.jpg"))
    grey = scaled_grey(file, (32, 32))
    wanted = image_hash(file.picture().upright, "phash")
    assert distance(hashes_of(grey[None], "phash")[0], wanted) <= 6
    if orientation != 1:
        flat = image_hash(upright.convert("RGB"), "phash")
        assert distance(flat, wanted) > 6


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1", "CMYK"])
def test_fast_hashes_take_all_modes(mode, tmp_path):
    image = scene(300, 200).convert(mode)
    name = "a.jpg" if mode == "CMYK" else "a.png"
    image.save(tmp_path / name)
    file = str(tmp_path / name)
    (exact,) = keys_of(op_of(), [{"images": [file]}])
    (fast,) = keys_of(op_of(hash="fast"), [{"images": [file]}])
    assert distance(exact, fast) <= 6


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("size", [(64, 48), (33, 17), (1, 1)])
@pytest.mark.parametrize(
    "keys",
    [{"quality": 30}, {"subsampling": 0}, {"subsampling": 1}, {"progressive": True},
     {"restart_marker_blocks": 2}],
)  # fmt: skip
def test_plain_pixels_are_those_that_pillow_decodes(mode, size, keys):
    pytest.importorskip("simplejpeg")
    for image in (noise(*size), scene(*size)):
        content = jpeg(image.convert(mode), **keys)
        wanted = np.asarray(Image.open(io.BytesIO(content))).reshape(size[1], size[0], -1)
        assert np.array_equal(plain_pixels(content), wanted)
        assert plain_pixels(content[:-20]) is None


def test_what_is_no_plain_jpeg_is_left_to_the_common_way():
    exif = Image.Exif()
    exif[0x0112] = 3
    png = io.BytesIO()
    scene(40, 30).save(png, "PNG")
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    image = scene(40, 30)
    others = [
        jpeg(image.convert("CMYK")),
        jpeg(image, keep_rgb=True),
        jpeg(image, exif=exif),
        jpeg(image, xmp=xmp),
        png.getvalue(),
        b"",
    ]
    assert [plain_pixels(content) for content in others] == [None] * len(others)


@pytest.mark.parametrize("method", METHODS)
def test_a_hash_is_the_same_whoever_decodes(method, tmp_path):
    images = [scene(130, 90), scene(90, 300, 1), scene(50, 40, 2).convert("L")]
    for n, image in enumerate(images):
        (tmp_path / f"{n}.jpg").write_bytes(jpeg(image))
    op, other = op_of(method=method), op_of("image_detail_filter")
    rows = [{"text": "", "images": [str(tmp_path / f"{n}.jpg")]} for n in range(3)]
    items = [Item(str(n), n, row) for n, row in enumerate(rows)]
    alone = op.keys(Batch(items, Context(), Files([op])))
    assert alone == op.keys(Batch(items, Context(), Files([op, other])))
    assert alone == [
        b"\1" + image_hash(Image.open(tmp_path / f"{n}.jpg").convert("RGB"), method)
        for n in range(3)
    ]


def test_a_fast_hash_leaves_decoding_to_itself():
    assert op_of(hash="fast").needs == Need.BYTES
    assert op_of().needs == type(op_of(hash="fast")).needs == Need.PIXELS


def test_bytes_that_were_read_for_a_fast_hash_are_let_go(tmp_path):
    (tmp_path / "a.jpg").write_bytes(jpeg(scene(64, 64)))
    file = ImageFile(str(tmp_path / "a.jpg"))
    scaled_grey(file, (8, 8))
    assert file._content is None
    given = ImageFile("gone.jpg", jpeg(scene(64, 64)))
    scaled_grey(given, (8, 8))
    assert given.content()


@pytest.mark.parametrize("way", ["exact", "fast"])
def test_a_cut_off_file_costs_its_row_unless_compat(way, tmp_path):
    content = jpeg(scene(300, 200))
    (tmp_path / "whole.jpg").write_bytes(content)
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) * 2 // 3])
    (tmp_path / "none.jpg").write_bytes(b"<html>")
    rows = [
        {"images": [str(tmp_path / f"{name}.jpg")]} for name in ("whole", "cut", "none", "gone")
    ]
    found = keys_of(op_of(hash=way), rows)
    assert [k.reason for k in found[1:]] == ["truncated image", "unreadable image", "missing image"]
    assert "cut.jpg" in found[1].value
    theirs = keys_of(op_of(hash=way, compat="data_juicer"), rows)
    assert theirs[0] == found[0]
    assert isinstance(theirs[1], bytes)
    assert [k.reason for k in theirs[2:]] == ["unreadable image", "missing image"]


@pytest.mark.parametrize("way", ["exact", "fast"])
def test_bytes_are_turned_upright_unless_compat(way, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    content = jpeg(scene(320, 200), exif=exif)
    (tmp_path / "a.jpg").write_bytes(content)
    rows = [{"images": [str(tmp_path / "a.jpg")]}, {"images": ["b"], "image_bytes": [content]}]
    assert kept(op_of(hash=way), rows) == [0]
    assert kept(op_of(hash=way, compat="data_juicer"), rows) == [0, 1]


@pytest.mark.parametrize("way", ["exact", "fast"])
def test_rows_with_the_same_pictures_in_the_same_order_are_repeats(way, tmp_path):
    for n in range(2):
        (tmp_path / f"{n}.jpg").write_bytes(jpeg(scene(120, 90, n)))
    a, b = str(tmp_path / "0.jpg"), str(tmp_path / "1.jpg")
    rows = [[a], [b], [a, b], [b, a], [a, a], [a, b, a], [], []]
    given = [{"images": row} for row in rows]
    assert kept(op_of(hash=way), given) == [0, 1, 2, 3, 6, 7]


def test_text_counts_where_it_is_asked_for_also_without_pictures(tmp_path):
    (tmp_path / "a.jpg").write_bytes(jpeg(scene(50, 50)))
    one = {"images": [str(tmp_path / "a.jpg")]}
    rows = [{**one, "text": "A"}, {**one, "text": "a"}, {**one, "text": "A 1"},
            {"text": "A"}, {"text": "a"}, {"text": "A", "images": []}]  # fmt: skip
    assert kept(op_of(consider_text=True), rows) == [0, 1, 2, 3, 4]
    assert kept(op_of(consider_text=True, lowercase=True), rows) == [0, 2, 3]
    assert kept(op_of(consider_text=True, lowercase=True, ignore_non_character=True), rows) == [
        0,
        3,
    ]
    assert kept(op_of(consider_text=True, max_distance=3), rows) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("bits", [1, 5, 31])
def test_near_hashes_are_found_as_by_comparing_all(bits):
    pick = np.random.default_rng(bits)
    hashes = [int(x) for x in pick.integers(0, 1 << 63, 20)]
    for _ in range(100):
        flips = pick.choice(64, int(pick.integers(1, 2 * bits + 2)), replace=False)
        hashes.append(hashes[int(pick.integers(20))] ^ sum(1 << int(bit) for bit in flips))
    matcher, mine, stays = NearMatcher(bits), [], []
    for value in hashes:
        key = b"\1" + value.to_bytes(8)
        found = matcher.find(key)
        first = next((n for n, v in stays if (v ^ value).bit_count() <= bits), None)
        mine.append((found, first))
        if found is None:
            matcher.add(key, str(len(mine)))
            stays.append((str(len(mine)), value))
    assert all(found == first for found, first in mine)


def test_ray_image_deduplicator_keeps_rows_without_pictures_unless_compat(tmp_path):
    (tmp_path / "a.jpg").write_bytes(jpeg(scene(50, 50)))
    rows = [{}, {"images": [str(tmp_path / "a.jpg")]}, {"images": []}, {}]
    keys = {"backend": "redis", "redis_address": "redis://cache:6379", "method": "dhash"}
    assert kept(op_of("ray_image_deduplicator", **keys), rows) == [0, 1, 2, 3]
    assert kept(op_of("ray_image_deduplicator", compat="data_juicer"), rows) == [0, 1]


@pytest.mark.parametrize("seed", range(12))
def test_the_quick_grey_of_a_jpeg_is_pillows_to_the_bit(tmp_path, seed):
    draw = random.Random(seed)
    for number in range(8):
        size = (draw.randint(1, 900), draw.randint(1, 900))
        image = Image.effect_mandelbrot(size, (-2, -1.2, 0.5 + number / 9, 1.2), 40)
        if number % 3:
            image = Image.merge("RGB", [image, image.transpose(0), image.transpose(1)])
        path = tmp_path / f"{number}.jpg"
        image.save(path, quality=draw.choice((30, 75, 95)), progressive=bool(number % 2))
        content = path.read_bytes()
        quick = hashes_fast._quick_grey(content, 64)
        plain = hashes_fast._grey_of_jpeg(content, True, 64)
        assert quick is not None
        assert np.array_equal(np.asarray(quick), np.asarray(plain))

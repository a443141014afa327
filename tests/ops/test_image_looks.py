"""Blurred, blank and put-together pictures, and QR codes, are found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from vlforge.ops.batch import Batch, Context, Files, Item
from vlforge.ops.bind import bind
from vlforge.ops.image.panels import confidence
from vlforge.types import Drop, RecipeError

PICTURES = Path(__file__).parent / "pictures"
PHOTO = PICTURES / "photo_a.jpg"


def op_of(name: str, **params):
    (bound,) = bind([{name: params}])
    return bound.op


def judged(op, rows: list[list[Image.Image]], folder: Path):
    """(columns, kept) of rows of pictures."""
    items = []
    for n, row in enumerate(rows):
        paths = [str(folder / f"{n}_{m}.png") for m in range(len(row))]
        for path, image in zip(paths, row, strict=True):
            image.save(path)
        items.append(Item(str(n), n, {"images": paths}))
    columns = op.measure(Batch(items, Context(), Files((op,))))
    has_faults = any(isinstance(value, Drop) for value in columns[0])
    return columns, [] if has_faults else op.keep_all(columns)


def grid(lines: int = 4, side: int = 330) -> Image.Image:
    """A figure of panels with black borders."""
    image = Image.new("RGB", (side, side), "white")
    pen = ImageDraw.Draw(image)
    for at in range(5, side, (side - 11) // (lines - 1)):
        pen.line([(at, 0), (at, side)], fill="black", width=2)
        pen.line([(0, at), (side, at)], fill="black", width=2)
    return image


def photo(size: tuple[int, int] | None = None) -> Image.Image:
    """A picture of everyday things."""
    image = Image.open(PHOTO).convert("RGB")
    return image.resize(size, Image.Resampling.BICUBIC) if size else image


def test_blurred_pictures_fall_and_sharp_ones_stay(tmp_path):
    op = op_of("image_blur_filter")
    blurred = [photo().filter(ImageFilter.GaussianBlur(radius)) for radius in (2, 4)]
    (variances,), kept = judged(op, [[photo()], *[[b] for b in blurred], []], tmp_path)
    assert kept == [True, False, False, True]
    assert variances[0][0] > 100 > 10 > variances[1][0] > variances[2][0]


def test_sharpness_does_not_depend_on_the_resolution(tmp_path):
    op = op_of("image_blur_filter")
    base = photo((512, 384))
    sizes = [base, *(base.resize((512 * k, 384 * k), Image.Resampling.NEAREST) for k in (2, 3))]
    (variances,), _ = judged(op, [[image] for image in sizes], tmp_path)
    values = [value for (value,) in variances]
    assert max(values) < 1.6 * min(values)
    detail, _ = judged(op_of("image_detail_filter"), [[image] for image in sizes], tmp_path)
    sharpness = [value for (value,) in detail[1]]
    assert max(sharpness) > 1.6 * min(sharpness)


def test_blank_pictures_fall_even_with_a_speck(tmp_path):
    page = Image.new("RGB", (100, 100), (240, 240, 240))
    speck = page.copy()
    speck.paste((0, 0, 0), (10, 10, 15, 15))
    words = page.copy()
    words.paste((0, 0, 0), (10, 10, 60, 20))
    two_tone = Image.new("RGB", (10, 10), "red")
    two_tone.paste("green", (0, 0, 5, 10))
    (ratios,), kept = judged(
        op_of("image_blank_filter"), [[page], [speck], [words], [two_tone], [photo()]], tmp_path
    )
    assert ratios[:4] == [[1.0], [0.9975], [0.95], [0.5]]
    assert kept == [False, False, True, True, True]


def test_equal_grey_of_different_colours_is_not_blank(tmp_path):
    checks = Image.fromarray(np.indices((8, 8)).sum(0).astype(np.uint8) % 2 * 255)
    colours = Image.merge("RGB", (checks, checks.point(lambda v: 255 - v), checks))
    (ratios,), _ = judged(op_of("image_blank_filter"), [[colours]], tmp_path)
    assert ratios == [[0.5]]


def test_the_tolerance_forgives_noise(tmp_path):
    image = Image.new("RGB", (20, 20), (100, 100, 100))
    image.paste((112, 100, 100), (0, 0, 10, 20))
    for tolerance, ratio in ((8, 0.5), (12, 1.0)):
        op = op_of("image_blank_filter", tolerance=tolerance)
        assert judged(op, [[image]], tmp_path)[0] == ([[ratio]],)
    with pytest.raises(RecipeError, match=r"tolerance is 256, not 0\.\.255"):
        op_of("image_blank_filter", tolerance=256)


def with_codes(count: int) -> Image.Image:
    """A photograph with so many QR codes on it."""
    import cv2

    image = photo((480, 320))
    for number in range(count):
        dots = cv2.QRCodeEncoder.create().encode(f"https://example.com/{number}")
        code = Image.fromarray(np.kron(dots, np.ones((4, 4), np.uint8))).convert("RGB")
        image.paste(
            Image.new("RGB", (code.width + 24, code.height + 24), "white"), (220 * number, 60)
        )
        image.paste(code, (220 * number + 12, 72))
    return image


def test_qr_codes_are_counted_and_pictures_without_stay(tmp_path):
    op = op_of("image_qrcode_filter")
    rows = [[photo()], [with_codes(1)], [with_codes(2)], [photo(), with_codes(1)], []]
    columns, kept = judged(op, rows, tmp_path)
    assert columns == ([[0], [1], [2], [0, 1], []],)
    assert kept == [True, False, False, True, True]
    assert op_of("image_qrcode_filter", any_or_all="all").keep_all(columns)[3] is False


def test_pictures_of_panels_fall(tmp_path):
    rows = [[grid()], [photo()], [photo(), grid()], []]
    columns, kept = judged(op_of("image_subplot_filter"), rows, tmp_path)
    confidences, level, upright, detected = columns
    assert detected == [True, False, True, False]
    assert confidences[0][0] >= 0.5
    assert min(level[0][0], upright[0][0]) >= 4
    assert confidences[1:] == [[0.0], [0.0, confidences[0][0]], []]
    assert kept == [False, True, False, True]
    for params, stays in (
        ({"any_or_all": "all"}, [False, True, True, True]),
        ({"min_confidence": 0.99}, [True] * 4),
        ({"min_horizontal_lines": 50}, [True] * 4),
        ({"reversed_range": True}, [True, False, True, True]),
        ({"reversed_range": True, "compat": "data_juicer"}, [False, True, False, True]),
    ):
        assert op_of("image_subplot_filter", **params).keep_all(columns) == stays, params


def test_lines_are_not_searched_in_endless_strips(tmp_path):
    ((drop,), *_), _ = judged(
        op_of("image_subplot_filter"), [[Image.new("1", (70_000, 1))]], tmp_path
    )
    assert drop.reason == "image too large"
    assert "has a side of 70000 pixels" in drop.value


def test_the_drop_of_panels_names_confidence_and_bound():
    op = op_of("image_subplot_filter")
    drop = op.fault("image_subplot_filter", ([0.7], [4], [4], True))
    assert (drop.reason, drop.stat, drop.value, drop.bound) == (
        "panels", "image_subplot_confidence", [0.7], "< 0.5")  # fmt: skip


@pytest.mark.parametrize(
    ("horizontal", "vertical", "expected"),
    [
        ([(0, 50, 100, 50)], [], 0.0),
        # one line each way: a third of the lines, nothing to compare
        ([(0, 50, 100, 50)], [(50, 0, 50, 100)], 0.2 / 3 * 2),
        # even grid over the whole picture: all but the crossings are perfect
        ([(0, y, 100, y) for y in (0, 50, 100)], [(x, 0, x, 100) for x in (0, 50, 100)],
         0.8 + 0.2 * 0.9),
        # all lines in one place: no distances
        ([(0, 50, 100, 50)] * 3, [(x, 0, x, 100) for x in (0, 50, 100)], 0.65 + 0.2 * 0.9),
        # short lines count half as equal
        ([(0, y, 20, y) for y in (0, 50, 100)], [(x, 0, x, 100) for x in (0, 50, 100)],
         0.775 + 0.2 * 0.9),
    ],
)  # fmt: skip
def test_confidence_adds_up_as_documented(horizontal, vertical, expected):
    assert confidence(horizontal, vertical, (100, 100), (3, 3)) == pytest.approx(expected)

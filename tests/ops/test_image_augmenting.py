"""Changed copies: what they show, that words and EXIF stay true, that only the row decides."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.engine.made import config, contents, lines, write_rows
from tests.made_pictures import noise
from tests.ops.test_image_mappers import op_of, rows_after, saved
from vlforge.data.images import load_rgb
from vlforge.engine.local import run_process
from vlforge.ops.base import Grown
from vlforge.ops.image.augmenting import largest_inside
from vlforge.ops.image.copies import SOURCE_FILES
from vlforge.ops.image.directions import with_sides_swapped
from vlforge.types import Drop, RecipeError

MAPPERS = {
    "image_flip_mapper": {},
    "image_crop_mapper": {},
    "image_color_jitter_mapper": {"hue": 0.1},
    "image_rotation_mapper": {},
    "image_compression_mapper": {},
}


def picture(folder: Path, name: str = "a.png", size: tuple[int, int] = (40, 30), **options) -> str:
    return saved(folder, name, noise(size), **options)


def one(row: dict) -> Image.Image:
    return load_rgb(row["images"][0])


@pytest.mark.parametrize("name", MAPPERS)
def test_variants_are_rows_of_their_own_and_the_original_stays_on_demand(tmp_path, name):
    path = picture(tmp_path)
    op = op_of(name, aug_num=3, keep_original_sample=True, **MAPPERS[name])
    rows = [{"images": [path, path], "id": 1}, {"images": []}, {"images": ["gone.png"]}]
    grown, empty, gone = rows_after(op, rows, tmp_path)
    assert isinstance(grown, Grown)
    assert grown.keeps_original
    assert len(grown.rows) == 3
    assert empty == {"text": "", "images": []}
    assert isinstance(gone, Drop)
    for row in grown.rows:
        assert row[SOURCE_FILES] == [path, path]
        assert row["images"][0] == row["images"][1] != path
        assert Path(row["images"][0]).parent == tmp_path / name
    if name != "image_flip_mapper":
        assert len({row["images"][0] for row in grown.rows}) == 3


@pytest.mark.parametrize("name", MAPPERS)
def test_the_draw_depends_on_seed_and_row_and_a_share_is_changed(tmp_path, name):
    path = picture(tmp_path)
    op = op_of(name, p=0.3, **MAPPERS[name])
    rows = [{"images": [path]} for _ in range(60)]
    first = rows_after(op, rows, tmp_path)
    assert first == rows_after(op, rows, tmp_path)
    assert first[20:] == rows_after(op, rows, tmp_path)[20:]
    changed = [row["images"] != [path] for row in first]
    assert 8 < sum(changed) < 30
    again = [row["images"] != [path] for row in rows_after(op, rows, tmp_path, seed=1)]
    assert again != changed


def test_workers_and_restarts_change_nothing(tmp_path):
    rows = [
        {"id": str(n), "text": "x", "images": [picture(tmp_path, f"{n}.png")]} for n in range(9)
    ]
    path = write_rows(tmp_path / "a.jsonl", rows)
    found = []
    for workers in (1, 2):
        process = [{name: {"save_dir": str(tmp_path / "made"), "p": 0.7}} for name in MAPPERS]
        run_process(config(path, *process), tmp_path / f"o{workers}", workers=workers)
        found.append(contents(tmp_path / f"o{workers}"))
    assert found[0] == found[1]
    assert len(lines(tmp_path / "o1" / "data.jsonl")) == 9


def test_a_flip_mirrors_and_leaves_rows_that_speak_of_sides(tmp_path):
    path = picture(tmp_path)
    for direction, mirrored in (("horizontal", ImageOps.mirror), ("vertical", ImageOps.flip)):
        op = op_of("image_flip_mapper", direction=direction)
        texts = ["a cat", "a cat LEFT of a dog", "the man at the top", "狗在猫的右边", "在最上面"]
        rows = rows_after(op, [{"images": [path], "text": text} for text in texts], tmp_path)
        assert one(rows[0]).tobytes() == mirrored(load_rgb(path)).tobytes()
        stays = [row["images"] == [path] for row in rows[1:]]
        assert stays == ([True, False, True, False] if direction == "horizontal" else
                         [False, True, False, True])  # fmt: skip
    (row,) = rows_after(op_of("image_flip_mapper", texts="keep"),
                        [{"images": [path], "text": "left"}], tmp_path)  # fmt: skip
    assert (row["text"], row["images"] != [path]) == ("left", True)


@pytest.mark.parametrize(("text", "direction", "swapped"), [
    ("A dog to the Left, the RIGHT", "horizontal", "A dog to the Right, the LEFT"),
    ("leftmost, at least; bright", "horizontal", "rightmost, at least; bright"),
    ("大约左右各一个，左边是猫", "horizontal", "大约左右各一个，右边是猫"),
    ("Above it, under a lamp on top", "vertical", "Below it, over a lamp on bottom"),
    ("turn clockwise 逆时针", "horizontal", "turn counterclockwise 顺时针"),
])  # fmt: skip
def test_words_are_swapped_as_they_are_written(text, direction, swapped):
    assert with_sides_swapped(text, direction) == swapped


def test_a_swapped_text_goes_with_its_mirrored_picture(tmp_path):
    op = op_of("image_flip_mapper", texts="swap", text_key="meta.caption")
    row = {"images": [picture(tmp_path)], "meta": {"caption": "the left cup", "n": 1}}
    (new,) = rows_after(op, [row], tmp_path)
    assert new["meta"] == {"caption": "the right cup", "n": 1}
    assert row["meta"]["caption"] == "the left cup"


@pytest.mark.parametrize("size", [(400, 300), (300, 1), (1, 1), (17, 900)])
def test_a_crop_has_the_area_and_shape_that_were_asked_for(tmp_path, size):
    path = picture(tmp_path, size=size)
    op = op_of("image_crop_mapper", aug_num=20, min_area=0.5, max_area=0.7)
    (grown,) = rows_after(op, [{"images": [path]}], tmp_path)
    for row in grown.rows:
        width, height = one(row).size
        assert 1 <= width <= size[0]
        assert 1 <= height <= size[1]
        if min(size) > 100:
            assert 0.49 < width * height / (size[0] * size[1]) < 0.71
            assert 0.79 < (width / height) / (size[0] / size[1]) < 1.26


def test_colours_change_by_what_was_asked_and_no_more(tmp_path):
    grey = saved(tmp_path, "grey.png", Image.new("RGB", (8, 8), (120, 120, 120)))
    none = {"brightness": 0, "contrast": 0, "saturation": 0}
    op = op_of("image_color_jitter_mapper", **{**none, "brightness": 0.5}, aug_num=30)
    (grown,) = rows_after(op, [{"images": [grey]}], tmp_path)
    levels = [one(row).getpixel((0, 0))[0] for row in grown.rows]
    assert 60 <= min(levels) < 90
    assert 150 < max(levels) <= 180
    (row,) = rows_after(op_of("image_color_jitter_mapper", **none), [{"images": [grey]}], tmp_path)
    assert one(row).tobytes() == load_rgb(grey).tobytes()
    red = saved(tmp_path, "red.png", Image.new("RGB", (8, 8), (200, 40, 40)))
    op = op_of("image_color_jitter_mapper", **none, hue=0.5, aug_num=20)
    (grown,) = rows_after(op, [{"images": [red]}], tmp_path)
    colours = {one(row).getpixel((0, 0)) for row in grown.rows}
    assert len({max(range(3), key=colour.__getitem__) for colour in colours}) == 3


@pytest.mark.parametrize("size", [(400, 300), (300, 400), (600, 60), (50, 50)])
def test_a_turned_picture_has_no_empty_corner(tmp_path, size):
    path = saved(tmp_path, "white.png", Image.new("RGB", size, "white"))
    op = op_of("image_rotation_mapper", max_degrees=45, aug_num=12)
    (grown,) = rows_after(op, [{"images": [path]}], tmp_path)
    for row in grown.rows:
        pixels = np.asarray(one(row))
        assert pixels[1:-1, 1:-1].min() > 200
    (row,) = rows_after(op_of("image_rotation_mapper", corners="fill", max_degrees=30),
                        [{"images": [path]}], tmp_path)  # fmt: skip
    assert one(row).size == size


@pytest.mark.parametrize("degrees", [0, 1, 20, 44.9])
def test_the_largest_rectangle_fits_and_touches(degrees):
    angle = math.radians(degrees)
    for width, height in ((400, 300), (900, 50), (77, 300)):
        inner = largest_inside(width, height, angle)
        across = inner[0] * math.cos(angle) + inner[1] * math.sin(angle)
        along = inner[0] * math.sin(angle) + inner[1] * math.cos(angle)
        assert across <= width + 1e-6
        assert along <= height + 1e-6
        assert across > width - 2 or along > height - 2


def test_exif_is_applied_once(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = picture(tmp_path, "turned.jpg", (40, 30), exif=exif, quality=95)
    (row,) = rows_after(op_of("image_rotation_mapper", max_degrees=0.0), [{"images": [path]}],
                        tmp_path)  # fmt: skip
    with Image.open(row["images"][0]) as copy:
        assert copy.size == (30, 40)
        assert 0x0112 not in copy.getexif()


def test_compression_writes_jpegs_of_the_drawn_quality(tmp_path):
    path = picture(tmp_path, size=(120, 90))
    sizes = []
    for low, high in ((10, 20), (80, 90)):
        op = op_of("image_compression_mapper", min_quality=low, max_quality=high)
        (row,) = rows_after(op, [{"images": [path]}], tmp_path)
        assert row["images"][0].endswith(".jpg")
        sizes.append(Path(row["images"][0]).stat().st_size)
    assert sizes[0] < sizes[1] / 2


@pytest.mark.parametrize(("name", "keys", "said"), [
    ("image_crop_mapper", {"min_area": 0.0}, "not within 0..1"),
    ("image_rotation_mapper", {"max_degrees": 90.0}, "not 0..45"),
    ("image_flip_mapper", {"p": 2.0}, "p is 2"),
    ("image_compression_mapper", {"quality": 3}, "draws its quality"),
    ("image_color_jitter_mapper", {"hue": 0.9}, "hue is 0.9"),
])  # fmt: skip
def test_amounts_that_make_no_sense_are_refused(name, keys, said):
    with pytest.raises(RecipeError, match=said):
        op_of(name, **keys)

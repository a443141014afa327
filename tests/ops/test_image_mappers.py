"""Copies of pictures: what they show, where they lie, and that nothing but the row decides."""

from __future__ import annotations

import base64
import io
import os
from pathlib import Path

import pytest
from PIL import Image, ImageChops, ImageFilter

from tests.made_pictures import encoded, exif, noise
from vlforge.data import images
from vlforge.data.images import load_rgb
from vlforge.data.json_lines import write_lines
from vlforge.engine.config import ProcessConfig
from vlforge.engine.local import run_process
from vlforge.ops.batch import Batch, Context, Files, Item
from vlforge.ops.bind import bind
from vlforge.ops.image.copies import SOURCE_FILES, copy_name, write_whole
from vlforge.types import DataError, Drop, RecipeError

PICTURES = Path(__file__).parent / "pictures"
PHOTO = str(PICTURES / "photo_a.jpg")
MAPPERS = [
    "image_blur_mapper",
    "image_face_blur_mapper",
    "image_resize_mapper",
    "image_convert_mapper",
]


def op_of(name: str, **params):
    (bound,) = bind([{name: params}])
    return bound.op


def rows_after(op, rows: list[dict], produced: Path, seed: int = 0) -> list:
    """What the operator makes of rows; uids are their places."""
    items = [Item(f"file-{n}", n, {"text": "", **row}) for n, row in enumerate(rows)]
    batch = Batch(items, Context(produced=str(produced), seed=seed), Files((op,)))
    return op.apply(batch)


def saved(folder: Path, name: str, image: Image.Image, **options) -> str:
    """The path of a picture written there."""
    path = folder / name
    image.save(path, **options)
    return str(path)


def spread(one: Image.Image, other: Image.Image) -> int:
    """The largest difference of two pictures' pixels."""
    return max(high for _, high in ImageChops.difference(one, other).getextrema())


@pytest.mark.parametrize(
    ("params", "kernel"),
    [
        ({}, ImageFilter.GaussianBlur(2)),
        ({"blur_type": "gaussian", "radius": 0.5}, ImageFilter.GaussianBlur(0.5)),
        ({"blur_type": "box", "radius": 3}, ImageFilter.BoxBlur(3)),
        ({"blur_type": "mean", "radius": 9}, ImageFilter.BLUR),
    ],
)
def test_the_whole_picture_is_blurred_upright(params, kernel, tmp_path):
    path = saved(tmp_path, "a.png", noise(), exif=exif(6))
    (row,) = rows_after(op_of("image_blur_mapper", p=1.0, **params), [{"images": [path]}], tmp_path)
    copy = Image.open(row["images"][0])
    assert copy.info == {}
    assert spread(copy, load_rgb(path).filter(kernel)) == 0


def test_the_row_names_copies_and_what_they_were_made_from(tmp_path):
    op = op_of("image_blur_mapper", p=1.0)
    row = {"id": 7, "images": [PHOTO, PHOTO]}
    (once,) = rows_after(op, [row], tmp_path)
    assert row == {"id": 7, "images": [PHOTO, PHOTO]}
    assert once == {"id": 7, "text": "", "images": once["images"], SOURCE_FILES: [PHOTO, PHOTO]}
    assert once["images"][0] == once["images"][1]
    assert Path(once["images"][0]).parent == tmp_path / "image_blur_mapper"
    (twice,) = rows_after(op, [once], tmp_path)
    assert twice[SOURCE_FILES] == once["images"]
    assert twice["images"] != once["images"]
    (kept,) = rows_after(op_of("image_blur_mapper", p=0.0), [once], tmp_path)
    assert kept == once


def test_rows_without_pictures_have_no_source_files(tmp_path):
    op = op_of("image_blur_mapper", p=1.0)
    assert [row[SOURCE_FILES] for row in rows_after(op, [{"images": []}, {}], tmp_path)] == [[], []]


def test_the_share_is_drawn_from_seed_and_row_alone(tmp_path):
    op = op_of("image_blur_mapper", p=0.3)
    rows = [{"images": [PHOTO]} for _ in range(200)]

    def drawn(seed: int) -> list[bool]:
        return [row["images"] != [PHOTO] for row in rows_after(op, rows, tmp_path, seed)]

    first = drawn(0)
    assert 40 < sum(first) < 80
    assert drawn(0) == first
    assert drawn(1) != first
    items = [Item(f"file-{n}", n, {"images": [PHOTO]}) for n in (150, 3, 77)]
    alone = op.apply(Batch(items, Context(produced=str(tmp_path)), Files((op,))))
    assert [row["images"] != [PHOTO] for row in alone] == [first[n] for n in (150, 3, 77)]


def test_names_follow_from_content_and_keys(tmp_path):
    shutil_copy = tmp_path / "elsewhere"
    shutil_copy.mkdir()
    (shutil_copy / "photo_a.jpg").write_bytes(Path(PHOTO).read_bytes())
    rows = [{"images": [PHOTO]}, {"images": [str(shutil_copy / "photo_a.jpg")]}]
    op = op_of("image_blur_mapper", p=1.0)
    here, there = rows_after(op, rows, tmp_path / "one")
    assert here["images"] == there["images"]
    (again,) = rows_after(op, rows[:1], tmp_path / "two")
    (other,) = rows_after(op_of("image_blur_mapper", p=1.0, radius=3), rows[:1], tmp_path / "two")
    name = os.path.basename(here["images"][0])
    assert os.path.basename(again["images"][0]) == name
    assert os.path.basename(other["images"][0]) != name
    assert name.startswith("photo_a__")
    assert name.endswith(".jpg")


@pytest.mark.parametrize(
    ("path", "stem"),
    [
        ("a/b/photo.jpg", "photo"),
        ("photo__0123456789abcdef0123.jpg", "photo"),
        ("图 片 %20.jpg", "图 片 %20"),
        ("a\nb\x00c.jpg", "abc"),
        ("x" * 300 + ".jpg", "x" * 120),
        ("图" * 300 + ".jpg", "图" * 40),
        ("lone\ud800.jpg", "lone"),
    ],
)
def test_every_name_can_be_written(path, stem, tmp_path):
    name = copy_name(path, b"content", ".png")
    assert name[: -len("__0123456789abcdef0123.png")] == stem
    write_whole(str(tmp_path / name), b"content")
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_save_dir_is_taken_as_it_is_and_needed_without_a_run(tmp_path):
    op = op_of("image_blur_mapper", p=1.0, save_dir=str(tmp_path / "mine"))
    (row,) = rows_after(op, [{"images": [PHOTO]}], tmp_path)
    assert Path(row["images"][0]).parent == tmp_path / "mine"
    homeless = op_of("image_blur_mapper", p=1.0)
    batch = Batch([Item("0", 1, {"images": [PHOTO]})], Context(), Files((homeless,)))
    with pytest.raises(RecipeError, match="has nowhere to write pictures: set save_dir"):
        homeless.apply(batch)


def test_a_folder_that_cannot_be_written_to_stops_the_run(tmp_path):
    (tmp_path / "taken").write_text("a file")
    op = op_of("image_blur_mapper", p=1.0, save_dir=str(tmp_path / "taken"))
    with pytest.raises(DataError, match="cannot be written"):
        rows_after(op, [{"images": [PHOTO]}], tmp_path)


def test_a_copy_that_is_there_is_not_written_again(tmp_path):
    op = op_of("image_blur_mapper", p=1.0)
    (row,) = rows_after(op, [{"images": [PHOTO]}], tmp_path)
    os.utime(row["images"][0], (1, 1))
    rows_after(op, [{"images": [PHOTO]}], tmp_path)
    assert os.path.getmtime(row["images"][0]) == 1
    assert len(list((tmp_path / "image_blur_mapper").iterdir())) == 1


@pytest.mark.parametrize("kind", [".jpg", ".JPEG", ".png", ".webp", ".bmp", ".gif", ".tiff"])
def test_copies_keep_the_format_that_the_name_says(kind, tmp_path):
    path = saved(tmp_path, f"a{kind}", noise((40, 30)))
    (row,) = rows_after(op_of("image_blur_mapper", p=1.0), [{"images": [path]}], tmp_path)
    assert row["images"][0].endswith(kind)
    with Image.open(row["images"][0]) as copy, Image.open(path) as before:
        assert copy.format == before.format
        assert copy.size == (40, 30)


def test_a_name_without_a_known_ending_gets_png(tmp_path):
    path = tmp_path / "picture.data"
    path.write_bytes(encoded(noise(), "JPEG"))
    (row,) = rows_after(op_of("image_blur_mapper", p=1.0), [{"images": [str(path)]}], tmp_path)
    assert row["images"][0].endswith(".png")


def test_quality_is_that_of_jpeg(tmp_path):
    sizes = []
    for quality in (None, 75, 95):
        op = op_of("image_blur_mapper", p=1.0, quality=quality)
        (row,) = rows_after(op, [{"images": [PHOTO]}], tmp_path)
        sizes.append(os.path.getsize(row["images"][0]))
    assert sizes[0] == sizes[1] < sizes[2]


def test_bytes_in_the_row_are_changed_with_the_path(tmp_path):
    content = encoded(noise(), "JPEG", exif=exif(6))
    text = base64.b64encode(content).decode()
    row = {"images": ["no/a.jpg", "no/b.jpg", PHOTO], "image_bytes": [content, text, None]}
    (new,) = rows_after(op_of("image_resize_mapper", max_side=60), [row], tmp_path)
    first, second, third = (Path(path).read_bytes() for path in new["images"])
    assert new["image_bytes"] == [first, base64.b64encode(second).decode(), None]
    assert first == second != third
    assert Image.open(io.BytesIO(first)).size == (43, 60)
    assert row["image_bytes"] == [content, text, None]


def test_what_its_format_cannot_hold_costs_the_row(tmp_path):
    path = tmp_path / "long.webp"
    path.write_bytes(encoded(noise((17_000, 2)), "PNG"))
    (drop,) = rows_after(op_of("image_blur_mapper", p=1.0), [{"images": [str(path)]}], tmp_path)
    assert drop.reason == "image cannot be written"
    assert f"image {path} cannot be written as WEBP" in drop.value


def test_large_pictures_are_brought_down_and_small_ones_untouched(tmp_path):
    large = saved(tmp_path, "large.png", noise((300, 100)), exif=exif(6))
    small = saved(tmp_path, "small.png", noise((60, 50)))
    op = op_of("image_resize_mapper", max_side=60)
    both, none = rows_after(op, [{"images": [large, small]}, {"images": [small]}], tmp_path)
    assert none == {"text": "", "images": [small]}
    assert both["images"][1] == small
    assert both[SOURCE_FILES] == [large, small]
    copy = Image.open(both["images"][0])
    upright = load_rgb(large)
    assert spread(copy, upright.resize((20, 60), Image.Resampling.LANCZOS)) == 0


@pytest.mark.parametrize(
    ("mode", "ending", "after"),
    [("L", "png", "L"), ("LA", "png", "RGBA"), ("RGBA", "webp", "RGBA"), ("P", "png", "RGB"),
     ("1", "png", "RGB"), ("I;16", "png", "RGB"), ("CMYK", "jpg", "RGB"), ("RGB", "bmp", "RGB")],
)  # fmt: skip
def test_resizing_keeps_grey_and_transparency(mode, ending, after, tmp_path):
    image = noise((80, 40)).convert("L" if mode == "I;16" else mode)
    if mode == "I;16":
        image = image.convert("I").point(lambda v: v * 257).convert("I;16")
    if mode == "RGBA":
        image.putalpha(noise((80, 40), "L", seed=6))
    path = saved(tmp_path, f"a.{ending}", image)
    (row,) = rows_after(op_of("image_resize_mapper", max_side=20), [{"images": [path]}], tmp_path)
    with Image.open(row["images"][0]) as copy:
        assert (copy.size, copy.mode) == ((20, 10), after)


def test_a_thin_picture_keeps_a_pixel(tmp_path):
    path = saved(tmp_path, "a.png", noise((500, 2)))
    (row,) = rows_after(op_of("image_resize_mapper", max_side=50), [{"images": [path]}], tmp_path)
    assert Image.open(row["images"][0]).size == (50, 1)


def test_converting_leaves_upright_rgb_jpegs_alone(tmp_path):
    turned = saved(tmp_path, "turned.jpg", noise(), exif=exif(6))
    grey = saved(tmp_path, "grey.jpg", noise(mode="L"))
    png = saved(tmp_path, "a.png", noise())
    rows = [{"images": [path]} for path in (PHOTO, turned, grey, png)]
    same, *changed = rows_after(op_of("image_convert_mapper"), rows, tmp_path)
    assert same == {"text": "", "images": [PHOTO]}
    for row, before in zip(changed, (turned, grey, png), strict=True):
        with Image.open(row["images"][0]) as copy:
            assert (copy.format, copy.mode, copy.getexif()) == ("JPEG", "RGB", {})
            assert copy.size == load_rgb(before).size
        assert row["images"][0].endswith(".jpg")


def test_transparency_is_laid_over_the_background(tmp_path):
    glass = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    glass.putpixel((0, 0), (0, 0, 255, 255))
    path = saved(tmp_path, "a.png", glass)
    for background, colour in (("white", (255, 255, 255)), ("#102030", (16, 32, 48))):
        op = op_of("image_convert_mapper", format="png", background=background)
        (row,) = rows_after(op, [{"images": [path]}], tmp_path)
        copy = Image.open(row["images"][0])
        assert (copy.getpixel((0, 0)), copy.getpixel((3, 3))) == ((0, 0, 255), colour)


def test_format_keep_changes_only_what_is_not_upright_rgb(tmp_path):
    png, webp = (saved(tmp_path, f"a.{kind}", noise()) for kind in ("png", "webp"))
    palette = saved(tmp_path, "palette.gif", noise().quantize())
    rows = [{"images": [path]} for path in (png, webp, palette)]
    *same, changed = rows_after(op_of("image_convert_mapper", format="keep"), rows, tmp_path)
    assert [row["images"] for row in same] == [[png], [webp]]
    assert changed["images"][0].endswith(".gif")


@pytest.mark.parametrize("name", MAPPERS)
def test_a_picture_that_cannot_be_used_costs_its_row_only(name, tmp_path):
    params = {"image_blur_mapper": {"p": 1.0}, "image_resize_mapper": {"max_side": 100}}
    op = op_of(name, **params.get(name, {}))
    rows = [{"images": [path]} for path in (str(PICTURES / "truncated.jpg"), "gone.jpg", PHOTO)]
    cut, gone, fine = rows_after(op, rows, tmp_path)
    assert isinstance(cut, Drop)
    assert (cut.reason, gone.reason) == ("truncated image", "missing image")
    assert "truncated.jpg" in cut.value
    assert isinstance(fine, dict)
    theirs = op_of(name, compat="data_juicer", **params.get(name, {}))
    (filled,) = rows_after(theirs, rows[:1], tmp_path)
    assert isinstance(filled, dict)


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("image_blur_mapper", {"p": 1.5}, r"p is 1.5, not 0\.\.1"),
        ("image_blur_mapper", {"radius": -1}, "radius is -1.0, below 0"),
        ("image_blur_mapper", {"blur_type": "motion"}, "blur_type is 'motion'"),
        ("image_blur_mapper", {"quality": 0}, r"quality is 0, not 1\.\.100"),
        ("image_face_blur_mapper", {"radius": -1}, "radius is -1.0, below 0"),
        ("image_face_blur_mapper", {"quality": 101}, "quality is 101"),
        ("image_resize_mapper", {"max_side": 0}, "max_side is 0, below 1"),
        ("image_convert_mapper", {"format": "gif"}, "format is 'gif'"),
        ("image_convert_mapper", {"background": "nocolour"}, "background is 'nocolour'"),
        ("image_convert_mapper", {"background": "#11223344"}, "background is '#11223344'"),
    ],
)
def test_keys_that_make_no_sense_are_refused_at_load(name, params, message):
    with pytest.raises(RecipeError, match=message) as raised:
        op_of(name, **params)
    assert name in str(raised.value)


def test_pictures_are_decoded_once_for_filters_and_mappers(tmp_path, monkeypatch):
    decoded = []
    really_decode = images._decode
    monkeypatch.setattr(
        images, "_decode", lambda *a, **k: decoded.append(1) or really_decode(*a, **k)
    )
    detail, blur = op_of("image_detail_filter"), op_of("image_blur_mapper", p=1.0)
    convert = op_of("image_convert_mapper", format="png")
    items = [Item("0", 1, {"images": [PHOTO]})]
    files = Files((detail, blur, convert))
    context = Context(produced=str(tmp_path))
    detail.measure(Batch(items, context, files))
    (row,) = blur.apply(Batch(items, context, files))
    assert len(decoded) == 1
    (last,) = convert.apply(Batch([Item("0", 1, row)], context, files))
    assert len(decoded) == 2
    assert last["images"][0].endswith(".png")


def test_workers_change_nothing(tmp_path):
    rows = [{"text": "<__dj__image> a", "images": [PHOTO]} for _ in range(600)]
    write_lines(tmp_path / "data.jsonl", rows)
    outcomes = []
    for workers in (1, 2):
        config = ProcessConfig(
            dataset_path=str(tmp_path / "data.jsonl"),
            process=({"image_blur_mapper": {"p": 0.1, "save_dir": str(tmp_path / "made")}},),
        )
        run_process(config, tmp_path / str(workers), workers=workers)
        outcomes.append((tmp_path / str(workers) / "data.jsonl").read_bytes())
    assert outcomes[0] == outcomes[1]
    assert outcomes[0].count(b"photo_a__") > 20

"""Damaged pictures go through every image operator: rows stay or fall, each for a reason."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.made_pictures import COMMON, ODD, encoded, exif, mutated, noise
from vlforge.data import images
from vlforge.engine.in_memory import run_in_memory
from vlforge.ops.base import CorpusMapper, Filter, RowMapper
from vlforge.ops.batch import Batch, Context, Files, Item
from vlforge.ops.bind import bind
from vlforge.ops.index import find, places
from vlforge.types import Drop, Need, RecipeError

PICTURES = Path(__file__).parent / "pictures"
MUTATIONS = 500
REASONS = {"truncated image", "unreadable image", "image too large", "image cannot be written"}
IMAGE_OPERATORS = [
    name
    for name in places()
    if name.startswith("image_") and find(name).needs in (Need.HEADER, Need.PIXELS)
]


def op_of(name: str, **params):
    (bound,) = bind([{name: params}])
    return bound.op


def outcomes(op, batch: Batch) -> list:
    """One result per row of whatever kind of operator."""
    if isinstance(op, Filter):
        return list(op.measure(batch)[0])
    if isinstance(op, RowMapper):
        return op.apply(batch)
    assert not isinstance(op, CorpusMapper)
    return op.keys(batch)


def damaged_rows(folder: Path) -> list[Item]:
    """Rows with one damaged picture each, every third also as bytes."""
    pick = random.Random(7)
    whole = COMMON | ODD | {path.name: path.read_bytes() for path in sorted(PICTURES.iterdir())}
    items = []
    for number in range(MUTATIONS):
        name = pick.choice(sorted(whole))
        content = mutated(whole[name], pick)
        path = folder / f"{number}_{name}"
        row = {"text": "<__dj__image> words", "images": [str(path)]}
        if number % 3:
            path.write_bytes(content)
        else:
            row["image_bytes"] = [content]
        items.append(Item(f"file-{number}", number + 1, row))
    return items


def test_every_image_operator_is_tested_here():
    assert {"image_shape_filter", "image_face_blur_mapper", "image_deduplicator"} <= set(
        IMAGE_OPERATORS
    )
    assert len(IMAGE_OPERATORS) >= 14


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("compat", ["", "data_juicer"])
def test_damaged_pictures_never_stop_an_operator(compat, tmp_path):
    items = damaged_rows(tmp_path)
    ops = [op_of(name, compat=compat) for name in IMAGE_OPERATORS]
    files = Files([op for op in ops if op.needs == Need.PIXELS])
    context = Context(produced=str(tmp_path / "produced"))
    refused: dict[str, int] = {}
    for name, op in zip(IMAGE_OPERATORS, ops, strict=True):
        found = outcomes(op, Batch(items, context, files))
        drops = [result for result in found if isinstance(result, Drop)]
        assert len(found) == MUTATIONS
        assert {drop.reason for drop in drops} <= REASONS
        assert all(str(tmp_path) in drop.value for drop in drops)
        refused[name] = len(drops)
    assert refused["image_size_filter"] == 0
    headers, pixels = refused["image_shape_filter"], refused["image_face_count_filter"]
    assert 20 < headers <= pixels < (0.5 if compat else 0.8) * MUTATIONS
    assert pixels == refused["image_convert_mapper"] == refused["image_deduplicator"]


def test_each_row_of_a_run_is_kept_or_dropped_with_a_reason(tmp_path):
    items = damaged_rows(tmp_path)[:100]
    names = ["image_size_filter", "image_shape_filter", "image_blank_filter",
             "image_convert_mapper", {"image_resize_mapper": {"max_side": 40}},
             "image_deduplicator"]  # fmt: skip
    ran = run_in_memory(bind(names), items, Context(produced=str(tmp_path / "produced")))
    assert len(ran.kept) + len(ran.dropped) == len(items)
    assert all(drop.op and drop.reason for _, drop in ran.dropped)
    assert len(ran.kept) >= 5


@pytest.mark.parametrize("name", ["image_aspect_ratio_filter", "image_shape_filter"])
def test_headers_keep_a_truncated_file(name):
    op = op_of(name)
    row = {"images": [str(PICTURES / "truncated.jpg")]}
    columns = op.measure(Batch([Item("0", 1, row)], Context()))
    assert op.keep_all(columns) == [True]


def test_what_only_some_operators_refuse_is_decoded_once_for_the_others():
    row = {"images": [str(PICTURES / "truncated.jpg")]}
    strict, theirs = op_of("image_blank_filter"), op_of("image_blank_filter", compat="data_juicer")
    batch = Batch([Item("0", 1, row)], Context(), Files((strict, theirs)))
    assert strict.measure(batch)[0][0].reason == "truncated image"
    assert 0 <= theirs.measure(batch)[0][0][0] < 1


@pytest.mark.parametrize("name", [n for n in IMAGE_OPERATORS if find(n).needs == Need.PIXELS])
def test_a_bomb_is_refused_by_whoever_would_decode_it(name, tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 70 * 50 - 1)
    path = tmp_path / "bomb.png"
    path.write_bytes(COMMON["plain.png"])
    op = op_of(name, **({"p": 1.0} if name == "image_blur_mapper" else {}),
               **({"max_side": 10} if name == "image_resize_mapper" else {}))  # fmt: skip
    batch = Batch([Item("0", 1, {"images": [str(path)]})], Context(), Files((op,)))
    (drop,) = outcomes(op, batch)
    assert (drop.reason, drop.value) == (
        "image too large",
        f"image {path} has 70 x 50 pixels, over the bound of 3499 pixels: shrink it",
    )
    shape = op_of("image_shape_filter", max_width=100)
    assert shape.measure(Batch(batch.items, Context())) == ([[70]], [[50]])


@pytest.mark.parametrize("compat", ["", "data_juicer"])
def test_orientation_of_bytes_counts_unless_compat(compat, tmp_path):
    content = encoded(noise((60, 40)), "JPEG", exif=exif(6))
    given = {"images": ["nowhere/a.jpg"], "image_bytes": [content]}
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    items = [Item("0", 1, given), Item("1", 2, {"images": [str(path)]})]
    shape, ratio = (
        op_of(f"image_{name}_filter", compat=compat) for name in ("shape", "aspect_ratio")
    )
    blur = op_of("image_blur_mapper", p=1.0, compat=compat)
    batch = Batch(items, Context(produced=str(tmp_path)), Files((blur,)))
    sides = ([60], [40]) if compat else ([40], [60])
    assert shape.measure(batch) == ([sides[0], [40]], [sides[1], [60]])
    assert ratio.measure(batch) == ([[sides[0][0] / sides[1][0]], [40 / 60]],)
    copies = [row["images"][0] for row in blur.apply(batch)]
    again = shape.measure(Batch([Item(p, 1, {"images": [p]}) for p in copies], Context()))
    assert again == ([sides[0], [40]], [sides[1], [60]])


def test_rows_that_share_a_path_keep_their_own_bytes():
    rows = [{"images": ["a.jpg"], "image_bytes": [encoded(noise(size), "PNG")]} for size in
            ((30, 20), (10, 40))]  # fmt: skip
    op = op_of("image_blank_filter")
    batch = Batch([Item(str(n), n, row) for n, row in enumerate(rows)], Context(), Files((op,)))
    first, second = op.measure(batch)[0]
    assert first != second
    assert op_of("image_shape_filter").measure(batch) == ([[30], [10]], [[20], [40]])


@pytest.mark.parametrize("contents", [[], [None], ["no base64!"], "text", None])
def test_what_is_no_bytes_leaves_the_path(contents):
    row = {"images": [str(PICTURES / "exif_6.jpg")], "image_bytes": contents}
    batch = Batch([Item("0", 1, row)], Context())
    assert op_of("image_shape_filter").measure(batch) == ([[40]], [[60]])


@pytest.mark.parametrize(
    ("size", "right", "theirs"),
    [("1.5kb", 1536, 15360), ("0.5 KB", 512, 5120), ("2MB", 2 << 20, 2 << 20), ("900", 900, 900),
     ("1,5", None, 15), ("3k", 3072, None), ("kb", None, None)],
)  # fmt: skip
def test_bounds_of_file_sizes_are_read_as_asked(size, right, theirs):
    for compat, bound in (("", right), ("data_juicer", theirs)):
        if bound is None:
            with pytest.raises(RecipeError, match=r"image_size_filter: .* is no size"):
                op_of("image_size_filter", min_size=size, compat=compat)
        else:
            assert op_of("image_size_filter", min_size=size, compat=compat).bounds()[0][0] == bound

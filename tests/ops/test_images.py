"""Operators on pictures: sizes, detail, hashes, nearness, one decoding for all."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image, ImageFilter

from vlforge.ops.base import ImageFilter as FilterOnImages
from vlforge.ops.batch import Batch, Context, Files, Item
from vlforge.ops.bind import bind
from vlforge.ops.dedup.hashes import distance, image_hash
from vlforge.ops.dedup.images import NearMatcher
from vlforge.ops.image.detail import contrast_and_sharpness
from vlforge.ops.image.sizes import size_in_bytes
from vlforge.types import Drop, RecipeError

PICTURES = Path(__file__).parent / "pictures"


def op_of(name: str, **params):
    (bound,) = bind([{name: params}])
    return bound.op


def batch_of(rows: list[list[str]], *viewers) -> Batch:
    items = [Item(str(n), n, {"text": "", "images": paths}) for n, paths in enumerate(rows)]
    return Batch(items, Context(), Files(viewers))


@pytest.mark.parametrize(
    ("size", "count"),
    [("0", 0), ("900", 900), ("1.5kb", 1536), ("0.5 KB", 512), ("1MB", 2**20), ("2GiB", 2**31),
     ("1TB", 2**40), (12, 12), (".5k", 512)],
)  # fmt: skip
def test_sizes_are_read_with_their_decimal_point(size, count):
    assert size_in_bytes(size) == count


@pytest.mark.parametrize("size", ["", "big", "1..5kb", "-1kb", "kb"])
def test_what_is_no_size_is_refused_at_load(size):
    with pytest.raises(RecipeError, match="is no size"):
        bind([{"image_size_filter": {"min_size": size}}])


@pytest.mark.parametrize(
    ("params", "stays"),
    [
        ({"min_ratio": 1.0, "max_ratio": 2.0}, True),
        ({"min_ratio": 1.0, "max_ratio": 2.0, "any_or_all": "all"}, False),
        ({"min_ratio": 1.5, "max_ratio": 3.0}, False),
        ({"min_ratio": 1.5, "max_ratio": 3.0, "reversed_range": True}, True),
        ({"min_ratio": 1.5, "max_ratio": 3.0, "max_closed_interval": False}, False),
        ({"min_ratio": 1.0, "max_ratio": 1.0}, True),
        ({"min_ratio": 1.0, "max_ratio": 1.0, "min_closed_interval": False}, False),
    ],
)
def test_bounds_any_or_all_and_reversal(params, stays):
    op = op_of("image_aspect_ratio_filter", **params)
    assert isinstance(op, FilterOnImages)
    assert op.keep([1.0, 3.5]) is stays
    assert op.keep([]) is True


def test_width_and_height_must_fit_the_same_picture():
    op = op_of("image_shape_filter", min_width=50, min_height=50)
    assert op.keep([60, 10], [10, 60]) is False
    assert op.keep([60, 10], [60, 10]) is True


def test_the_drop_names_the_broken_bound():
    op = op_of("image_shape_filter", min_width=50, max_height=40)
    drop = op.fault("image_shape_filter", ([60], [90]))
    assert (drop.reason, drop.stat, drop.value, drop.bound) == (
        "image_height too high", "image_height", [90], "<= 40")  # fmt: skip


def test_a_missing_picture_costs_its_row_only():
    op = op_of("image_size_filter")
    (sizes,) = op.measure(batch_of([[str(PICTURES / "photo_a.jpg")], ["gone.jpg"], []]))
    assert sizes[0] == [5321]
    assert isinstance(sizes[1], Drop)
    assert sizes[1].reason == "missing image"
    assert sizes[2] == []


def test_bytes_in_the_row_stand_for_the_file():
    content = (PICTURES / "exif_6.jpg").read_bytes()
    item = Item("0", 1, {"images": ["gone.jpg"], "image_bytes": [content]})
    batch = Batch([item], Context())
    assert op_of("image_shape_filter").measure(batch) == ([[40]], [[60]])
    assert op_of("image_size_filter").measure(batch) == ([[len(content)]],)


def test_blank_and_enlarged_pictures_have_no_detail():
    photo = Image.open(PICTURES / "photo_a.jpg").convert("L")
    enlarged = photo.resize((20, 15)).resize(photo.size, Image.Resampling.BICUBIC)
    contrast, sharpness = contrast_and_sharpness(photo)
    assert contrast_and_sharpness(Image.new("L", (9, 9), 77)) == (0.0, 0.0)
    assert contrast_and_sharpness(enlarged)[1] < 0.1 * sharpness
    assert contrast_and_sharpness(enlarged)[0] > 0.5 * contrast
    assert contrast_and_sharpness(Image.new("L", (1, 1)))[1] == 0.0


def test_a_truncated_file_is_bad_unless_compat_asks_for_what_there_is():
    detail, dedup = op_of("image_detail_filter"), op_of("image_deduplicator")
    theirs = op_of("image_deduplicator", compat="data_juicer")
    for viewers in ((detail, dedup), (detail, dedup, theirs)):
        batch = batch_of([[str(PICTURES / "truncated.jpg")]], *viewers)
        for drop in (detail.measure(batch)[0][0], dedup.keys(batch)[0]):
            assert isinstance(drop, Drop)
            assert drop.reason == "truncated image"
            assert "truncated.jpg" in drop.value
    (key,) = theirs.keys(batch)
    assert isinstance(key, bytes)


def test_a_picture_is_decoded_once_for_all_who_look():
    looks = []

    class Looking:
        """Counts how often it is shown a picture."""

        def view(self, image, is_truncated):
            looks.append(image.size)
            return 1

    first, second = Looking(), Looking()
    batch = batch_of([[str(PICTURES / "photo_a.jpg")]] * 3, first, second)
    file = batch.image_files(op_of("image_deduplicator"))[0][0]
    for viewer in (first, second, first):
        assert batch.files.view(file, viewer) == 1
    assert len(looks) == 2


def test_near_duplicates_are_found_within_the_distance():
    names = ["photo_a.jpg", "dup_a_q60.jpg", "dup_a_crop.jpg", "cmyk.jpg"]
    rows = [[str(PICTURES / name)] for name in names]
    kept = {}
    for distance_allowed in (0, 4):
        op = op_of("image_deduplicator", max_distance=distance_allowed)
        matcher = op.matcher()
        kept[distance_allowed] = []
        for number, key in enumerate(op.keys(batch_of(rows, op))):
            if matcher.find(key) is None:
                matcher.add(key, str(number))
                kept[distance_allowed].append(number)
    assert kept == {0: [0, 2, 3], 4: [0, 3]}


@pytest.mark.parametrize("bits", [1, 3, 8])
def test_the_near_matcher_equals_comparing_all(bits):
    import random

    pick = random.Random(bits)
    keys = []
    for _ in range(60):
        hashed = pick.getrandbits(64)
        for _ in range(3):
            near = hashed
            for _ in range(pick.randint(0, bits + 2)):
                near ^= 1 << pick.randrange(64)
            keys.append(b"\x01" + near.to_bytes(8))
    matcher = NearMatcher(bits)
    kept: list[int] = []
    for number, key in enumerate(keys):
        wanted = next((k for k in kept if distance(key[1:], keys[k][1:]) <= bits), None)
        assert matcher.find(key) == (None if wanted is None else str(wanted))
        if wanted is None:
            matcher.add(key, str(number))
            kept.append(number)


def test_a_row_of_two_pictures_is_no_repeat_of_one():
    a, b = str(PICTURES / "photo_a.jpg"), str(PICTURES / "wide.jpg")
    op = op_of("image_deduplicator")
    one, two, twice, none = op.keys(batch_of([[a], [a, b], [a, a], []], op))
    assert one == twice
    assert one != two
    assert none is None


def test_the_same_picture_in_other_text_is_another_row_where_text_counts():
    op = op_of("image_deduplicator", consider_text=True, lowercase=True)
    batch = batch_of([[str(PICTURES / "photo_a.jpg")]] * 3, op)
    for item, text in zip(batch.items, ["A dog", "a dog", "a cat"], strict=True):
        item.row["text"] = text
    first, second, third = op.keys(batch)
    assert first == second
    assert first != third


@pytest.mark.parametrize("method", ["phash", "dhash", "whash", "ahash"])
def test_a_slightly_blurred_picture_stays_near(method):
    photo = Image.open(PICTURES / "photo_a.jpg").convert("RGB")
    blurred = photo.filter(ImageFilter.GaussianBlur(1))
    assert distance(image_hash(photo, method), image_hash(blurred, method)) <= 6


def test_an_unknown_hash_is_refused_at_load():
    with pytest.raises(RecipeError, match="'md5' is no hash"):
        bind([{"image_deduplicator": {"method": "md5"}}])

"""The ad-caption kit's data: no picture, nor a copy of it, is learned and asked about."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from vlforge.challenges.ad_captions.labels import halve, shared_pictures, usual_val_every
from vlforge.challenges.ad_captions.layout import Kit, lay_out
from vlforge.challenges.ad_captions.sides import NEAR, Look, Looks, Sides, look_at, looked_at
from vlforge.data.json_turns import decoded
from vlforge.types import DataError


def photo(number: int, size: tuple[int, int] = (160, 120)) -> Image.Image:
    """A picture with a few soft shapes, another for every number."""
    colours = np.random.default_rng(number).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize(size, Image.Resampling.BICUBIC)


def encoded(picture: Image.Image, form: str = "JPEG", quality: int = 90) -> bytes:
    """The picture as a file."""
    buffer = io.BytesIO()
    picture.save(buffer, form, quality=quality)
    return buffer.getvalue()


def line(name: str, content: bytes, caption: str = "一张图") -> str:
    """A row of the contest's file."""
    return f"{name}\t{base64.b64encode(content).decode()}\t{caption}{name}\n"


def contest(folder, rows: list[str]) -> Kit:
    """A folder with these rows as its data."""
    lay_out(folder)
    (folder / "data/train.txt").write_text("".join(rows), encoding="utf-8")
    return Kit(folder)


COPIES = {
    "the same bytes": lambda n: encoded(photo(n)),
    "compressed more": lambda n: encoded(photo(n), quality=35),
    "smaller": lambda n: encoded(photo(n).resize((120, 90)), quality=80),
    "another format": lambda n: encoded(photo(n), "PNG"),
}


def test_copies_follow_the_first_and_others_do_not():
    sides = Sides(val_every=4)
    firsts = [sides.of(look_at(encoded(photo(n)))) for n in range(20)]
    assert firsts == ["val" if n % 4 == 0 else "train" for n in range(20)]
    for number in range(20):
        for copy in COPIES.values():
            assert sides.of(look_at(copy(number))) == firsts[number]
    assert (sides.fresh, sides.copies, sides.between) == (20, 80, 0)


def test_near_looks_are_found_as_comparing_with_all_finds_them():
    draw = np.random.default_rng(0)
    held = [int(one) for one in draw.integers(0, 1 << 63, 300, dtype=np.uint64)]
    looks = Looks()
    for one in held:
        looks.add(one)
    for number, one in enumerate(held):
        turned = draw.choice(64, size=number % 9, replace=False)
        asked = one ^ sum(1 << int(bit) for bit in turned)
        near = min((asked ^ other).bit_count() for other in held) <= NEAR
        assert looks.has(asked) == near == (len(turned) <= NEAR)


def test_what_looks_like_both_sides_is_in_neither():
    sides = Sides(val_every=2)
    assert sides.of(Look(b"a", 0b0)) == "val"
    assert sides.of(Look(b"b", 0b11111111)) == "train"
    assert sides.of(Look(b"c", 0b1111)) is None
    assert sides.of(Look(b"c", 0b1111)) is None
    assert sides.between == 2


def test_threads_keep_the_order_and_tell_what_cannot_be_decoded():
    contents = [encoded(photo(n)) for n in range(90)]
    contents[50] = contents[50][:300]
    found = list(looked_at(range(90), lambda n: contents[n]))
    assert [item for item, _ in found] == list(range(90))
    assert [item for item, look in found if not isinstance(look, Look)] == [50]


@pytest.mark.parametrize("kind", COPIES)
def test_no_picture_is_on_both_sides(tmp_path, kind):
    rows = [line(f"a{n}", encoded(photo(n))) for n in range(24)]
    rows += [line(f"b{n}", COPIES[kind](n)) for n in range(24)]
    halves, is_new = halve(contest(tmp_path, rows))
    assert is_new
    assert (halves.train, halves.val, halves.copies) == (44, 4, 24)
    kit = Kit(tmp_path)
    assert shared_pictures(kit.train, kit.val) == ([], (44, 4))
    names = [json.loads(path.read_text()) for path in (kit.train, kit.val)]
    every = [row["id"] for half in names for row in half]
    assert sorted(every) == sorted(f"identity_{n}" for n in range(48))
    first = names[1][0]
    assert first["conversations"] == [["请描述图片内容。", "一张图a0"]]
    assert decoded(first["image"]) == encoded(photo(0))
    assert "{{user}}" in (kit.data / "chat_template.json").read_text()


def test_bad_rows_are_in_neither_half_and_listed(tmp_path):
    whole = encoded(photo(99))
    bad = ["only one column\n", "x\tbm8=\t没有\n", line("cut", whole[: len(whole) // 2]),
           f"y\t{base64.b64encode(whole).decode()}\n"]  # fmt: skip
    rows = [line(str(n), encoded(photo(n))) for n in range(30)]
    halves, _ = halve(contest(tmp_path, [*rows[:10], *bad, *rows[10:]]))
    assert (halves.train, halves.val) == (28, 2)
    told = [json.loads(row) for row in (tmp_path / "data/dropped.jsonl").read_text().splitlines()]
    assert [row["line"] for row in told] == [11, 12, 13, 14]
    assert sum(halves.dropped.values()) == 4


def test_halves_are_made_once_and_again_for_other_data(tmp_path):
    kit = contest(tmp_path, [line(str(n), encoded(photo(n))) for n in range(30)])
    halve(kit)
    before = kit.train.stat().st_mtime_ns
    again, is_new = halve(kit)
    assert (is_new, kit.train.stat().st_mtime_ns) == (False, before)
    with kit.tsv().open("a", encoding="utf-8") as file:
        file.write(line("30", encoded(photo(30))))
    more, is_new = halve(kit)
    assert is_new
    assert more.train + more.val == again.train + again.val + 1
    assert halve(kit, val_every=3)[0].val == 11


def test_halves_of_another_tool_are_taken_only_where_they_share_nothing(tmp_path):
    kit = contest(tmp_path, [line(str(n), encoded(photo(n))) for n in range(30)])
    halve(kit)
    (kit.data / "split.json").unlink()
    given, is_new = halve(kit)
    assert (is_new, given.train, given.val) == (False, 28, 2)
    rows = json.loads(kit.train.read_text())
    leaked = json.loads(kit.val.read_text())[1]
    kit.train.write_text(json.dumps([*rows, leaked]))
    with pytest.raises(DataError, match=r"shows 1 pictures of val.json \(the first: identity_20\)"):
        halve(kit)


def test_val_stays_about_a_thousand_rows(tmp_path):
    row = "name\t" + "A" * 95 + "\tcaption\n"
    (tmp_path / "small.txt").write_text(row * 100)
    (tmp_path / "large.txt").write_text(row * 60_000)
    assert usual_val_every(tmp_path / "small.txt") == 20
    assert usual_val_every(tmp_path / "large.txt") == 60

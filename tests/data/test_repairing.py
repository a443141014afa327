"""What has one right answer is repaired and logged; everything else stays."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from tests.engine.made import lines, write_picture, write_rows
from vlforge.data.checking.baking import bake
from vlforge.data.checking.encodings import detect_recoded, encoding_of
from vlforge.data.checking.repair import repair
from vlforge.data.checking.repairing import Repairs, repair_record
from vlforge.data.formats.index import find
from vlforge.data.json_turns import TURN_FIELDS
from vlforge.data.records import Picture, Record
from vlforge.types import DataError, Turn

ROLES = {"u": "user", "a": "assistant", "s": "system"}
PLACE = {role: name for name, role in ROLES.items()}


def repaired(turns, pictures=0, mojibake=False, extra=None):
    """The turns afterwards, and the names of the changes."""
    record = Record(
        turns=tuple(Turn(ROLES[t[0]], t[2:]) for t in turns),
        pictures=tuple(Picture(content=b"x") for _ in range(pictures)),
        extra=extra or {},
    )
    record, changes = repair_record(record, Repairs(mojibake))
    return [f"{PLACE[t.role]}:{t.text}" for t in record.turns], [c.change for c in changes]


@pytest.mark.parametrize(
    ("turns", "pictures", "after"),
    [
        (["u:<image>\nWhy?", "s:Be kind.", "a:So."], 1, ["s:Be kind.", "u:<image>\nWhy?", "a:So."]),
        (["a:Hello", "u:Why?", "a:So."], 0, ["u:Why?", "a:So."]),
        (["s:Be", "a:Hello", "u:Why?", "a:So."], 0, ["s:Be", "u:Why?", "a:So."]),
        (["a:<image> Hi", "u:Why?", "a:So."], 1, ["u:<image>\nWhy?", "a:So."]),
        (["u:<image>\n<image>\nWhy?", "a:So."], 1, ["u:<image>\nWhy?", "a:So."]),
        (["u:<image>\nWhy?", "a:So.", "u:<image>\nAnd?", "a:<image> No."], 1,
         ["u:<image>\nWhy?", "a:So.", "u:And?", "a:No."]),
        (["u:Look: <image> and <image>", "a:So."], 1, ["u:Look: <image> and ", "a:So."]),
        (["u:Why?", "a:So.", "u:And?", "a: "], 0, ["u:Why?", "a:So."]),
        (["u:Why?", "a:So.", "u:", "a:"], 0, ["u:Why?", "a:So."]),
        (["u:Why?", "a:\ufeffSo."], 0, ["u:Why?", "a:So."]),
    ],
)  # fmt: skip
def test_one_right_answer_is_taken(turns, pictures, after):
    found, changes = repaired(turns, pictures)
    assert found == after
    assert len(changes) == 1
    assert repaired(after, pictures) == (after, [])


@pytest.mark.parametrize(
    ("turns", "pictures"),
    [
        (["u:<image>\nWhy?", "a:So."], 1),
        (["u:Why?", "u:And?", "a:So."], 0),
        (["u:Why?", "a:So.", "a:So."], 0),
        (["a:A text alone."], 0),
        (["u:Why?", "a:"], 0),
        (["u:Why?", "a:So.", "u:And?"], 0),
        (["s:One", "u:Why?", "s:Two", "a:So."], 0),
        (["u:<image><image><image>", "a:So."], 2),
        (["u:<image> Why?", "a:So."], 0),
        (["u:Was ist das?", "a:Ein KÃ¤fer"], 0),
    ],
)
def test_what_has_several_answers_stays(turns, pictures):
    assert repaired(turns, pictures) == (turns, [])


def test_mojibake_is_repaired_where_it_is_asked_for():
    found, changes = repaired(["u:fÃ¼r?", "a:itâ€™s “so” &amp; so"], mojibake=True)
    assert found == ["u:für?", "a:it’s “so” &amp; so"]
    assert changes == ["mojibake", "mojibake"]


def test_fields_of_turns_go_where_their_turns_go():
    record = Record(
        turns=(Turn("assistant", "Hi"), Turn("user", "Why?"), Turn("assistant", "So.")),
        extra={TURN_FIELDS: [{"n": 0}, {"n": 1}, {"n": 2}]},
    )
    after, _ = repair_record(record, Repairs())
    assert after.extra == {TURN_FIELDS: [{"n": 1}, {"n": 2}]}


def test_documents_keep_the_first_mark():
    record = Record(chunks=("<image> a cat", "<image> sits"), pictures=(Picture(content=b"x"),))
    after, _ = repair_record(record, Repairs())
    assert after.marks == 1
    assert [chunk.split() for chunk in after.chunks] == [["<image>", "a", "cat"], ["sits"]]


def llava(*rows):
    out = []
    for number, (image, *turns) in enumerate(rows):
        said = [{"from": "human" if k % 2 == 0 else "gpt", "value": t} for k, t in enumerate(turns)]
        out.append({"id": f"r{number}", "image": image, "conversations": said, "more": number})
    return out


def run(source, target, **options):
    reader = detect_recoded(source)
    return repair(source, target, reader, reader, **options)


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_gif_that_is_a_jpg_is_found_and_the_source_stays(tmp_path):
    write_picture(tmp_path / "a.jpg")
    rows = llava(("a.gif", "<image>\nWhy?", "So."), ("b.gif", "<image>\nWhy?", "So."))
    source = write_rows(tmp_path / "rows.jsonl", rows)
    before = contents(tmp_path)
    done = run(source, tmp_path / "new.jsonl")
    assert (done.read, done.written, done.changed) == (2, 2, 1)
    assert lines(tmp_path / "new.jsonl") == [rows[0] | {"image": "a.jpg"}, rows[1]]
    assert lines(done.log) == [
        {"line": 1, "id": "r0", "change": "extension", "before": "a.gif", "after": "a.jpg"}
    ]
    after = contents(tmp_path)
    assert {path: after[path] for path in before} == before
    assert set(after) - set(before) == {done.log, tmp_path / "new.jsonl"}


def test_copies_are_upright_and_rgb(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    image = Image.new("RGB", (40, 20), "red")
    image.paste("blue", (0, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(old / "turned.jpg", exif=exif, quality=95)
    Image.new("RGBA", (9, 9), (1, 200, 3, 90)).save(old / "clear.png")
    image.save(old / "plain.png")
    image.convert("P").save(old / "palette.gif")
    names = ("turned.jpg", "clear.png", "plain.png", "palette.gif")
    source = write_rows(old / "rows.jsonl", llava(*((n, "<image>\nWhy?", "So.") for n in names)))
    before = contents(old)
    done = run(source, new / "rows.jsonl", images="copy")
    assert contents(old) == before
    made = [new / row["image"] for row in lines(new / "rows.jsonl")]
    assert [path.name for path in made] == [*names[:3], "palette.gif.png"]
    assert all(Image.open(path).mode == "RGB" for path in made)
    turned = Image.open(made[0])
    assert turned.size == (20, 40)
    assert not turned.getexif().get(0x0112)
    assert turned.getpixel((10, 5))[2] > 200
    assert made[2].read_bytes() == (old / "plain.png").read_bytes()
    assert Image.open(made[1]).getpixel((4, 4)) == (1, 200, 3)
    assert done.changes == {"picture": 3}


def test_copies_beside_the_source_are_refused(tmp_path):
    write_picture(tmp_path / "a.jpg")
    source = write_rows(tmp_path / "rows.jsonl", llava(("a.jpg", "<image>\nWhy?", "So.")))
    with pytest.raises(DataError, match="use a new folder"):
        run(source, tmp_path / "new.jsonl", images="copy")
    with pytest.raises(DataError, match="the same"):
        run(source, source)


def test_pictures_that_are_extracted_beside_the_source_leave_it_alone(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg", exif=exif)
    source = write_rows(tmp_path / "rows.jsonl", llava(("a.jpg", "<image>\nWhy?", "So.")))
    before = contents(tmp_path)
    run(source, tmp_path / "new.jsonl", images="extract")
    assert {path: contents(tmp_path)[path] for path in before} == before


def test_baking_leaves_sound_and_unreadable_pictures():
    assert bake(b"no picture") is None


TEXTS = {
    "utf-8-sig": "Où est le chat ?",
    "cp1252": "Où est le café ?",
    "gb18030": "请描述图片内容，谢谢。",
    "utf-16": "Où est 猫?",
}


@pytest.mark.parametrize("encoding", TEXTS)
def test_other_encodings_become_utf8(tmp_path, encoding):
    row = llava(("a.jpg", "<image>\n" + TEXTS[encoding], "So."))[0]
    plain = llava(("b.jpg", "<image>\nPlain words?", "So."))[0]
    text = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in (row, plain))
    source = tmp_path / "in" / "rows.jsonl"
    source.parent.mkdir()
    source.write_bytes(text.encode(encoding))
    write_picture(source.parent / "a.jpg")
    done = run(source, tmp_path / "rows.jsonl")
    found = lines(tmp_path / "rows.jsonl")
    assert found[0]["conversations"] == row["conversations"]
    assert found[0]["image"] == str(source.parent / "a.jpg")
    assert done.changes.total() == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "in", "rows.jsonl", "rows.jsonl.repair.jsonl",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("data", "encoding"),
    [
        ("naïve café".encode("cp1252"), "cp1252"),
        ("图片内容".encode("gb18030"), "gb18030"),
        ("图片".encode(), "utf-8"),
        (b"plain", "utf-8"),
        ("图片".encode() + b" caf\xe9", ""),
        (b"\xff\xfe\xfd\xfc\xfb", ""),
    ],
)
def test_an_encoding_is_named_where_it_is_certain(data, encoding):
    assert encoding_of(data) == encoding


def test_rows_that_cannot_be_read_are_in_the_log(tmp_path):
    source = write_rows(tmp_path / "rows.jsonl", [*llava(("a", "<image>", "b")), '{"cut": "'])
    done = run(source, tmp_path / "new.jsonl")
    assert (done.read, done.written, done.dropped) == (2, 1, 1)
    assert lines(done.log)[0]["change"] == "left out"
    assert lines(done.log)[0]["line"] == 2


def test_another_format_may_be_written(tmp_path):
    source = write_rows(tmp_path / "rows.jsonl", llava(("https://a.b/c.jpg", "<image>\nY?", "So.")))
    repair(source, tmp_path / "new.jsonl", find("llava"), find("dj"))
    assert lines(tmp_path / "new.jsonl")[0]["images"] == ["https://a.b/c.jpg"]

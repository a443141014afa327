"""Every kind of finding is seen where it is, and nothing is found in sound records."""

from __future__ import annotations

import pytest
from PIL import Image

from tests.engine.made import write_picture
from vlforge.data.checking.check import Labels, Report, Training, Wanted, check_records
from vlforge.data.checking.findings import EXAMPLES, KINDS, Findings
from vlforge.data.checking.overlap import NearHashes, learn, normalised
from vlforge.data.checking.pictures import Looking, look_at, other_extension
from vlforge.data.checking.texts import check_texts
from vlforge.data.records import Fault, Picture, Record
from vlforge.ops.dedup.hashes import image_hash
from vlforge.types import DataError, Turn

ROLES = {"u": "user", "a": "assistant", "s": "system"}
QUESTION = "<image>\nWhat stands on the table here?"
LOOKS = Looking(decodes=True, hash=lambda image: image_hash(image, "phash"))


def said(*turns, pictures=0, **fields):
    """A record of turns like `u:Why?`."""
    made = tuple(Turn(ROLES[turn[0]], turn[2:]) for turn in turns)
    shown = tuple(Picture(f"{k}.jpg", "nowhere") for k in range(pictures))
    return Record(turns=made, pictures=shown, **fields)


def shows(picture, question=QUESTION, answer="A red cup.", **fields):
    turns = (Turn("user", question), Turn("assistant", answer))
    return Record(turns=turns, pictures=(picture,), **fields)


def kinds(record):
    return [kind for kind, _ in check_texts(record)]


def found(*records, wanted=None) -> dict[str, int]:
    report = check_records(records, wanted or Wanted())
    return counts(report)


def counts(report: Report) -> dict[str, int]:
    return {name: one.count for name, one in report.findings.found.items()}


@pytest.mark.parametrize(
    ("turns", "pictures", "expected"),
    [
        (["u:<image>\nWhy?", "a:So."], 1, []),
        (["s:Be kind.", "u:Why?", "a:So.", "u:And?", "a:No."], 0, []),
        (["a:A text alone."], 0, []),
        (["u:Why?", "a:So."], 1, ["no_mark"]),
        (["u:<image><image> Why?", "a:So."], 1, ["marks"]),
        (["u:<image> Why?", "a:So."], 0, ["marks"]),
        (["u:Why?", "a:<image> So."], 1, ["mark_in_answer"]),
        (["u:Why?", "s:Be kind.", "a:So."], 0, ["role_order"]),
        (["u:Why?", "a:So.", "a:So."], 0, ["role_order"]),
        (["u:Why?", "u:And?", "a:So."], 0, ["role_order"]),
        (["a:Hello", "u:Why?", "a:So."], 0, ["answer_first"]),
        (["u:Why?"], 0, ["no_answer"]),
        (["s:Be kind."], 0, ["no_answer"]),
        (["u:Why?", "a:So.", "u:And?"], 0, ["open_question"]),
        (["u:Why?", "a: \n"], 0, ["empty_answer"]),
        (["u:", "a:So."], 0, ["empty_question"]),
        (["u:Why?", "a:So.\nUSER: and then?"], 0, ["role_words"]),
        (["u:Why?", "a:zero\x00"], 0, ["broken_text"]),
        (["u:Why?", "a:caf\ufffd"], 0, ["broken_text"]),
        (["u:Why?", "a:ein KÃ¤fer"], 0, ["mojibake"]),
        (["u:Why?", "a:itâ€™s"], 0, ["mojibake"]),
        (["u:Why?", "a:café, naïve, Ärger, 猫, it’s"], 0, []),
    ],
)
def test_turns_are_judged(turns, pictures, expected):
    assert kinds(said(*turns, pictures=pictures)) == expected


@pytest.mark.parametrize(
    "token",
    ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "</s>", "<s>", "[INST]",
     "[/INST]", "<<SYS>>", "<start_of_turn>", "<__dj__image>", "<|__dj__eoc|>", "<ImageHere>",
     "<Img>", "<|vision_start|>", "<video>"],
)  # fmt: skip
def test_special_tokens_in_texts_are_seen(token):
    assert kinds(said("u:Why?", f"a:So {token} it is")) == ["special_token"]
    assert kinds(said(f"u:{token}Why?", "a:So")) == ["special_token"]
    assert kinds(Record(chunks=(f"a text {token}",))) == ["special_token"]


@pytest.mark.parametrize("text", ["a < b and c > d", "[1] <b>bold</b>", "x[INSTANCE]", "<|>", "||"])
def test_other_brackets_are_no_special_tokens(text):
    assert kinds(said("u:Why?", f"a:{text}")) == []


def test_documents_have_no_roles():
    assert kinds(Record(chunks=("<image> a cat",), pictures=(Picture("a"),))) == []
    assert kinds(Record(chunks=("a cat",), pictures=(Picture("a"),))) == []
    assert kinds(Record(chunks=("<image> ",), pictures=(Picture("a"),))) == ["empty_answer"]
    assert kinds(Record()) == ["empty_row"]
    assert kinds(Record(pictures=(Picture("a"),))) == []


def test_pictures_are_looked_at(tmp_path):
    good = write_picture(tmp_path / "good.jpg")
    content = good.read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.jpg").write_text("<html>404</html>")
    looks = {
        name: look_at(Picture(name, str(tmp_path)), Looking(decodes=True))
        for name in ("good.jpg", "cut.jpg", "text.jpg", "gone.jpg", "good.gif")
    }
    assert {name: look.kind for name, look in looks.items()} == {
        "good.jpg": "", "cut.jpg": "broken_image", "text.jpg": "broken_image",
        "gone.jpg": "missing_image", "good.gif": "missing_image",
    }  # fmt: skip
    assert looks["good.gif"].said.endswith("good.gif; good.jpg is there")
    assert look_at(Picture("cut.jpg", str(tmp_path)), Looking()).kind == ""
    assert look_at(Picture("https://example.org/a.jpg"), Looking()).kind == "linked_image"
    assert look_at(Picture(content=content[:9]), Looking()).kind == "broken_image"


def test_an_extension_counts_where_it_is_the_only_one(tmp_path):
    (tmp_path / "a.jpg").touch()
    assert other_extension(str(tmp_path / "a.gif")) == str(tmp_path / "a.jpg")
    (tmp_path / "a.PNG").touch()
    assert other_extension(str(tmp_path / "a.gif")) == ""
    assert other_extension(str(tmp_path / "b.gif")) == ""


def test_turned_and_transparent_pictures_are_noted_once(tmp_path):
    turned = write_picture(tmp_path / "turned.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(turned).save(turned, exif=exif)
    Image.new("RGBA", (9, 9)).save(tmp_path / "clear.png")
    root = str(tmp_path)
    records = [shows(Picture(n, root), line=k, id=k) for k, n in enumerate(
        ("turned.jpg", "turned.jpg", "clear.png"), 1)]  # fmt: skip
    decoding = Wanted(Looking(decodes=True))
    assert found(*records, wanted=decoding) == {
        "turned_image": 1, "odd_mode": 1, "repeated_row": 1,
    }  # fmt: skip


def test_a_missing_picture_costs_every_row_that_shows_it():
    gone = Picture("gone.jpg", "nowhere")
    records = [shows(gone, answer=str(k), line=k) for k in (1, 2, 3)]
    report = check_records(records, Wanted())
    assert counts(report) == {"missing_image": 3}
    assert (report.pictures, report.shown) == (1, 3)


def test_repeated_files_and_alike_pictures_are_told_apart(tmp_path):
    first = write_picture(tmp_path / "a.png", (200, 150), 3)
    (tmp_path / "b.png").write_bytes(first.read_bytes())
    Image.open(first).resize((160, 120)).save(tmp_path / "c.jpg", quality=85)
    write_picture(tmp_path / "d.png", (200, 150), 60)
    records = [
        shows(Picture(name, str(tmp_path)), answer=name, line=k)
        for k, name in enumerate(("a.png", "b.png", "c.jpg", "d.png"), 1)
    ]
    assert found(*records) == {"repeated_image": 1}
    report = check_records(records, Wanted(LOOKS, finds_alike=True))
    assert counts(report) == {"repeated_image": 1, "alike_image": 1}
    assert report.findings.found["repeated_image"].examples[0].value == "b.png, as in line 1"


def test_rows_and_ids_that_repeat_are_told_with_the_first_line():
    rows = [said("u:Why?", "a:So.", id="x", line=1), said("u:Why?", "a:So.", id="x", line=2)]
    report = check_records([*rows, said("u:Why?", "a:No.", id="y", line=3)], Wanted())
    assert counts(report) == {"repeated_row": 1, "repeated_id": 1}
    assert report.findings.found["repeated_row"].examples[0].value.startswith("as line 1: Why?")


def test_rows_that_are_none_are_errors_and_are_counted():
    report = check_records([Fault(4, "not JSON", "at 3"), said("u:Why?", "a:So.")], Wanted())
    assert counts(report) == {"bad_row": 1}
    assert (report.rows, report.records, report.findings.has_errors) == (2, 1, True)
    assert counts(check_records([Fault(1, "not JSON")], Wanted())) == {"bad_row": 1, "no_rows": 1}


def test_a_budget_bounds_the_rows():
    rows = [said("u:Why?", f"a:{k}", line=k) for k in range(5)]
    assert found(*rows, wanted=Wanted(max_samples=5)) == {}
    assert found(*rows, wanted=Wanted(max_samples=4)) == {"over_budget": 1}


def test_labels_lost_and_cut_are_told():
    def encode(record):
        words = sum(len(turn.text.split()) for turn in record.turns)
        if words > 90:
            raise DataError("too odd")
        return Labels(words, 10, max(0, min(10, 10 - (words - 20))), 1, int(words < 40))

    training = Training("align", 20, encode)
    rows = [said("u:Why?", "a:" + "w " * k, line=k) for k in (5, 24, 35, 60, 95)]
    report = check_records(rows, Wanted(trainings=(training,)))
    assert counts(report) == {"labels_cut": 1, "labels_lost": 2, "image_cut": 1, "not_encoded": 1}
    assert (training.rows, training.cut, training.longest) == (4, 3, 61)
    lost = report.findings.found["labels_lost"].examples[0]
    assert lost.value == "align: 36 tokens cut to 20, none of 10 labels left"


def test_languages_are_counted_and_uncertain_ones_named_so():
    guesses = {"So.": ("en", 0.9), "Ja.": ("de", 0.8), "x": ("fr", 0.1)}
    rows = [said("u:Why?", f"a:{text}") for text in guesses]
    report = check_records(rows, Wanted(guess=guesses.__getitem__))
    assert report.languages == {"en": 1, "de": 1, "": 1}


def test_leaks_are_told_by_what_is_in_both(tmp_path):
    for seed in (3, 60, 90):
        write_picture(tmp_path / f"{seed}.png", (200, 150), seed)
    Image.open(tmp_path / "60.png").save(tmp_path / "again.jpg", quality=80)
    root = str(tmp_path)
    other = [shows(Picture("3.png", root)), shows(Picture("60.png", root), "Is it green or blue?")]
    other.append(said("u:Who wrote the long letter?", "a:Me."))
    known = learn("test", other, LOOKS)
    rows = [
        shows(Picture("3.png", root), "what STANDS on the table: here <image>", "x", line=1),
        shows(Picture("3.png", root), "<image> How many are there of them?", "x", line=2),
        shows(Picture("again.jpg", root), "<image> How many are there of them?", "x", line=3),
        shows(Picture("90.png", root), "<image> Is it green or blue?", "x", line=4),
        said("u:Who wrote the long letter?", "a:You.", line=5),
        said("u:Why is it so?", "a:You.", line=6),
    ]
    report = check_records(rows, Wanted(LOOKS, known=(known,)))
    where = {n: [e.line for e in f.examples] for n, f in report.findings.found.items()}
    assert where == {
        "leaked_sample": [1], "leaked_image": [2], "leaked_look": [3],
        "shared_question": [1, 4], "leaked_question": [5],
    }  # fmt: skip


def test_near_hashes_agree_with_comparing_all():
    import random

    rng = random.Random(2)
    kept = [rng.getrandbits(64) for _ in range(300)]
    near = NearHashes()
    for number in kept:
        near.add(number)
    for _ in range(600):
        number = rng.choice(kept)
        for _ in range(rng.randint(0, 6)):
            number ^= 1 << rng.randrange(64)
        expected = min((number ^ other).bit_count() for other in kept) <= 3
        assert near.has_near(number) == expected


def test_questions_are_compared_by_their_words():
    asked = "<image>\nWhat COLOUR is it?\nAnswer the question using a single word or phrase."
    assert normalised(asked) == normalised("what colour is it ?") == "what colour is it"
    assert normalised("图中有什么？") == normalised("图中 有什么")


def test_memory_does_not_grow_with_findings():
    findings = Findings()
    for line in range(1000):
        findings.add("bad_row", line, None, "x" * 10_000)
    found = findings.found["bad_row"]
    assert found.count == 1000
    assert len(found.examples) == EXAMPLES
    assert all(len(example.value) <= 300 for example in found.examples)


def test_every_kind_says_what_to_do():
    assert all(kind.title and kind.remedy for kind in KINDS.values())
    assert [kind.level for kind in KINDS.values()].count("error") >= 10

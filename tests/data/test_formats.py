"""dj rows and LLaVA conversations, read, told apart, and turned into each other."""

from __future__ import annotations

import gzip
import json

import pytest

from vlforge.data.detect import read_samples
from vlforge.data.formats import dj, llava
from vlforge.data.formats.llava import DjToLlava, LlavaToDj
from vlforge.data.json_lines import decode, encode, read_values, write_array, write_lines
from vlforge.types import DataError, Turn

CAPTION = {"id": "a", "text": "<__dj__image>\na red bus <|__dj__eoc|>", "images": ["x.jpg"]}
TALK = {
    "id": 7,
    "image": "x.jpg",
    "conversations": [
        {"from": "human", "value": "<image>\nWhat is it?"},
        {"from": "gpt", "value": "A bus."},
    ],
}


def test_a_caption_row_becomes_two_turns(tmp_path):
    path = tmp_path / "a.jsonl"
    dj.write(path, [CAPTION])
    (sample,) = read_samples(path)
    assert sample.turns == (Turn("user", "<image>"), Turn("assistant", "a red bus"))
    assert sample.images == (str(tmp_path / "x.jpg"),)


def test_chunks_with_several_images_become_one_sample(tmp_path):
    text = "<__dj__image> a horse <|__dj__eoc|><__dj__image> a rocket <|__dj__eoc|>"
    path = tmp_path / "a.jsonl"
    dj.write(path, [{"id": "b", "text": text, "images": ["1.png", "2.png"]}])
    (sample,) = read_samples(path, image_root="/pictures")
    assert sample.turns[0] == Turn("user", "<image>\n<image>")
    assert sample.turns[1].text == "a horse a rocket"
    assert sample.images == ("/pictures/1.png", "/pictures/2.png")


@pytest.mark.parametrize("as_array", [True, False])
def test_conversations_are_found_by_content_in_array_or_lines(tmp_path, as_array):
    path = tmp_path / "named.wrongly"
    (write_array if as_array else write_lines)(path, [TALK, CAPTION])
    talk, caption = read_samples(path)
    assert talk.id == "7"
    assert talk.turns == (Turn("user", "<image>\nWhat is it?"), Turn("assistant", "A bus."))
    assert caption.id == "a"


def test_a_conversation_without_token_gets_it_first(tmp_path):
    talk = {
        **TALK,
        "conversations": [{"from": "human", "value": "What?"}, TALK["conversations"][1]],
    }
    path = tmp_path / "a.json"
    write_array(path, [talk])
    (sample,) = read_samples(path)
    assert sample.turns[0].text == "<image>\nWhat?"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"text": 3}, "'text' is int"),
        ({"text": "<__dj__image> x", "images": []}, "1 image tokens but 0 images"),
        ({"text": "<__dj__image>", "images": ["a"]}, "no text"),
        ({"text": "x", "images": "a.jpg"}, "not a list"),
        ({"caption": "x"}, "neither 'text'"),
        ([1, 2], "a list"),
        ({"conversations": [{"from": "robot", "value": "x"}]}, "'robot'"),
        ({"conversations": []}, "not a list of turns"),
    ],
)
def test_a_bad_row_costs_itself_only_and_is_named(tmp_path, row, said):
    path = tmp_path / "a.jsonl"
    write_lines(path, [CAPTION, row, CAPTION])
    bad = []
    assert len(list(read_samples(path, on_bad=lambda line, error: bad.append((line, error))))) == 2
    assert [line for line, _ in bad] == [2]
    assert said in str(bad[0][1])
    with pytest.raises(DataError, match=r"a\.jsonl:2: "):
        list(read_samples(path))


def test_a_broken_line_is_named_and_blank_lines_are_passed_over(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + encode(CAPTION) + b"\n\n{broken\n" + encode(CAPTION))
    bad = []
    assert len(list(read_samples(path, on_bad=lambda line, _: bad.append(line)))) == 2
    assert bad == [3]


@pytest.mark.parametrize("name", ["gone.jsonl", ""])
def test_a_dataset_that_is_missing_or_a_folder_is_named(tmp_path, name):
    with pytest.raises(DataError, match=r"dataset .* (does not exist|is a folder)"):
        list(read_samples(tmp_path / name))


def test_a_broken_array_is_named(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('[{"text": "x"}, ')
    with pytest.raises(DataError, match="not JSON"):
        list(read_samples(path))


def test_packed_lines_are_read(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(encode(CAPTION) + b"\n"))
    assert [value for _, value in read_values(path)] == [CAPTION]


@pytest.mark.parametrize(
    "value", ["a\u2028b\u0085c\u2029", "\ud800 alone", 1e300, 2**70, {"é": [None, True, 0.1]}]
)
def test_any_value_survives_a_line(value):
    line = encode(value)
    assert decode(line) == value
    assert len(line.decode("utf-8").splitlines()) == 1


def test_what_other_tools_write_is_read():
    assert decode(b'{"a": Infinity}') == {"a": float("inf")}


def test_samples_survive_both_formats(tmp_path):
    path = tmp_path / "a.json"
    write_array(path, [TALK, CAPTION])
    samples = list(read_samples(path))
    for module in (dj, llava):
        again = tmp_path / f"{module.__name__}.out"
        module.write(again, [module.from_sample(s) for s in samples])
        assert [(s.id, s.images, s.turns) for s in read_samples(again)] == [
            (s.id, s.images, s.turns) for s in samples
        ]


def test_conversations_turn_into_rows_and_back():
    row = LlavaToDj()(TALK)
    assert row == {
        "id": "7",
        "text": "[[human]]: <image>\nWhat is it?\n[[gpt]]: A bus. <|__dj__eoc|>",
        "images": ["x.jpg"],
    }
    assert DjToLlava()(row) == {**TALK, "id": "7"}


def test_broadcast_repeats_the_image_per_chunk():
    more = [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]
    talk = {**TALK, "conversations": [*TALK["conversations"], *more]}
    convert = LlavaToDj(split_chunk=True, image_broadcast=True, image_broadcast_pos="after")
    row = convert(talk)
    assert row["images"] == ["x.jpg", "x.jpg"]
    assert "[[human]]: Why?\n<image>\n[[gpt]]: So. <|__dj__eoc|>" in row["text"]


@pytest.mark.parametrize(
    ("options", "talk", "said"),
    [
        ({}, {**TALK, "conversations": TALK["conversations"][:1]}, "1 turns"),
        ({"image_special_token": "<img>"}, TALK, "'<img>' is neither"),
    ],
)
def test_conversations_that_do_not_fit_are_named(options, talk, said):
    with pytest.raises(DataError, match=said):
        LlavaToDj(**options)(talk)


def test_questions_are_restored_from_the_original():
    row = {"id": "7", "text": "<image>\nA coach. <|__dj__eoc|>", "images": ["x.jpg"]}
    out = DjToLlava(restore_questions=True, original={"7": TALK})(row)
    assert out["id"] == 7
    assert [turn["value"] for turn in out["conversations"]] == ["<image>\nWhat is it?", "A coach."]
    with pytest.raises(DataError, match="original"):
        DjToLlava(restore_questions=True)


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    def rows():
        yield CAPTION
        raise RuntimeError

    path = tmp_path / "a.jsonl"
    path.write_text("old")
    with pytest.raises(RuntimeError):
        write_lines(path, rows())
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.jsonl"]
    assert json.loads(encode(CAPTION)) == CAPTION

"""Lists of captions as tables for a downloader, and as PaddleMIX's training files."""

from __future__ import annotations

import base64
import json

import pytest

from tests.data.pictures_made import picture
from vlforge.data.formats.cc_sbu_tsv import convert_cc_sbu, convert_laion
from vlforge.data.formats.index import detect
from vlforge.data.formats.paddle_labels import convert_labels
from vlforge.data.json_lines import read_values, write_array
from vlforge.types import DataError

ITEMS = [
    {"caption": "a\tbus", "url": "http://a.example/1.jpg"},
    {"url": "http://a.example/2.jpg", "caption": 'two\r\n"lines"', "n": 2},
    {"url": "http://a.example/3.jpg"},
    {"caption": "漢 – é", "url": "http://a.example/4.jpg", "n": None},
]
DATA = base64.b64encode(picture(3)).decode()


def test_values_go_into_the_column_of_their_key_and_rows_without_one_are_told(tmp_path):
    write_array(tmp_path / "a.json", ITEMS)
    done = convert_laion(tmp_path / "a.json", tmp_path / "a.tsv")
    assert (done.read, done.written, dict(done.dropped)) == (4, 3, {"no 'caption'": 1})
    assert [row["line"] for _, row in read_values(done.drops)] == [3]
    assert (tmp_path / "a.tsv").read_bytes().decode() == (
        "caption\turl\tn\n"
        "a bus\thttp://a.example/1.jpg\t\n"
        '"two ""lines"""\thttp://a.example/2.jpg\t2\n'
        "漢 – é\thttp://a.example/4.jpg\t\n"
    )


def test_the_reference_writes_an_items_values_in_its_own_order(tmp_path):
    write_array(tmp_path / "a.json", ITEMS[:3])
    convert_cc_sbu(tmp_path / "a.json", tmp_path / "a.tsv", mode="reference")
    assert (tmp_path / "a.tsv").read_bytes().decode() == (
        "caption\turl\r\n"
        '"a\tbus"\thttp://a.example/1.jpg\r\n'
        'http://a.example/2.jpg\t"two\r\n""lines"""\t2\r\n'
        "http://a.example/3.jpg\r\n"
    )


@pytest.mark.parametrize("mode", ["by_name", "reference"])
@pytest.mark.parametrize("text", ["[]", ""])
def test_an_empty_list_is_refused_and_nothing_is_written(tmp_path, mode, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match="empty"):
        convert_cc_sbu(tmp_path / "a.json", tmp_path / "a.tsv", mode)
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def labels(count: int) -> bytes:
    return "".join(f"id{n}\t{DATA}\t第{n}张图\n" for n in range(count)).encode()


def test_991_rows_are_941_and_50_as_the_published_run_shows(tmp_path):
    (tmp_path / "in.tsv").write_bytes(labels(991))
    done = convert_labels(tmp_path / "in.tsv", tmp_path / "out")
    assert (done.read, done.train, done.val) == (991, 941, 50)
    records = list(detect(tmp_path / "out/val.json").read(tmp_path / "out/val.json"))
    assert records[1].turns[0].text == "<image>\n请描述图片内容。"
    assert records[1].turns[1].text == "第20张图"
    assert records[1].pictures[0].read() == picture(3)


def test_rows_that_cannot_be_trained_on_are_told_and_not_counted(tmp_path):
    bad = [b"a\tb\tc\td\n", b"alone\n", b"id\tno base64\tc\n", b"id\t" + DATA.encode() + b"\t \n",
           b"id\t" + DATA.encode() + b"\t\xff\n"]  # fmt: skip
    (tmp_path / "in.tsv").write_bytes(labels(2) + b"".join(bad) + labels(3))
    done = convert_labels(tmp_path / "in.tsv", tmp_path, prompt="Say.", val_every=5)
    assert (done.read, done.rows, done.train, done.val) == (10, 5, 4, 1)
    assert [row["line"] for _, row in read_values(done.drops)] == [3, 4, 5, 6, 7]
    train = json.loads((tmp_path / "train.json").read_text())
    assert [row["id"] for row in train] == [f"identity_{n}" for n in range(1, 5)]
    assert {row["conversations"][0][0] for row in train} == {"Say."}


@pytest.mark.parametrize("option", [{"mode": "other"}, {"val_every": 0}])
def test_wrong_options_are_named(tmp_path, option):
    (tmp_path / "in.tsv").write_bytes(labels(1))
    with pytest.raises(DataError, match=next(iter(option))):
        convert_labels(tmp_path / "in.tsv", tmp_path, **option)

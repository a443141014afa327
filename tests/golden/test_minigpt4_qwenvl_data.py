"""MiniGPT-4's and PaddleMIX's data preparation: their own files, byte for byte."""

from __future__ import annotations

import json
from pathlib import Path

from vlforge.data.formats.cc_sbu_tsv import convert_cc_sbu, convert_laion
from vlforge.data.formats.index import detect
from vlforge.data.formats.paddle_labels import convert_labels

GOLDEN = {
    "caption_list": "minigpt4_qwenvl/minigpt4/convert/*_large.json",
    "labels_file": "minigpt4_qwenvl/mgen/convert_labels*/in.tsv",
    "paddle_file": "minigpt4_qwenvl/mgen/convert_labels*/expected/train.json",
}


def test_captions_are_the_references_table_to_the_byte(caption_list: Path, tmp_path: Path):
    made = tmp_path / "made.tsv"
    convert = convert_laion if caption_list.name.startswith("laion") else convert_cc_sbu
    result = json.loads(caption_list.with_suffix(".result.json").read_text(encoding="utf-8"))
    assert result["rc"] == 0
    convert(caption_list, made, mode="reference")
    assert made.read_bytes() == caption_list.with_suffix(".tsv").read_bytes()


def test_captions_by_name_keep_every_url_and_caption(caption_list: Path, tmp_path: Path):
    made = tmp_path / "made.tsv"
    table = convert_cc_sbu(caption_list, made)
    items = json.loads(caption_list.read_text(encoding="utf-8"))
    assert table.read == table.written == len(items)
    assert made.read_bytes().count(b"\n") == len(items) + 1
    assert b"\r" not in made.read_bytes()
    assert detect(caption_list).name == "laion_json"


def test_labels_of_rank3_are_the_references(labels_file: Path, tmp_path: Path):
    expected = labels_file.parent / "expected"
    prompts = {
        row["conversations"][0][0]
        for row in json.loads((expected / "train.json").read_text(encoding="utf-8"))
    }
    (prompt,) = prompts
    template = labels_file.parent / "chat_template.json"
    done = convert_labels(
        labels_file, tmp_path, prompt=prompt, mode="rank3", chat_template=template
    )
    for name in ("train.json", "val.json", "chat_template.json"):
        assert (tmp_path / name).read_bytes() == (expected / name).read_bytes()
    said = (expected / "stdout.txt").read_text(encoding="utf-8").splitlines()
    assert f"num of training set: {done.train}" in said
    assert f"num of validation set: {done.val}" in said
    numbers = [int(line) for line in said if line.isdecimal()]
    assert numbers == [len(done.styles), done.longest]


def test_labels_have_rows_of_val_in_val_only(labels_file: Path, tmp_path: Path):
    done = convert_labels(labels_file, tmp_path)
    train, val = (
        {row["id"] for row in json.loads((tmp_path / name).read_text(encoding="utf-8"))}
        for name in ("train.json", "val.json")
    )
    assert not train & val
    assert len(train | val) == done.rows == done.train + done.val
    assert val == {f"identity_{n}" for n in range(0, done.rows, 20)}
    made = json.loads((tmp_path / "chat_template.json").read_text(encoding="utf-8"))
    theirs = (labels_file.parent / "chat_template.json").read_text(encoding="utf-8")
    assert made == json.loads(theirs)


def test_paddles_json_is_known(paddle_file: Path):
    format_ = detect(paddle_file)
    assert format_.name == "chatml_paddle"
    rows = json.loads(paddle_file.read_text(encoding="utf-8"))
    for record, row in zip(format_.read(paddle_file), rows, strict=True):
        assert record.id == row["id"]
        question, answer = row["conversations"][0]
        assert [turn.text for turn in record.turns] == [f"<image>\n{question}", answer]
        assert record.pictures[0].read().startswith(b"\x89PNG")

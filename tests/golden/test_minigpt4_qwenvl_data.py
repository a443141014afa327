"""MiniGPT-4's and PaddleMIX's data preparation: their own files, byte for byte."""

from __future__ import annotations

import json
from pathlib import Path

from vlforge.cli import main
from vlforge.data.formats.cc_sbu_tsv import convert_cc_sbu
from vlforge.data.formats.index import detect
from vlforge.data.formats.paddle_labels import convert_labels

GOLDEN = {
    "result_file": "minigpt4_qwenvl/minigpt4/convert*/*.result.json",
    "labels_file": "minigpt4_qwenvl/mgen/convert_labels*/in.tsv",
    "paddle_file": "minigpt4_qwenvl/mgen/convert_labels*/expected/train.json",
}


def list_of(result_file: Path) -> tuple[Path, bool]:
    """The list that a result is of, and whether the reference wrote a table from it."""
    name = result_file.name.removesuffix(".result.json")
    succeeded = json.loads(result_file.read_text(encoding="utf-8"))["rc"] == 0
    return result_file.with_name(f"{name}.json"), succeeded


def test_captions_are_the_references_table_to_the_byte(result_file: Path, tmp_path: Path):
    source, succeeded = list_of(result_file)
    made = tmp_path / "made.tsv"
    tool = "convert_laion" if source.name.startswith("laion") else "convert_cc_sbu"
    code = main(["tool", tool, str(source), str(made), "--mode", "reference"])
    assert code == (0 if succeeded else 2)
    if succeeded:
        assert made.read_bytes() == source.with_suffix(".tsv").read_bytes()


def test_captions_by_name_keep_every_url_and_caption(result_file: Path, tmp_path: Path):
    source, succeeded = list_of(result_file)
    items = json.loads(source.read_text(encoding="utf-8"))
    good = [
        item
        for item in items
        if isinstance(item.get("caption"), str) and str(item.get("url") or "").strip()
    ]
    made = tmp_path / "made.tsv"
    if not items:
        assert not succeeded
        return
    table = convert_cc_sbu(source, made)
    assert (table.read, table.written) == (len(items), len(good))
    assert sum(table.dropped.values()) == len(items) - len(good)
    assert made.read_bytes().count(b"\n") == len(good) + 1
    assert b"\r" not in made.read_bytes()
    assert detect(source).name == "laion_json"


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
    assert sum(done.dropped.values()) == done.read - done.rows
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

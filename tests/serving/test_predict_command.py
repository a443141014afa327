"""`vlforge predict` as it is typed: what it says, and what it refuses in one line."""

from __future__ import annotations

import pytest

from tests.serving.made_rows import encoded, model_in, text_of, write_tsv
from vlforge.cli import main

HOW = ["--device", "cpu", "--max-new-tokens", "4", "--prompt", "what is the cat"]


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_it_tells_what_fell_back_and_where_the_answers_are(tmp_path, capsys):
    model_in(tmp_path)
    write_tsv(tmp_path / "in.tsv", 5)
    with (tmp_path / "in.tsv").open("ab") as file:
        file.write(b"cut\t" + text_of(encoded(9, "JPEG")[:-200]) + b"\nbare\n")
    words = ["model", "in.tsv", "out.tsv", *HOW, "--batch", "3", "--report", "why.jsonl"]
    assert main(["predict", *words]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].startswith("Rows     7 in ")
    assert shown[1:] == [
        "Damaged  1, answered to what is left of the picture",
        "Fell back  1: line has no tab 1",
        "  row 7 (id bare)  line has no tab: id and base64, divided by a tab, are wanted",
        "Report   why.jsonl",
        "Answers  out.tsv",
    ]
    assert (tmp_path / "out.tsv").read_text("utf-8").splitlines()[-1] == "bare\t一张图片"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["model", "in.tsv"], "3 paths are wanted: MODEL INPUT OUTPUT"),
        (["--url", "http://127.0.0.1:9/v1", "a", "b", "c"], "2 paths are wanted: INPUT OUTPUT"),
        (["--url", "http://127.0.0.1:9/v1", "a", "b"], "--url needs --model-name"),
        (["none", "in.tsv", "out.tsv"], "none: no such model folder"),
        (["model", "in.tsv", "out.tsv", "--damaged", "drop"], "--damaged is 'drop'"),
        (["model", "in.tsv", "out.tsv", "--top-p", "0"], "--top-p is 0"),
        (["model", "in.tsv", "out.tsv", "--processes", "0"], "--processes is '0'"),
        (["model", "in.tsv", "out.tsv", "--precision", "fp8"], "--precision"),
        (["model", "in.tsv", "out.tsv", "--from", "tsv64"], "unknown format 'tsv64'"),
        (["model", "gone.tsv", "out.tsv"], "gone.tsv: no such input file or folder"),
        (["model", "in.tsv", "in.tsv"], "in.tsv is the input"),
        (["in.tsv", "in.tsv", "out.tsv"], "in.tsv"),
    ],
)
def test_what_cannot_be_is_one_line(tmp_path, words, told, capsys):
    model_in(tmp_path)
    write_tsv(tmp_path / "in.tsv", 1)
    assert main(["predict", *words]) == 2
    shown = capsys.readouterr().err.splitlines()
    errors = [line for line in shown if line.startswith("error: ")]
    assert len(errors) == 1
    assert told in errors[0]
    assert not (tmp_path / "out.tsv").exists()

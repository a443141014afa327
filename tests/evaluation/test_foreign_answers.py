"""Answers that other tools wrote are read; what does not belong is counted or told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vlforge.evaluation.answers import read_answers
from vlforge.evaluation.questions import Question
from vlforge.types import DataError

QUESTIONS = [Question(str(number), "Is it?") for number in range(3)]


def written(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("llava.jsonl", '{"question_id": 0, "text": "yes"}\n{"question_id": 1, "text": "no"}\n'),
        ("lmms.jsonl", '{"doc_id": 0, "filtered_resps": ["yes"]}\n'
                       '{"doc_id": 1, "resps": [["no"]]}\n'),
        ("by_id.json", '{"0": "yes", "1": "no"}'),
        ("rows.json", '[{"question_id": 0, "answer": "yes"}, {"question_id": 1, "answer": "no"}]'),
        ("vlmevalkit.tsv", "index\tquestion\tprediction\n0\tIs it?\tyes\n1\tIs it?\tno\n"),
        ("table.csv", "index,prediction\n0,yes\n1,no\n"),
    ],
)  # fmt: skip
def test_every_tools_file_is_read(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    assert read_answers(tmp_path / name, QUESTIONS).said == {"0": "yes", "1": "no"}


def test_a_workbook_is_read(tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.active.append(["index", "prediction"])
    book.active.append([0, "yes"])
    book.save(tmp_path / "a.xlsx")
    assert read_answers(tmp_path / "a.xlsx", QUESTIONS).said == {"0": "yes"}
    (tmp_path / "b.xlsx").write_bytes(b"PK no workbook")
    with pytest.raises(DataError, match=r"b.xlsx: no workbook"):
        read_answers(tmp_path / "b.xlsx", QUESTIONS)


def test_second_answers_and_answers_to_nothing_are_counted(tmp_path):
    rows = [
        {"question_id": 0, "text": "yes"}, {"question_id": 0, "text": "no"},
        {"question_id": 7, "text": "no"},
    ]  # fmt: skip
    found = read_answers(written(tmp_path / "a.jsonl", rows), QUESTIONS)
    assert found.said == {"0": "yes"}
    assert (found.duplicate, found.unknown) == (1, 1)


def test_a_question_file_is_no_file_of_answers(tmp_path):
    rows = [{"question_id": 0, "question": "Is it?", "image": "a.jpg", "answer": "yes"}]
    with pytest.raises(DataError, match=r"a.jsonl:1: no answer; it has: question_id, question"):
        read_answers(written(tmp_path / "a.jsonl", rows), QUESTIONS)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('{"question_id": 0, "text": "yes"}\n{"question', r"a.jsonl:2: a broken line"),
        ('{"text": "yes"}\n', r"a.jsonl:1: no id; it has: text"),
        ('[1]\n', r"a.jsonl:1: a list, where an object belongs"),
        ('{"question_id": 9, "text": "yes"}\n', r"none of its 1 answers is to a question here"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named(tmp_path, content, told):
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(DataError, match=told):
        read_answers(tmp_path / "a.jsonl", QUESTIONS)

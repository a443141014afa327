"""Own questions in any table; what is right by any metric."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vlforge.evaluation.benchmarks import custom
from vlforge.evaluation.config import BenchmarkSpec
from vlforge.types import DataError, RecipeError


def written(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def scored(path: Path, said: dict[str, str], **spec) -> dict:
    questions = custom.read(BenchmarkSpec("custom", str(path), **spec))
    return custom.score(questions, said, "auto").fields


@pytest.mark.parametrize(
    ("metric", "answer", "text", "credit"),
    [
        ("exact", "two dogs", "Two dogs.", 1.0),
        ("exact", "two dogs", "there are two dogs", 0.0),
        ("contains", "two dogs", "There are two dogs.", 1.0),
        ("contains", "dog", "dogs", 0.0),
        ("anls", "stop sign", "stop sing", 1 - 2 / 9),
        ("relaxed", "100", "104", 1.0),
        ("relaxed", "100", "106", 0.0),
        ("yes_no", "yes", "Yes, it is.", 1.0),
        ("yes_no", "no", "Perhaps", 0.0),
    ],
)
def test_every_metric_says_what_is_right(tmp_path, metric, answer, text, credit):
    path = written(tmp_path / "q.jsonl", [{"question": "What?", "answer": answer}])
    found = scored(path, {"0": text}, metric=metric)
    assert found["score"] == pytest.approx(credit)
    assert found["protocol"] == f"custom@{metric}"


def test_soft_accuracy_takes_ten_answers(tmp_path):
    rows = [{"question": "What?", "answers": ["red"] * 2 + ["blue"] * 8}]
    assert scored(written(tmp_path / "q.jsonl", rows), {"0": "red"}, metric="vqa")[
        "score"
    ] == pytest.approx(0.6)


@pytest.mark.parametrize(
    "options",
    [
        {"options": ["cat", "dog"]}, {"choices": "['cat', 'dog']"},
        {"options": {"A": "cat", "B": "dog"}}, {"A": "cat", "B": "dog", "C": ""},
    ],
)  # fmt: skip
def test_options_are_known_in_every_shape(tmp_path, options):
    rows = [{"id": "a", "question": "Which?", "answer": "dog"} | options]
    path = written(tmp_path / "q.jsonl", rows)
    (question,) = custom.read(BenchmarkSpec("custom", str(path)))
    assert question.text.startswith("Which?\nA. cat\nB. dog\nAnswer with")
    assert scored(path, {"a": "(B)"})["score"] == 1.0
    assert scored(path, {"a": "(B)"})["protocol"] == "custom@choice"


def test_tables_and_categories(tmp_path):
    (tmp_path / "q.csv").write_text(
        "index,question,image,answer,category\n7,Which?,a.jpg,None,x\n8,Which?,a.jpg,red,y\n"
    )
    found = scored(tmp_path / "q.csv", {"7": "none", "8": "blue"})
    assert found["groups"]["x"]["score"] == 1.0
    assert found["groups"]["y"]["score"] == 0.0
    (first, _) = custom.read(BenchmarkSpec("custom", str(tmp_path / "q.csv"), images="pics"))
    assert first.images == ("pics/a.jpg",)


def test_what_is_wrong_is_named(tmp_path):
    path = written(tmp_path / "q.jsonl", [{"picture": "a.jpg"}])
    with pytest.raises(DataError, match=r"q.jsonl:1: no question; it has: picture"):
        custom.read(BenchmarkSpec("custom", str(path)))
    with pytest.raises(RecipeError, match="no metric 'f1'; known: choice"):
        custom.read(BenchmarkSpec("custom", str(path), metric="f1"))
    twice = written(tmp_path / "t.jsonl", [{"id": 1, "question": "a"}, {"id": 1, "question": "b"}])
    with pytest.raises(DataError, match="id '1' stands twice"):
        custom.read(BenchmarkSpec("custom", str(twice)))


def test_without_answers_there_is_no_score(tmp_path):
    path = written(tmp_path / "q.jsonl", [{"question": "What?"}])
    assert scored(path, {"0": "red"})["score"] is None

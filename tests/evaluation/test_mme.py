"""MME: points of pairs, its files, and answers that would break their lines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vlforge.evaluation.answers import read_answers
from vlforge.evaluation.benchmarks import mme, qbench
from vlforge.evaluation.config import BenchmarkSpec
from vlforge.evaluation.scoring import score_answers
from vlforge.types import DataError

PLEASE = " Please answer yes or no."
SHORT = "\nAnswer the question using a single word or phrase."


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """Two tasks of two pictures each, one laid out as the other is not."""
    for task, inner in (("color", True), ("OCR", False)):
        texts = tmp_path / "MME" / task / ("questions_answers_YN" if inner else ".")
        texts.mkdir(parents=True)
        pictures = tmp_path / "MME" / task / ("images" if inner else ".")
        pictures.mkdir(exist_ok=True)
        for number in (1, 2):
            (pictures / f"{number}.png").write_bytes(b"")
            (texts / f"{number}.txt").write_text(
                f"Is {number} red?{PLEASE}\tYes\nIs {number} blue?{PLEASE}\tNo\n"
            )
    return tmp_path / "MME"


def test_both_of_a_picture_count_once_more(release):
    questions = mme.read(BenchmarkSpec("mme", annotation=str(release)))
    assert len(questions) == 8
    said = {q.id: q.answers[0] for q in questions}
    assert mme.score(questions, said, "auto").fields["score"] == pytest.approx(400)
    wrong = next(q for q in questions if q.labels["task"] == "color")
    found = mme.score(questions, said | {wrong.id: "no idea"}, "auto").fields
    assert found["groups"]["color"]["score"] == pytest.approx(75 + 50)
    assert found["perception"] == pytest.approx(325)
    assert found["cognition"] == 0
    assert found["interval"][0] <= 325 <= found["interval"][1]


def test_a_missing_answer_is_wrong_and_counted(release):
    questions = mme.read(BenchmarkSpec("mme", annotation=str(release)))
    said = {q.id: q.answers[0] for q in questions[1:]}
    found = mme.score(questions, said, "auto").fields
    assert found["missing"] == 1
    assert found["score"] == pytest.approx(325)


def test_llavas_answers_are_found_by_picture_and_words(release, tmp_path):
    rows = [
        {"question_id": f"{task}/{number}.png", "image": f"{task}/{number}.png",
         "text": f"Is {number} {colour}?{SHORT}"}
        for task in ("color", "OCR") for number in (1, 2) for colour in ("red", "blue")
    ]  # fmt: skip
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    answers = [
        {"question_id": row["question_id"], "prompt": row["text"],
         "text": "Yes" if "red" in row["text"] else "No\tsir\nindeed"}
        for row in rows
    ]  # fmt: skip
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in answers))
    spec = BenchmarkSpec("mme", str(tmp_path / "q.jsonl"), annotation=str(release))
    found = score_answers(spec, tmp_path / "a.jsonl", strict=True)
    assert found["score"] == pytest.approx(400)
    assert found["duplicate"] == found["unknown"] == 0
    questions = mme.read(spec)
    said = read_answers(tmp_path / "a.jsonl", questions, mme).said
    mme.results(questions, said, tmp_path / "results")
    again = BenchmarkSpec("mme", annotation=str(tmp_path / "results"))
    assert [q.asked for q in mme.read(again)] == [q.asked for q in questions]
    line = (tmp_path / "results" / "OCR.txt").read_text().splitlines()[1]
    assert line == f"1.png\tIs 1 blue?{PLEASE}\tNo\tNo sir indeed"


def test_a_label_that_is_neither_is_named(tmp_path):
    (tmp_path / "color.txt").write_text("a.png\tIs it?\tPerhaps\n")
    with pytest.raises(DataError, match=r"color.txt:1: the answer 'Perhaps' is neither"):
        mme.read(BenchmarkSpec("mme", annotation=str(tmp_path)))


def test_qbench_answers_are_found_by_picture_and_words(tmp_path):
    rows = [
        {"img_path": "a.jpg", "question": f"How is the {what}?", "type": 1, "concern": 2,
         "candidates": ["Good", "Bad", "Fair"], "correct_ans": right}
        for what, right in (("light", "Bad"), ("focus", "Fair"))
    ]  # fmt: skip
    (tmp_path / "q.json").write_text(json.dumps(rows))
    (tmp_path / "a.jsonl").write_text(
        "".join(json.dumps(row | {"response": "B. Bad"}) + "\n" for row in reversed(rows))
    )
    found = score_answers(BenchmarkSpec("qbench", str(tmp_path / "q.json")), tmp_path / "a.jsonl")
    assert found["score"] == pytest.approx(0.5)
    assert found["groups"]["concern 2"]["n"] == 2
    (question, _) = qbench.read(BenchmarkSpec("qbench", str(tmp_path / "q.json"), prompt="zh"))
    assert "在下列选项中选择一个:\nA. Good\n" in question.text

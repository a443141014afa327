"""TextVQA's files: every shape of prompt finds its answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vlforge.evaluation.benchmarks import textvqa
from vlforge.evaluation.config import BenchmarkSpec
from vlforge.types import DataError, RecipeError

SUFFIX = "\nAnswer the question using a single word or phrase."
OCR = "\nReference OCR token: STOP, ALL"


def files(
    folder: Path, asked: list[tuple[str, str]], known: list[tuple[str, str, list[str]]], **more
) -> BenchmarkSpec:
    questions, annotation = folder / "questions.jsonl", folder / "annotation.json"
    rows = [{"question_id": i, "image": f"{i}.png", "text": text} for i, text in asked]
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    data = [{"image_id": i, "question": q, "answers": answers} for i, q, answers in known]
    annotation.write_text(json.dumps({"data": data}), encoding="utf-8")
    return BenchmarkSpec("textvqa", str(questions), annotation=str(annotation), **more)


@pytest.mark.parametrize(
    "prompt",
    [
        "What word?" + SUFFIX,
        "What word?" + OCR + SUFFIX,
        OCR.strip() + "\nWhat word?" + SUFFIX,
        "OCR tokens: STOP ALL. Question: What word? Short answer:",
        "what  WORD?" + SUFFIX,
        "What word?\nReference OCR token: two\nlines" + SUFFIX,
        "Read.\nWhat word?" + SUFFIX,
    ],
)
def test_answers_are_found_in_every_shape_of_prompt(tmp_path, prompt):
    spec = files(tmp_path, [("p1", prompt)], [("p1", "What word?", ["stop"] * 10)])
    (question,) = textvqa.read(spec)
    assert question.answers == ("stop",) * 10


def test_of_a_pictures_questions_the_longest_in_the_prompt_is_meant(tmp_path):
    known = [("p1", "word?", ["a"] * 10), ("p1", "What word?", ["b"] * 10)]
    (question,) = textvqa.read(files(tmp_path, [("p1", "Please: what word? Say.")], known))
    assert question.answers[0] == "b"


def test_a_pictures_questions_get_ids_of_their_own(tmp_path):
    asked = [("p1", "What word?" + SUFFIX), ("p1", "Which colour?" + SUFFIX)]
    known = [("p1", "What word?", ["stop"] * 10), ("p1", "Which colour?", ["red"] * 10)]
    first, second = textvqa.read(files(tmp_path, asked, known))
    assert first.id != second.id
    score = textvqa.score([first, second], {first.id: "Stop.", second.id: "blue"}, "auto")
    assert (score.fields["score"], score.fields["n"]) == (0.5, 2)


def test_ocr_tokens_are_named_in_the_protocol_and_can_be_left_out(tmp_path):
    asked = [("p1", "What word?" + OCR + SUFFIX)]
    known = [("p1", "What word?", ["stop"] * 10)]
    kept = textvqa.read(files(tmp_path, asked, known))
    bare = textvqa.read(files(tmp_path, asked, known, ocr="remove"))
    assert textvqa.protocol_name(kept, "auto") == "textvqa@m4c+ocr"
    assert textvqa.protocol_name(bare, "auto") == "textvqa@m4c"
    assert bare[0].text == "What word?" + SUFFIX
    assert bare[0].answers == kept[0].answers


def test_missing_and_empty_answers_are_counted(tmp_path):
    asked = [(f"p{i}", "What word?" + SUFFIX) for i in range(3)]
    known = [(f"p{i}", "What word?", ["stop"] * 10) for i in range(3)]
    questions = textvqa.read(files(tmp_path, asked, known))
    score = textvqa.score(questions, {"p0": " ", "p1": "stop"}, "m4c")
    fields = score.fields
    assert (fields["missing"], fields["unparsed"]) == (1, 1)
    assert fields["score"] == pytest.approx(1 / 3)


def test_without_annotation_there_is_no_score(tmp_path):
    spec = files(tmp_path, [("p1", "What word?")], [])
    questions = textvqa.read(BenchmarkSpec("textvqa", spec.questions))
    assert textvqa.score(questions, {"p1": "stop"}, "auto").fields["score"] is None


@pytest.mark.parametrize(
    ("asked", "known", "words"),
    [
        ([("p1", "What?")], [("p2", "What?", ["a"] * 10)], "do both files belong together"),
        ([("p1", "What?")], [("p1", "What?", ["a"] * 3)], "has 3 answers where 10 belong"),
        ([], [("p1", "What?", ["a"] * 10)], "holds no question"),
    ],
)
def test_files_that_do_not_fit_are_named_in_one_line(tmp_path, asked, known, words):
    with pytest.raises(DataError, match=words) as caught:
        textvqa.read(files(tmp_path, asked, known))
    assert "\n" not in str(caught.value)


def test_a_broken_line_is_named_by_its_number(tmp_path):
    path = tmp_path / "questions.jsonl"
    path.write_text('{"question_id": 1, "text": "What?"}\n{"text": \n', encoding="utf-8")
    with pytest.raises(DataError, match=r"questions\.jsonl:2: no question line"):
        textvqa.read(BenchmarkSpec("textvqa", str(path)))


def test_an_unknown_protocol_names_the_known():
    assert not textvqa.knows("exact")
    with pytest.raises(RecipeError, match="m4c, vqa-official, vlmevalkit"):
        textvqa.protocol_name([], "exact")

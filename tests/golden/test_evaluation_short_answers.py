"""Upload and prediction files of short answers equal those that the references wrote."""

from __future__ import annotations

import json
from pathlib import Path

from vlforge.evaluation.answers import read_answers
from vlforge.evaluation.benchmarks import gqa, vizwiz, vqav2
from vlforge.evaluation.config import BenchmarkSpec
from vlforge.evaluation.export import export_file
from vlforge.evaluation.questions import Question

GOLDEN = {
    "vizwiz_file": "evaluation/vizwiz/*expected*upload*.json",
    "gqa_file": "evaluation/gqa/*expected*.json",
    "converted_file": "llava_xtuner/llava_eval/convert/expected_gqa*.json",
    "llava_eval_file": "llava_xtuner/llava_eval/*golden*.json",
}


def load(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_vizwiz_upload_is_llavas(vizwiz_file: Path, tmp_path: Path):
    (questions,) = vizwiz_file.parent.glob("*test*.jsonl")
    (answers,) = vizwiz_file.parent.glob("answers*.jsonl")
    target = export_file(BenchmarkSpec("vizwiz", str(questions)), answers, tmp_path / "upload.json")
    assert load(target) == load(vizwiz_file)


def test_gqas_predictions_are_llavas(gqa_file: Path, tmp_path: Path):
    (answers,) = gqa_file.parent.glob("*answers*.jsonl")
    rows = lines(answers)
    asked = tmp_path / "questions.jsonl"
    asked.write_text(
        "".join(
            json.dumps({"question_id": r["question_id"], "image": "a.jpg", "text": r["prompt"]})
            + "\n"
            for r in rows
        )
    )
    target = export_file(BenchmarkSpec("gqa", str(asked)), answers, tmp_path / "predictions.json")
    assert load(target) == load(gqa_file)


def test_llavas_converters_write_the_same_rows(converted_file: Path, tmp_path: Path):
    folder = converted_file.parent
    rows = lines(folder / "answers.jsonl")
    questions = [
        Question(str(r["question_id"]), r["prompt"], facts={"question_id": r["question_id"]})
        for r in rows
    ]
    said = read_answers(folder / "answers.jsonl", questions).said
    gqa.predictions_file(questions, said, tmp_path / "gqa.json")
    assert load(tmp_path / "gqa.json") == load(converted_file)
    asked = vizwiz.read(BenchmarkSpec("vizwiz", str(folder / "vizwiz_test.jsonl")))
    said = read_answers(folder / "answers.jsonl", asked).said
    vizwiz.upload(asked, said, tmp_path / "vizwiz.json")
    assert load(tmp_path / "vizwiz.json") == load(folder / "expected_vizwiz.json")


def test_unanswered_questions_of_vqav2_are_uploaded_empty(llava_eval_file: Path, tmp_path: Path):
    wanted = load(llava_eval_file)["vqav2_expected"]
    rows = lines(llava_eval_file.parent / "convert" / "answers.jsonl")
    questions = [
        Question(str(row["question_id"]), "q", facts={"question_id": row["question_id"]})
        for row in wanted
    ]
    said = {str(row["question_id"]): row["text"] for row in rows}
    vqav2.EXPORTS["upload"](questions, said, tmp_path / "upload.json")
    assert load(tmp_path / "upload.json") == wanted

"""ScienceQA and SEED-Bench scores of recorded answers equal LLaVA's."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from vlforge.evaluation.benchmarks import scienceqa
from vlforge.evaluation.config import BenchmarkSpec
from vlforge.evaluation.export import export_file
from vlforge.evaluation.scoring import score_answers

GOLDEN = {
    "parse_file": "evaluation/scienceqa/*parse_table*.json",
    "llava_eval_file": "llava_xtuner/llava_eval/*golden*.json",
}
OPTIONS = dict.fromkeys("ABCDE", "x")


def load(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_letters_are_read_as_llava_reads_them(parse_file: Path):
    for row in load(parse_file):
        wanted = None if row["parsed"] == "FAILED" else row["parsed"]
        assert scienceqa.llava(row["text"], OPTIONS) == wanted, row["text"]


def test_scienceqa_is_scored_as_llava_prints_it(llava_eval_file: Path):
    golden = load(llava_eval_file)
    folder = llava_eval_file.parent / "scienceqa"
    spec = BenchmarkSpec("scienceqa", annotation=str(folder), protocol="llava")
    found = score_answers(spec, folder / "answers.jsonl")
    printed = re.search(r"Total: (\d+), Correct: (\d+), Accuracy: ([\d.]+)%, IMG-Accuracy: "
                        r"([\d.]+)%", golden["scienceqa_stdout"])  # fmt: skip
    assert printed
    total, correct, accuracy, pictures = map(float, printed.groups())
    assert found["n"] == total
    assert found["score"] * total == pytest.approx(correct)
    assert round(100 * found["score"], 2) == accuracy
    assert round(100 * found["img_accuracy"], 2) == pictures
    assert found["missing"] == 30 - len((folder / "answers.jsonl").read_text().splitlines())


def test_the_choice_of_every_answer_is_llavas(llava_eval_file: Path):
    wanted = load(llava_eval_file)["scienceqa_result"]["results"]
    folder = llava_eval_file.parent / "scienceqa"
    questions = scienceqa.read(BenchmarkSpec("scienceqa", annotation=str(folder)))
    rows = map(json.loads, (folder / "answers.jsonl").read_text(encoding="utf-8").splitlines())
    said = {row["question_id"]: row["text"] for row in rows}
    extracted = scienceqa.score(questions, said, "llava").extracted
    for question in questions:
        letter = extracted[question.id]
        place = ord(letter) - ord("A") if letter in question.options else -1
        assert place == wanted[question.id], question.id


def test_seedbench_is_scored_and_uploaded_as_llava_does(llava_eval_file: Path, tmp_path: Path):
    folder = llava_eval_file.parent / "seed"
    spec = BenchmarkSpec("seedbench", annotation=str(folder / "SEED.json"), protocol="llava")
    found = score_answers(spec, folder / "answers.jsonl")
    printed = dict(re.findall(r"(.+): ([\d.]+)%", load(llava_eval_file)["seed_stdout"]))
    assert f"{100 * found['score']:.2f}" == printed.pop("Total accuracy")
    for kind in ("image", "video"):
        wanted = printed.pop(f"{kind} accuracy")
        assert f"{100 * found['groups'][kind]['score']:.2f}" == wanted
    assert printed
    for kind, wanted in printed.items():
        assert f"{100 * found['groups'][kind]['score']:.2f}" == wanted
    target = export_file(spec, folder / "answers.jsonl", tmp_path / "upload.json", "upload")
    lines = [json.loads(line) for line in target.read_text().splitlines()]
    theirs = (folder / "expected_upload.jsonl").read_text().splitlines()
    assert lines == [json.loads(line) for line in theirs]

"""Sums of recorded reviews, and what is uploaded for grading, equal LLaVA's."""

from __future__ import annotations

import json
from pathlib import Path

from vlforge.evaluation.answers import read_answers
from vlforge.evaluation.benchmarks import mmvet
from vlforge.evaluation.config import BenchmarkSpec
from vlforge.evaluation.questions import Question
from vlforge.evaluation.scoring import score_answers

GOLDEN = {
    "reviews_file": "evaluation/llava_bench/*_reviews.jsonl",
    "llava_eval_file": "llava_xtuner/llava_eval/*golden*.json",
    "mmvet_file": "llava_xtuner/llava_eval/convert/expected_mmvet*.json",
}


def load(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


def scored(reviews: Path) -> dict:
    spec = BenchmarkSpec("llava_bench", str(reviews), protocol="llava")
    return score_answers(spec, reviews)


def told(part: dict) -> tuple[float, float, float]:
    return (
        round(100 * part["score"], 1),
        round(part["gpt4_points"], 1),
        round(part["model_points"], 1),
    )


def test_scores_of_recorded_reviews_are_the_published_ones(reviews_file: Path):
    found = scored(reviews_file)
    golden = load(
        reviews_file.with_name(reviews_file.name.replace("_reviews.jsonl", "_expected.json"))
    )
    assert told(found) == tuple(golden.pop("all").values())
    for category, wanted in golden.items():
        got = found["groups"][category.removeprefix("llava_bench_")]
        assert told(got) == tuple(wanted.values()), category


def test_reviews_are_summed_up_as_llava_prints_them(llava_eval_file: Path):
    found = scored(llava_eval_file.parent / "llava_bench" / "reviews.jsonl")
    printed = load(llava_eval_file)["llava_bench_summary_stdout"].splitlines()
    lines = [line.split() for line in printed if len(line.split()) == 4]
    assert len(lines) == 4
    for name, *numbers in lines:
        got = found if name == "all" else found["groups"][name.removeprefix("llava_bench_")]
        assert told(got) == tuple(map(float, numbers)), name


def test_the_mmvet_submission_is_llavas(mmvet_file: Path, tmp_path: Path):
    wanted = load(mmvet_file)
    questions = [Question(key, "q") for key in wanted]
    said = read_answers(mmvet_file.parent / "answers.jsonl", questions, mmvet).said
    mmvet.submission(questions, said, tmp_path / "out.json")
    assert load(tmp_path / "out.json") == wanted

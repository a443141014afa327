"""MathVista's queries, normalised answers and score tables equal those of its own code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vlforge.evaluation.benchmarks import mathvista as benchmark
from vlforge.evaluation.config import BenchmarkSpec
from vlforge.evaluation.metrics import mathvista
from vlforge.evaluation.scoring import score_answers

GOLDEN = {
    "table_file": "evaluation/mathvista/*normalize_table*.json",
    "scores_file": "evaluation/mathvista/scores_*.json",
    "scoring_file": "mgm/misc/*scoring*.json",
}


def load(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_extractions_are_normalised_as_the_official_code_does(table_file: Path):
    for row in load(table_file):
        assert mathvista.normalise(row["extraction"], row) == row["normalized"], row


def test_every_score_of_recorded_outputs_is_the_official_one(scores_file: Path):
    outputs = scores_file.with_name(scores_file.name.removeprefix("scores_")).with_suffix(".jsonl")
    spec = BenchmarkSpec("mathvista", str(outputs), protocol="official")
    found = score_answers(spec, outputs)
    golden = load(scores_file)
    wanted = golden.get("repo_scores", golden)
    average = wanted.pop("average")
    assert found["n"] == average["total"]
    assert f"{100 * found['score']:.2f}".rstrip("0") == average["accuracy"].rstrip("0")
    for kind, categories in wanted.items():
        for name, value in categories.items():
            got = found["groups"].get(f"{kind}: {name}") or found["groups"][name]
            assert got["n"] == value["total"], (kind, name)
            assert round(got["score"] * got["n"]) == value["correct"], (kind, name)


def test_every_recorded_row_is_right_or_wrong_as_recorded(scores_file: Path):
    outputs = scores_file.with_name(scores_file.name.removeprefix("scores_")).with_suffix(".jsonl")
    rows = [json.loads(line) for line in outputs.read_text(encoding="utf-8").splitlines()]
    questions = benchmark.read(BenchmarkSpec("mathvista", str(outputs)))
    said = {row["pid"]: "" for row in rows}
    verdicts = {row["pid"]: benchmark.verdict_of(row) or {} for row in rows}
    credits = benchmark.score(questions, said, "official", verdicts).credits
    for row in rows:
        assert mathvista.normalise(row["extraction"], row) == row["normalized"], row["pid"]
        assert credits[row["pid"]] == float(row["true_false"]), row["pid"]


def test_problems_are_asked_in_the_same_words(scoring_file: Path):
    golden = load(scoring_file)
    for row in golden["mathvista_query"]:
        assert mathvista.query(row["problem"]) == row["query"]
    for row in golden["mathvista_normalize"]:
        assert mathvista.normalise(row["extraction"], row) == row["normalized"], row


def test_a_question_without_rule_is_asked_of_a_judge():
    problem = {"question_type": "free_form", "answer_type": "integer"}
    questions = benchmark.Question("1", "How many?", answers=("3",), facts=problem)
    assert benchmark.judging(questions, "3", "official") is None
    asked = benchmark.judging(questions, "There are three.", "official")
    assert asked is not None
    prompt = next(asked)
    assert prompt.endswith("How many?\n\nThere are three.\n\nExtracted answer: ")
    with pytest.raises(StopIteration) as stopped:
        asked.send(" 3\n")
    verdict = stopped.value.value
    found = benchmark.score([questions], {"1": "There are three."}, "official", {"1": verdict})
    assert found.fields["score"] == 1.0

"""MMMU's parsing, scores and prompts equal the official code's, lmms-eval's and VLMEvalKit's."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from vlforge.evaluation.benchmarks import mmmu as benchmark
from vlforge.evaluation.config import BenchmarkSpec
from vlforge.evaluation.metrics import mmmu
from vlforge.evaluation.scoring import score_answers

GOLDEN = {
    "table_file": "evaluation/mmmu/*parse_table*.json",
    "parsed_file": "evaluation/mmmu/*_parsed.jsonl",
    "expected_file": "evaluation/mmmu/*_expected.json",
    "scoring_file": "mgm/misc/*scoring*.json",
}
RANDOM = "<RANDOM>"


def load(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def in_order(parsed: list) -> list:
    numbers = sorted(one for one in parsed if isinstance(one, float | int))
    return [*numbers, *sorted(one for one in parsed if isinstance(one, str))]


def test_answers_are_parsed_as_the_official_code_parses_them(table_file: Path):
    golden = load(table_file)
    for row in golden["mc"]:
        wanted = None if row["parsed"] == RANDOM else row["parsed"]
        got = mmmu.official_letter(row["response"], golden["index2ans"])
        assert got == wanted, row["response"]
    for row in golden["open"]:
        found = mmmu.open_answers(row["response"])
        assert found == in_order(row["parsed"]), row["response"]
        gold = row["gold"] if isinstance(row["gold"], list) else [row["gold"]]
        assert mmmu.open_is_right(found, gold) == row["correct"], row["response"]


def test_every_recorded_answer_is_parsed_and_judged_as_recorded(parsed_file: Path):
    responses = parsed_file.with_name(parsed_file.name.replace("_parsed", "_responses"))
    asked = {row["id"]: row for row in lines(responses)}
    for row in lines(parsed_file):
        given = asked[row["id"]]
        gold = given["answer"] if isinstance(given["answer"], list) else [given["answer"]]
        if row["question_type"] == "multiple-choice":
            got = mmmu.official_letter(given["response"], given["index2ans"])
            assert got == (None if row["parsed"] == RANDOM else row["parsed"]), row["id"]
            assert (got in gold) == row["correct"], row["id"]
        else:
            found = mmmu.open_answers(given["response"])
            assert found == in_order(row["parsed"]), row["id"]
            assert mmmu.open_is_right(found, gold) == row["correct"], row["id"]


def test_scores_of_recorded_answers_are_the_published_ones(expected_file: Path):
    golden = load(expected_file)
    if "official_overall_seed42" not in golden:
        check_eval_only(expected_file, golden)
        return
    stem = expected_file.name.removesuffix("_expected.json")
    responses = expected_file.with_name(f"{stem}_responses.jsonl")

    def scored(protocol: str) -> dict:
        spec = BenchmarkSpec("mmmu", str(responses), protocol=protocol)
        return score_answers(spec, responses, strict=True)

    official = scored("official")
    assert official["score"] == pytest.approx(golden["official_overall_seed42"], abs=1e-6)
    assert official["drawn"] == golden["n_random_fallback"]
    for subject, value in golden["per_subject_seed42"].items():
        got = official["groups"][subject]
        assert got["score"] == pytest.approx(value["acc"], abs=1e-6), subject
        assert got["n"] == value["num_example"]
    for domain, value in golden["per_domain_seed42"].items():
        assert official["groups"][domain]["score"] == pytest.approx(value, abs=1e-6), domain
    exact = golden["vlmevalkit_exact_matching"]
    vlmevalkit = scored("vlmevalkit")
    assert vlmevalkit["score"] == pytest.approx(exact["overall"], abs=1e-6)
    for subject, value in exact["per_subject"].items():
        assert vlmevalkit["groups"][subject]["score"] == pytest.approx(value, abs=1e-6), subject
    lmms_eval = scored("lmms-eval")["score"]
    assert lmms_eval == pytest.approx(golden["lmms_eval_overall"], abs=6e-6)


def check_eval_only(expected_file: Path, golden: dict) -> None:
    stem = expected_file.name.removesuffix("_eval_only_expected.json")
    answers = expected_file.with_name(f"{stem}_total_val_output.json")
    annotation = expected_file.with_name("answer_dict_val.json")
    spec = BenchmarkSpec("mmmu", annotation=str(annotation), protocol="official")
    found = score_answers(spec, answers)
    for name, value in golden.items():
        name = name.removeprefix("Overall-")
        got = found if name == "Overall" else found["groups"][name]
        assert round(got["score"], 3) == value["acc"], name
        assert got["n"] == value["num"], name


def test_mgms_cases_are_parsed_and_asked_as_it_does(scoring_file: Path):
    golden = load(scoring_file)
    for row in golden["mmmu_multi"]:
        letter = mmmu.official_letter(row["response"], row["index2ans"])
        drawn = random.Random(42).choice(row["all_choices"])
        assert (letter or drawn) == row["parsed"], row["response"]
    for row in golden["mmmu_open"]:
        found = mmmu.open_answers(row["response"])
        assert sorted(map(str, found)) == row["parsed_sorted"], row["response"]
        gold = row["gold"] if isinstance(row["gold"], list) else [row["gold"]]
        assert mmmu.open_is_right(found, gold) == row["correct"], row["response"]
    for row in golden["mmmu_prompts"]:
        sample = row["sample"]
        options = benchmark._options(sample, "golden")
        is_open = sample["question_type"] == "open"
        got = benchmark.prompt_of(sample["question"], options, is_open=is_open)
        assert got == row["final_input_prompt"]

"""Options chosen by likelihood, and what an answer may cost, through `evaluate`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.evaluation.little_world import WORDS, rows_of, write_questions, write_world
from vlforge.evaluation.benchmarks import longest_answer, questions_of
from vlforge.evaluation.config import BenchmarkSpec
from vlforge.evaluation.run import evaluate
from vlforge.evaluation.scoring import score_folder
from vlforge.inference.load import load_model
from vlforge.inference.options import option_scores
from vlforge.types import Caption, DataError, RecipeError, Sample, Turn


@pytest.fixture
def config(tmp_path):
    """Nine questions of three options each."""
    made = write_world(tmp_path, count=3, answer_by="likelihood", likelihood="sum")
    return replace(made, benchmarks=(write_questions(tmp_path / "options", 9, options=True),))


def test_the_likeliest_text_after_the_bare_question_is_the_answer(config, tmp_path):
    metrics = evaluate(config, tmp_path / "out", device="cpu")["custom"]
    assert metrics["protocol"] == "custom@choice+likelihood/sum"
    assert metrics["generation"]["answer_by"] == "likelihood/sum"
    assert metrics["unparsed"] == 0
    loaded = load_model(config.model, "cpu")
    questions = questions_of(config.benchmarks[0])
    for question, row in zip(questions, rows_of(tmp_path / "out"), strict=True):
        text = "<image>\n" * len(question.images) + question.asked
        sample = Sample(question.id, question.images, (Turn("user", text),))
        (scores,) = option_scores(loaded, [sample], [WORDS[:3]], "sum", 1)
        assert list(row["likelihoods"].values()) == pytest.approx(scores, abs=2e-4)
        assert row["text"] == "ABC"[scores.index(max(scores))]
    prompts = (tmp_path / "out" / "prompts.custom.jsonl").read_text().splitlines()
    assert [json.loads(line)["prompt"] for line in prompts] == [q.asked for q in questions]
    assert score_folder(tmp_path / "out")["custom"] == metrics


def test_the_choice_depends_neither_on_batch_nor_on_the_file_it_resumes(config, tmp_path):
    evaluate(config, tmp_path / "out", device="cpu")
    evaluate(replace(config, batch=1), tmp_path / "alone", device="cpu")
    said = [[row["text"] for row in rows_of(tmp_path / name)] for name in ("out", "alone")]
    assert said[0] == said[1]
    path = tmp_path / "out" / "predictions.custom.jsonl"
    before = path.read_bytes()
    path.write_bytes(b"".join(before.splitlines(keepends=True)[:4]))
    evaluate(config, tmp_path / "out", device="cpu")
    assert [row["text"] for row in rows_of(tmp_path / "out")] == said[0]


def test_ways_of_choosing_are_not_mixed(config, tmp_path):
    evaluate(config, tmp_path / "out", device="cpu")
    for change in ({"likelihood": "mean"}, {"answer_by": "generation"}):
        with pytest.raises(DataError, match="made with another generation"):
            evaluate(replace(config, **change), tmp_path / "out", device="cpu")


def test_questions_without_options_are_generated(config, tmp_path):
    spec = write_questions(tmp_path / "open", 4)
    metrics = evaluate(replace(config, benchmarks=(spec,)), tmp_path / "out", device="cpu")
    assert metrics["custom"]["protocol"] == "custom@exact"
    assert "likelihoods" not in rows_of(tmp_path / "out")[0]


class Silent:
    """Fails for some questions, or all."""

    def __init__(self, words: tuple[str, ...]):
        self.words, self.asked = words, 0

    def answer(self, samples, max_new_tokens):
        self.asked += len(samples)
        for sample in samples:
            if any(word in sample.turns[-1].text for word in self.words):
                raise DataError(f"{sample.id}: cannot be shown")
        return [Caption("cat", 0.0) for _ in samples]


def test_a_model_that_tells_no_likelihood_is_refused(config, tmp_path):
    with pytest.raises(RecipeError, match="tells no likelihoods of options"):
        evaluate(config, tmp_path / "out", chat=Silent(()))


def test_a_question_that_fails_costs_itself(tmp_path):
    config = write_world(tmp_path, count=10)
    metrics = evaluate(config, tmp_path / "out", chat=Silent(("blue on",)))["custom"]
    assert (metrics["failed"], metrics["missing"], metrics["n"]) == (2, 2, 10)
    with pytest.raises(DataError, match="2 questions have no answer, first q4"):
        evaluate(replace(config, strict=True), tmp_path / "out", chat=Silent(("blue on",)))
    silent = Silent(())
    assert evaluate(config, tmp_path / "out", chat=silent)["custom"]["missing"] == 0
    assert silent.asked == 2


def test_where_every_question_fails_the_first_failure_is_told_soon(tmp_path):
    config = write_world(tmp_path, count=60)
    silent = Silent(("what",))
    with pytest.raises(DataError, match=r"no question was answered; the first: q.*cannot be shown"):
        evaluate(config, tmp_path / "out", chat=silent)
    assert silent.asked < 30


def test_a_broken_picture_and_a_long_question_cost_themselves(tmp_path):
    config = write_world(tmp_path, count=9)
    (tmp_path / "world" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    path = Path(config.benchmarks[0].questions)
    long = {"id": "long", "question": "what " * 300, "answer": "cat"}
    path.write_text(path.read_text() + json.dumps(long) + "\n")
    metrics = evaluate(config, tmp_path / "out", device="cpu")["custom"]
    lines = (tmp_path / "out" / "failed.custom.jsonl").read_text().splitlines()
    why = {row["id"]: row["why"] for row in map(json.loads, lines)}
    assert set(why) == {"q3", "q4", "q5", "long"}
    assert "1.png" in why["q3"]
    assert "the model takes 160" in why["long"]
    assert metrics["failed"] == 4


def test_answers_are_as_long_as_their_benchmark_needs():
    named = {name: BenchmarkSpec(name) for name in ("mmmu", "mathvista", "textvqa", "mmbench")}
    found = {name: longest_answer(spec) for name, spec in named.items()}
    assert found == {"mmmu": 128, "mathvista": 1024, "textvqa": 16, "mmbench": 16}
    assert longest_answer(named["mmmu"], 40) == 40
    assert longest_answer(BenchmarkSpec("mmmu", max_new_tokens=7), 40) == 7


def test_a_limit_asks_whole_groups_and_a_lower_one_loses_no_answer(tmp_path):
    config = write_world(tmp_path, count=9)
    some = replace(config, benchmarks=(replace(config.benchmarks[0], limit=4),))
    metrics = evaluate(some, tmp_path / "out", device="cpu")["custom"]
    assert (metrics["n"], metrics["limit"]) == (4, 4)
    whole = evaluate(config, tmp_path / "out", device="cpu")["custom"]
    assert whole["n"] == 9
    assert "limit" not in whole
    evaluate(some, tmp_path / "out", device="cpu")
    assert [row["id"] for row in rows_of(tmp_path / "out")] == [f"q{n}" for n in range(9)]
    assert score_folder(tmp_path / "out")["custom"]["n"] == 4


def test_rounding_is_counted_in_bf16_alone(tmp_path):
    lines: list[dict] = []
    config = write_world(tmp_path, count=12)
    exact = evaluate(config, tmp_path / "fp32", device="cpu", log=lines.append)["custom"]
    assert "agreement" not in exact
    rounded = replace(config, precision="bf16")
    told = evaluate(rounded, tmp_path / "bf16", device="cpu", log=lines.append)["custom"]
    assert set(told["agreement"]) == {"batch", "asked_again_alone", "differing"}
    assert told["agreement"]["asked_again_alone"] == 8
    texts = [line["text"] for line in lines if line["event"] == "warning"]
    assert any("custom: of 8 answers from batches of up to 4" in text for text in texts)
    again = evaluate(rounded, tmp_path / "bf16", device="cpu", log=lines.append)["custom"]
    assert again == told


def test_a_finished_folder_opens_no_model(tmp_path):
    config = write_world(tmp_path, count=3)
    metrics = evaluate(config, tmp_path / "out", device="cpu")
    weights = next(Path(config.model).glob("*.safetensors"))
    kept = weights.read_bytes()
    assert kept
    from unittest.mock import patch

    with patch("vlforge.inference.load.load_model", side_effect=AssertionError("opened")):
        assert evaluate(config, tmp_path / "out", device="cpu") == metrics

"""Benchmarks that are asked while a model trains."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.tiny_model import COLOURS, write_data, write_parts
from vlforge.evaluation.config import BenchmarkSpec, EvalConfig
from vlforge.evaluation.questions import Question
from vlforge.evaluation.run import evaluate
from vlforge.inference.local import LocalChat
from vlforge.models.config import ModelSpec
from vlforge.runs.job import Job
from vlforge.runs.kinds import train as kind
from vlforge.runs.meanwhile import Meanwhile, some_questions
from vlforge.training.config import HeldOut, Optimiser, TrainConfig
from vlforge.types import RecipeError

WORDS = {"red": "It is red.", "green": "It is green.", "blue": "It is blue."}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A stage that learns colours, asked for them in TextVQA's files."""
    folder = tmp_path_factory.mktemp("made")
    data = write_data(folder)
    vision, language = write_parts(folder, data)
    names = [list(COLOURS)[n % 3] for n in range(12)]
    with (folder / "questions.jsonl").open("w") as file:
        for number in range(12):
            text = "What colour is it?"
            row = {"question_id": str(number), "image": f"{number}.png", "text": text}
            file.write(json.dumps(row) + "\n")
    answers = [
        {"image_id": str(n), "question": "What colour is it?", "answers": [WORDS[name]] * 10}
        for n, name in enumerate(names)
    ]
    (folder / "annotation.json").write_text(json.dumps({"data": answers}))
    benchmark = {
        "name": "textvqa",
        "questions": str(folder / "questions.jsonl"),
        "annotation": str(folder / "annotation.json"),
        "images": str(folder / "images"),
    }
    return TrainConfig(
        model=ModelSpec(vision=str(vision), language=str(language)),
        data=str(data),
        samples=240,
        batch=4,
        template="vicuna",
        train=("connector", "language"),
        optimiser=Optimiser(lr=1e-2, warmup_ratio=0.1),
        evaluate=HeldOut(every_samples=120, benchmarks=(benchmark,), benchmark_rows=6),
    )


def job(out: Path) -> Job:
    out.mkdir(parents=True, exist_ok=True)
    return Job(node="align", out=out, run_dir=out)


def looks(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "eval.jsonl").read_text().splitlines()]


def test_scores_are_those_of_an_evaluate_stage_and_leave_no_trace(tmp_path, made):
    whole = replace(made.evaluate, benchmark_rows=100)
    kind.run(replace(made, evaluate=whole), job(tmp_path / "asked"))
    scores = [look["benchmarks"]["textvqa"] for look in looks(tmp_path / "asked")]
    assert [look["step"] for look in looks(tmp_path / "asked")] == [30, 60]
    assert scores[-1] > 0.3
    specs = tuple(BenchmarkSpec(**entry) for entry in whole.benchmarks)
    config = EvalConfig(model=str(tmp_path / "asked"), benchmarks=specs)
    chat = LocalChat(config.model, device="cpu")
    after = evaluate(config, tmp_path / "evaluated", chat=chat)
    assert scores[-1] == pytest.approx(after["textvqa"]["score"], abs=1e-6)
    kind.run(replace(made, evaluate=None), job(tmp_path / "plain"))
    for file in ("model.safetensors", "metrics.jsonl"):
        assert (tmp_path / "asked" / file).read_bytes() == (tmp_path / "plain" / file).read_bytes()


def test_questions_that_are_scored_together_stay_together():
    questions = [
        Question(f"{group}-{n}", "?", group=str(group)) for group in range(10) for n in (0, 1)
    ]
    some = some_questions(questions, 6)
    assert [question.group for question in some] == ["0", "0", "3", "3", "6", "6"]
    assert some_questions(questions, 1000) == questions
    assert len(some_questions(questions, 1)) == 2


def test_an_entry_that_is_none_is_told_before_anything_is_read():
    with pytest.raises(RecipeError, match=r"evaluate\.benchmarks.*questoins"):
        Meanwhile([{"name": "textvqa", "questoins": "x"}], 4)
    with pytest.raises(RecipeError, match="no benchmark is called 'textvq'"):
        Meanwhile([{"name": "textvq", "questions": "x"}], 4)


def test_benchmarks_are_in_the_key_of_a_stage_that_asks_them_alone():
    assert "vlforge.runs.meanwhile" not in list(kind.extra_sources({"data": "x"}))
    asks = {"data": "x", "evaluate": {"benchmarks": [{"name": "textvqa"}]}}
    assert "vlforge.runs.meanwhile" in list(kind.extra_sources(asks))

"""Judging against a scripted endpoint: what it says is kept, what it fails at is never guessed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.endpoint_server import endpoint
from vlforge.cli import main
from vlforge.evaluation.benchmarks import llava_bench, mmvet
from vlforge.evaluation.config import BenchmarkSpec, EvalConfig
from vlforge.evaluation.judging import judge_answers
from vlforge.evaluation.questions import Question
from vlforge.evaluation.run import evaluate
from vlforge.evaluation.scoring import score_folder
from vlforge.inference.endpoint.client import Endpoint, EndpointError
from vlforge.types import Caption, EndpointSpec

KEY = "sk-not-to-be-seen"
GRADES = {"v1_0": "1.0", "v1_1": "0.5", "v1_2": "no idea"}


class Echo:
    """Answers with the question's number."""

    def answer(self, samples, max_new_tokens):
        return [Caption(f"said {sample.id}", 0.0) for sample in samples]


@pytest.fixture
def answered(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "images").mkdir()
    rows = {}
    for number in range(3):
        (tmp_path / "images" / f"{number}.jpg").write_bytes(b"\xff\xd8\xff")
        rows[f"v1_{number}"] = {
            "imagename": f"{number}.jpg", "question": f"What is {number}?", "answer": "a<AND>b",
            "capability": ["ocr", "math"] if number else ["ocr"],
        }  # fmt: skip
    (tmp_path / "mm-vet.json").write_text(json.dumps(rows))
    spec = BenchmarkSpec("mmvet", annotation=str(tmp_path / "mm-vet.json"))
    evaluate(EvalConfig("echo", (spec,)), tmp_path / "scores", chat=Echo())
    return tmp_path / "scores"


def grade(body, times):
    text = body["messages"][-1]["content"]
    return next(grade for key, grade in GRADES.items() if f"said {key}" in text)


def judging(server, folder: Path) -> Endpoint:
    return Endpoint(
        EndpointSpec("judge", server.url), folder / "replies.jsonl", sleep=lambda s: None
    )


def test_without_a_judge_there_is_no_score(answered):
    assert score_folder(answered)["mmvet"]["score"] is None


def test_grades_are_kept_and_what_is_no_grade_is_counted(answered, capsys):
    with endpoint(grade) as server:
        words = ["eval", "judge", str(answered), "--model", "judge", "--url", server.url]
        assert main([*words, "--price-in", "1000"]) == 0
        asked = len(server.asked)
        assert main(words) == 0
        assert len(server.asked) == asked
    shown = capsys.readouterr().out
    assert "3 verdicts, 3 of them new" in shown
    assert "3 verdicts, 0 of them new" in shown
    found = json.loads((answered / "metrics.json").read_text())["mmvet"]
    assert found["score"] == pytest.approx(0.5)
    assert found["unparsed"] == 1
    assert found["judge"]["model"] == "judge"
    assert found["groups"]["math"]["score"] == pytest.approx(0.25)
    assert found["combinations"]["math + ocr"]["n"] == 2
    assert asked == 2 + mmvet.TRIES
    texts = [body["messages"][0]["content"] for body in server.asked]
    assert any("What is 0? | a <AND> b | said v1_0 | " in text for text in texts)
    for path in answered.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes()


def test_a_dry_run_asks_nobody_and_tells_the_cost(answered, capsys):
    words = ["--model", "judge", "--url", "http://127.0.0.1:9/v1", "--dry-run"]
    assert main(["eval", "judge", str(answered), *words, "--price-in", "1000"]) == 0
    shown = capsys.readouterr().out
    assert "3 answers would be judged: about" in shown
    assert "at most 1.75" in shown


def test_a_judge_that_fails_is_not_guessed_for(answered):
    questions = mmvet.read(BenchmarkSpec("mmvet", annotation=str(answered.parent / "mm-vet.json")))
    said = {q.id: f"said {q.id}" for q in questions}

    def fails_once(body, times):
        return 400 if "said v1_1" in body["messages"][0]["content"] else "0.8"

    path = answered / "judged.mmvet.jsonl"
    with endpoint(fails_once) as server:
        found = judge_answers(mmvet, questions, said, "auto", judging(server, answered), path)
    assert (found.verdicts, found.failed) == (2, 1)
    assert "400" in found.first_failure
    assert score_folder(answered)["mmvet"]["unparsed"] == 1
    with endpoint(grade) as server:
        again = judge_answers(mmvet, questions, said, "auto", judging(server, answered), path)
        assert (again.verdicts, again.new, again.failed) == (3, 1, 0)
        assert len(server.asked) == 1


def test_a_wrong_key_ends_the_asking_at_once(answered):
    questions = mmvet.read(BenchmarkSpec("mmvet", annotation=str(answered.parent / "mm-vet.json")))
    said = {q.id: "x" for q in questions}
    path = answered / "judged.mmvet.jsonl"
    with endpoint(lambda body, times: 401) as server:
        judge = judging(server, answered)
        with pytest.raises(EndpointError, match="set OPENAI_API_KEY"):
            judge_answers(mmvet, questions, said, "auto", judge, path)


def test_a_changed_answer_is_judged_again(answered, tmp_path):
    questions = mmvet.read(BenchmarkSpec("mmvet", annotation=str(answered.parent / "mm-vet.json")))
    path = tmp_path / "judged.jsonl"
    with endpoint(lambda body, times: "0.3") as server:
        judge = judging(server, tmp_path)
        judge_answers(mmvet, questions, {"v1_0": "one"}, "auto", judge, path)
        found = judge_answers(mmvet, questions, {"v1_0": "two"}, "auto", judge, path)
    assert found.new == 1


def test_llava_benchs_judge_sees_caption_and_both_answers(tmp_path):
    (tmp_path / "context.jsonl").write_text(
        '{"image": "1.jpg", "caption": ["A dog.", "It runs."]}\n'
    )
    (tmp_path / "answers_gpt4.jsonl").write_text('{"question_id": 0, "text": "A brown dog."}\n')
    (tmp_path / "questions.jsonl").write_text(
        '{"question_id": 0, "image": "1.jpg", "text": "What?", "category": "conv"}\n'
    )
    spec = BenchmarkSpec("llava_bench", str(tmp_path / "questions.jsonl"), annotation=str(tmp_path))
    questions = llava_bench.read(spec)
    with endpoint(lambda body, times: "8 6\nThe second is short.") as server:
        path = tmp_path / "judged.jsonl"
        said = {"0": "A dog."}
        judge_answers(llava_bench, questions, said, "auto", judging(server, tmp_path), path)
    system, user = (message["content"] for message in server.asked[0]["messages"])
    assert system.startswith("You are a helpful and precise assistant")
    assert user.startswith(
        "[Context]\nA dog.\nIt runs.\n\n[Question]\nWhat?\n\n[Assistant 1]\nA brown"
    )
    verdict = json.loads(path.read_text())
    found = llava_bench.score(questions, said, "auto", {"0": verdict}).fields
    assert found["score"] == pytest.approx(6 / 8)


def test_a_review_without_two_numbers_is_counted_and_left_out():
    questions = [Question(str(n), "?", labels={"category": "conv"}) for n in range(2)]
    verdicts = {"0": {"theirs": 8.0, "ours": 4.0}, "1": {"theirs": -1.0, "ours": -1.0}}
    said = {"0": "a", "1": "b"}
    ours = llava_bench.score(questions, said, "vlforge", verdicts).fields
    assert (ours["score"], ours["unparsed"], ours["n"]) == (0.5, 1, 1)
    theirs = llava_bench.score(questions, said, "llava", verdicts).fields
    assert theirs["score"] == pytest.approx(3 / 7)

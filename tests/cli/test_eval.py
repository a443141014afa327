"""`vlforge eval score`: answers that are there are scored again, without a model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.inference.tiny import tiny_folder
from vlforge.cli import main
from vlforge.evaluation.config import BenchmarkSpec, EvalConfig
from vlforge.evaluation.run import evaluate
from vlforge.types import Caption

SUFFIX = "\nAnswer the question using a single word or phrase."


class Parrot:
    """Says the last word of the question."""

    def answer(self, samples, max_new_tokens):
        asked = (sample.turns[-1].text.split(SUFFIX)[0] for sample in samples)
        return [Caption(text.split()[-1].rstrip("?"), 0.0) for text in asked]


@pytest.fixture
def answered(tmp_path, monkeypatch):
    """A folder of answers to two questions, one of them right."""
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 8)).save("a.jpg")
    texts = ["is it red", "is it blue"]
    questions = [
        {"question_id": i, "image": "a.jpg", "text": text + SUFFIX} for i, text in enumerate(texts)
    ]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(q) + "\n" for q in questions))
    data = [
        {"question_id": i, "image_id": str(i), "question": text, "answers": ["red"] * 10}
        for i, text in enumerate(texts)
    ]
    (tmp_path / "a.json").write_text(json.dumps({"data": data}))
    spec = BenchmarkSpec("textvqa", "q.jsonl", annotation="a.json", images=str(tmp_path))
    evaluate(EvalConfig("parrot", (spec,)), tmp_path / "scores", chat=Parrot())
    return tmp_path / "scores"


def test_scoring_again_shows_the_score_with_its_protocol(answered, capsys):
    assert main(["eval", "score", str(answered)]) == 0
    shown = capsys.readouterr().out
    assert "50.0 %" in shown
    assert "textvqa@" in shown


def test_answers_are_exported_as_llava_writes_them(answered, capsys):
    assert main(["eval", "export", str(answered), "textvqa", "answers.jsonl"]) == 0
    rows = [json.loads(line) for line in Path("answers.jsonl").read_text().splitlines()]
    assert [row["text"] for row in rows] == ["red", "blue"]
    assert main(["eval", "export", str(answered), "mmbench", "a.xlsx"]) == 2
    assert "textvqa" in capsys.readouterr().err


def test_an_unknown_benchmark_names_the_option_and_the_known_ones(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "q.jsonl").write_text("")
    words = ["--benchmark", "textvqaa", "--questions", "q.jsonl"]
    assert main(["eval", "run", "model", *words]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: --benchmark: ")
    assert "'textvqa'" in shown


def test_a_missing_question_file_is_named(tmp_path, capsys):
    words = ["--benchmark", "textvqa", "--questions", "nowhere.jsonl"]
    assert main(["eval", "run", str(tmp_path), *words]) == 2
    assert "nowhere.jsonl: no such file" in capsys.readouterr().err


def test_eval_run_loads_as_asked_and_says_what_that_means(answered, tmp_path, capsys):
    folder = tiny_folder(tmp_path / "model", template="v1")
    asked = ["--benchmark", "textvqa", "--questions", "q.jsonl", "--annotation", "a.json"]
    asked += ["--images", str(tmp_path), "--out", "mine", "--max-new-tokens", "3"]
    how = ["--precision", "bf16", "--template", "chatml_direct", "--attention", "eager"]
    assert main(["eval", "run", str(folder), *asked, *how]) == 0
    shown = capsys.readouterr().out
    assert "Note    in bf16 an answer may change with the batch" in shown
    assert "Note    template 'chatml_direct' marks turns with <|im_start|>, <|im_end|>" in shown
    settings = json.loads((tmp_path / "mine" / "settings.json").read_text())["generation"]
    assert (settings["precision"], settings["template"]) == ("bf16", "chatml_direct")
    assert main(["eval", "run", str(folder), *asked, "--device-map", "language"]) == 2
    assert "'language' is no PART=DEVICE" in capsys.readouterr().err


def test_eval_run_ranks_options_and_says_so(answered, tmp_path, capsys):
    folder = tiny_folder(tmp_path / "model", template="v1")
    row = {"id": 1, "question": "what is it", "answer": "cat", "options": ["cat", "red horse"]}
    (tmp_path / "mine.jsonl").write_text(json.dumps(row) + "\n")
    words = ["eval", "run", str(folder), "--benchmark", "custom", "--questions", "mine.jsonl"]
    how = ["--answer-by", "likelihood", "--likelihood", "mean", "--processes", "1"]
    assert main([*words, *how, "--out", "ranked"]) == 0
    assert "custom@choice+likelihood/mean" in capsys.readouterr().out
    (said,) = map(
        json.loads, (tmp_path / "ranked/predictions.custom.jsonl").read_text().splitlines()
    )
    assert said["text"] == max(said["likelihoods"], key=said["likelihoods"].get)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--batch", "many"], "--batch is 'many'; give a number from 1, or auto"),
        (["--processes", "0"], "--processes is '0'"),
        (["--answer-by", "luck"], "--answer-by: "),
        (["--url", "http://127.0.0.1/v1"], "one of the two"),
    ],
)
def test_eval_run_names_the_option_that_is_wrong(answered, tmp_path, capsys, words, told):
    asked = ["--benchmark", "textvqa", "--questions", "q.jsonl", "--annotation", "a.json"]
    assert main(["eval", "run", str(tmp_path), *asked, *words]) == 2
    assert told in capsys.readouterr().err


def test_eval_run_needs_a_file_to_ask(tmp_path, capsys):
    assert main(["eval", "run", str(tmp_path), "--benchmark", "seedbench"]) == 2
    assert "give --questions or --annotation" in capsys.readouterr().err


def test_answers_made_elsewhere_are_exported(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "q.jsonl").write_text(
        json.dumps({"question_id": 1, "image": "a.jpg", "text": f"what{SUFFIX}"}) + "\n"
    )
    (tmp_path / "a.jsonl").write_text(json.dumps({"question_id": 1, "text": "It's a dog."}) + "\n")
    words = ["eval", "export", "a.jsonl", "vizwiz", "upload.json"]
    assert main(words) == 2
    assert "--questions" in capsys.readouterr().err
    assert main([*words, "--questions", "q.jsonl"]) == 0
    assert json.loads(Path("upload.json").read_text()) == [
        {"image": "a.jpg", "answer": "it 's dog"}
    ]

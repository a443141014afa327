"""MMBench and TextVQA in the words of each system; the protocol's name says whose they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vlforge.evaluation.answers import read_answers
from vlforge.evaluation.benchmarks import mmbench, textvqa
from vlforge.evaluation.config import BenchmarkSpec
from vlforge.types import RecipeError

ROW = {"index": "7", "question": "Which?", "hint": "Look.", "A": "cat", "B": "None", "E": "owl"}
SHORT = "Answer the question using a single word or phrase."
LETTER = "Answer with the option's letter from the given choices directly."


@pytest.mark.parametrize(
    ("style", "words"),
    [
        ("auto", f"Look.\nWhich?\nA. cat\nB. None\nE. owl\n{LETTER}"),
        ("llava", f"Look.\nWhich?\nA. cat\n{LETTER}"),
        ("mgm", f"Look.\nWhich?\nA. cat\n{LETTER}"),
        ("xtuner", f"Look.\nWhich?\nA. cat\nE. owl\n{LETTER}"),
        ("vlmevalkit", "Hint: Look.\nQuestion: Which?\nOptions:\nA. cat\nB. None\nE. owl\n"
                       "Please select the correct answer from the options above. \n"),
        ("lmms-eval", "Look. Which? There are several options:\nA. cat\nB. None\nE. owl\n\n"
                      f"{LETTER}"),
    ],
)  # fmt: skip
def test_mmbench_is_asked_in_each_systems_words(style, words):
    assert mmbench.prompt_of(ROW, style=style) == words


@pytest.mark.parametrize(
    ("style", "end"),
    [
        ("auto", "\n请直接回答选项字母。"),
        ("xtuner", "\n请直接回答选项字母。"),
        ("lmms-eval", "\n\n请直接使用所提供的选项字母作为答案回答。"),
    ],
)
def test_a_chinese_question_gets_the_chinese_request(style, end):
    assert mmbench.prompt_of({"question": "哪个？", "A": "猫"}, style=style).endswith(end)


def test_a_hint_that_is_nan_is_none_for_llava_and_words_for_us():
    row = {**ROW, "hint": "nan"}
    assert mmbench.prompt_of(row).startswith("nan\nWhich?")
    assert mmbench.prompt_of(row, style="llava").startswith("Which?")
    assert mmbench.prompt_of(row, style="lmms-eval").startswith("Which? There are")


def spec(folder: Path, prompt: str) -> BenchmarkSpec:
    path = folder / "table.tsv"
    path.write_text("index\tg_index\tquestion\tA\tB\tanswer\tsplit\n"
                    "5\t5\tWhich?\tcat\tdog\tA\ttest\n"
                    "1000005\t5\tWhich?\tdog\tcat\tB\ttest\n")  # fmt: skip
    return BenchmarkSpec("mmbench", str(path), prompt=prompt)


def test_the_protocol_says_whose_words_asked(tmp_path):
    questions = mmbench.read(spec(tmp_path, "vlmevalkit"))
    name = mmbench.score(questions, {"5": "A", "1000005": "B"}, "vlmevalkit").fields["protocol"]
    assert name == "mmbench@circular/vlmevalkit+prompt=vlmevalkit"
    assert mmbench.knows(name)
    assert mmbench.protocol_name(questions, name) == name
    assert mmbench.protocol_name(mmbench.read(spec(tmp_path, "auto")), "auto") == (
        "mmbench@circular/vlforge"
    )
    with pytest.raises(RecipeError, match="no prompt 'gpt'; known: auto, llava"):
        mmbench.read(spec(tmp_path, "gpt"))


def test_v11_files_are_grouped_by_their_own_column(tmp_path):
    path = tmp_path / "v11.tsv"
    path.write_text("index\tg_index\tquestion\tA\tB\tanswer\n"
                    "3000005\t3000005\tWhich?\tcat\tdog\tA\n"
                    "17\t3000005\tWhich?\tdog\tcat\tB\n")  # fmt: skip
    questions = mmbench.read(BenchmarkSpec("mmbench", str(path)))
    fields = mmbench.score(questions, {"3000005": "A", "17": "A"}, "auto").fields
    assert (fields["n"], fields["circular"], fields["vanilla"], fields["incomplete"]) == (
        1,
        0,
        1,
        0,
    )


def test_llavas_rounds_answer_the_rotation_that_shows_the_same_options(tmp_path):
    answers = tmp_path / "answers.jsonl"
    rows = [
        {"question_id": 5, "round_id": 0, "text": "A", "options": ["cat", "dog"]},
        {"question_id": 5, "round_id": 1, "text": "B", "options": ["dog", "cat"]},
        {"question_id": 5, "round_id": 2, "text": "C", "options": ["owl", "cat"]},
    ]
    answers.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_answers(answers, mmbench.read(spec(tmp_path, "auto")), mmbench)
    assert found.said == {"5": "A", "1000005": "B"}
    assert (found.duplicate, found.unknown) == (0, 1)


@pytest.mark.parametrize(
    ("prompt", "words", "name"),
    [
        ("auto", f"What does the NHS say?\nReference OCR token: NHS\n{SHORT}", "textvqa@m4c+ocr"),
        ("vlmevalkit", f"What does the NHS say?\n{SHORT}", "textvqa@m4c+prompt=vlmevalkit"),
        ("lmms-eval", f"What does the nhs say?\n{SHORT}", "textvqa@m4c+prompt=lmms-eval"),
    ],
)
def test_textvqa_is_asked_in_each_systems_words(tmp_path, prompt, words, name):
    path = tmp_path / "questions.jsonl"
    text = f"What does the NHS say?\nReference OCR token: NHS\n{SHORT}"
    path.write_text(json.dumps({"question_id": "a", "text": text}) + "\n")
    questions = textvqa.read(BenchmarkSpec("textvqa", str(path), prompt=prompt))
    assert questions[0].text == words
    assert textvqa.protocol_name(questions, "auto") == name
    assert textvqa.knows(name)
    with pytest.raises(RecipeError, match="no prompt 'gpt'"):
        textvqa.read(BenchmarkSpec("textvqa", str(path), prompt="gpt"))

"""Reading a letter from an answer: the published rules as recorded, and ours."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vlforge.evaluation.metrics import choices

MADE = Path(__file__).with_name("made")
TABLE = json.loads((MADE / "choice_extraction_table.json").read_text(encoding="utf-8"))
QUIRK = json.loads((MADE / "verbose_regex_quirk.json").read_text(encoding="utf-8"))
OPTIONS = TABLE["choices"]


@pytest.mark.parametrize(
    ("field", "rule"),
    [
        ("vlmevalkit_option", choices.vlmevalkit_option),
        ("vlmevalkit_text", choices.vlmevalkit_text),
        ("vlmevalkit", choices.vlmevalkit),
        ("lmms_eval", choices.lmms_eval_inferred),
        ("lmms_mcq_extract", lambda text, options: choices.lmms_eval_ranked(text, "ABCD")),
    ],
)
def test_published_rules_read_the_recorded_letters(field, rule):
    wrong = [c["text"] for c in TABLE["cases"] if rule(c["text"], OPTIONS) != c[field]]
    assert wrong == []


def test_vlmevalkit_takes_any_word_after_answer_is_for_a_letter():
    for case in QUIRK["cases"]:
        assert choices.vlmevalkit(case["text"], QUIRK["choices"]) == case["vlmevalkit"]


def test_an_article_ends_the_search_where_vlmevalkit_is_verbose():
    text = "it is A dog"
    assert choices.vlmevalkit_option(text, OPTIONS) == "A"
    assert choices.vlmevalkit_option(text, OPTIONS, verbose=True) is None


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("b.", "B"),
        ("(B)", "B"),
        ("B?", "B"),
        ("B. Black dog", "B"),
        ("Answer: (b)", "B"),
        ("My answer: **C**", "C"),
        ("\\boxed{\\text{D}}", "D"),
        ("The correct option is B because it is black", "B"),
        ("The answer is A, B, C or D? Answer is D", "D"),
        ("答案：B", "B"),
        ("答案应该是C。", "C"),
        ("正确答案是（B）", "B"),
        ("选B。", "B"),
        ("应选Ｂ", "B"),
        ("A\n\nThe cat sits on a hill with 12 others around it", "A"),
    ],
)
def test_our_rule_reads_a_clear_letter(text, letter):
    assert choices.vlforge(text, OPTIONS) == letter


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("black dog.", "B"),
        ("A black dog", "B"),
        ("A house on a hill", "C"),
        ("the answer is a black dog", "B"),
        ("There are 12 birds", "D"),
        ("The answer is cat", "A"),
        ("The answer is dog", None),
        ("answer is blue", None),
        ("cat and black dog", None),
        ("vitamin B123", None),
    ],
)
def test_our_rule_reads_option_texts_as_whole_words(text, letter):
    assert choices.vlforge(text, OPTIONS) == letter


def test_a_longer_option_hides_the_shorter_one_within_it():
    options = {"A": "dog", "B": "black dog"}
    assert choices.vlforge("It is a black dog", options) == "B"
    assert choices.vlforge("A dog and a black dog", options) is None


@pytest.mark.parametrize(
    "text", ["", "B or C", "Both A and B", "B/C", "answer is A or B", "not shown", "E"]
)
def test_our_rule_reads_nothing_from_an_unclear_answer(text):
    assert choices.vlforge(text, OPTIONS) is None


def test_a_refusal_is_a_choice_of_none_and_a_failed_call_is_nothing():
    assert choices.vlforge("Cannot determine the answer", OPTIONS) == choices.REFUSED
    assert choices.vlforge("Failed to obtain answer via API", OPTIONS) is None


@pytest.mark.parametrize(("text", "run"), [("Answer: B", "A"), ("BB", "BB"), ("b", None)])
def test_xtuner_takes_the_first_run_of_letters(text, run):
    assert choices.xtuner(text, OPTIONS) == run

"""Short answers: recorded normalisations and the credits that follow from them."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from vlforge.evaluation.metrics import vqa
from vlforge.types import DataError

MADE = Path(__file__).with_name("made")


def made(name: str):
    return json.loads((MADE / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("field", "normalise"),
    [
        ("m4c", vqa.normalise_m4c),
        ("vqa_official", vqa.normalise_vqa),
        ("vlmevalkit", vqa.normalise_vlmevalkit),
    ],
)
def test_normalised_answers_equal_the_recorded_ones(field, normalise):
    cases = made("normalizer.json")
    assert len(cases) > 50
    wrong = [c["input"] for c in cases if normalise(c["input"]) != c[field]]
    assert wrong == []


def test_only_so_many_dots_go():
    assert vqa.normalise_m4c("." * 33 + "x") == ".x"


@pytest.mark.parametrize(("agreeing", "credit"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0)])
def test_soft_accuracy_by_agreeing_answers(agreeing, credit):
    answers = ["ale"] * agreeing + [f"other {place}" for place in range(10 - agreeing)]
    assert vqa.soft_accuracy("Ale.", answers) == pytest.approx(credit)


def test_soft_accuracy_is_the_mean_over_answers_left_out():
    answers = ["two", "2", "two.", "red", "a red", "blue", "x", "y", "z", "2"]
    for said in ("2", "red", "blue", "green"):
        normalised = [vqa.normalise_m4c(answer) for answer in answers]
        slow = 0.0
        for others in itertools.combinations(normalised, 9):
            slow += min(1.0, others.count(vqa.normalise_m4c(said)) / 3) / 10
        assert vqa.soft_accuracy(said, answers) == pytest.approx(slow)


def test_equal_answers_are_compared_as_they_stand_by_the_official_rule_alone():
    assert vqa.soft_accuracy("No.", ["no"] * 10, "vqa-official") == 0.0
    assert vqa.soft_accuracy("No.", ["no"] * 10, "m4c") == 1.0
    assert vqa.soft_accuracy("No.", ["no"] * 9 + ["yes"], "vqa-official") == 1.0


def test_another_number_of_answers_than_ten_is_an_error():
    with pytest.raises(DataError, match="10 answers and 9 are given"):
        vqa.soft_accuracy("x", ["x"] * 9)


def test_similarity_and_relaxed_numbers_equal_the_recorded_ones():
    golden = made("anls_relaxed.json")
    for case in golden["anls"]:
        got = vqa.anls(case["pred"], [case["gt"]], "vlmevalkit")
        assert got == pytest.approx(case["score_tau_0_5"]), case
    for case in golden["relaxed"]:
        assert vqa.relaxed_accuracy(case["pred"], case["gt"]) == case["correct"], case


def test_two_empty_texts_are_alike():
    assert vqa.anls("", [""]) == 1.0


@pytest.mark.parametrize(
    ("one", "other", "distance"), [("", "abc", 3), ("kitten", "sitting", 3), ("猫", "狗", 1)]
)
def test_edit_distance(one, other, distance):
    assert vqa.edit_distance(one, other) == vqa.edit_distance(other, one) == distance

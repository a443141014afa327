"""Published scoring rules: normalisers, soft accuracy, ANLS, choice extraction."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vlforge.evaluation.metrics import choices, vqa

GOLDEN = {
    "normaliser_file": "evaluation/vqa/*normalizer*.json",
    "soft_file": "evaluation/vqa/*soft_accuracy*.json",
    "anls_file": "evaluation/vqa/*anls_relaxed*.json",
    "table_file": "evaluation/mmbench/*choice_extraction_table*.json",
    "quirk_file": "evaluation/mmbench/*verbose_regex_quirk*.json",
    "scoring_file": "mgm/misc/*scoring*.json",
    "llava_eval_file": "llava_xtuner/llava_eval/*golden*.json",
}


def load(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_normalisers_equal_the_references(normaliser_file: Path):
    fields = {
        "m4c": vqa.normalise_m4c,
        "vqa_official": vqa.normalise_vqa,
        "vlmevalkit": vqa.normalise_vlmevalkit,
    }
    wrong = [
        (case["input"], field, normalise(case["input"]), case[field])
        for case in load(normaliser_file)
        for field, normalise in fields.items()
        if field in case and normalise(case["input"]) != case[field]
    ]
    assert wrong == []


def test_soft_accuracy_equals_the_references(soft_file: Path):
    golden = load(soft_file)
    totals: dict[str, list[float]] = {}
    for item in golden["items"]:
        said, answers = item["pred_answer"], item["gt_answers"]
        got = {
            "m4c": vqa.soft_accuracy(said, answers, "m4c"),
            "vlmevalkit": vqa.soft_accuracy(said, answers, "vlmevalkit"),
            "vqa_official_pct": round(100 * vqa.soft_accuracy(said, answers, "vqa-official"), 2),
            "stvqa_accuracy": vqa.membership(said, answers),
            "stvqa_anls": vqa.anls(said, answers),
        }
        if not said.strip() and not all(answer.strip() for answer in answers):
            # M4C's ANLS divides by zero here; the recorded mean leaves the item out.
            del got["stvqa_anls"]
        for field, value in got.items():
            totals.setdefault(field, []).append(value)
            if field in item:
                assert value == pytest.approx(item[field], abs=1e-6), (item["id"], field)
    for field, mean in golden["mean"].items():
        values = totals[field]
        assert sum(values) / len(values) == pytest.approx(mean, abs=1e-6), field


def test_anls_and_relaxed_accuracy_equal_vlmevalkits(anls_file: Path):
    golden = load(anls_file)
    for case in golden["anls"]:
        distance = vqa.anls_distance(case["pred"], [case["gt"]])
        assert distance == pytest.approx(case["distance"], abs=1e-6), case
        score = vqa.anls(case["pred"], [case["gt"]], "vlmevalkit")
        assert score == pytest.approx(case["score_tau_0_5"], abs=1e-6), case
    for case in golden["relaxed"]:
        assert vqa.relaxed_accuracy(case["pred"], case["gt"]) == case["correct"], case


def test_choice_extraction_equals_the_references(table_file: Path):
    golden = load(table_file)
    options = golden["choices"]
    rules = {
        "vlmevalkit_option": lambda text: choices.vlmevalkit_option(text, options),
        "vlmevalkit_text": lambda text: choices.vlmevalkit_text(text, options),
        "vlmevalkit": lambda text: choices.vlmevalkit(text, options),
        "lmms_eval": lambda text: choices.lmms_eval_inferred(text, options),
        "lmms_mcq_extract": lambda text: choices.lmms_eval_ranked(text, tuple(options)),
    }
    wrong = [
        (case["text"], name, rule(case["text"]), case[name])
        for case in golden["cases"]
        for name, rule in rules.items()
        if name in case and rule(case["text"]) != case[name]
    ]
    assert wrong == []


def test_the_word_after_answer_is_counts_only_in_the_compat_rule(quirk_file: Path):
    golden = load(quirk_file)
    options = golden["choices"]
    wrong = [
        case
        for case in golden["cases"]
        if choices.vlmevalkit(case["text"], options) != case["vlmevalkit"]
    ]
    assert wrong == []


def test_mgm_and_llava_normalise_alike(scoring_file: Path):
    for said, wanted in load(scoring_file)["evalai"]:
        assert vqa.normalise_m4c(said) == wanted


def test_mgms_textvqa_credits_are_the_same(scoring_file: Path):
    golden = load(scoring_file)["textvqa"]
    credits = [vqa.soft_accuracy(c["pred_answer"], c["gt_answers"]) for c in golden["preds"]]
    mean = next(value for key, value in golden.items() if key != "preds")
    assert sum(credits) / len(credits) == pytest.approx(mean, abs=1e-6)


def test_llavas_normaliser_pairs(llava_eval_file: Path):
    for said, wanted in load(llava_eval_file)["evalai_normalise"]:
        assert vqa.normalise_m4c(said) == wanted

"""POPE scores of recorded answers, and how yes and no are read, equal the references'."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from vlforge.evaluation.benchmarks import pope
from vlforge.evaluation.config import BenchmarkSpec
from vlforge.evaluation.metrics import yes_no
from vlforge.evaluation.scoring import score_answers

GOLDEN = {
    "rules_file": "evaluation/pope/*yes_no_rules*.json",
    "category_file": "evaluation/pope/expected_*.json",
    "full_file": "evaluation/pope/*full_run*_expected.json",
    "llava_eval_file": "llava_xtuner/llava_eval/*golden*.json",
    "scoring_file": "mgm/misc/*scoring*.json",
}


def load(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_yes_and_no_are_read_as_each_reference_reads_them(rules_file: Path):
    for row in load(rules_file):
        text = row["text"]
        assert yes_no.llava(text) == row["llava_eval_pope"], text
        assert (yes_no.vlmevalkit(text) or "Unknown").lower() == row["vlmevalkit"].lower(), text
        assert (yes_no.mme(text) or "other") == row["mme_official"], text
        wanted = row["lmms_eval_pope_pred"]
        assert yes_no.lmms_eval(text) == (wanted if wanted in ("yes", "no") else None), text


def test_a_categorys_f1_is_llavas(category_file: Path):
    golden = load(category_file)
    category = category_file.stem.removeprefix("expected_")
    folder = category_file.parent
    spec = BenchmarkSpec(
        "pope",
        str(folder / f"questions_{category}.jsonl"),
        annotation=str(folder / f"coco_pope_{category}.json"),
        protocol="llava",
    )
    (answers,) = folder.glob(f"*_{category}_answers.jsonl")
    found = score_answers(spec, answers, strict=True)
    got = found["groups"][category]
    for key, value in golden.items():
        if key != "line":
            assert got[key.lower()] == pytest.approx(value, abs=1e-6), key
    assert found["score"] == pytest.approx(golden["f1"], abs=1e-6)
    assert found["interval"][0] < found["score"] < found["interval"][1]


def test_ratios_of_a_full_runs_counts_are_llavas(full_file: Path):
    golden = load(full_file)
    mean = golden.pop("mean_f1")
    found = {
        category: yes_no.Confusion(**{key.lower(): row[key] for key in ("TP", "FP", "TN", "FN")})
        for category, row in golden.items()
    }
    for category, row in golden.items():
        for key in ("accuracy", "precision", "recall", "f1", "yes_ratio"):
            assert getattr(found[category], key) == pytest.approx(row[key], abs=1e-6), category
    assert sum(one.f1 for one in found.values()) / len(found) == pytest.approx(mean, abs=1e-6)


def test_every_category_is_scored_as_llava_prints_it(llava_eval_file: Path):
    folder = llava_eval_file.parent / "pope"
    spec = BenchmarkSpec(
        "pope", str(folder / "questions.jsonl"), annotation=str(folder / "coco"), protocol="llava"
    )
    found = score_answers(spec, folder / "answers.jsonl")
    printed = load(llava_eval_file)["pope_stdout"]
    parts = re.findall(r"Category: (\w+), # samples: (\d+)\n(.*?)\n=", printed, re.DOTALL)
    assert set(found["groups"]) == {category for category, _, _ in parts}
    for category, samples, lines in parts:
        got = found["groups"][category]
        assert got["n"] == int(samples)
        numbers = [float(part) for part in lines.splitlines()[-1].split(", ")]
        keys = ("f1", "accuracy", "precision", "recall", "yes_ratio")
        assert [round(got[key], 3) for key in keys] == numbers


def test_mgms_answers_are_counted_as_it_counts_them(scoring_file: Path):
    golden = load(scoring_file)["pope"]
    read = [yes_no.llava(text) for text in golden["answers"]]
    pairs = list(zip(read, golden["labels"], strict=True))
    got = yes_no.Confusion(
        tp=pairs.count(("yes", "yes")), fp=pairs.count(("yes", "no")),
        tn=pairs.count(("no", "no")), fn=pairs.count(("no", "yes")),
    )  # fmt: skip
    assert read == golden["parsed"]
    for name, value in (("Accuracy", got.accuracy), ("F1 score", got.f1)):
        told = re.search(rf"{name}: ([\d.]+)", golden["stdout"])
        assert told
        assert float(told.group(1)) == pytest.approx(value, abs=1e-6)


def test_full_questions_are_asked_with_the_short_answer_suffix(category_file: Path):
    category = category_file.stem.removeprefix("expected_")
    folder = category_file.parent
    alone = pope.read(BenchmarkSpec("pope", annotation=str(folder / f"coco_pope_{category}.json")))
    listed = pope.read(BenchmarkSpec("pope", str(folder / f"questions_{category}.jsonl")))
    assert [q.text for q in alone] == [q.text for q in listed]

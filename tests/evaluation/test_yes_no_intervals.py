"""POPE's interval is of the F1 that the protocol counts."""

from __future__ import annotations

import pytest

from vlforge.evaluation.benchmarks import pope
from vlforge.evaluation.questions import Question


@pytest.mark.parametrize("rule", pope.PROTOCOLS)
def test_the_interval_holds_the_score(rule):
    questions = [
        Question(str(n), "Is it?", (f"{n // 2}.png",), ("yes" if n % 2 else "no",),
                 labels={"category": kind})
        for n, kind in enumerate(["random", "popular"] * 8)
    ]  # fmt: skip
    # Every third answer is a sentence, which lmms-eval leaves out of its recall.
    said = {
        q.id: q.answers[0] if int(q.id) % 3 else f"It says {q.answers[0]} here" for q in questions
    }
    fields = pope.score(questions, said, rule).fields
    low, high = fields["interval"]
    assert low <= fields["score"] <= high


def test_lmms_evals_interval_leaves_out_what_its_recall_leaves_out():
    questions = [Question(str(n), "?", (f"{n}.png",), ("yes",)) for n in range(6)]
    said = {q.id: "yes" if int(q.id) % 2 else "perhaps" for q in questions}
    fields = pope.score(questions, said, "lmms-eval").fields
    assert (fields["score"], fields["interval"]) == (1.0, [1.0, 1.0])

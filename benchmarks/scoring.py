"""How many recorded answers a second are scored, as JSON: ours, and the rule written plainly.

    python benchmarks/scoring.py [--questions 5000] [--repeats 5] [--out scoring.json]

`textvqa`: soft accuracy of made answers against ten made human ones; the plain
version leaves one answer out at a time, as the definition and the references do.
`mmbench`: letters read from made answers in many forms by VLMEvalKit's rule and
scored over rotations; the plain version searches the whole table for the rows of
each question, as the references do. Both versions must give the same numbers, or
this stops. Normalisers and extractors are the same in both. `vlforge rule` is our
own extractor, which has no plain version. Medians of the repeats.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from vlforge.evaluation.benchmarks import mmbench
from vlforge.evaluation.metrics import choices, vqa
from vlforge.evaluation.questions import Question

WORDS = "the red stop sign a number 10,000 two it's ale open coca-cola 7:30 don't (exit)".split()
FORMS = ("{}", "{}.", "({})", "Answer: {}", "the answer is **{}**", "I see it, so {}", "{text}")


def made_answers(count: int) -> list[tuple[str, list[str]]]:
    """Predictions with ten human answers each, some of them equal."""
    generator = random.Random(0)

    def phrase() -> str:
        return " ".join(generator.choices(WORDS, k=generator.randint(1, 3)))

    rows = []
    for _ in range(count):
        pool = [phrase() for _ in range(4)]
        rows.append((generator.choice(pool), generator.choices(pool, k=10)))
    return rows


def made_choices(count: int) -> tuple[list[Question], dict[str, str]]:
    """Questions in four rotations each, and answers in several forms."""
    generator = random.Random(0)
    questions, said = [], {}
    for number in range(count // 4):
        texts = [f"a thing of kind {kind} {number}" for kind in "pqrs"]
        for turn in range(4):
            turned = texts[turn:] + texts[:turn]
            options = dict(zip("ABCD", turned, strict=True))
            answer = "ABCD"[(4 - turn) % 4]
            index = str(number + turn * mmbench.ROTATION)
            questions.append(
                Question(index, "", None, (answer,), options, group=str(number), labels={})
            )
            letter = answer if generator.random() < 0.8 else generator.choice("ABCD")
            form = generator.choice(FORMS)
            said[index] = form.format(letter, text=options[letter])
    return questions, said


def plain_soft_accuracy(prediction: str, answers: list[str]) -> float:
    """The definition: per different answer, the mean over the ten of it being left out."""
    numbered = list(enumerate(vqa.normalise_m4c(answer) for answer in answers))
    credit = {}
    for wanted in {answer for _, answer in numbered}:
        parts = []
        for left_out in numbered:
            equal = [pair for pair in numbered if pair != left_out and pair[1] == wanted]
            parts.append(min(1.0, len(equal) / 3))
        credit[wanted] = sum(parts) / len(parts)
    return credit.get(vqa.normalise_m4c(prediction), 0.0)


def plain_circular(questions: list[Question], said: dict[str, str]) -> float:
    """The circular rule, the rows of a question searched for in the whole table."""
    hits = []
    for base in [q for q in questions if q.id == q.group]:
        rows = [q for q in questions if q.group == base.id]
        hits.append(all(choices.vlmevalkit(said[q.id], q.options) == q.answers[0] for q in rows))
    return sum(hits) / len(hits)


def timed(action: Callable[[], float], repeats: int) -> tuple[float, float]:
    """Median seconds and the value."""
    seconds = []
    value = 0.0
    for _ in range(repeats):
        begin = time.perf_counter()
        value = action()
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds), value


def measure(count: int, repeats: int) -> dict[str, object]:
    """Answers a second, ours and plain, with the scores that both give."""
    answers = made_answers(count)
    questions, said = made_choices(count)
    pairs = {
        "textvqa": (
            lambda: sum(vqa.soft_accuracy(p, a) for p, a in answers) / count,
            lambda: sum(plain_soft_accuracy(p, a) for p, a in answers) / count,
        ),
        "mmbench": (
            lambda: mmbench.score(questions, said, "circular/vlmevalkit").fields["score"],
            lambda: plain_circular(questions, said),
        ),
    }
    found: dict[str, object] = {
        "questions": count,
        "repeats": repeats,
        "load_average": os.getloadavg()[0],
    }
    for name, (ours, plain) in pairs.items():
        ours_s, score = timed(ours, repeats)
        plain_s, expected = timed(plain, 1)
        if abs(score - expected) > 1e-9:
            raise SystemExit(f"{name}: {score} by the fast way, {expected} by the plain one")
        found[name] = {
            "score": score,
            "per_second": round(count / ours_s),
            "plain_per_second": round(count / plain_s),
            "speedup": round(plain_s / ours_s, 2),
        }
    rule_s, _ = timed(
        lambda: float(sum(choices.vlforge(said[q.id], q.options) is None for q in questions)),
        repeats,
    )
    found["vlforge rule"] = {"per_second": round(len(questions) / rule_s)}
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--questions", type=int, default=5000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    text = json.dumps(measure(options.questions, options.repeats), indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Two evaluation folders of made questions with made answers, for the tests of comparisons."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from vlforge.evaluation.config import BenchmarkSpec, EvalConfig
from vlforge.evaluation.run import evaluate
from vlforge.types import Caption

COLOURS = {"A": "red", "B": "green", "C": "blue", "D": "yellow"}


@dataclass
class Scripted:
    """Gives each question the answer that stands in `answers` by its id."""

    answers: Mapping[str, str]

    def answer(self, samples, max_new_tokens):
        """One answer a sample."""
        return [Caption(self.answers[sample.id], 0.0) for sample in samples]


def write_questions(folder: Path, count: int = 40, per_picture: int = 2) -> Path:
    """Multiple choice about coloured pictures; two questions share one, in two categories."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for k in range(count):
        name, right = f"{k // per_picture}.png", "ABCD"[k // per_picture % 4]
        Image.new("RGB", (48, 32), COLOURS[right]).save(folder / name)
        kind = "colour" if k % 2 else "fruit"
        row = {"id": f"q{k}", "question": f"Which colour, {k}?", "image": name, "answer": right}
        rows.append({**row, **COLOURS, "category": kind})
    path = folder / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def evaluated(
    out: Path, questions: Path, share: float, *, seed: int = 0, says: str = "{}", **more
) -> Path:
    """A folder as `eval run` writes it, of answers that are right with probability `share`."""
    rng = random.Random(seed)
    rows = [json.loads(line) for line in questions.read_text().splitlines()]
    answers = {}
    for row in rows:
        wrong = next(letter for letter in "BCDA" if letter != row["answer"])
        answers[row["id"]] = says.format(row["answer"] if rng.random() < share else wrong)
    spec = BenchmarkSpec("custom", str(questions), images=str(questions.parent), **more)
    config = EvalConfig(f"model-{share}", (spec,), batch=8)
    evaluate(config, out, chat=Scripted(answers))
    return out

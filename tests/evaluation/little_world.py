"""Questions about little pictures, and a random model that can be asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.inference.tiny import picture, tiny_folder
from vlforge.evaluation.config import BenchmarkSpec, EvalConfig

WORDS = ["cat", "horse", "grass", "red", "blue"]


def write_questions(folder: Path, count: int, options: bool = False) -> BenchmarkSpec:
    """`count` questions of unequal lengths about a third as many pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(count):
        name = f"{number // 3}.png"
        if not (folder / name).exists():
            picture(number).save(folder / name)
        text = " ".join(["what is the", *[WORDS[number % 5], "on"] * (1 + number * 7 % 6)])
        row: dict[str, Any] = {"id": f"q{number}", "question": text, "answer": WORDS[number % 5]}
        row |= {"image": name} if number % 7 else {}
        rows.append(row | ({"options": WORDS[:3], "answer": "A"} if options else {}))
    path = folder / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return BenchmarkSpec("custom", str(path), max_new_tokens=6)


def write_world(folder: Path, count: int = 24, **settings: Any) -> EvalConfig:
    """A model and its questions, as a stage names them."""
    model = tiny_folder(folder / "model", template="v1", positions=160)
    spec = write_questions(folder / "world", count)
    return EvalConfig(**{"model": str(model), "benchmarks": (spec,), "batch": 4} | settings)


def rows_of(out: Path, key: str = "custom") -> list[dict[str, Any]]:
    """The predictions that a folder holds."""
    text = (out / f"predictions.{key}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]

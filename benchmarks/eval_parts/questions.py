"""Questions about made photographs, three to a picture as benchmarks have them."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
from PIL import Image

from vlforge.evaluation.config import BenchmarkSpec

A_PICTURE, SIZE = 3, (320, 240)


def write_questions(folder: Path, count: int, longest: int) -> BenchmarkSpec:
    """`count` questions of 4 to 40 words and their JPEGs."""
    folder.mkdir(parents=True)
    draws, pixels = random.Random(0), np.random.default_rng(0)
    rows = []
    for number in range(count):
        name = f"{number // A_PICTURE}.jpg"
        if not (folder / name).exists():
            small = pixels.integers(0, 256, (12, 16, 3), dtype=np.uint8)
            Image.fromarray(small).resize(SIZE, Image.Resampling.BICUBIC).save(folder / name)
        words = [f"w{draws.randrange(508)}" for _ in range(draws.randint(4, 40))]
        rows.append({"id": str(number), "question": " ".join(words), "image": name, "answer": "w1"})
    path = folder / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return BenchmarkSpec("custom", str(path), prompt="as-is", max_new_tokens=longest)

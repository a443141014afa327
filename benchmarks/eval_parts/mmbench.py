"""A made table of MMBench's size with answers in many forms, and its rule written plainly.

Source of the rule: open-compass/VLMEvalKit@e8e78f0 (mcq_circular_eval).
"""

from __future__ import annotations

import csv
import importlib.util
import json
import random
from pathlib import Path

from vlforge.evaluation.metrics.choices import vlmevalkit

ROTATION = 1_000_000
FORMS = ("{}", "{}.", "({})", "Answer: {}", "the answer is **{}**", "I see it, so {}", "{text}")
COLUMNS = ["index", "question", "A", "B", "C", "D", "answer", "category", "l2-category", "split"]


def with_pandas() -> bool:
    """Whether the plain rule has the library that it is written with."""
    return importlib.util.find_spec("pandas") is not None


def write_table(folder: Path, rows: int) -> tuple[Path, Path]:
    """The table and the answers, of questions with two to four options in all rotations."""
    folder.mkdir(parents=True)
    draws = random.Random(0)
    lines: list[list[str]] = []
    said: list[dict[str, str]] = []
    number = 0
    while len(lines) < rows:
        number += 1
        count = min(draws.choice((2, 4, 4, 4)), rows - len(lines))
        texts = [f"a thing of kind {kind} {number}" for kind in "pqrs"[:count]]
        for turn in range(count):
            turned = texts[turn:] + texts[:turn]
            letter = "ABCD"[turned.index(texts[0])]
            index = str(number + turn * ROTATION)
            cells = turned + [""] * (4 - count)
            kind = f"kind {number % 20}"
            lines.append(
                [index, f"Which {number}?", *cells, letter, kind, f"l2 {number % 6}", "dev"]
            )
            shown = letter if draws.random() < 0.9 else draws.choice("ABCD"[:count])
            text = turned["ABCD".index(shown)]
            said.append(
                {"question_id": index, "text": draws.choice(FORMS).format(shown, text=text)}
            )
    table, answers = folder / "table.tsv", folder / "answers.jsonl"
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t")
        writer.writerow(COLUMNS)
        writer.writerows(sorted(lines, key=lambda line: int(line[0])))
    answers.write_text("".join(json.dumps(row) + "\n" for row in said), encoding="utf-8")
    return table, answers


def plain_score(table: Path, answers: Path) -> float:
    """The share of questions whose every rotation is right, rows looked up question by question."""
    with answers.open(encoding="utf-8") as file:
        said = {int(row["question_id"]): row["text"] for row in map(json.loads, file)}
    return _with_pandas(table, said) if with_pandas() else _with_rows(table, said)


def _with_pandas(table: Path, said: dict[int, str]) -> float:
    import pandas as pd

    data = pd.read_csv(table, sep="\t", dtype=dict.fromkeys("ABCD", str))
    data["g_index"] = data["index"] % ROTATION
    data["prediction"] = [said[int(index)] for index in data["index"]]
    main = data[data["index"] == data["g_index"]]
    hits = 0
    for number in range(len(main)):
        rows = data[data["g_index"] == main.iloc[number]["index"]]
        is_right = True
        for place in range(len(rows)):
            row = rows.iloc[place]
            options = {c: row[c] for c in "ABCD" if not pd.isna(row[c])}
            is_right = is_right and vlmevalkit(row["prediction"], options) == row["answer"]
        hits += is_right
    return hits / len(main)


def _with_rows(table: Path, said: dict[int, str]) -> float:
    with table.open(newline="", encoding="utf-8") as file:
        data = list(csv.DictReader(file, delimiter="\t"))
    main = [row for row in data if int(row["index"]) < ROTATION]
    hits = 0
    for first in main:
        rows = [row for row in data if int(row["index"]) % ROTATION == int(first["index"])]
        letters = [
            (vlmevalkit(said[int(row["index"])], {c: row[c] for c in "ABCD" if row[c]}), row)
            for row in rows
        ]
        hits += all(letter == row["answer"] for letter, row in letters)
    return hits / len(main)

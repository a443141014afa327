"""Writes the dev and test questions as TextVQA and MMBench files."""

from __future__ import annotations

import base64
import csv
import io
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vlforge.quickstart import questions
from vlforge.quickstart.scene import Scene

ROTATION_STEP = 1_000_000
"""MMBench numbers rotation r of question i as i + r * 1e6."""
_TSV_COLUMNS = (
    "index",
    "question",
    "hint",
    *questions.LETTERS,
    "answer",
    "category",
    "image",
    "source",
    "l2-category",
    "comment",
    "split",
)


@dataclass(frozen=True)
class Pictured:
    """A scene of a benchmark and the picture that shows it.

    `word_seen` says whether training shows the printed word; None without one.
    """

    id: str
    scene: Scene
    png: bytes
    word_seen: bool | None


def textvqa_files(pictures: Sequence[Pictured]) -> tuple[str, str, dict[str, list[str]]]:
    """LLaVA's question lines, TextVQA's annotation file and the question ids by group.

    One reading question per picture that shows a word; ten equal answers, as
    TextVQA has ten people answer.
    """
    lines: list[str] = []
    data: list[dict[str, Any]] = []
    groups: dict[str, list[str]] = {"words seen": [], "words never seen": []}
    for picture in pictures:
        word = picture.scene.word
        if word is None:
            continue
        asked = questions.word_question(random.Random(0), picture.scene, [word])
        prompt = questions.short_prompt(asked)
        line = {"question_id": picture.id, "image": f"{picture.id}.png", "text": prompt}
        lines.append(json.dumps({**line, "category": "default"}))
        answers = [word.lower()] * 10
        entry = {"question_id": len(data), "image_id": picture.id, "question": asked.text}
        data.append({**entry, "answers": answers, "image_classes": [], "set_name": "val"})
        groups["words seen" if picture.word_seen else "words never seen"].append(picture.id)
    annotation = {"dataset_type": "val", "dataset_name": "textvqa", "data": data}
    return "".join(f"{line}\n" for line in lines), json.dumps(annotation), groups


def mmbench_tsv(
    rng: random.Random, pictures: Sequence[Pictured], words: Sequence[str], split: str
) -> str:
    """MMBench's table: one question per picture, each rotation of its options a row.

    Kinds of question take turns. Options shift cyclically, so that every
    option stands first once; the picture is base64 of its PNG in every row.
    """
    rows: list[dict[str, Any]] = []
    for index, picture in enumerate(pictures):
        kinds = questions.kinds_for(picture.scene)
        asked = questions.ask(rng, picture.scene, kinds[index % len(kinds)], words)
        options = questions.options_of(rng, asked)
        for shift in range(len(options)):
            rotated = options[shift:] + options[:shift]
            row = dict(zip(questions.LETTERS, rotated, strict=False))
            row |= {
                "index": str(index + shift * ROTATION_STEP),
                "question": asked.text,
                "answer": questions.LETTERS[rotated.index(asked.answer)],
                "category": asked.kind,
                "image": base64.b64encode(picture.png).decode("ascii"),
                "source": "quickstart world",
                "l2-category": questions.GROUP_OF[asked.kind],
                "split": split,
            }
            rows.append(row)
    rows.sort(key=lambda row: int(row["index"]))
    table = io.StringIO()
    writer = csv.DictWriter(table, _TSV_COLUMNS, restval="", delimiter="\t", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return table.getvalue()

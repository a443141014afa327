"""Benchmarks' files about made pictures, under their published names and in their formats."""

from __future__ import annotations

import base64
import csv
import io
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vlforge.miniatures.pictures import draw, write_picture
from vlforge.miniatures.scenes import LETTERS, SHAPES, WORDS, Scene, scene
from vlforge.miniatures.weights import write_json

FIRST = 100_000
"""Benchmarks show scenes from this number on; training data those before."""
ROTATION = 1_000_000
SHORT = "Answer the question using a single word or phrase."
QUESTIONS_NAME, ANSWERS_NAME = "llava_textvqa_val_v051_ocr.jsonl", "TextVQA_0.5.1_val.json"
COLUMNS = (
    "index", "question", "hint", *LETTERS, "answer", "category", "image", "source",
    "l2-category", "comment", "split",
)  # fmt: skip
CCBENCH = ("index", "question", *LETTERS, "answer", "category", "image", "source")
"""Columns of MMBench's tables, and of CCBench's."""


def eval_scenes(seed: int, count: int, *, skip: int = 0, has_word: bool = False) -> list[Scene]:
    """Scenes that no training row shows."""
    return list(itertools.islice(_scenes(seed, FIRST + skip, has_word), count))


def _scenes(seed: int, first: int, has_word: bool) -> Iterator[Scene]:
    for number in itertools.count(first):
        one = scene(seed, number)
        if one.word or not has_word:
            yield one


def write_lines(path: Path, rows: Sequence[Any]) -> None:
    """JSON lines; folders are made on the way."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")


def write_textvqa(
    folder: Path, scenes: Sequence[Scene], images: Path | None = None, answers: Path | None = None
) -> None:
    """TextVQA's validation: LLaVA's questions, the annotation, `train_images`.

    Args:
        images: where the pictures go, if not beside the questions.
        answers: where the annotation goes, if not beside the questions.
    """
    lines, data = [], []
    for number, one in enumerate(scenes):
        name = f"{one.number:016x}"
        write_picture((images or folder / "train_images") / f"{name}.jpg", one)
        question, answer = one.questions()[0]
        read = ", ".join([one.word, WORDS[number % len(WORDS)]])
        text = f"{question}\nReference OCR token: {read}\n{SHORT}"
        image = f"{name}.jpg"
        lines.append({"question_id": name, "image": image, "text": text, "category": "default"})
        data.append(
            {
                "question": question, "image_id": name, "image_classes": [],
                "image_width": 112, "image_height": 84, "question_id": 34602 + number,
                "question_tokens": question.rstrip("?").lower().split(),
                "answers": [answer] * 9 + ["unanswerable"], "set_name": "val",
            }
        )  # fmt: skip
    write_lines(folder / QUESTIONS_NAME, lines)
    fields = {"dataset_type": "val", "dataset_name": "textvqa", "dataset_version": "0.5.1"}
    write_json(answers or folder / ANSWERS_NAME, fields | {"data": data})


def write_mmbench(
    path: Path,
    scenes: Sequence[Scene],
    *,
    has_answers: bool = True,
    is_chinese: bool = False,
    columns: Sequence[str] = COLUMNS,
) -> None:
    """MMBench's table, each rotation of a question's options a row.

    Args:
        has_answers: False for a test split, whose column of answers is not there.
        is_chinese: asked in Chinese.
        columns: those that the table has; CCBench's are fewer.
    """
    rows: list[dict[str, Any]] = []
    for index, one in enumerate(scenes):
        question, options, right = one.choice(is_chinese=is_chinese)
        content = io.BytesIO()
        draw(one).convert("RGB").save(content, "JPEG", quality=90)
        image = base64.b64encode(content.getvalue()).decode("ascii")
        for turn in range(len(options)):
            row: dict[str, Any] = dict(zip(LETTERS, options[turn:] + options[:turn], strict=True))
            row |= {
                "index": index + turn * ROTATION, "question": question, "image": image,
                "answer": LETTERS[(right - turn) % len(options)],
                "category": "attribute_recognition", "source": "made",
                "l2-category": "finegrained_perception (instance-level)",
                "split": "dev" if has_answers else "test",
            }  # fmt: skip
            rows.append(row)
    kept = [name for name in columns if has_answers or name != "answer"]
    rows.sort(key=lambda row: int(row["index"]))
    table = io.StringIO()
    writer = csv.DictWriter(
        table, kept, restval="", delimiter="\t", lineterminator="\n", extrasaction="ignore"
    )
    writer.writeheader()
    writer.writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(table.getvalue(), encoding="utf-8")


def write_mmvet(folder: Path, scenes: Sequence[Scene]) -> None:
    """MM-Vet: `mm-vet.json` by question, and `images`."""
    asked = {}
    for number, one in enumerate(scenes):
        name = f"v1_{number}.png"
        write_picture(folder / "images" / name, one)
        question, answer = one.questions()[0]
        asked[f"v1_{number}"] = {
            "imagename": name, "question": question, "answer": answer, "imagesource": name,
            "capability": ["rec", "ocr"] if one.word else ["rec"],
        }  # fmt: skip
    write_json(folder / "mm-vet.json", asked)


def write_pope(folder: Path, images: Path, scenes: Sequence[Scene]) -> None:
    """POPE: LLaVA's `llava_pope_test.jsonl`, the labels by kind, COCO's pictures."""
    asked: list[dict[str, Any]] = []
    for kind in ("random", "popular", "adversarial"):
        labels = []
        for one in scenes:
            name = f"COCO_val2014_{one.number:012d}.jpg"
            if not (images / name).is_file():
                write_picture(images / name, one)
            shown = {thing.shape for thing in one.things}
            other = next(shape for shape in SHAPES if shape not in shown)
            for shape, label in ((one.things[0].shape, "yes"), (other, "no")):
                text = f"Is there a {shape} in the image?"
                row = {"question_id": len(labels) + 1, "image": name, "text": text}
                labels.append(row | {"label": label})
                asked.append(
                    {
                        "question_id": len(asked), "image": name, "text": f"{text}\n{SHORT}",
                        "category": kind,
                    }
                )  # fmt: skip
        write_lines(folder / "coco" / f"coco_pope_{kind}.json", labels)
    write_lines(folder / "llava_pope_test.jsonl", asked)

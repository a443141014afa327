"""Asks a model question after question; every answer is kept as it comes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlforge.evaluation.config import BenchmarkSpec, EvalConfig
from vlforge.evaluation.files import read_lines, write_lines
from vlforge.evaluation.questions import IMAGE_MARK, Question, picture_hash
from vlforge.types import Chat, DataError, ProgressFn, Sample, Turn

_HEADS = {b"\x89PNG": "png", b"\xff\xd8": "jpg", b"GIF8": "gif", b"RIFF": "webp", b"BM": "bmp"}

Places = Mapping[str, tuple[str, ...]]
"""Question id -> paths of its pictures."""


def place_pictures(questions: Sequence[Question], out: Path) -> dict[str, tuple[str, ...]]:
    """Paths of all pictures; bytes are written under `images/`, each once.

    Raises:
        DataError: pictures that are not there, or bytes that are none.
    """
    paths = (image for q in questions for image in q.images if isinstance(image, str))
    lost = [path for path in dict.fromkeys(paths) if not Path(path).is_file()]
    if lost:
        raise DataError(f"{lost[0]}: no such picture ({len(lost)} missing); name their folder")
    places: dict[str, tuple[str, ...]] = {}
    for question in questions:
        places[question.id] = tuple(_placed(question, image, out) for image in question.images)
    return places


def _placed(question: Question, image: str | bytes, out: Path) -> str:
    if isinstance(image, str):
        return image
    path = out / picture_name(question, image)
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_bytes(image)
        os.replace(temporary, path)
    return str(path)


def picture_name(question: Question, image: bytes) -> str:
    """Where a picture that came as bytes lies in the folder.

    Raises:
        DataError: the bytes begin like no picture.
    """
    for head, ending in _HEADS.items():
        if image.startswith(head):
            return f"images/{picture_hash(image)}.{ending}"
    raise DataError(f"question {question.id}: its picture is no PNG, JPEG, GIF, WebP or BMP")


def prompt_rows(questions: Iterable[Question], places: Places) -> Iterable[dict[str, Any]]:
    """The lines of `prompts.KEY.jsonl`."""
    for question in questions:
        names = [Path(place).name for place in places[question.id]]
        shown: Any = names if len(names) > 1 else next(iter(names), None)
        # In LLaVA's TextVQA files a picture's questions share their id.
        is_number = question.options and question.id.isdigit()
        theirs = int(question.id) if is_number else question.group or question.id
        yield {
            "id": question.id,
            "question_id": theirs,
            "prompt": question.text,
            "image": shown,
        }


def answers_kept(path: Path, questions: Sequence[Question]) -> dict[str, dict[str, Any]]:
    """Rows by question id; an answer to another prompt under the same id is none."""
    asked = {question.id: question.fingerprint() for question in questions}
    return {row["id"]: row for row in read_lines(path) if _fits(row, asked)}


def _fits(row: Mapping[str, Any], asked: Mapping[str, str]) -> bool:
    return row["id"] in asked and row.get("asked", asked[row["id"]]) == asked[row["id"]]


@dataclass
class Asking:
    """Asks benchmark after benchmark and says how far it is."""

    chat: Chat
    config: EvalConfig
    out: Path
    progress: ProgressFn
    total: int
    done: int = 0

    def ask(self, spec: BenchmarkSpec, questions: Sequence[Question], places: Places) -> int:
        """Append a line per answer that is not there yet; give how many those were.

        At the end the file is put in the questions' order, so that a stopped and
        continued run leaves the same bytes.
        """
        path = self.out / f"predictions.{spec.key}.jsonl"
        if path.exists():
            read_lines(path, mend=True)
        rows = answers_kept(path, questions) if path.exists() else {}
        left = [question for question in questions if question.id not in rows]
        self.progress(self.done + len(rows), self.total, spec.key)
        size, longest = self.config.batch, spec.max_new_tokens or self.config.max_new_tokens
        with path.open("a", encoding="utf-8") as file:
            for start in range(0, len(left), size):
                batch = left[start : start + size]
                samples = [sample_of(question, places[question.id]) for question in batch]
                answers = self.chat.answer(samples, longest)
                for question, answer in zip(batch, answers, strict=True):
                    row = {
                        "id": question.id,
                        "text": answer.text,
                        "confidence": round(answer.confidence, 4),
                        "asked": question.fingerprint(),
                    }
                    rows[question.id] = row
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
                file.flush()
                self.progress(self.done + len(rows), self.total, spec.key)
        write_lines(path, [rows[question.id] for question in questions])
        self.done += len(questions)
        return len(left)


def sample_of(question: Question, places: Sequence[str]) -> Sample:
    """The question as one user turn; pictures come first where the text does not place them."""
    text = question.text
    if places and text.count(IMAGE_MARK) != len(places):
        text = f"{IMAGE_MARK}\n" * len(places) + text
    return Sample(question.id, tuple(places), (Turn("user", text),))

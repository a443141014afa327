"""Asks a model question after question; every answer is kept as it comes."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from vlforge.evaluation.answering import Ask, Outcome, ask_of, plan_batches, sample_of, words_of
from vlforge.evaluation.benchmarks import longest_answer
from vlforge.evaluation.config import BenchmarkSpec, EvalConfig
from vlforge.evaluation.files import read_lines, write_lines
from vlforge.evaluation.questions import Question, picture_hash
from vlforge.types import DataError, ProgressFn

__all__ = ["Asked", "Asking", "answers_kept", "place_pictures", "prompt_rows", "sample_of"]

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


def prompt_rows(
    questions: Iterable[Question], places: Places, config: EvalConfig
) -> Iterable[dict[str, Any]]:
    """The lines of `prompts.KEY.jsonl`."""
    for question in questions:
        names = [Path(place).name for place in places[question.id]]
        shown: Any = names if len(names) > 1 else next(iter(names), None)
        # In LLaVA's TextVQA files a picture's questions share their id.
        is_number = question.options and question.id.isdigit()
        theirs = int(question.id) if is_number else question.group or question.id
        # LLaVA's scripts join by the id as its question file has it, numbers as numbers.
        theirs = question.facts.get("question_id", theirs)
        yield {
            "id": question.id,
            "question_id": theirs,
            "prompt": words_of(question, config),
            "image": shown,
        }


def answers_kept(path: Path, questions: Sequence[Question]) -> dict[str, dict[str, Any]]:
    """Rows by question id; an answer to another prompt under the same id is none.

    Raises:
        DataError: nothing was asked yet.
    """
    asked = {question.id: question.fingerprint() for question in questions}
    return {row["id"]: row for row in _all_rows(path) if _fits(row, asked)}


def _all_rows(path: Path, *, mend: bool = False) -> list[dict[str, Any]]:
    """Rows of the file, then those that processes which were ended left in their own."""
    parts = parts_of(path)
    files = [path, *parts] if path.exists() or not parts else parts
    return [row for file in files for row in read_lines(file, mend=mend)]


def parts_of(path: Path) -> list[Path]:
    """The files that several processes left beside the file `path`."""
    pattern = f"{glob.escape(path.stem)}.part-*{path.suffix}"
    return sorted(path.parent.glob(pattern))


def _fits(row: Mapping[str, Any], asked: Mapping[str, str]) -> bool:
    return row["id"] in asked and row.get("asked", asked[row["id"]]) == asked[row["id"]]


class Answers(Protocol):
    """Who answers batches: one model here, or several processes."""

    def answers(
        self,
        batches: Sequence[Sequence[Ask]],
        longest: int,
        path: Path | None,
        *,
        is_first: bool = True,
    ) -> Iterator[Outcome]:
        """What became of every batch; rows are on disk before they are given."""
        ...


@dataclass(frozen=True)
class Asked:
    """How a benchmark was asked: answers that were new, and by id why others are missing."""

    new: int
    failed: dict[str, str]


@dataclass
class Asking:
    """Asks benchmark after benchmark and says how far it is.

    Args:
        answers: gives whoever answers; not called where everything is answered.
    """

    answers: Callable[[], Answers]
    config: EvalConfig
    out: Path
    progress: ProgressFn
    total: int
    done: int = 0

    def plan(self, questions: Sequence[Question], places: Places) -> list[list[Ask]]:
        """The batches of a benchmark, whatever has been answered of it."""
        asks = [ask_of(question, places[question.id], self.config) for question in questions]
        return plan_batches(asks, self.config.batch_size)

    def ask(self, spec: BenchmarkSpec, questions: Sequence[Question], places: Places) -> Asked:
        """Append a line per answer that is not there yet.

        At the end the file is put in the questions' order, so that a stopped and
        continued run leaves the same bytes. Questions without answer are written to
        `failed.KEY.jsonl` and asked again by the next run.
        """
        path = self.out / f"predictions.{spec.key}.jsonl"
        before = _all_rows(path, mend=True) if path.exists() or parts_of(path) else []
        asked = {question.id: question.fingerprint() for question in questions}
        rows = {row["id"]: row for row in before if _fits(row, asked)}
        others = {row["id"]: row for row in before if row["id"] not in asked}
        left = [[a for a in b if a.id not in rows] for b in self.plan(questions, places)]
        left = [batch for batch in left if batch]
        failed: dict[str, str] = {}
        new = -len(rows)
        self.progress(self.done + len(rows), self.total, spec.key)
        if left:
            path.touch()
            longest = longest_answer(spec, self.config.max_new_tokens)
            who, is_first = self.answers(), not rows
            for outcome in who.answers(left, longest, path, is_first=is_first):
                rows |= {row["id"]: row for row in outcome.rows}
                failed |= outcome.failed
                self.progress(self.done + len(rows) + len(failed), self.total, spec.key)
        kept = [rows[question.id] for question in questions if question.id in rows]
        write_lines(path, [*kept, *others.values()])
        for part in parts_of(path):
            part.unlink()
        self._write_failed(spec, questions, failed)
        self.done += len(questions)
        return Asked(new + len(rows), failed)

    def _write_failed(
        self, spec: BenchmarkSpec, questions: Sequence[Question], failed: Mapping[str, str]
    ) -> None:
        path = self.out / f"failed.{spec.key}.jsonl"
        found = [{"id": q.id, "why": failed[q.id]} for q in questions if q.id in failed]
        if found:
            write_lines(path, found)
        else:
            path.unlink(missing_ok=True)

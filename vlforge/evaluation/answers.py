"""Answers that other tools wrote: LLaVA, VLMEvalKit, lmms-eval, upload files, plain JSON.

Which question a row answers is told by its id under any of the names that these tools
use; a benchmark whose ids are not unique says itself (`matcher`). Nothing is lost in
silence: second answers to a question, and answers to no question, are counted.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlforge.evaluation.questions import Question
from vlforge.evaluation.tables import read_table
from vlforge.types import DataError, VLForgeError

IDS = ("question_id", "questionId", "index", "pid", "qid", "id", "image_id", "doc_id")
TEXTS = ("text", "prediction", "response", "caption", "filtered_resps", "resps", "output")
"""Names under which tools keep a question's id and what the model said, in this order."""
_UPLOADED = 3
"""Fields of an upload's row at most: in longer ones `answer` is the right answer."""


@dataclass
class Answers:
    """Texts by question id.

    verdicts: what a judge said of them, where the file has that too. duplicate: answers
    beyond the first to a question. unknown: answers to no question.
    """

    said: dict[str, str] = field(default_factory=dict)
    verdicts: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    duplicate: int = 0
    unknown: int = 0


def read_answers(path: Path, questions: Sequence[Question], module: Any = None) -> Answers:
    """What a file (or a folder that `eval run` wrote for one benchmark) answers.

    Takes JSON lines, a JSON list of objects, a JSON object id -> text, and tables
    (`.tsv`, `.csv`, `.xlsx`) with a column for the id and one for the answer.

    Raises:
        DataError: a file that cannot be read, a row without id or text, or no row that
            answers a question here.
    """
    known = {question.id for question in questions}
    matcher = getattr(module, "matcher", None)
    match = matcher(questions) if matcher else None
    verdict_of = getattr(module, "verdict_of", None)
    found = Answers()
    rows = 0
    for number, row in _rows(path):
        rows += 1
        key = match(row) if match else None
        if key is None:
            key = _find(row, IDS, path, number, known)
        verdict = verdict_of(row) if verdict_of else None
        text = text_of(row, path, number, default="" if verdict else None)
        if key not in known:
            found.unknown += 1
        elif key in found.said:
            found.duplicate += 1
        else:
            found.said[key] = text
            found.verdicts |= {key: verdict} if verdict else {}
    if rows and questions and not found.said:
        raise DataError(
            f"{path}: none of its {rows} answers is to a question here; the first question "
            f"is {questions[0].id!r}; do both files belong together?"
        )
    return found


def text_of(row: Mapping[str, Any], path: Path, number: int, default: str | None = None) -> str:
    """What the model said in a row; `default` where it may be absent.

    Raises:
        DataError: under none of the known names.
    """
    for name in TEXTS:
        if name in row:
            value = row[name]
            # lmms-eval keeps lists of lists, one reply each.
            while isinstance(value, list) and value:
                value = value[0]
            # NaN is a table's empty cell, written as JSON.
            is_empty = value is None or value == [] or value != value
            return "" if is_empty else str(value)
    if default is not None:
        return default
    if "answer" in row and len(row) <= _UPLOADED:
        return str(row["answer"])
    raise DataError(f"{path}:{number}: no answer; it has: {', '.join(map(str, row))}")


def _find(
    row: Mapping[str, Any], names: Sequence[str], path: Path, number: int, known: set[str]
) -> str:
    """The first id that names a question; else the first that is there."""
    there = [str(row[name]) for name in names if row.get(name) is not None]
    if not there:
        raise DataError(f"{path}:{number}: no id; it has: {', '.join(map(str, row))}")
    return next((key for key in there if key in known), there[0])


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    kind = path.suffix.lower()
    if path.is_dir():
        raise DataError(f"{path}: is a folder; name its file of answers")
    if kind in (".tsv", ".csv"):
        return iter(enumerate(read_table(path, separator="\t" if kind == ".tsv" else ","), 2))
    if kind == ".xlsx":
        return iter(enumerate(read_xlsx(path), 2))
    return _json_rows(path)


def _json_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file of answers") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from None
    if path.suffix.lower() != ".jsonl":
        try:
            yield from _of_value(json.loads(text), path)
            return
        except ValueError:
            pass  # JSON lines under another ending
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, _json_line(line, path, number)


def _json_line(line: str, path: Path, number: int) -> Mapping[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{path}:{number}: a broken line ({error})") from None
    if not isinstance(row, dict):
        raise DataError(f"{path}:{number}: a {type(row).__name__}, where an object belongs")
    return row


def _of_value(value: Any, path: Path) -> Iterable[tuple[int, Mapping[str, Any]]]:
    """Rows of a whole JSON file: a list of objects, or an object by id."""
    if isinstance(value, dict):
        pairs = value.items()
        rows = [{"id": k, **v} if isinstance(v, dict) else {"id": k, "text": v} for k, v in pairs]
        return enumerate(rows, 1)
    if isinstance(value, list) and all(isinstance(row, dict) for row in value):
        return enumerate(value, 1)
    raise DataError(f"{path}: holds neither a list of objects nor an object by question id")


def read_xlsx(path: Path) -> list[dict[str, str]]:
    """The first sheet's rows as column -> text; an empty cell is "".

    Raises:
        VLForgeError: openpyxl is not installed; says how to install it.
        DataError: no such file, or no workbook.
    """
    try:
        from openpyxl import load_workbook
    except ImportError:
        raise VLForgeError(f"{path}: xlsx needs openpyxl; pip install 'vlforge[eval]'") from None
    if not path.is_file():
        raise DataError(f"{path}: no such file of answers")
    try:
        sheet = load_workbook(path, read_only=True, data_only=True).worksheets[0]
        cells = list(sheet.iter_rows(values_only=True))
    except Exception as error:  # openpyxl lets zip, XML and key errors through
        raise DataError(f"{path}: no workbook ({type(error).__name__}: {error})") from None
    heads = [str(head) for head in cells[0]] if cells else []
    return [
        {head: "" if cell is None else str(cell) for head, cell in zip(heads, row, strict=False)}
        for row in cells[1:]
    ]

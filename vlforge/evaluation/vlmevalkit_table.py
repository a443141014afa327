"""Answers as VLMEvalKit keeps them: its data set's rows with a column `prediction`.

Its `run.py --mode eval --reuse` scores such a file without a model. The table is what
`infer_data_job` writes: the data set's columns without the pictures, `prediction` last.

Source: open-compass/VLMEvalKit@e8e78f0 (vlmeval/inference.py, smp/file.py).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlforge.evaluation.files import write_json, write_text
from vlforge.evaluation.questions import Question
from vlforge.evaluation.sheets import write_xlsx
from vlforge.types import DataError

SHAPE = "vlmevalkit"
"""The export's name, the same for every benchmark."""
_ENDINGS = (".xlsx", ".tsv", ".json")
_LABELS = ("category", "l2-category", "split")


def write_table(questions: Sequence[Question], said: Mapping[str, str], target: Path) -> None:
    """A sheet, a TSV or JSON rows, as the target's ending says.

    A question without answer gets an empty prediction, which VLMEvalKit counts as wrong.

    Raises:
        DataError: another ending, or an answer longer than a sheet's cell.
        VLForgeError: openpyxl is not installed.
    """
    kind = target.suffix.lower()
    if kind not in _ENDINGS:
        raise DataError(f"{target}: VLMEvalKit reads {', '.join(_ENDINGS)}; name one of these")
    columns, rows = table_of(questions, said)
    if kind == ".xlsx":
        write_xlsx(target, columns, [[row.get(column) for column in columns] for row in rows])
    elif kind == ".json":
        write_json(target, [{column: row.get(column, "") for column in columns} for row in rows])
    else:
        text = io.StringIO()
        lines = csv.writer(text, delimiter="\t", quoting=csv.QUOTE_ALL, lineterminator="\n")
        lines.writerow(columns)
        lines.writerows([row.get(column, "") for column in columns] for row in rows)
        write_text(target, text.getvalue())


def table_of(
    questions: Sequence[Question], said: Mapping[str, str]
) -> tuple[list[str], list[dict[str, Any]]]:
    """Columns and rows: those of a benchmark's own TSV, or the ones VLMEvalKit's files have."""
    rows = [_row(question) | {"prediction": said.get(question.id, "")} for question in questions]
    there = dict.fromkeys(name for row in rows for name in row)
    letters = sorted(name for name in there if len(name) == 1 and name.isupper())
    if any("row" in question.facts for question in questions):
        columns = [name for name in there if name != "prediction"]
    else:
        columns = [n for n in ("index", "question", *letters, "answer", *_LABELS) if n in there]
    return [*columns, "prediction"], rows


def _row(question: Question) -> dict[str, Any]:
    kept = question.facts.get("row")
    if isinstance(kept, Mapping) and "index" in kept:
        return {str(k): v for k, v in kept.items()} | {"index": int(kept["index"])}
    index: Any = int(question.id) if question.id.isdigit() else question.id
    row: dict[str, Any] = {"index": index, "question": question.asked or question.text}
    row |= dict(question.options)
    answers = list(question.answers)
    if answers:
        # Several answers stand as a list's text there, TextVQA's ten among them.
        row["answer"] = answers[0] if len(answers) == 1 else repr(answers)
    for kind in _LABELS:
        labels = question.labels_of(kind)
        if labels:
            row[kind] = ",".join(labels)
    return row

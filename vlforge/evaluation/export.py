"""Writes predictions as the files that benchmark servers and other tools take."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlforge.evaluation.tables import read_table
from vlforge.types import DataError, VLForgeError

DROPPED = ("hint", "category", "source", "image", "comment", "l2-category")
_PREDICTION_AT = 6
_LONGEST_CELL = 32_767
_NOT_IN_XLSX = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f]")


def export_answers(folder: Path, benchmark: str, target: Path) -> Path:
    """Predictions of an evaluation folder as another tool's file; gives its path.

    A target ending in `.xlsx` becomes MMBench's upload sheet, any other LLaVA's answer
    file (JSON lines).

    Raises:
        DataError: the folder does not hold that benchmark; names those it has.
    """
    settings = _read_json(folder / "settings.json")
    specs = {spec["label"] or spec["name"]: spec for spec in settings["benchmarks"]}
    if benchmark not in specs:
        raise DataError(f"{folder}: holds no {benchmark!r}; it has: {', '.join(specs)}")
    rows = _read_lines(folder / f"predictions.{benchmark}.jsonl")
    said = {row["id"]: row["text"] for row in rows}
    if target.suffix.lower() == ".xlsx":
        if specs[benchmark]["name"] != "mmbench":
            raise DataError(f"{target}: only MMBench has an upload sheet; name a .jsonl file")
        columns, cells = mmbench_upload(Path(specs[benchmark]["questions"]), said)
        write_xlsx(target, columns, cells)
        return target
    prompts = {row["id"]: row for row in _read_lines(folder / f"prompts.{benchmark}.jsonl")}
    model = str(settings.get("model", ""))
    lines = [llava_answer(prompts[key], text, model) for key, text in said.items()]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    part = target.with_name(f".{target.name}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, target)
    return target


def llava_answer(prompt: Mapping[str, Any], text: str, model: str) -> dict[str, Any]:
    """One line of LLaVA's answer file; the answer's id follows from its content."""
    key = f"{prompt['id']}\0{prompt['prompt']}\0{text}"
    return {
        "question_id": prompt["question_id"],
        "prompt": prompt["prompt"],
        "text": text,
        "answer_id": hashlib.sha256(key.encode()).hexdigest()[:22],
        "model_id": model,
        "metadata": {},
    }


def mmbench_upload(table: Path, said: Mapping[str, str]) -> tuple[list[str], list[list[Any]]]:
    """MMBench's upload sheet: columns and rows, `prediction` seventh, filled by index.

    Columns that the reference drops and this table lacks are passed over; a
    missing option or prediction is None.

    Source: LLaVA scripts/convert_mmbench_for_submission.py.
    """
    rows = read_table(table, ("index", "question"))
    columns = [c for c in (rows[0] if rows else {}) if c not in DROPPED]
    columns.insert(min(_PREDICTION_AT, len(columns)), "prediction")
    filled = []
    for row in rows:
        cells: dict[str, Any] = {k: v or None for k, v in row.items()}
        cells["index"] = int(row["index"])
        cells["prediction"] = said.get(row["index"])
        filled.append([cells.get(column) for column in columns])
    return columns, filled


def write_xlsx(path: Path, columns: list[str], rows: list[list[Any]]) -> None:
    """One sheet, no index column.

    Control characters, which the format cannot hold, become spaces.

    Raises:
        VLForgeError: openpyxl is not installed; says how to install it.
        DataError: a text longer than a cell holds; names column and row.
    """
    try:
        from openpyxl import Workbook
    except ImportError:
        raise VLForgeError(f"{path}: xlsx needs openpyxl; pip install 'vlforge[eval]'") from None
    cells = [
        [_cell(path, columns[at], number, value) for at, value in enumerate(row)]
        for number, row in enumerate(rows, 1)
    ]
    book = Workbook(write_only=True)
    sheet = book.create_sheet()
    for row in (columns, *cells):
        sheet.append(row)
    temporary = path.with_name(f".{path.stem}.part.xlsx")
    book.save(temporary)
    os.replace(temporary, path)


def _cell(path: Path, column: str, number: int, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if len(value) > _LONGEST_CELL:
        raise DataError(
            f"{path}: row {number}: {column} has {len(value)} characters and a cell holds "
            f"{_LONGEST_CELL}; shorten the answer or export .jsonl"
        )
    return _NOT_IN_XLSX.sub(" ", value)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; was it made by `vlforge eval run`?") from None


def _read_lines(path: Path) -> list[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; ask first with `vlforge eval run`") from None
    return [json.loads(line) for line in text.split("\n") if line]

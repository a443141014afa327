"""Upload sheets: xlsx, and only where a server wants it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from vlforge.types import DataError, VLForgeError

_LONGEST_CELL = 32_767
_NOT_IN_XLSX = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f]")


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

"""Tab-separated tables as MMBench's: quoted cells, huge base64 cells, nothing turned into NaN."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from vlforge.types import DataError

_WIDEST_CELL = 256 << 20


def read_table(
    path: Path, needed: Sequence[str] = (), *, separator: str = "\t"
) -> list[dict[str, str]]:
    """Rows as column -> text; an empty cell is "". Texts such as "None" or "NA" stay texts.

    Raises:
        DataError: the file cannot be read, or lacks a column; names those it has.
    """
    csv.field_size_limit(_WIDEST_CELL)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, delimiter=separator)
            rows = [{k: v or "" for k, v in row.items() if k is not None} for row in reader]
            columns = list(map(str, reader.fieldnames or []))
    except FileNotFoundError:
        raise DataError(f"{path}: no such table; give the benchmark's TSV") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as a table: {error}") from None
    for column in needed:
        if column not in columns:
            raise DataError(f"{path}: no column {column!r}; it has: {', '.join(columns)}")
    return rows

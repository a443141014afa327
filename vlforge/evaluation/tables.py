"""Tab-separated tables as MMBench's: quoted cells, huge base64 cells, nothing turned into NaN."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vlforge.types import DataError, VLForgeError

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


def parquet_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of a parquet file, or of all that a folder holds, and where each stands.

    Raises:
        DataError: no such file, none in the folder, or one that cannot be read.
        VLForgeError: pyarrow is not installed.
    """
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise VLForgeError(
            f"{path}: parquet needs pyarrow; pip install 'vlforge[tables]'"
        ) from None
    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    if not files:
        raise DataError(f"{path}: holds no parquet file")
    for file in files:
        if not file.is_file():
            raise DataError(f"{file}: no such file")
        try:
            rows = parquet.read_table(file).to_pylist()
        except (OSError, ValueError) as error:
            raise DataError(f"{file}: cannot be read as parquet ({error})") from None
        for number, row in enumerate(rows):
            yield f"{file}: row {number}", row

"""parquet files of pictures and words: bytes in the table, or paths."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from vlforge.data.new_folder import write_error
from vlforge.data.records import Fault, Holds, Record
from vlforge.data.tables import (
    RowTable,
    needs_pyarrow,
    open_parquet_part,
    read_parquet_part,
    read_tables,
)
from vlforge.types import DataError


@dataclass(frozen=True)
class ParquetFormat:
    """parquet: pictures as bytes, as `{bytes, path}` or as paths; words and fields in columns.

    Read are `image` (or `images`, `jpg`, `image_path`, `file_name`, `url` …),
    `caption` (or `text`), `conversations` or `messages`, `id`; other columns are
    extra, nulls are no value. A folder of parquet files is read in the order of
    their names. Written is one file with `id`, `image` as `{bytes, path}` and
    `caption`, and what else the records need. Row groups are read and written
    one after the other.
    """

    name: ClassVar[str] = "parquet"
    holds: ClassVar[Holds] = Holds(
        conversation=True, document=True, several_pictures=True,
        no_picture=True, extra=True, embedded=True,
    )  # fmt: skip

    def recognises(self, path: Path) -> bool:
        """Whether the file begins as parquet does."""
        try:
            with path.open("rb") as file:
                return file.read(4) == b"PAR1"
        except OSError:
            return False

    def read(self, path: Path) -> Iterator[Record | Fault]:
        """The rows, streamed.

        Raises:
            DataError: no pyarrow, or nothing to read.
        """
        needs_pyarrow(self.name)
        paths = parquet_paths(path) if path.is_dir() else [path]
        if not paths:
            raise DataError(f"{path} holds no parquet files")
        root = os.path.abspath(path if path.is_dir() else path.parent)
        yield from read_tables(paths, read_parquet_part, root)

    def writer(self, path: Path) -> TableWriter:
        """Writes a new file."""
        needs_pyarrow(self.name)
        return TableWriter(path)


def parquet_paths(path: Path) -> list[Path]:
    """The parquet files in a folder and below, sorted; hidden ones are not looked at."""
    return sorted(
        one
        for one in path.rglob("*.parquet")
        if not any(part.startswith(".") for part in one.relative_to(path).parts)
    )


class TableWriter:
    """Writes records as the rows of one parquet file."""

    def __init__(self, path: Path):
        self._path = path
        self._table = RowTable(path, open_parquet_part, read_parquet_part)

    def __enter__(self) -> TableWriter:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is not None:
            self._table.drop()
            return
        try:
            self._table.finish()
        except OSError as failure:
            self._table.drop()
            raise write_error(self._path, failure) from None

    def write(self, record: Record) -> None:
        """Add one row.

        Raises:
            DataError: a picture cannot be read.
        """
        self._table.add(record)

"""Tables as chunks of lines: comma- or tab-separated text, and parquet."""

from __future__ import annotations

import datetime
import io
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from vlforge.data.json_lines import READ_FAULTS, encode, open_data
from vlforge.engine.files import Chunk, bad_record, breaks_off, collected
from vlforge.types import DataError

JUDGED_ROWS = 10_000
"""Rows at the head of a text table that decide what its columns hold."""
MAX_CELL = 64 << 20
_integer = re.compile(r"[+-]?(?:0|[1-9][0-9]{0,17})").fullmatch
_digits = re.compile(r"[+-]?[0-9]{1,18}").fullmatch
_number = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?").fullmatch
_leading_zero = re.compile(r"[+-]?0[0-9]").match
_not_utf8 = re.compile(r"[\udc80-\udcff]").search
_NULLS = frozenset(
    """#N/A #NA -1.#IND -1.#QNAN -NaN -nan 1.#IND 1.#QNAN <NA> N/A NA NULL NaN None n/a
    nan null""".split()
) | {"#N/A N/A"}
"""Words that pandas takes for no value."""
_truth = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}


class TextTable:
    """A `.csv` or `.tsv` file with a head line; a record is one row.

    A column is numbers (whole or not) or truth values where all its cells among
    the first 10,000 rows are; an empty cell is null. Text columns, numbers with
    leading zeros and words such as `NA` stay text. A cell that does not fit its
    column stays text, and a record of another length than the head costs its row.
    `by_pandas` reads as pandas does for Data-Juicer: such words are null, leading
    zeros go, and whole numbers with gaps become floats.
    """

    def __init__(
        self, path: Path, delimiter: str, text_keys: Sequence[str] = (), *, by_pandas: bool = False
    ):
        self.path, self.delimiter = path, delimiter
        self.text_keys = frozenset(text_keys)
        self.by_pandas = by_pandas

    def row_count(self) -> int | None:
        """Not known before it is read."""
        return None

    def chunks(self, rows: int, line: int, offset: int) -> Iterator[Chunk]:
        """Chunks of records; numbers count records after the head."""
        with open_data(self.path) as file:
            records = self._records(file)
            names = _distinct(next(records, []))
            head = list(islice(records, JUDGED_ROWS))
            kinds = [self._kind(name, at, head) for at, name in enumerate(names)]
            told = enumerate(_again(head, records), 1)
            lines = ((n, self._line(names, kinds, cells)) for n, cells in told if n >= line)
            yield from collected(lines, rows)

    def _records(self, file: Any) -> Iterator[list[str]]:
        import csv

        csv.field_size_limit(MAX_CELL)
        text = io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline="")
        reader = csv.reader(text, delimiter=self.delimiter)
        while True:
            try:
                record = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                record = [f"\udc80{error}"]
            except READ_FAULTS as error:
                raise breaks_off(self.path, reader.line_num, error) from None
            if record:
                yield record

    def _kind(self, name: str, at: int, head: Sequence[Sequence[str]]) -> Callable[[str], Any]:
        given = [record[at] if len(record) > at else "" for record in head]
        cells = [cell for cell in given if not self._is_null(cell)]
        if (name in self.text_keys and not self.by_pandas) or not cells:
            return str
        if self.by_pandas and all(map(_digits, cells)):
            return int if len(cells) == len(given) else float
        if all(map(_integer, cells)):
            return int
        if all(map(_number, cells)) and not any(map(_leading_zero, cells)):
            return float
        return _truth.__getitem__ if all(cell in _truth for cell in cells) else str

    def _line(self, names: Sequence[str], kinds: Sequence[Any], cells: Sequence[str]) -> bytes:
        if any(map(_not_utf8, cells)):
            return bad_record(cells[0][1:] if len(cells) == 1 else "not UTF-8")
        if len(cells) > len(names):
            return bad_record(f"{len(cells)} cells where the head has {len(names)}")
        row: dict[str, Any] = dict.fromkeys(names)
        for name, kind, cell in zip(names, kinds, cells, strict=False):
            row[name] = None if self._is_null(cell) else _cell(cell, kind)
        return encode(row)

    def _is_null(self, cell: str) -> bool:
        return cell == "" or (self.by_pandas and cell in _NULLS)


def _cell(cell: str, kind: Callable[[str], Any]) -> Any:
    try:
        return kind(cell)
    except (ValueError, KeyError):
        return cell


def _distinct(names: Sequence[str]) -> list[str]:
    """The head's names, nameless and repeated ones told apart as pandas does."""
    seen: dict[str, int] = {}
    out = []
    for at, name in enumerate(names):
        name = name or f"Unnamed: {at}"
        count = seen.get(name, 0)
        seen[name] = count + 1
        out.append(f"{name}.{count}" if count else name)
    return out


def _again(head: Sequence[list[str]], rest: Iterator[list[str]]) -> Iterator[list[str]]:
    yield from head
    yield from rest


class ParquetFile:
    """A parquet file, read by row groups.

    Dates and times become ISO text, bytes base64 text, decimals text; writing
    parquet again with the same column brings them back.
    """

    def __init__(self, path: Path, columns: Sequence[str] | None = None):
        self.path = path
        self.columns = list(columns) if columns else None

    def row_count(self) -> int | None:
        """From the file's end."""
        rows: int = self._open().metadata.num_rows
        return rows

    def schema(self) -> Any:
        """The file's columns, as pyarrow knows them."""
        return self._open().schema_arrow

    def chunks(self, rows: int, line: int, offset: int) -> Iterator[Chunk]:
        """Chunks of rows, from the row group of `line` on."""
        file = self._open()
        first = 1
        for group in range(file.num_row_groups):
            size = file.metadata.row_group(group).num_rows
            if first + size > line:
                yield from self._group(file, group, first, max(line, first), rows)
            first += size

    def _group(self, file: Any, group: int, first: int, line: int, rows: int) -> Iterator[Chunk]:
        try:
            batches = file.iter_batches(
                rows, row_groups=[group], columns=self.columns, use_threads=False
            )
            for batch in batches:
                skipped = min(max(line - first, 0), batch.num_rows)
                numbers = range(first + skipped, first + batch.num_rows)
                first += batch.num_rows
                if numbers:
                    lines = [encode(row) for row in plain_rows(batch.slice(skipped))]
                    yield Chunk(lines, numbers, first, 0)
        except (OSError, ValueError) as error:
            raise breaks_off(self.path, first - 1, error) from None

    def _open(self) -> Any:
        try:
            from pyarrow import ArrowInvalid
            from pyarrow import parquet as pq
        except ImportError:
            raise DataError(
                f"dataset {self.path} is parquet: pip install 'vlforge[tables]'"
            ) from None
        try:
            file = pq.ParquetFile(self.path, pre_buffer=False)
        except (OSError, ArrowInvalid) as error:
            reason = str(error).splitlines()[0]
            raise DataError(f"dataset {self.path} is no readable parquet file: {reason}") from None
        for name in self.columns or ():
            if name not in file.schema_arrow.names:
                raise DataError(f"dataset {self.path} has no column {name!r}")
        return file


def plain_rows(batch: Any) -> list[dict[str, Any]]:
    """The rows of an Arrow batch as what JSON can hold."""
    import pyarrow as pa

    columns = []
    for column, field in zip(batch.columns, batch.schema, strict=True):
        if pa.types.is_timestamp(field.type) and field.type.unit == "ns":
            column = column.cast(pa.timestamp("us", field.type.tz), safe=False)
        values = column.to_pylist()
        columns.append([_plain(v) for v in values] if is_special(field.type) else values)
    names = batch.schema.names
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def is_special(kind: Any) -> bool:
    """Whether values of an Arrow type, or some inside them, are nothing that JSON holds."""
    import pyarrow.types as t

    if t.is_nested(kind):
        return t.is_map(kind) or any(
            is_special(kind.field(at).type) for at in range(kind.num_fields)
        )
    return not (
        t.is_string(kind) or t.is_large_string(kind) or t.is_integer(kind)
        or t.is_floating(kind) or t.is_boolean(kind) or t.is_null(kind)
    )  # fmt: skip


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if value is None or isinstance(value, str | int | float | bool | bytes):
        return value
    return str(value)

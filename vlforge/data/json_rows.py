"""What dataset formats of JSON objects share: reading, telling apart, writing, unknown fields."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Protocol

from vlforge.data.json_arrays import READ_FAULTS, STOPS, array_items, object_members
from vlforge.data.json_blocks import AnyRows, Block, read_blocks
from vlforge.data.json_layout import Fields, Layout
from vlforge.data.json_lines import RowFile, as_row, decode, open_data
from vlforge.data.records import Fault, Holds, Record
from vlforge.types import DataError, Row

_HEAD_ROWS = 8
_HEAD_BYTES = 1 << 20
_LONGEST_LINE = 64 << 20
ESCAPE = "extra."
"""Stands before the name of an unknown field that a format has a field of its own for."""


@dataclass(frozen=True)
class JsonRows:
    """A format whose file is JSON lines or one JSON array; an object is one record.

    `.json` is written as an array, anything else as lines.
    """

    name: ClassVar[str]

    @property
    def holds(self) -> Holds:
        """What it can keep of a record."""
        raise NotImplementedError

    def recognises(self, path: Path) -> bool:
        """Whether the first rows of the file are of this format."""
        rows = head_rows(path)
        return bool(rows) and self.is_mine(rows)

    def is_mine(self, rows: Sequence[Row]) -> bool:
        """Whether some first rows are of this format; there is at least one."""
        raise NotImplementedError

    def record(self, row: Row, root: str, line: int) -> Record:
        """One row as a record.

        Raises:
            DataError: it is none; says why.
        """
        raise NotImplementedError

    @property
    def fields(self) -> Fields | None:
        """What `alike` reads of rows that are as the format usually has them."""
        return None

    def alike(self, row: Any, extra: dict[str, Any], root: str, line: int) -> Record:
        """What `record` gives for a row, from its `fields` and what else it has."""
        raise NotImplementedError

    def columns(
        self, rows: Sequence[Any], extras: list[dict[str, Any]], root: str, line: int
    ) -> Iterable[Record] | None:
        """What `alike` gives for many rows, made column by column; None where a row is special."""
        return None

    def row(self, record: Record) -> Row:
        """One record as a row.

        Raises:
            Unfit: the format cannot hold it.
        """
        raise NotImplementedError

    def read(self, path: Path) -> Iterator[Record | Fault]:
        """The records in order, streamed; a row that is none comes as a `Fault`.

        Raises:
            DataError: the file cannot be read.
        """
        root = os.path.abspath(path.parent)
        layout = None if self.fields is None else Layout(self.fields)
        for block in read_blocks(path, layout or AnyRows()):
            yield from records_of(block, layout, self, root)

    def writer(self, path: Path) -> RowWriter:
        """Writes a new file at `path`."""
        return RowWriter(path, self)


class RowSource(Protocol):
    """Makes records of rows; as `JsonRows` does."""

    def record(self, row: Row, root: str, line: int) -> Record:
        """One row as a record."""
        ...

    def alike(self, row: Any, extra: dict[str, Any], root: str, line: int) -> Record:
        """What `record` gives for a row of a layout."""
        ...

    def columns(
        self, rows: Sequence[Any], extras: list[dict[str, Any]], root: str, line: int
    ) -> Iterable[Record] | None:
        """What `alike` gives for rows of which the first is row `line`; None where it does not."""
        ...


def records_of(
    block: Block, layout: Layout | None, source: RowSource, root: str
) -> Iterable[Record | Fault]:
    """The rows of a block as records, one that is none as a `Fault`."""
    found: list[Record | Fault] = []
    add = found.append
    if layout is None or not layout.has(block.values):
        record = source.record
        for line, value in enumerate(block.values, block.line):
            try:
                add(record(value if value.__class__ is dict else _row(value), root, line))
            except DataError as error:
                add(fault_of(line, error))
        return found
    extras = layout.extras(block.values)
    at_once = source.columns(block.values, extras, root, block.line)
    if at_once is not None:
        # One by one, so that nobody's memory holds, and nothing looks through, a whole block.
        return at_once
    alike = source.alike
    for line, (row, extra) in enumerate(zip(block.values, extras, strict=True), block.line):
        try:
            add(alike(row, extra, root, line))
        except DataError as error:
            add(fault_of(line, error))
    return found


class RowWriter:
    """Writes records as the rows of a format."""

    def __init__(self, path: Path, format_: JsonRows):
        suffix = Path(path.stem if path.suffix == ".gz" else path.name).suffix
        self._file = RowFile(path, as_array=suffix == ".json")
        self._row = format_.row

    def __enter__(self) -> RowWriter:
        self._file.__enter__()
        return self

    def write(self, record: Record) -> None:
        """Add one record.

        Raises:
            Unfit: the format cannot hold it.
        """
        self._file.write(self._row(record))

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._file.__exit__(kind, error, trace)


def _row(value: Any) -> Row:
    """The value as a row; raises what it is, where it is an error."""
    if isinstance(value, DataError):
        raise value
    return as_row(value)


def fault_of(line: int, error: DataError) -> Fault:
    """What is wrong with a row: the reason before the first colon, the value behind it."""
    reason, _, value = str(error).partition(": ")
    return Fault(line, reason, value)


def rest_of(row: Mapping[str, Any], own: frozenset[str]) -> dict[str, Any]:
    """The fields that a format does not know, under the names they had before `with_extra`."""
    if row.keys() <= own:
        return {}
    rest = {key: value for key, value in row.items() if key not in own}
    if ESCAPE in "".join(rest):
        return {_unescaped(key, own): value for key, value in rest.items()}
    return rest


def _unescaped(key: str, own: frozenset[str]) -> str:
    if key.startswith(ESCAPE) and key[len(ESCAPE) :] in own:
        return key[len(ESCAPE) :]
    return key


def with_extra(row: Row, extra: Mapping[str, Any], own: frozenset[str]) -> Row:
    """The row with further fields; one that bears a name of the format is called `extra.NAME`."""
    for key, value in extra.items():
        row[f"{ESCAPE}{key}" if key in own else key] = value
    return row


def without(extra: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    """`extra` without some fields."""
    if not any(key in extra for key in keys):
        return extra
    return {key: value for key, value in extra.items() if key not in keys}


def text_of(row: Mapping[str, Any], key: str) -> str:
    """A field that is a string; "" where it is missing or null.

    Raises:
        DataError: it is something else.
    """
    value = row.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError(f"{key!r} is no string: it is of type {type(value).__name__}")
    return value


def head_rows(path: Path) -> list[Row]:
    """The first objects of a file of JSON lines or one JSON array; none for anything else."""
    try:
        if not path.is_file():
            return []
        found = path.stat()
        return _head_rows(path, found.st_mtime_ns, found.st_size)
    except (DataError, OSError):
        return []


@lru_cache(maxsize=8)
def _head_rows(path: Path, changed: int, size: int) -> list[Row]:
    with open_data(path) as file:
        first = _first_byte(file)
    if first not in (b"[", b"{"):
        return []
    with open_data(path) as file:
        lines = array_items(file) if first == b"[" else _short_lines(file)
        return _objects(lines)


def _objects(lines: Iterable[bytes]) -> list[Row]:
    rows: list[Row] = []
    try:
        for line in islice(lines, _HEAD_ROWS):
            try:
                value = decode(line)
            except DataError:
                continue
            if isinstance(value, dict):
                rows.append(value)
    except STOPS:
        pass
    return rows


def _first_byte(file: BinaryIO) -> bytes:
    try:
        head = file.read(4096)
    except READ_FAULTS:
        return b""
    return head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]


def _short_lines(file: BinaryIO) -> Iterator[bytes]:
    while line := file.readline(_LONGEST_LINE):
        if not line.endswith(b"\n") and len(line) >= _LONGEST_LINE:
            return
        yield line.removeprefix(b"\xef\xbb\xbf")


def head_members(path: Path, arrays: Sequence[str]) -> dict[str, Any]:
    """The first members of a file that is one JSON object, of `arrays` the first item each."""
    found: dict[str, Any] = {}
    try:
        if not path.is_file():
            return found
        with open_data(path) as file:
            if _first_byte(file) != b"{":
                return found
        with open_data(path) as file:
            _collect(file, arrays, found)
    except (DataError, OSError):
        pass
    return found


def _collect(file: BinaryIO, arrays: Sequence[str], found: dict[str, Any]) -> None:
    import io

    head = io.BytesIO(file.read(_HEAD_BYTES))
    for key, item in object_members(head, arrays):
        if key not in found:
            found[key] = decode(item)

"""csv and tsv files with a header: a caption a row, columns by name."""

from __future__ import annotations

import csv
import io
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, repeat
from operator import itemgetter
from pathlib import Path
from typing import IO, Any, ClassVar, Literal

from vlforge.data.csv_rows import MAX_CELL, Cells, CsvText, Table, UnreadCells
from vlforge.data.json_arrays import READ_FAULTS
from vlforge.data.json_lines import decode, encode, open_data, whole_file
from vlforge.data.json_rows import fault_of, rest_of, with_extra
from vlforge.data.json_turns import pictures_at
from vlforge.data.new_folder import write_error
from vlforge.data.records import MARK, Fault, Holds, Picture, Record, Unfit, caption_of
from vlforge.types import DataError

PICTURE_COLUMNS = (
    "image", "image_path", "img_path", "img", "picture", "file_name", "filename", "filepath",
    "path", "file", "image_url", "url",
)  # fmt: skip
CAPTION_COLUMNS = ("caption", "text", "captions", "prompt", "description", "title")
ID_COLUMNS = ("id", "image_id", "key", "uid")
_OWN = frozenset({"id", "image", "caption"})
_JSON_STARTS = frozenset('"[{-0123456789tfn')
_HEAD = 1 << 16
_first = itemgetter(0)


@dataclass(frozen=True)
class CsvFormat:
    """csv or tsv with a header; `image`, `caption` and `id` by name, other columns are extra.

    A picture is in the first of `image`, `image_path`, `file_name`, `path`,
    `url` … that is there, a caption in `caption`, `text` …, in any case. A cell
    of another column that is written as JSON would be (`256`, `true`, `[1,2]`)
    is that value, any other cell a string; an empty cell is no value. Ids are
    strings.

    Args:
        delimiter: between columns; `auto` is the tab for `.tsv` and the comma
            else, and when reading what the header has more of.
        loses_question: write the answer of a single round and lose its question.
    """

    delimiter: Literal["auto", ",", "\t", ";", "|"] = "auto"
    loses_question: bool = False

    name: ClassVar[str] = "csv"
    holds: ClassVar[Holds] = Holds(document=True, no_picture=True, extra=True)

    def recognises(self, path: Path) -> bool:
        """Whether the first line names a column for pictures or captions, and another."""
        if not path.is_file():
            return False
        try:
            with open_data(path) as file:
                head = file.read(_HEAD)
            line = head.decode("utf-8-sig", errors="ignore").partition("\n")[0]
        except DataError:
            return False
        except READ_FAULTS:
            return False
        if line.lstrip()[:1] in ("{", "["):
            return False
        names = [name.strip(' "\r').lower() for name in line.split(self._divider(line))]
        found = [name for name in names if name in PICTURE_COLUMNS or name in CAPTION_COLUMNS]
        return bool(found) and (len(names) > 1 or path.suffix.lower() in (".csv", ".tsv"))

    def read(self, path: Path) -> Iterator[Record | Fault]:
        """The rows, streamed; `line` counts rows, the header not among them."""
        csv.field_size_limit(MAX_CELL)
        root = os.path.abspath(path.parent)
        line = 1
        with open_data(path) as file:
            text = CsvText(file)
            try:
                tables = text.tables(self._divider(text.head()))
                columns = _Columns(next(tables)[0], root)
                for table in tables:
                    yield from columns.read(table, line, is_odd=text.is_odd)
                    line += len(table[0] if isinstance(table, tuple) else table)
            except READ_FAULTS as error:
                yield Fault(line, "the file cannot be read on", str(error))

    def writer(self, path: Path) -> CsvWriter:
        """Writes a new file."""
        divider = self.delimiter
        if divider == "auto":
            divider = "\t" if path.suffix.lower() == ".tsv" else ","
        return CsvWriter(path, divider, self.loses_question)

    def _divider(self, line: str) -> str:
        if self.delimiter != "auto":
            return self.delimiter
        return max("\t,;|", key=lambda mark: (line.count(mark), mark == ","))


class _Columns:
    """What the columns of a file are."""

    def __init__(self, header: list[str], root: str):
        self.header, self.root = header, root
        if not header or len(set(header)) < len(header):
            raise DataError("a header's columns are missing or named twice: name each once")
        low = [name.strip().lower() for name in header]
        self.picture = next((low.index(name) for name in PICTURE_COLUMNS if name in low), -1)
        self.caption = next((low.index(name) for name in CAPTION_COLUMNS if name in low), -1)
        self.id = next((low.index(name) for name in ID_COLUMNS if name in low), -1)
        special = (self.picture, self.caption, self.id)
        rest = rest_of({name: at for at, name in enumerate(header)}, _OWN)
        self.rest = [(at, name) for name, at in rest.items() if at not in special]

    def read(self, table: Table, line: int, *, is_odd: bool) -> Iterable[Record | Fault]:
        """Rows of which the first is row `line`; `is_odd` where some bytes are no UTF-8."""
        if isinstance(table, tuple):
            return self._records(table, line)
        if not is_odd and set(map(len, table)) == {len(self.header)}:
            return self._records(list(zip(*table, strict=True)), line)
        return [self._one(cells, at, is_odd) for at, cells in enumerate(table, line)]

    def _one(self, cells: Cells, line: int, is_odd: bool) -> Record | Fault:
        try:
            return self._record(cells, line, is_odd)
        except DataError as error:
            return fault_of(line, error)

    def _records(self, columns: Sequence[Sequence[str]], line: int) -> Iterable[Record | Fault]:
        """Rows that all are as the header says, column by column where no cell is special."""
        paths = columns[self.picture] if self.picture >= 0 else ()
        captions = columns[self.caption] if self.caption >= 0 else ()
        words = "".join(captions)
        is_plain = all(paths) and all(captions) and paths and captions
        if not is_plain or ":" in "".join(paths) or ("<" in words and MARK in words):
            rows = map(list, zip(*columns, strict=True))
            return [self._one(cells, at, False) for at, cells in enumerate(rows, line)]
        numbers: Iterable[str | None] = repeat(None)
        if self.id >= 0:
            numbers = columns[self.id]
            if not all(numbers):
                numbers = [one or None for one in numbers]
        pictures = zip(map(Picture, paths, repeat(self.root)), strict=True)
        chunks = zip([f"{MARK}\n{one}" for one in captions], strict=True)
        extras = self._extras([columns[at] for at, _ in self.rest], len(paths))
        return map(Record, numbers, pictures, repeat(()), chunks, extras, count(line))

    def _extras(self, columns: list[Sequence[str]], count: int) -> list[dict[str, Any]]:
        names = [name for _, name in self.rest]
        if not names:
            return [{} for _ in range(count)]
        is_plain = all(map(all, columns)) and all(
            _JSON_STARTS.isdisjoint(map(_first, column)) for column in columns
        )
        if is_plain and len(names) == 1:
            (name,) = names
            return [{name: cell} for cell in columns[0]]
        if is_plain:
            return [dict(zip(names, cells, strict=True)) for cells in zip(*columns, strict=True)]
        return [
            {name: value_of(cell) for name, cell in zip(names, cells, strict=True) if cell}
            for cells in zip(*columns, strict=True)
        ]

    def _record(self, cells: Cells, line: int, is_odd: bool) -> Record:
        if isinstance(cells, UnreadCells):
            raise DataError(cells.reason)
        if len(cells) != len(self.header):
            told = f"{len(cells)}, the header {len(self.header)}"
            raise DataError(f"a row has more or fewer columns than the header: {told}")
        if is_odd and any(map(_is_odd, cells)):
            raise DataError("a row is not UTF-8")
        pictures = pictures_at(cells[self.picture] if self.picture >= 0 else "", self.root)
        chunks: tuple[str, ...] = ()
        caption = cells[self.caption] if self.caption >= 0 else ""
        if caption:
            has_marks = not pictures or MARK in caption
            chunks = (caption if has_marks else f"{MARK}\n{caption}",)
        row = {name: value_of(cells[at]) for at, name in self.rest if cells[at]}
        number = cells[self.id] if self.id >= 0 else ""
        return Record(number or None, pictures, (), chunks, row, line)


class CsvWriter:
    """Writes records as rows; columns that turn up late are added to the header at the end."""

    def __init__(self, path: Path, delimiter: str, loses_question: bool):
        self.path, self.delimiter, self.loses_question = path, delimiter, loses_question
        self._whole = whole_file(path)
        self._rows_path = path.with_name(f".{path.name}.rows")
        self._columns = ["id", "image", "caption"]
        self.count = 0
        self._is_even = True
        """Whether all rows are as long as the header."""
        self._places = {name: at for at, name in enumerate(self._columns)}

    def __enter__(self) -> CsvWriter:
        self._out: IO[bytes] = self._whole.__enter__()
        self._file = self._rows_path.open("w", encoding="utf-8", newline="")
        self._rows = csv.writer(self._file, delimiter=self.delimiter)
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            self._file.close()
            if kind is None:
                self._finish()
        except OSError as failure:
            told = write_error(self.path, failure)
            self._close(type(told), told)
            if kind is None:
                raise told from None
            return
        except BaseException as failure:
            self._close(type(failure), failure)
            raise
        self._close(kind, error)

    def _close(self, kind: Any, error: Any) -> None:
        self._rows_path.unlink(missing_ok=True)
        self._whole.__exit__(kind, error, None)

    def write(self, record: Record) -> None:
        """Add one row.

        Raises:
            Unfit: more than a picture and its caption, or bytes that have no file.
        """
        if any(one.content is not None for one in record.pictures):
            raise Unfit("a picture has no file: use --images extract")
        caption = ""
        if record.turns or record.chunks:
            caption = caption_of(record, loses_question=self.loses_question)
        row = with_extra({}, record.extra, _OWN)
        cells = [""] * len(self._columns)
        cells[0] = "" if record.id is None else str(record.id)
        cells[1] = record.pictures[0].path if record.pictures else ""
        cells[2] = caption
        for name, value in row.items():
            at = self._places.get(name)
            if at is None:
                self._is_even = self._is_even and not self.count
                at = self._places[name] = len(self._columns)
                self._columns.append(name)
                cells.append("")
            cells[at] = cell_of(value)
        if not "".join(cells).isascii() and any(map(_is_odd, cells)):
            raise Unfit("a text is not writable as UTF-8")
        self._rows.writerow(cells)
        self.count += 1

    def _finish(self) -> None:
        """The header, then the rows, each as long as the header."""
        csv.field_size_limit(MAX_CELL * 4)
        out = io.TextIOWrapper(self._out, "utf-8", newline="", write_through=True)
        rows = csv.writer(out, delimiter=self.delimiter)
        rows.writerow(self._columns)
        if self._is_even:
            out.flush()
            with self._rows_path.open("rb") as ready:
                shutil.copyfileobj(ready, self._out, 1 << 20)
            out.detach()
            return
        with self._rows_path.open(encoding="utf-8", newline="") as file:
            for cells in csv.reader(file, delimiter=self.delimiter):
                rows.writerow(cells + [""] * (len(self._columns) - len(cells)))
        out.flush()
        out.detach()


def value_of(cell: str) -> Any:
    """The value of a cell: what is written exactly as JSON would be, else the string."""
    if not _looks_json(cell):
        return cell
    try:
        value = decode(cell)
    except DataError:
        return cell
    return value if cell_of(value) == cell else cell


def cell_of(value: Any) -> str:
    """The cell of a value, such that `value_of` gives the value."""
    if isinstance(value, str):
        return encode(value).decode() if not value or value_of(value) != value else value
    return encode(value).decode()


def _looks_json(cell: str) -> bool:
    return cell[:1] in '"[{-0123456789' or cell in ("true", "false", "null")


def _is_odd(text: str) -> bool:
    """Whether it holds surrogates: bytes that were no UTF-8, or halves of a character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False

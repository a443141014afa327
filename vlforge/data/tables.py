"""Tables of records (parquet, arrow), read and written by pyarrow, which is imported only here.

A record is a row: its pictures as `{bytes, path}` in `image` or `images`, its
words in `caption`, `conversations` or `chunks`, every other field in a column
of its own where it is a string, a number or a truth value. What fits in no
column stands as JSON in the column `__row__`.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count, repeat
from pathlib import Path
from typing import Any

from vlforge.data.json_lines import decode, encode
from vlforge.data.json_rows import fault_of, rest_of
from vlforge.data.json_turns import picture_of
from vlforge.data.new_folder import write_error
from vlforge.data.plain_rows import OWN, record_of, row_of
from vlforge.data.records import MARK, Fault, Picture, Record
from vlforge.types import DataError

REST = "__row__"
"""Column for what fits in no other: a JSON object."""
PICTURE_COLUMNS = (
    "image", "images", "img", "picture", "jpg", "png", "jpeg", "webp", "image_bytes", "bytes",
)  # fmt: skip
PATH_COLUMNS = (
    "image", "images", "image_path", "img_path", "image_paths", "file_name", "filename",
    "filepath", "path", "file", "image_url", "url",
)  # fmt: skip
_WORDS = frozenset({"conversations", "chunks", REST})
ROWS = 1000
"""Rows that are held at once when writing, or fewer where their pictures are large."""
BYTES = 64 << 20
_READ_ROWS = 1024
_READ_BYTES = 1 << 20
_MAX_PARTS = 16
_INT64 = 1 << 63


def needs_pyarrow(name: str) -> None:
    """Make sure that pyarrow is there.

    Raises:
        DataError: it is not; says what to install.
    """
    if not has_pyarrow():
        raise DataError(f"{name} needs pyarrow: pip install 'vlforge[tables]'")


def has_pyarrow() -> bool:
    """Whether pyarrow is there."""
    from importlib.util import find_spec

    return find_spec("pyarrow") is not None


# --- reading


class RowReader:
    """Turns the batches of one table into records."""

    def __init__(self, schema: Any, root: str):
        self.root = root
        self.names = list(schema.names)
        self.pictures = _picture_columns(schema)
        first = next((name for name in self.names if name.lower() == "id"), "")
        self.id = first or next((n for n in self.names if n.lower() in ("image_id", "key")), "")
        self._captions = _Captions.of(schema, self.pictures, self.id)

    def records(self, batch: Any, line: int) -> Iterator[Record | Fault]:
        """The records of a batch whose first row is row `line` of the data."""
        found = self._captions and self._captions.records(batch, line)
        if found:
            yield from found
            return
        columns = [_values(column) for column in batch.columns]
        for at, cells in enumerate(zip(*columns, strict=True)):
            try:
                yield self._record(dict(zip(self.names, cells, strict=True)), line + at)
            except DataError as error:
                yield fault_of(line + at, error)

    def _record(self, row: dict[str, Any], line: int) -> Record:
        pictures: list[Picture] = []
        for name in self.pictures:
            pictures += _pictures(row.pop(name, None), self.root)
        row = {name: _plain(value) for name, value in row.items() if value is not None}
        rest = row.pop(REST, None)
        if isinstance(rest, str):
            found = decode(rest)
            row |= found if isinstance(found, dict) else {REST: rest}
        if self.id and self.id != "id" and "id" not in row and self.id in row:
            row["id"] = row.pop(self.id) if self.id.lower() == "id" else row[self.id]
        return record_of(row, tuple(pictures), line=line)


@dataclass(frozen=True)
class _Captions:
    """Reads tables of one picture and one caption a row column by column; as `RowReader` does."""

    picture: str
    id: str
    others: Mapping[str, str]
    """Names of further fields by their columns."""

    @classmethod
    def of(cls, schema: Any, pictures: Sequence[str], number: str) -> _Captions | None:
        """For a table of a caption, picture bytes, and fields that are no lists; else None."""
        import pyarrow.types as t

        names = set(schema.names)
        if len(pictures) != 1 or "caption" not in names or names & _WORDS:
            return None
        if len(names) < len(schema.names) or not _holds_bytes(schema.field(pictures[0]).type):
            return None
        picture = schema.field(pictures[0]).type
        if t.is_list(picture) or t.is_large_list(picture):
            return None
        plain = (t.is_string, t.is_large_string, t.is_integer, t.is_float64, t.is_boolean)
        rest = [name for name in schema.names if name not in pictures]
        if not all(any(is_kind(schema.field(n).type) for is_kind in plain) for n in rest):
            return None
        if not any(is_kind(schema.field("caption").type) for is_kind in plain[:2]):
            return None
        told = rest_of(dict(zip(rest, rest, strict=True)), OWN)
        if number.lower() == "id":
            told.pop(number, None)
        return cls(pictures[0], number, {column: name for name, column in told.items()})

    def records(self, batch: Any, line: int) -> list[Record | Fault]:
        """The records of a batch; none where a row has no picture or no caption."""
        column, captions = batch.column(self.picture), batch.column("caption")
        if column.null_count or captions.null_count:
            return []
        paths: Iterable[str] = repeat("")
        if _is_binary(column.type):
            contents = column
        else:
            contents = column.field("bytes")
            paths = (path or "" for path in column.field("path").to_pylist())
        if contents.null_count:
            return []
        numbers = batch.column(self.id).to_pylist() if self.id else repeat(None)
        pictures = map(Picture, paths, repeat(""), contents.to_pylist())
        chunks = [one if MARK in one else f"{MARK}\n{one}" for one in captions.to_pylist()]
        extras = self._extras(batch)
        return list(
            map(Record, numbers, zip(pictures, strict=True), repeat(()), zip(chunks, strict=True),
                extras, count(line))
        )  # fmt: skip

    def _extras(self, batch: Any) -> list[dict[str, Any]]:
        if not self.others:
            return [{} for _ in range(batch.num_rows)]
        columns = [batch.column(column).to_pylist() for column in self.others]
        names = tuple(self.others.values())
        return [
            {name: value for name, value in zip(names, cells, strict=True) if value is not None}
            for cells in zip(*columns, strict=True)
        ]


def _values(column: Any) -> list[Any]:
    values: list[Any] = column.to_pylist()
    return values


def _picture_columns(schema: Any) -> list[str]:
    """The columns that hold pictures: bytes before paths, known names before others."""
    by_name: dict[str, str] = {}
    for name in schema.names:
        by_name.setdefault(name.lower(), name)
    bytes_like = [n for n in schema.names if _holds_bytes(schema.field(n).type)]
    known = [by_name[n] for n in PICTURE_COLUMNS if by_name.get(n) in bytes_like]
    if known:
        return [n for n in known if n.lower() in ("image", "images")] or known[:1]
    structs = [n for n in bytes_like if not _is_binary(schema.field(n).type)]
    if structs:
        return structs[:1]
    paths = [by_name[n] for n in PATH_COLUMNS if n in by_name]
    return [n for n in paths if _holds_paths(schema.field(n).type)][:1]


def _is_binary(kind: Any) -> bool:
    import pyarrow.types as t

    return bool(t.is_binary(kind) or t.is_large_binary(kind) or t.is_fixed_size_binary(kind))


def _holds_bytes(kind: Any) -> bool:
    """Whether it is binary, a struct with `bytes` or a list of such."""
    import pyarrow.types as t

    if t.is_list(kind) or t.is_large_list(kind):
        return _holds_bytes(kind.value_type)
    if t.is_struct(kind):
        return {"bytes", "path"} <= {kind.field(at).name for at in range(kind.num_fields)}
    return _is_binary(kind)


def _holds_paths(kind: Any) -> bool:
    import pyarrow.types as t

    if t.is_list(kind) or t.is_large_list(kind):
        return _holds_paths(kind.value_type)
    return bool(t.is_string(kind) or t.is_large_string(kind))


def _pictures(value: Any, root: str) -> list[Picture]:
    """Pictures of a cell: bytes, a path, `{bytes, path}`, or a list of these."""
    if value is None or value == "":
        return []
    if isinstance(value, list):
        return [picture for one in value for picture in _pictures(one, root)]
    if isinstance(value, bytes):
        return [Picture(content=value)]
    if isinstance(value, dict):
        content, path = value.get("bytes"), value.get("path")
        if isinstance(content, bytes):
            return [Picture(path if isinstance(path, str) else "", "", content)]
        return _pictures(path, root) if isinstance(path, str) else []
    return [picture_of(value, root)]


def _plain(value: Any) -> Any:
    """A cell as JSON has it."""
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    return str(value)


def read_tables(
    paths: Sequence[Path], batches: Callable[[Path], Iterator[Any]], root: str
) -> Iterator[Record | Fault]:
    """The records of several files one after the other; a file that breaks off is a `Fault`.

    Raises:
        DataError: there is but one file, and nothing of it can be read.
    """
    import pyarrow as pa

    line = 1
    for path in paths:
        reader = None
        try:
            for batch in batches(path):
                reader = reader or RowReader(batch.schema, root)
                yield from reader.records(batch, line)
                line += batch.num_rows
        except (pa.ArrowException, OSError, ValueError) as error:
            told = str(error).partition("\n")[0]
            if len(paths) == 1 and line == 1:
                raise DataError(f"table {path} cannot be read: {told}") from None
            yield Fault(line, "a table cannot be read", f"{path.name}: {told}")
            line += 1


def read_parquet_part(path: Path) -> Iterator[Any]:
    """The batches of a parquet file."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path, pre_buffer=False) as file:
        told = file.metadata
        size = sum(told.row_group(at).total_byte_size for at in range(told.num_row_groups))
        yield from file.iter_batches(batch_size=_rows(size, told.num_rows))


def _rows(size: int, rows: int) -> int:
    """How many of so many rows are held at once when reading."""
    return max(1, min(_READ_ROWS, rows * _READ_BYTES // max(size, 1)))


def read_arrow_part(path: Path) -> Iterator[Any]:
    """The batches of an arrow file, in either of its two layouts."""
    import pyarrow as pa

    with path.open("rb") as head:
        is_file = head.read(6) == b"ARROW1"
    # Read, not mapped: pages of a map stay in memory as long as there is some.
    with pa.OSFile(str(path)) as file:
        if is_file:
            reader = pa.ipc.open_file(file)
            batches = (reader.get_batch(at) for at in range(reader.num_record_batches))
        else:
            batches = iter(pa.ipc.open_stream(file))
        for batch in batches:
            yield from _slices(batch)


def _slices(batch: Any) -> Iterator[Any]:
    rows = _rows(batch.nbytes, batch.num_rows)
    for at in range(0, batch.num_rows, rows):
        yield batch.slice(at, rows)


# --- writing


def open_parquet_part(path: Path, schema: Any) -> Any:
    """A new parquet file; pictures are not packed once more."""
    import pyarrow.parquet as pq

    packed = dict.fromkeys(_leaves(schema), "SNAPPY")
    packed |= {name: "NONE" for name in packed if name.endswith("bytes")}
    return pq.ParquetWriter(path, schema, compression=packed)


def _leaves(schema: Any) -> list[str]:
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    pq.write_table(schema.empty_table(), sink)
    columns = pq.ParquetFile(sink).schema
    return [columns.column(at).path for at in range(len(columns))]


def open_arrow_part(path: Path, schema: Any) -> Any:
    """A new arrow file as a stream of batches."""
    import pyarrow as pa

    return pa.ipc.new_stream(str(path), schema)


Part = Callable[[Path, Any], Any]
"""Opens a new file of a schema; what it gives has `write_batch` and `close`."""


class RowTable:
    """Collects records and writes them as batches; new columns begin a new part."""

    def __init__(
        self,
        path: Path,
        open_part: Part,
        read_part: Callable[[Path], Iterable[Any]],
        told: Path | None = None,
    ):
        """
        Args:
            path: the new file.
            open_part: opens a new part of it.
            read_part: reads one.
            told: what an error names, where the file is but a part of that.
        """
        self._told = told or path
        self.path, self._open_part, self._read_part = path, open_part, read_part
        self._kinds: dict[str, str] = {"id": "str", "image": "image", "caption": "str"}
        self._rows: list[dict[str, Any]] = []
        self._bytes = 0
        self._parts: list[Path] = []
        self._part: Any = None
        self._part_kinds: dict[str, str] = {}
        self.count = 0

    def add(self, record: Record) -> None:
        """Add a record; its pictures are read.

        Raises:
            DataError: a picture cannot be read.
        """
        row = row_of(record)
        pictures = [{"bytes": one.read(), "path": one.path or None} for one in record.pictures]
        if row["id"] is None:
            del row["id"]
        if len(pictures) > 1:
            row["images"] = pictures
        elif pictures:
            row["image"] = pictures[0]
        self._rows.append(row)
        self._bytes += sum(len(one["bytes"] or b"") for one in pictures)
        self.count += 1
        if len(self._rows) >= ROWS or self._bytes >= BYTES:
            try:
                self._flush()
            except OSError as error:
                raise write_error(self._told, error, self._bytes) from None

    def finish(self, max_rows: int = 0, names: Sequence[str] = ()) -> dict[str, str]:
        """Write what is left, as one file at `path`; gives the columns and their kinds.

        With `max_rows` as the files `names` beside `path`, so many rows in each.
        """
        if self._rows or not self._parts:
            self._flush()
        self._part.close()
        wanted = [self.path.with_name(name) for name in names] or [self.path]
        if len(self._parts) == len(wanted) == 1:
            self._parts[0].replace(wanted[0])
        else:
            self._merge(wanted, max_rows or self.count)
        return self._kinds

    def drop(self) -> None:
        """Remove what was written so far."""
        if self._part is not None:
            with suppress(OSError):
                self._part.close()
        for part in self._parts:
            part.unlink(missing_ok=True)

    def _flush(self) -> None:
        import pyarrow as pa

        rows = [self._fitted(row) for row in self._rows]
        if self._part is None or self._part_kinds != self._kinds:
            if self._part is not None:
                self._part.close()
            part = self.path.with_name(f".{self.path.name}.{len(self._parts)}.part")
            self._parts.append(part)
            self._part_kinds = dict(self._kinds)
            self._part = self._open_part(part, arrow_schema(self._kinds))
        schema = arrow_schema(self._kinds)
        arrays = [pa.array([row.get(f.name) for row in rows], type=f.type) for f in schema]
        self._part.write_batch(pa.record_batch(arrays, schema=schema))
        self._rows, self._bytes = [], 0

    def _fitted(self, row: dict[str, Any]) -> dict[str, Any]:
        """The row with what fits in no column as JSON."""
        fitted: dict[str, Any] = {}
        rest: dict[str, Any] = {}
        for name, value in row.items():
            kind = kind_of(name, value)
            known = self._kinds.get(name)
            if known is None and kind and (len(self._parts) < _MAX_PARTS or _is_main(name)):
                known = self._kinds[name] = kind
            if kind and known == kind:
                fitted[name] = value
            elif name != "caption" or value is not None:
                rest[name] = value
        if row.get("caption", "") is None and _could_be_caption(row):
            rest["caption"] = None
        if rest:
            self._kinds.setdefault(REST, "str")
            fitted[REST] = encode(rest).decode()
        return fitted

    def _merge(self, paths: Sequence[Path], max_rows: int) -> None:
        """All parts with all columns, `max_rows` in each of `paths`."""
        schema = arrow_schema(self._kinds)
        wholes = [path.with_name(f".{path.name}.part") for path in paths]
        out, filled = self._open_part(wholes[0], schema), 0
        at = 0
        for batch in self._all_batches(schema):
            while batch.num_rows:
                if filled == max_rows:
                    out.close()
                    at, filled = at + 1, 0
                    out = self._open_part(wholes[at], schema)
                out.write_batch(batch.slice(0, max_rows - filled))
                taken = min(batch.num_rows, max_rows - filled)
                filled += taken
                batch = batch.slice(taken)
        out.close()
        for whole, path in zip(wholes, paths, strict=True):
            whole.replace(path)

    def _all_batches(self, schema: Any) -> Iterator[Any]:
        """The batches of all parts, each with all columns; a part that was read is removed."""
        import pyarrow as pa

        for part in self._parts:
            for batch in self._read_part(part):
                has = set(batch.schema.names)
                arrays = [
                    batch.column(f.name) if f.name in has else pa.nulls(batch.num_rows, f.type)
                    for f in schema
                ]
                yield pa.record_batch(arrays, schema=schema)
            part.unlink()


def _could_be_caption(row: Mapping[str, Any]) -> bool:
    """Whether a reader might take another field for the caption that is missing."""
    others = {name.lower() for name in row.keys() - {"caption"}}
    return bool(others & {"text", "txt", "caption", "messages"})


def _is_main(name: str) -> bool:
    return name in ("images", "conversations", "chunks")


def kind_of(name: str, value: Any) -> str:
    """The kind of column that holds a value to the letter; "" for none."""
    if name == "image":
        return "image"
    if name == "images":
        return "images"
    if name == "conversations":
        is_plain = all(turn.keys() == {"from", "value"} for turn in value)
        return "turns" if is_plain and all(_is_text(turn["value"]) for turn in value) else ""
    if name == "chunks":
        return "texts" if all(map(_is_text, value)) else ""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int" if -_INT64 <= value < _INT64 else ""
    if isinstance(value, float):
        return "float"
    return "str" if isinstance(value, str) and _is_text(value) and name != REST else ""


def _is_text(value: str) -> bool:
    """Whether UTF-8 can hold it."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def arrow_schema(kinds: Mapping[str, str]) -> Any:
    """The schema of columns, with the features that Hugging Face's libraries look for."""
    import pyarrow as pa

    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    turn = pa.struct([("from", pa.string()), ("value", pa.string())])
    types = {
        "str": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_(),
        "image": image, "images": pa.list_(image), "turns": pa.list_(turn),
        "texts": pa.list_(pa.string()),
    }  # fmt: skip
    told = encode({"info": {"features": features(kinds)}})
    fields = [(name, types[kind]) for name, kind in kinds.items()]
    return pa.schema(fields, metadata={b"huggingface": told})


def features(kinds: Mapping[str, str]) -> dict[str, Any]:
    """The columns as `datasets` describes them."""
    text = {"dtype": "string", "_type": "Value"}
    told: dict[str, Any] = {
        "str": text,
        "int": {"dtype": "int64", "_type": "Value"},
        "float": {"dtype": "float64", "_type": "Value"},
        "bool": {"dtype": "bool", "_type": "Value"},
        "image": {"_type": "Image"},
        "images": [{"_type": "Image"}],
        "turns": [{"from": text, "value": text}],
        "texts": [text],
    }
    return {name: told[kind] for name, kind in kinds.items()}

"""JSON lines, fast: msgspec where it can, the standard library for what msgspec refuses."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import msgspec

from vlforge.data.json_arrays import READ_FAULTS, STOPS, array_items
from vlforge.data.new_folder import write_error
from vlforge.types import DataError, WriteError

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
_encode_lines = msgspec.json.Encoder().encode_lines
_BOM = b"\xef\xbb\xbf"
_LINE_ENDS = (
    (b"\xc2\x85", b"\\u0085"),
    (b"\xe2\x80\xa8", b"\\u2028"),
    (b"\xe2\x80\xa9", b"\\u2029"),
)


def decode(line: bytes | str) -> Any:
    """The value of one line.

    `NaN`, `Infinity` and lone surrogates, which other tools write, are read too.

    Raises:
        DataError: not JSON; says where.
    """
    try:
        return _decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"not JSON: {error}") from None


def encode(value: Any) -> bytes:
    """One line without its line end; characters as they are, floats shortest.

    The three characters beside line feed and carriage return that some readers
    take for the end of a line are escaped.
    """
    try:
        line = _encode(value)
    except (UnicodeEncodeError, TypeError, ValueError):
        return json.dumps(value, separators=(",", ":"), default=str).encode("ascii")
    return line if line.isascii() else _escaped(line)


def encode_lines(values: Sequence[Any]) -> bytes:
    """`encode` of each value and a line feed, all at once."""
    try:
        lines = _encode_lines(values)
    except (UnicodeEncodeError, TypeError, ValueError):
        return b"".join([encode(value) + b"\n" for value in values])
    return lines if lines.isascii() else _escaped(lines)


def _escaped(lines: bytes) -> bytes:
    """Line ends of some readers escaped; a single byte is sought ten times sooner than two."""
    if (b"\xe2" in lines and b"\xe2\x80" in lines) or (b"\xc2" in lines and b"\xc2\x85" in lines):
        for char, escaped in _LINE_ENDS:
            lines = lines.replace(char, escaped)
    return lines


def as_row(value: Any) -> dict[str, Any]:
    """The value as a row.

    Raises:
        DataError: it is not an object; names what it is.
    """
    if not isinstance(value, dict):
        raise DataError(f"a {type(value).__name__} where an object is wanted")
    return value


def open_data(path: Path) -> BinaryIO:
    """Open a dataset file for reading, unpacking `.gz` and `.zst`.

    Raises:
        DataError: missing, a folder, or no permission; names the file.
    """
    try:
        if path.is_dir():
            raise IsADirectoryError
        if path.suffix == ".gz":
            import gzip

            return cast(BinaryIO, gzip.open(path, "rb"))
        if path.suffix == ".zst":
            from vlforge.data.zst import open_zst

            return open_zst(path)
        return path.open("rb")
    except FileNotFoundError:
        raise DataError(f"dataset {path} does not exist: check the path") from None
    except IsADirectoryError:
        raise DataError(f"dataset {path} is a folder: name a file in it") from None
    except OSError as error:
        raise DataError(f"dataset {path} cannot be read: {error.strerror or error}") from None


def is_array(path: Path) -> bool:
    """Whether the file is one JSON array, judged by its first character."""
    with open_data(path) as file:
        try:
            head = file.read(4096)
        except READ_FAULTS as error:
            raise DataError(f"dataset {path} cannot be read: {error}") from None
    return head.removeprefix(_BOM).lstrip()[:1] == b"["


def read_values(path: Path) -> Iterator[tuple[int, Any]]:
    """(line number from 1, value) of a JSON-lines file, or (place, item) of a JSON array; streamed.

    What is not JSON comes as a `DataError` in place of its value, and so does
    the place where a file breaks off; blank lines are passed over.

    Raises:
        DataError: the file cannot be read at all.
    """
    number = 0
    with open_data(path) as file:
        lines = array_items(file) if is_array(path) else _lines(file)
        numbered = ((n, line) for n, line in enumerate(lines, 1) if not line.isspace())
        try:
            for number, line in numbered:
                yield number, _value(line)
        except STOPS as error:
            yield number + 1, DataError(str(error))


def _value(line: bytes) -> Any:
    try:
        return decode(line)
    except DataError as error:
        return error


def _lines(file: BinaryIO) -> Iterator[bytes]:
    for first in file:
        yield first.removeprefix(_BOM)
        break
    yield from file


def write_lines(path: Path, rows: Iterable[Any]) -> int:
    """Write rows as JSON lines, whole or not at all; gives their number."""
    return _write(path, rows, as_array=False)


def write_array(path: Path, rows: Iterable[Any]) -> int:
    """Write rows as one JSON array, an item a line, whole or not at all; gives their number."""
    return _write(path, rows, as_array=True)


def _write(path: Path, rows: Iterable[Any], *, as_array: bool) -> int:
    with RowFile(path, as_array=as_array) as file:
        for row in rows:
            file.write(row)
    return file.count


class RowFile:
    """A new file of JSON lines, or of one JSON array with an item a line."""

    def __init__(self, path: Path, *, as_array: bool):
        self.as_array = as_array
        self.count = 0
        self._whole = whole_file(path)

    def __enter__(self) -> RowFile:
        self._out = self._whole.__enter__()
        return self

    def write(self, row: Any) -> None:
        """Add one row.

        Raises:
            WriteError: the disk refuses it; names the file.
        """
        line = encode(row)
        if self.as_array:
            self._put((b",\n" if self.count else b"[\n") + line)
        else:
            self._put(line + b"\n")
        self.count += 1

    def _put(self, data: bytes) -> None:
        try:
            self._out.write(data)
        except OSError as error:
            raise write_error(self._whole.path, error, len(data)) from None

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if self.as_array and kind is None:
            try:
                self._put(b"\n]\n" if self.count else b"[]\n")
            except WriteError as failure:
                self._whole.__exit__(WriteError, failure, None)
                raise
        self._whole.__exit__(kind, error, trace)


class whole_file:
    """A file that appears under its name only when it is complete; `.gz` is packed."""

    def __init__(self, path: Path):
        self.path = path
        self.part = path.with_name(f".{path.name}.part")

    def __enter__(self) -> IO[bytes]:
        try:
            self.file: IO[bytes] = self._open()
        except OSError as error:
            raise DataError(f"cannot write {self.path}: {error.strerror or error}") from None
        return self.file

    def _open(self) -> IO[bytes]:
        if self.path.suffix == ".zst":
            raise DataError(f"cannot write {self.path}: .zst is only read; write .gz or plain")
        if self.path.suffix == ".gz":
            import gzip

            return cast(IO[bytes], gzip.open(self.part, "wb", compresslevel=6))
        return self.part.open("wb", buffering=1 << 18)

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        try:
            self.file.close()
            if kind is None:
                self.part.replace(self.path)
        except OSError as failure:
            self.part.unlink(missing_ok=True)
            if kind is None:
                raise write_error(self.path, failure) from None
        if kind is not None:
            self.part.unlink(missing_ok=True)

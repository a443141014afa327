"""JSON lines, fast: msgspec where it can, the standard library for what msgspec refuses."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import msgspec

from vlforge.types import DataError

READ_FAULTS: tuple[type[Exception], ...] = (OSError, EOFError, zlib.error)
"""What reading a file that was opened may end in."""
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
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
    except (msgspec.DecodeError, UnicodeDecodeError):
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
    if b"\xe2\x80" in line or b"\xc2\x85" in line:
        for char, escaped in _LINE_ENDS:
            line = line.replace(char, escaped)
    return line


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
    return head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"["


def read_values(path: Path) -> Iterator[tuple[int, Any]]:
    """(line number from 1, value) of a JSON-lines file, or (place, item) of a JSON array.

    A line that is not JSON comes as a `DataError` in place of its value; blank
    lines are passed over. An array is read whole, lines are streamed.

    Raises:
        DataError: the file cannot be read, or an array is broken.
    """
    if is_array(path):
        yield from enumerate(read_array(path), 1)
        return
    with open_data(path) as file:
        for number, line in enumerate(file, 1):
            if line.isspace():
                continue
            try:
                yield number, decode(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line)
            except DataError as error:
                yield number, error


def read_array(path: Path) -> list[Any]:
    """The items of a file that is one JSON array."""
    with open_data(path) as file:
        try:
            value = decode(file.read().removeprefix(b"\xef\xbb\xbf"))
        except DataError as error:
            raise DataError(f"dataset {path} is {error}") from None
    return list(value)


def write_lines(path: Path, rows: Iterable[Any]) -> int:
    """Write rows as JSON lines, whole or not at all; gives their number."""
    count = 0
    with _whole(path) as file:
        for row in rows:
            file.write(encode(row) + b"\n")
            count += 1
    return count


def write_array(path: Path, rows: Iterable[Any]) -> int:
    """Write rows as one JSON array, an item a line, whole or not at all; gives their number."""
    count = 0
    with _whole(path) as file:
        for row in rows:
            file.write(b"[\n" if count == 0 else b",\n")
            file.write(encode(row))
            count += 1
        file.write(b"\n]\n" if count else b"[]\n")
    return count


class _whole:
    """A file that appears under its name only when it is complete."""

    def __init__(self, path: Path):
        self.path = path
        self.part = path.with_name(f".{path.name}.part")

    def __enter__(self) -> IO[bytes]:
        try:
            self.file: IO[bytes] = self.part.open("wb")
        except OSError as error:
            raise DataError(f"cannot write {self.path}: {error.strerror or error}") from None
        return self.file

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        try:
            self.file.close()
            if kind is None:
                self.part.replace(self.path)
        except OSError as failure:
            self.part.unlink(missing_ok=True)
            raise DataError(f"cannot write {self.path}: {failure.strerror or failure}") from None
        if kind is not None:
            self.part.unlink(missing_ok=True)

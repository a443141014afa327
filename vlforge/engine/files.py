"""One data file as chunks of lines, whatever its format; a line is one row, as JSON."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

import msgspec

from vlforge.data.json_arrays import Broken, array_items
from vlforge.data.json_lines import READ_FAULTS, encode, is_array, open_data
from vlforge.types import DataError

CHUNK_BYTES = 8 << 20
"""A chunk ends early where its lines grow beyond this."""
_SAMPLE = 1 << 20
_COUNTED = 256 << 20
_BOM = b"\xef\xbb\xbf"


class Origin(msgspec.Struct, frozen=True):
    """The file that rows come from.

    `root` is the folder that its relative picture paths start from,
    `fingerprint` 12 hex digits of its content, `suffix` its kind (`.jsonl.gz`).
    """

    path: str
    root: str
    fingerprint: str
    suffix: str


class Chunk(NamedTuple):
    """Some lines of a file, their numbers (from 1), and where the line after them is.

    `copies` and `origins` are those of a `Block`, where the file's own do not do.
    """

    lines: list[bytes]
    numbers: Sequence[int]
    line: int
    offset: int
    copies: Sequence[int] = ()
    origins: Sequence[Origin] = ()


class Reader(Protocol):
    """Something with rows in a fixed order: a file, or several in one."""

    def chunks(self, rows: int, line: int, offset: int) -> Iterator[Chunk]:
        """Chunks of at most `rows` lines, from line number `line` on, which starts at `offset`."""
        ...

    def row_count(self) -> int | None:
        """Number of rows where that is quickly found."""
        ...


class LinesFile:
    """JSON lines, streamed, packed ones too."""

    def __init__(self, path: Path):
        self.path = path

    def row_count(self) -> int | None:
        """Number of lines, where the file is neither packed nor large."""
        is_packed = self.path.suffix in (".gz", ".zst")
        if is_packed or self.path.stat().st_size > _COUNTED:
            return None
        with open_data(self.path) as file:
            return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))

    def chunks(self, rows: int, line: int, offset: int) -> Iterator[Chunk]:
        """Chunks of lines; DataError, with the last good line, where the file breaks off."""
        with open_data(self.path) as file:
            _go_to(file, offset)
            while lines := self._some(file, rows, line):
                numbers = range(line, line + len(lines))
                line += len(lines)
                offset += sum(map(len, lines))
                if numbers.start == 1:
                    lines[0] = lines[0].removeprefix(_BOM)
                yield Chunk(lines, numbers, line, offset)

    def _some(self, file: BinaryIO, rows: int, line: int) -> list[bytes]:
        lines: list[bytes] = []
        size = 0
        try:
            for data in file:
                lines.append(data)
                size += len(data)
                if len(lines) == rows or size >= CHUNK_BYTES:
                    break
        except READ_FAULTS as error:
            raise breaks_off(self.path, line + len(lines) - 1, error) from None
        return lines


class ArrayFile:
    """One JSON array, streamed item by item."""

    def __init__(self, path: Path):
        self.path = path

    def row_count(self) -> int | None:
        """Not known before it is read."""
        return None

    def chunks(self, rows: int, line: int, offset: int) -> Iterator[Chunk]:
        """Chunks of items; DataError, with the last good item, where the array is broken."""
        items = enumerate(self._items(), 1)
        return collected(((n, item) for n, item in items if n >= line), rows)

    def _items(self) -> Iterator[bytes]:
        with open_data(self.path) as file:
            try:
                yield from array_items(file)
            except Broken as error:
                raise DataError(f"dataset {self.path}: {error}") from None


class TextFiles:
    """Plain texts: each file is one row with the field `text`."""

    def __init__(self, paths: Sequence[Path], root: Path):
        self.paths = paths
        self.root = root

    def fingerprint(self) -> str:
        """12 hex digits of the files' names and sizes."""
        digest = hashlib.blake2b(digest_size=6)
        for path in self.paths:
            digest.update(f"{path.name} {path.stat().st_size} ".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def row_count(self) -> int | None:
        """Number of files."""
        return len(self.paths)

    def chunks(self, rows: int, line: int, offset: int) -> Iterator[Chunk]:
        """Chunks of texts; a file that is no text comes as a line that is no row."""
        texts = ((number, path) for number, path in enumerate(self.paths, 1) if number >= line)
        for chunk in collected(((n, self._row(path)) for n, path in texts), rows):
            paths = [self.paths[number - 1] for number in chunk.numbers]
            root = str(self.root.absolute())
            origins = [
                Origin(str(path), root, self._name(path, data), path.suffix.lower())
                for path, data in zip(paths, chunk.lines, strict=True)
            ]
            yield chunk._replace(numbers=[1] * len(paths), origins=origins)

    def _name(self, path: Path, data: bytes) -> str:
        """12 hex digits of a text and its place, which tells equal texts apart."""
        place = str(path.relative_to(self.root)) if path.is_relative_to(self.root) else path.name
        told = place.encode("utf-8", "surrogateescape") + b"\0" + data
        return hashlib.blake2b(told, digest_size=6).hexdigest()

    def _row(self, path: Path) -> bytes:
        with open_data(path) as file:
            data = file.read()
        try:
            return encode({"text": data.decode("utf-8")})
        except UnicodeDecodeError as error:
            return bad_record(f"{path.name} is no UTF-8 text: {error.reason} at {error.start}")


def collected(records: Iterator[tuple[int, bytes]], rows: int) -> Iterator[Chunk]:
    """Numbered lines in chunks of at most `rows`."""
    lines: list[bytes] = []
    numbers: list[int] = []
    size = 0
    for number, line in records:
        lines.append(line)
        numbers.append(number)
        size += len(line)
        if len(lines) == rows or size >= CHUNK_BYTES:
            yield Chunk(lines, numbers, number + 1, 0)
            lines, numbers, size = [], [], 0
    if lines:
        yield Chunk(lines, numbers, numbers[-1] + 1, 0)


def bad_record(what: str) -> bytes:
    """A line for a record that cannot be a row, saying why: a string where an object is wanted."""
    return encode(what)


def breaks_off(path: Path, line: int, error: Exception) -> DataError:
    """One line that says how far a file could be read."""
    reason = " ".join(str(error).split())
    return DataError(f"dataset {path} cannot be read beyond line {line}: {reason}")


def _go_to(file: BinaryIO, offset: int) -> None:
    if file.seekable():
        file.seek(offset)
        return
    while offset > 0:
        offset -= len(file.read(min(offset, 1 << 20)) or b" " * offset)


def json_file(path: Path) -> Reader:
    """The reader of a file of JSON lines or one JSON array, judged by its first character."""
    return ArrayFile(path) if is_array(path) else LinesFile(path)


def fingerprint_of(path: Path) -> str:
    """12 hex digits of a file: its size, its first and its last megabyte."""
    digest = hashlib.blake2b(digest_size=6)
    try:
        size = path.stat().st_size
        digest.update(str(size).encode())
        with path.open("rb") as file:
            digest.update(file.read(_SAMPLE))
            file.seek(max(0, size - _SAMPLE))
            digest.update(file.read(_SAMPLE))
    except OSError as error:
        raise DataError(f"dataset {path} cannot be read: {error.strerror}") from None
    return digest.hexdigest()

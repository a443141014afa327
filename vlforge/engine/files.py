"""One data file as chunks of lines, whatever its format."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from vlforge.data.json_lines import encode, is_array, open_data, read_array
from vlforge.types import DataError

CHUNK_BYTES = 8 << 20
"""A chunk ends early where its lines grow beyond this."""
_SAMPLE = 1 << 20
_COUNTED = 256 << 20


@dataclass(frozen=True)
class Origin:
    """The file that rows come from.

    `root` is the folder that its relative picture paths start from,
    `fingerprint` 12 hex digits of its content, `suffix` its kind (`.jsonl.gz`).
    """

    path: str
    root: str
    fingerprint: str
    suffix: str


class Chunk(NamedTuple):
    """Some lines of a file, their numbers (from 1), and where the line after them is."""

    lines: list[bytes]
    numbers: Sequence[int]
    line: int
    offset: int


class Reader(Protocol):
    """One file; a line is one row, as JSON."""

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
        if self.path.suffix != ".jsonl" or self.path.stat().st_size > _COUNTED:
            return None
        with open_data(self.path) as file:
            return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))

    def chunks(self, rows: int, line: int, offset: int) -> Iterator[Chunk]:
        """Chunks of lines; DataError, with the last good line, where the file breaks off."""
        with open_data(self.path) as file:
            file.seek(offset)
            while lines := self._some(file, rows, line):
                numbers = range(line, line + len(lines))
                line += len(lines)
                offset += sum(map(len, lines))
                if numbers.start == 1:
                    lines[0] = lines[0].removeprefix(b"\xef\xbb\xbf")
                yield Chunk(lines, numbers, line, offset)

    def _some(self, file: Iterator[bytes], rows: int, line: int) -> list[bytes]:
        lines: list[bytes] = []
        size = 0
        try:
            for data in file:
                lines.append(data)
                size += len(data)
                if len(lines) == rows or size >= CHUNK_BYTES:
                    break
        except (OSError, EOFError) as error:
            raise DataError(
                f"dataset {self.path} cannot be read beyond line {line - 1}: {error}"
            ) from None
        return lines


class ArrayFile:
    """One JSON array."""

    def __init__(self, path: Path):
        self.path = path

    def row_count(self) -> int | None:
        """Not known before it is read."""
        return None

    def chunks(self, rows: int, line: int, offset: int) -> Iterator[Chunk]:
        """Chunks of items, each as one line."""
        items = read_array(self.path)
        while part := items[line - 1 : line - 1 + rows]:
            numbers = range(line, line + len(part))
            line += len(part)
            yield Chunk([encode(item) for item in part], numbers, line, 0)


def open_file(path: Path) -> Reader:
    """The reader for a file, judged by its name and its first character."""
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

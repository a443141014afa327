"""A dataset file as numbered blocks of lines, from any block on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vlforge.data.json_lines import encode, is_array, open_data, read_array
from vlforge.types import DataError

BLOCK_BYTES = 8 << 20
"""A block ends early where its lines grow beyond this."""
_SAMPLE = 1 << 20
_COUNTED = 256 << 20


@dataclass(frozen=True)
class Position:
    """Where a block starts: its number, the number of its first line (from 1), bytes before it."""

    number: int = 0
    line: int = 1
    offset: int = 0


START = Position()


@dataclass(frozen=True)
class Block:
    """Some lines of a source, and where the block after them starts."""

    at: Position
    lines: Sequence[bytes]
    next: Position


class Source:
    """A dataset file: JSON lines (streamed, `.gz` too) or one JSON array (read whole)."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._is_array = is_array(self.path)
        self._is_packed = self.path.suffix == ".gz"

    def fingerprint(self) -> str:
        """12 hex digits of the content: its size, its first and its last megabyte."""
        digest = hashlib.blake2b(digest_size=6)
        size = self.path.stat().st_size
        digest.update(str(size).encode())
        try:
            with self.path.open("rb") as file:
                digest.update(file.read(_SAMPLE))
                file.seek(max(0, size - _SAMPLE))
                digest.update(file.read(_SAMPLE))
        except OSError as error:
            raise DataError(f"dataset {self.path} cannot be read: {error.strerror}") from None
        return digest.hexdigest()

    def row_count(self) -> int | None:
        """Number of lines where that is quickly found, for progress."""
        if self._is_array or self._is_packed or self.path.stat().st_size > _COUNTED:
            return None
        with open_data(self.path) as file:
            return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))

    def blocks(self, rows: int, start: Position = START) -> Iterator[Block]:
        """Blocks of at most `rows` lines, from `start` on.

        Raises:
            DataError: the file cannot be read to its end; says where it stopped.
        """
        if self._is_array:
            yield from self._array_blocks(rows, start)
            return
        with open_data(self.path) as file:
            file.seek(start.offset)
            while lines := self._some_lines(file, rows, start):
                size = sum(map(len, lines))
                after = Position(start.number + 1, start.line + len(lines), start.offset + size)
                if start.number == 0:
                    lines[0] = lines[0].removeprefix(b"\xef\xbb\xbf")
                yield Block(start, lines, after)
                start = after

    def _array_blocks(self, rows: int, start: Position) -> Iterator[Block]:
        items = read_array(self.path)
        while part := items[start.line - 1 : start.line - 1 + rows]:
            after = Position(start.number + 1, start.line + len(part))
            yield Block(start, [encode(item) for item in part], after)
            start = after

    def _some_lines(self, file: Iterator[bytes], rows: int, start: Position) -> list[bytes]:
        lines: list[bytes] = []
        size = 0
        try:
            for line in file:
                lines.append(line)
                size += len(line)
                if len(lines) == rows or size >= BLOCK_BYTES:
                    break
        except (OSError, EOFError) as error:
            raise DataError(
                f"dataset {self.path} cannot be read beyond line {start.line - 1}: {error}"
            ) from None
        return lines

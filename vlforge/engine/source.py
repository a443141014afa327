"""A dataset (one file, a folder, several with weights) as blocks of lines, from any block on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vlforge.engine.config import ProcessConfig
from vlforge.engine.files import Origin, Reader, fingerprint_of, open_file
from vlforge.types import DataError


@dataclass(frozen=True)
class Position:
    """Where a block starts; kept as `astuple(position)`, it is `Position(*kept)` again.

    The number of the block, then, for the source alone: the number of its first
    line in its file (from 1), the bytes before that line, the file, and the rows
    before it in the whole input.
    """

    number: int = 0
    line: int = 1
    offset: int = 0
    part: int = 0
    rows: int = 0


START = Position()


@dataclass(frozen=True)
class Block:
    """Some lines of one file, and where the block after them starts.

    `numbers` are the lines' numbers in their file, from 1. `copies` says of each
    line how often it came before, where the input repeats rows; `origins` names
    the file of each line, where rows of several are shuffled.
    """

    at: Position
    lines: Sequence[bytes]
    numbers: Sequence[int]
    origin: Origin
    next: Position
    copies: Sequence[int] = ()
    origins: Sequence[Origin] = ()


@dataclass(frozen=True)
class Part:
    """One file of the input, ready to be read."""

    origin: Origin
    reader: Reader


class Source:
    """All files of an input, one after the other."""

    def __init__(self, parts: Sequence[Part], told: str = ""):
        self.parts = parts
        self._told = told

    def fingerprint(self) -> str:
        """12 hex digits of all that decides on the rows: files, weights, limit, sample."""
        digest = hashlib.blake2b(self._told.encode(), digest_size=6)
        for part in self.parts:
            digest.update(part.origin.fingerprint.encode())
        return digest.hexdigest()

    def row_count(self) -> int | None:
        """Number of rows where that is quickly found, for progress."""
        counts = [part.reader.row_count() for part in self.parts]
        known = [count for count in counts if count is not None]
        return sum(known) if len(known) == len(counts) else None

    def blocks(self, rows: int, start: Position = START) -> Iterator[Block]:
        """Blocks of at most `rows` lines, from `start` on.

        Raises:
            DataError: a file cannot be read to its end; says where it stopped.
        """
        at = start
        for number in range(start.part, len(self.parts)):
            part = self.parts[number]
            if number != at.part:
                at = replace(at, line=1, offset=0, part=number)
            for chunk in part.reader.chunks(rows, at.line, at.offset):
                passed = at.rows + len(chunk.lines)
                after = Position(at.number + 1, chunk.line, chunk.offset, number, passed)
                yield Block(at, chunk.lines, chunk.numbers, part.origin, after)
                at = after


def open_source(config: ProcessConfig) -> Source:
    """The input of a recipe.

    Raises:
        DataError: no dataset is named, or one that is not there or cannot be read.
    """
    if not config.dataset_path:
        raise DataError("no dataset is named; give dataset_path, e.g. dataset_path=rows.jsonl")
    path = Path(config.dataset_path)
    reader = open_file(path)
    root = str(path.absolute().parent)
    return Source([Part(Origin(str(path), root, fingerprint_of(path), path.suffix), reader)])

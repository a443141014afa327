"""The rows of a csv file, a block of text at a time: by columns where a block allows it.

What a block of plain cells and of cells in quotes holds is told by splitting it
at its quotes, dividers and line ends, three times as fast as `csv.reader`
goes from character to character. Anything else (quotes inside a cell, rows that
are longer than others, blank lines) is the reader's, which goes on where the
blocks before ended: both give the same cells.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from itertools import chain, islice
from typing import BinaryIO

MAX_CELL = 16 << 20
"""Longest cell, in characters."""
_AT_ONCE = 256
_BLOCK = 1 << 14
# Larger blocks of text leave holes in the heap that it grows by.
_MAX_WAIT = 6
_CELL, _ROW, _PART = "\x01", "\x02", "\x03"
"""Stand before a cell, before a row's first cell, and for what is in quotes."""

_BORDERS = {"", _CELL, _ROW}
_TRIES = 8

Cells = list[str]
Table = list[Cells] | tuple[Cells, ...]
"""Some rows, or, as a tuple, some columns."""


class UnreadCells(Cells):
    """Stands for the cells of a row that cannot be read."""

    def __init__(self, reason: str):
        super().__init__()
        self.reason = reason


class CsvText:
    """The text of a csv file without NULs, from its first line on.

    `is_odd` tells whether bytes were met that are no UTF-8; they are surrogates in the text.
    """

    def __init__(self, file: BinaryIO):
        self._blocks = self._decoded(getattr(file, "read1", file.read))
        self.is_odd = False
        self._left = ""
        """Text that was taken from the blocks and is not read yet."""
        self._open = io.StringIO()
        """What the reader takes lines of."""
        self._misses = self._wait = 0

    def head(self) -> str:
        """The first line, which is read again as a row."""
        self._left = next(self._blocks, "")
        return next(io.StringIO(self._left, newline=""), "")

    def tables(self, divider: str) -> Iterator[Table]:
        """The first row; then some rows or columns each, none of them blank."""
        lines = chain.from_iterable(self._files())
        reader = csv.reader(lines, delimiter=divider)
        header = next(reader, [])
        yield [header]
        while True:
            columns = self._columns(divider, len(header))
            if columns:
                yield columns
                continue
            rows: list[Cells] = []
            try:
                rows.extend(islice(reader, _AT_ONCE))
            except csv.Error as error:
                rows.append(UnreadCells(f"a row cannot be read: {error}"))
            if not rows:
                return
            if [] in rows:
                rows = [cells for cells in rows if cells or isinstance(cells, UnreadCells)]
            if rows:
                yield rows

    def _columns(self, divider: str, width: int) -> tuple[Cells, ...]:
        """The cells of the next block by columns; none where the reader has to read it."""
        if self._wait:
            self._wait -= 1
            return ()
        self._left = self._left + self._open.read() or next(self._blocks, "")
        self._open = io.StringIO()
        end = _end_of_rows(self._left)
        if not end:
            self._left += next(self._blocks, "")
            end = _end_of_rows(self._left)
        if not self.is_odd and end and end <= MAX_CELL:
            found = split_rows(self._left[:end], divider, width)
            if found:
                self._left = self._left[end:]
                self._misses = 0
                return found
        self._misses += 1
        self._wait = (1 << min(self._misses, _MAX_WAIT)) - 2
        return ()

    def _files(self) -> Iterator[io.StringIO]:
        """Lines for the reader, as many as it asks for."""
        while text := self._left or next(self._blocks, ""):
            self._left = ""
            self._open = io.StringIO(text, newline="")
            yield self._open

    def _decoded(self, read: Callable[[int], bytes]) -> Iterator[str]:
        """Some lines each; one longer than two cells may be comes in pieces, which are refused."""
        left, size = [], 0
        encoding = "utf-8-sig"
        while data := read(_BLOCK):
            cut = data.rfind(b"\n") + 1 or data.rfind(b"\r") + 1
            size += len(data)
            if not cut and size < 2 * MAX_CELL:
                left.append(data)
                continue
            cut = cut or len(data)
            if text := self._decode(b"".join([*left, data[:cut]]), encoding):
                yield text
            left, size = [data[cut:]], len(data) - cut
            encoding = "utf-8"
        yield self._decode(b"".join(left), encoding)

    def _decode(self, data: bytes, encoding: str) -> str:
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            self.is_odd = True
            text = data.decode(encoding, errors="surrogateescape")
        return text.replace("\0", "") if "\0" in text else text


def _end_of_rows(text: str) -> int:
    """Where its last row ends that does not end in quotes; 0 where that is not found soon."""
    end = len(text)
    for _ in range(_TRIES):
        if not text.count('"', 0, end) % 2:
            return end
        end = text.rfind("\n", 0, text.rfind('"', 0, end)) + 1
    return 0


def split_rows(text: str, divider: str, width: int) -> tuple[Cells, ...]:
    """The columns of rows that all have `width` plain or quoted cells; none where one has not.

    Args:
        text: whole rows.
        divider: between cells.
        width: columns, at least two.
    """
    if width < 2 or _CELL in text or _ROW in text or _PART in text:
        return ()
    parts = text.split('"')
    if not len(parts) % 2:
        return ()
    plain = _PART.join(parts[::2])
    if not plain.endswith("\n"):
        plain += "\n"
    if "\r" in plain:
        plain = plain.replace("\r\n", "\n")
        if "\r" in plain:
            return ()
    plain = plain.replace(divider, _CELL).replace("\n", _CELL + _ROW)
    count = plain.count(_ROW)
    if len(parts) > 1:
        outside = plain.split(_PART)
        begins = {part[:1] for part in outside[1:]}
        if not begins <= {"", _CELL} or not {part[-1:] for part in outside[:-1]} <= _BORDERS:
            return ()
        # Two quotes side by side in quotes are one.
        parts[::2] = [outside[0], *[part or '"' for part in outside[1:]]]
        plain = "".join(parts)
    cells = plain.split(_CELL)
    cells.pop()
    first = "".join(cells[::width]).split(_ROW)
    if len(first) != count or len(cells) != count * width:
        return ()
    return (first, *[cells[at::width] for at in range(1, width)])
